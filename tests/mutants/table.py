"""The mutants: which clause each breaks, what cannot be kept then, and the cases that find it out."""

from __future__ import annotations

from dataclasses import dataclass

CASES = {
    "control": ("test_task", "test_control_group", ()),
    "offer": ("test_declaration", "test_declares_what_it_does", ()),
    "unknown": ("test_declaration", "test_unknown_workload", ()),
    "success": ("test_run", "test_success", ()),
    "kwargs": ("test_run", "test_kwargs", ("nested",)),
    "context": ("test_run", "test_context", ("without_context",)),
    "secrets": ("test_run", "test_reads_connection_and_variable", ()),
    "secret": ("test_token", "test_token_is_kept_secret", ()),
    "raises": ("test_fail", "test_callable_raises", ()),
    "restart": ("test_crash", "test_scheduler_restart", ()),
    "watch-lost": ("test_faults", "test_observation", ("watch-500-for-ever",)),
    "deleted-pending": ("test_faults", "test_stopped_before_start", ("deleted",)),
    "clean-up": ("test_faults", "test_clean_up", ("500-for-ever",)),
    "hang": ("test_faults", "test_hang", ("create",)),
    "killed": ("test_crash", "test_killed_during", ("unit",)),
}
"""Cases by short name: module of the suite, function, parameters."""


@dataclass(frozen=True)
class Mutant:
    """One executor of ``local_mutants`` or ``kubernetes_mutants``.

    ``cases`` are run; ``breaks`` must fail in one of them, and nothing may fail but that, ``follows``, and what the
    executor that it is made from itself fails on the running Airflow.
    """

    name: str
    breaks: str
    cases: tuple[str, ...] = ("control", "success", "kwargs", "raises")
    follows: frozenset[str] = frozenset()
    airflow: tuple[str, ...] = ("3.3", "3.4")
    where: str = "local"

    @property
    def executor(self) -> str:
        """Import path of the class."""
        return f"{self.where}_mutants.{self.name}"


MUTANTS = (
    Mutant(
        "ReportsSuccessOfFailedCallable",
        breaks="FAIL-5",
        cases=("success", "kwargs", "raises"),
        follows=frozenset({"FAIL-1"}),
    ),
    Mutant(
        "RunsCallableTwice",
        breaks="CRASH-3",
        cases=("control", "kwargs", "context", "raises"),
        follows=frozenset({"RUN-1", "FAIL-2"}),
    ),
    Mutant("NeverFreesTheSlot", breaks="ROUTE-3", follows=frozenset({"FAIL-3", "CRASH-5"})),
    # LocalExecutor of 3.3 is itself silent when a worker dies
    Mutant(
        "SilentWhenAWorkerDies",
        breaks="CRASH-1",
        cases=("success", "raises", "killed"),
        follows=frozenset({"CRASH-5"}),
        airflow=("3.4",),
    ),
    Mutant("DropsKwargs", breaks="RUN-3"),
    Mutant("AcceptsWithoutDeclaring", breaks="DECL-1", cases=("offer", "success", "kwargs", "raises")),
    # A refusal that core does not expect ends the scheduler, so no callback runs at all
    Mutant(
        "DeclaresAndRefuses",
        breaks="DECL-1",
        cases=("control", "offer", "raises"),
        follows=frozenset({"FAIL-1", "FAIL-3", "CRASH-1", "CRASH-5"}),
    ),
    Mutant(
        "FailedThenSuccess",
        breaks="CRASH-4",
        cases=("control", "success", "raises"),
        follows=frozenset({"STATE-3", "FAIL-5", "FAIL-1"}),
    ),
    # Nothing claims, and nothing is ever in flight
    Mutant(
        "RunsInTheSchedulerProcess",
        breaks="RUN-2",
        cases=("control", "context", "raises"),
        follows=frozenset({"CRASH-2"}),
    ),
    Mutant("TakesWhatItDoesNotKnow", breaks="DECL-7", cases=("control", "offer", "unknown", "success")),
    Mutant("WritesTheTokenToItsLog", breaks="TOKEN-8", cases=("success", "secret")),
    Mutant("MintsItsOwnToken", breaks="TOKEN-9", cases=("control", "success", "secrets")),
    Mutant(
        "LosesWhatTheWatchDoesNotTell",
        breaks="CRASH-1",
        cases=("success", "watch-lost"),
        follows=frozenset({"CRASH-5"}),
        where="kubernetes",
    ),
    Mutant(
        "ForgetsThePodsOfAKilledScheduler",
        breaks="CRASH-1",
        cases=("success", "restart"),
        where="kubernetes",
    ),
    Mutant(
        "SaysNothingOfADeletedPendingPod",
        breaks="CRASH-1",
        cases=("success", "deleted-pending"),
        follows=frozenset({"CRASH-5"}),
        where="kubernetes",
    ),
    Mutant(
        "RepeatsARefusedDeletionForEver",
        breaks="CRASH-5",
        cases=("success", "clean-up"),
        follows=frozenset({"CRASH-1"}),
        where="kubernetes",
    ),
    Mutant(
        "WaitsForEverForAnAnswer",
        breaks="ROUTE-7",
        cases=("success", "hang"),
        follows=frozenset({"CRASH-5"}),
        where="kubernetes",
    ),
    Mutant(
        "KillsTheWatcherWithEachCallbackPod",
        breaks="RUN-6",
        cases=("control", "success", "raises"),
        follows=frozenset({"CRASH-1", "FAIL-1", "FAIL-3", "CRASH-5", "ROUTE-3", "CRASH-9"}),
        where="kubernetes",
    ),
    # What raises at its turn ends the scheduler, so no callback runs at all
    Mutant(
        "DeclaresWithoutDoing",
        breaks="CRASH-5",
        cases=("control", "offer", "raises"),
        follows=frozenset({"CRASH-1", "FAIL-1", "FAIL-3"}),
        where="kubernetes",
    ),
)
