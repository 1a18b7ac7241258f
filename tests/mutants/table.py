"""The mutants: which clause each breaks, which case finds it out, and what cannot be kept then."""

from __future__ import annotations

from dataclasses import dataclass

CASES = {
    "control": ("test_task", "test_control_group", ()),
    "offer": ("test_declaration", "test_declares_what_it_does", ()),
    "attributes": ("test_declaration", "test_class_attributes", ()),
    "load": ("test_declaration", "test_loads_by_path_and_alias", ()),
    "commands": ("test_declaration", "test_commands", ()),
    "methods": ("test_declaration", "test_methods", ()),
    "unknown": ("test_declaration", "test_unknown_workload", ()),
    "construction": ("test_declaration", "test_construction", ()),
    "alias": ("test_route", "test_alias", ()),
    "contention": ("test_route", "test_callback_before_task", ()),
    "queue": ("test_route", "test_queue", ("default",)),
    "burst": ("test_route", "test_parallelism", ()),
    "success": ("test_run", "test_success", ()),
    "end-success": ("test_run", "test_end_is_reported", ("success",)),
    "end-failure": ("test_run", "test_end_is_reported", ("failure",)),
    "end-guarded": ("test_token", "test_end_is_guarded", ()),
    "every-route": ("test_token", "test_tokens_on_every_route", ()),
    "api-states": ("test_state", "test_api_and_row_agree", ()),
    "end-lost": ("test_crash", "test_end_response_lost", ()),
    "report-lost": ("test_crash", "test_report_lost", ()),
    "kwargs": ("test_run", "test_kwargs", ("nested",)),
    "context": ("test_run", "test_context", ("with_context",)),
    "no-context": ("test_run", "test_context", ("without_context",)),
    "dag-file": ("test_run", "test_callable_of_the_dag_file", ()),
    "secrets": ("test_run", "test_reads_connection_and_variable", ()),
    "secret": ("test_token", "test_token_is_kept_secret", ()),
    "log": ("test_run", "test_log", ()),
    "crowd": ("test_run", "test_many_at_once", ()),
    "slow": ("test_run", "test_slow_start_and_long_run", ()),
    "residue": ("test_run", "test_leaves_no_residue", ()),
    "end": ("test_scheduler", "test_ends_with_work_in_flight", ("end",)),
    "terminate": ("test_scheduler", "test_ends_with_work_in_flight", ("terminate",)),
    "start-refused": ("test_task", "test_start_error", ("502-html",)),
    "start-odd": ("test_task", "test_start_error", ("200-empty",)),
    "row-deleted": ("test_claim", "test_row_deleted", ()),
    "remembers": ("test_task", "test_state_of_a_killed_task", ("child",)),
    "raises": ("test_fail", "test_callable_raises", ()),
    "claim-lost": ("test_crash", "test_claim_response_lost", ()),
    "child-killed": ("test_crash", "test_killed_during", ("child",)),
    "worker-killed": ("test_crash", "test_killed_during", ("unit",)),
    "idle-killed": ("test_crash", "test_idle_workers_killed", ()),
    "restart": ("test_crash", "test_scheduler_restart", ()),
    "watch-lost": ("test_faults", "test_observation", ("watch-500-for-ever",)),
    "deleted-pending": ("test_faults", "test_stopped_before_start", ("deleted",)),
    "clean-up": ("test_faults", "test_clean_up", ("500-for-ever",)),
    "no-consumer": ("test_faults", "test_accepted_lost", ("no-consumer",)),
    "hang": ("test_faults", "test_hang", ("create",)),
    "foreign": ("test_foreign", "test_leaves_others_alone", ()),
    "no-credentials": ("test_faults", "test_submit_refused", ("credentials-missing",)),
    "no-credentials-to-poll": ("test_faults", "test_observation", ("poll-credentials-missing",)),
}
"""Cases by short name: module of the suite, function, parameters."""

LINES = ("3.3", "3.4")


def case_id(name: str) -> str:
    """The suite's own id of a case of this table."""
    module, function, arguments = CASES[name]
    parameters = f"[{'-'.join(arguments)}]" if arguments else ""
    return f"{module.removeprefix('test_')}.{function.removeprefix('test_')}{parameters}"


@dataclass(frozen=True)
class Mutant:
    """One executor with a defect.

    ``by`` is the case in which ``breaks`` must fail; the cases ``also`` are run beside it. In none of them may
    anything fail but ``breaks``, ``follows``, and what the released executor itself fails on the running Airflow
    (with ``mended`` not even that: the mutant's parent has none of it).
    """

    name: str
    breaks: str
    by: str
    also: tuple[str, ...] = ()
    follows: frozenset[str] = frozenset()
    airflow: tuple[str, ...] = LINES
    why_not: str = ""
    """Why not beside every line of Airflow."""
    module: str = "local_mutants"
    where: str = "local"
    mended: bool = False

    @property
    def executor(self) -> str:
        """Import path of the class."""
        return f"{self.module}.{self.name}"


NO_CLAIM = "the edition of 3.3 has no claim"


def _local(name: str, breaks: str, by: str, *follows: str, **more: object) -> Mutant:
    return Mutant(name, breaks, by, follows=frozenset(follows), **more)  # type: ignore[arg-type]


def _declared(name: str, breaks: str, by: str, *follows: str, **more: object) -> Mutant:
    return _local(name, breaks, by, *follows, module="interface_mutants", **more)


def _slots(name: str, breaks: str, by: str, *follows: str, **more: object) -> Mutant:
    return _local(name, breaks, by, *follows, module="slot_mutants", **more)


def _worker(name: str, breaks: str, by: str, *follows: str, **more: object) -> Mutant:
    return _local(name, breaks, by, *follows, module="worker_mutants", **more)


def _reported(name: str, breaks: str, by: str, *follows: str, **more: object) -> Mutant:
    return _local(name, breaks, by, *follows, module="reported_mutants", **more)


def _celery(name: str, breaks: str, by: str, *follows: str, **more: object) -> Mutant:
    return _local(name, breaks, by, *follows, module="celery_mutants", where="celery", **more)


def _kubernetes(name: str, breaks: str, by: str, *follows: str, **more: object) -> Mutant:
    return _local(name, breaks, by, *follows, module="kubernetes_mutants", where="kubernetes", **more)


def _aws(where: str, name: str, breaks: str, by: str, *follows: str, **more: object) -> Mutant:
    return _local(name, breaks, by, *follows, module="aws_mutants", where=where, **more)


MUTANTS = (
    _declared("AcceptsWithoutDeclaring", "DECL-1", "offer", also=("success",)),
    # A refusal that core does not expect ends the scheduler, so no callback runs at all
    _declared("DeclaresAndRefuses", "DECL-1", "offer", "FAIL-1", "FAIL-3", "CRASH-1", "CRASH-5", also=("raises",)),
    _declared("AttributeOfAnotherType", "DECL-3", "attributes"),
    _declared("TakesNoAlias", "DECL-4", "load"),
    _declared("TakesACommandOfCore", "DECL-5", "commands"),
    _declared("DumpsNothing", "DECL-6", "methods", mended=True),
    _declared("TakesWhatItDoesNotKnow", "DECL-7", "unknown", also=("offer",)),
    _slots("HandsItsCallbacksToAnother", "ROUTE-1", "alias"),
    _slots("TasksFirst", "ROUTE-2", "contention", mended=True),
    _slots("NeverFreesTheSlot", "ROUTE-3", "kwargs"),
    _slots("RunsTwiceAsMany", "ROUTE-4", "burst"),
    # Everything is stopped, and the next mutant has a new environment; the clause is asked whatever the case is about
    _slots("StartsWorkersWithoutEnd", "ROUTE-4", "success"),
    _slots("LeaksDescriptorsWithoutEnd", "ROUTE-4", "burst"),
    _celery("IgnoresTheConfiguredQueue", "ROUTE-5", "queue", also=("success",)),
    _celery("InventsAQueue", "ROUTE-5", "queue", "CRASH-1"),
    _local("ReportsAStranger", "ROUTE-6", "kwargs"),
    _kubernetes("WaitsForEverForAnAnswer", "ROUTE-7", "hang", "CRASH-5"),
    _slots("CountsNoCallback", "ROUTE-8", "success", mended=True),
    _local("NeverCallsTheCallable", "RUN-1", "success"),
    _aws("lambda", "DeletesEachResult", "ROUTE-10", "foreign", also=("success",)),
    _aws("ecs", "StopsTasksThatItDoesNotKnow", "ROUTE-10", "foreign", also=("success",)),
    _aws("batch", "TerminatesJobsOfItsName", "ROUTE-10", "foreign", also=("success",)),
    _kubernetes("DeletesEachPodTwice", "ROUTE-11", "residue", also=("success",)),
    _kubernetes("AdoptsWhatAnyoneHasCompleted", "ROUTE-10", "foreign", also=("success",)),
    # What it has taken over it reports as well
    _kubernetes("TakesEachPodForItsOwn", "ROUTE-10", "foreign", "ROUTE-6", also=("success",)),
    # Nothing claims, and nothing is ever in flight
    _local("RunsInTheSchedulerProcess", "RUN-2", "no-context", "CRASH-2", also=("raises",)),
    _local("DropsKwargs", "RUN-3", "kwargs", also=("success",)),
    _local("WithholdsTheContext", "RUN-4", "context", "RUN-1", also=("no-context",)),
    _local("ForgetsTheDagFile", "RUN-5", "dag-file", "RUN-1", also=("kwargs",)),
    _local("ReportsFailureOfASuccess", "RUN-6", "success"),
    _worker(
        "CutOffFromItsSupervisor",
        "RUN-7",
        "secrets",
        also=("kwargs",),
        airflow=("3.4",),
        why_not="no callable can read them beside 3.3, whatever the executor does",
    ),
    _local("LogsElsewhere", "RUN-8", "log"),
    _local("FailsOneOfMany", "RUN-9", "crowd"),
    # A row that is not FAILED after a failure is open, or says SUCCESS
    _local("SaysNothingOfAFailure", "FAIL-1", "raises", "CRASH-1"),
    _local("TriesAgainAfterAFailure", "FAIL-2", "raises", "CRASH-3", also=("kwargs",)),
    _local("FailsAllAfterAFailure", "FAIL-3", "raises", also=("kwargs",)),
    _local("TellsNoCause", "FAIL-4", "raises", mended=True),
    _local("ReportsSuccessOfFailedCallable", "FAIL-5", "raises", "FAIL-1", also=("kwargs",)),
    _local("ReportsSuccessOfADeath", "FAIL-5", "child-killed"),
    _local("SaysNothingOfAFailure", "CRASH-1", "child-killed"),
    _local(
        "SilentWhenAWorkerDies",
        "CRASH-1",
        "worker-killed",
        "CRASH-5",
        airflow=("3.4",),
        why_not="LocalExecutor of 3.3 is itself silent then",
    ),
    _worker("RunsBeforeTheClaim", "CRASH-2", "success", airflow=("3.4",), why_not=NO_CLAIM),
    # Its supervisor then claims a second time and is refused, so every callback ends FAILED
    _worker("RunsWhateverItsClaimIsAnswered", "CRASH-2", "claim-lost", "CRASH-5", airflow=("3.4",), why_not=NO_CLAIM),
    _local("RunsCallableTwice", "CRASH-3", "kwargs", "RUN-1", "FAIL-2", also=("raises",)),
    _local("FailedThenSuccess", "CRASH-4", "raises", "STATE-3", "FAIL-5", "FAIL-1", also=("kwargs",)),
    _local("LosesTasksAfterAFailure", "CRASH-5", "child-killed"),
    # The step of the scheduler never comes back, so what it was to publish is not run
    _celery("DeadlocksInItsPool", "CRASH-5", "burst", "ROUTE-7", also=("success",)),
    _local("SaysSuccessWithoutRunning", "CRASH-6", "idle-killed"),
    _worker("LeavesAnOrphan", "CRASH-8", "child-killed"),
    _local("TakesBackASuccess", "CRASH-9", "success", "STATE-3", "RUN-6"),
    _local("SaysTheEndTwice", "STATE-3", "kwargs"),
    _worker("AsksWithoutItsToken", "TOKEN-5", "kwargs"),
    _local("WritesTheTokenToItsLog", "TOKEN-8", "secret", also=("success",)),
    _local("MintsItsOwnToken", "TOKEN-9", "secrets"),
    _local("LosesTasks", "TASK-1", "control"),
    _local("ForgetsTheStateOfATriedTask", "TASK-2", "remembers"),
    _reported("StartsAProcessWhenMade", "DECL-8", "construction"),
    _reported("RaisesFromAnAdoption", "DECL-6", "methods", mended=True),
    _reported("SleepsInItsHeartbeat", "ROUTE-7", "kwargs"),
    _reported("UsesHalfItsSlots", "ROUTE-9", "burst"),
    _reported("HasAParallelismOfItsOwn", "ROUTE-9", "burst"),
    _reported("LosesEventsButTheLast", "CRASH-1", "burst"),
    _reported("GivesUpAfterFiveSeconds", "RUN-6", "slow", "RUN-1"),
    _reported("HandsEachCallbackToTwoWorkers", "CRASH-10", "kwargs", "STATE-3", airflow=("3.4",), why_not=NO_CLAIM),
    _reported("KeepsADescriptorOfEach", "RUN-13", "residue"),
    _reported("KeepsAThreadOfEach", "RUN-13", "residue"),
    _reported("KeepsMemoryOfEach", "RUN-13", "residue"),
    _reported("LeavesTheTokenInAnEnvironment", "TOKEN-8", "secret"),
    _reported("NeverEndsWhileItWorks", "CRASH-11", "end"),
    _reported("EndsWithoutItsResults", "CRASH-11", "end"),
    _reported(
        "LeavesItsWorkersAtTheEnd",
        "CRASH-11",
        "terminate",
        airflow=("3.4",),
        why_not="LocalExecutor of 3.3 itself leaves its workers",
    ),
    _reported("SaysNothingOfATaskThatDidNotStart", "TASK-3", "start-odd", also=("start-refused",)),
    _worker("RunsWhateverItsClaimIsAnswered", "CRASH-8", "row-deleted", "CRASH-5", airflow=("3.4",), why_not=NO_CLAIM),
    _kubernetes("LosesWhatTheWatchDoesNotTell", "CRASH-1", "watch-lost", "CRASH-5", also=("success",)),
    _kubernetes("ForgetsThePodsOfAKilledScheduler", "CRASH-1", "restart", also=("success",)),
    _kubernetes("SaysNothingOfADeletedPendingPod", "CRASH-1", "deleted-pending", "CRASH-5", also=("success",)),
    _kubernetes("RepeatsARefusedDeletionForEver", "CRASH-5", "clean-up", "CRASH-1", also=("success",)),
    _kubernetes("SaysNotWhatDied", "CRASH-7", "worker-killed", also=("success",)),
    _kubernetes(
        "KillsTheWatcherWithEachCallbackPod",
        "RUN-6",
        "success",
        *("CRASH-1", "FAIL-1", "FAIL-3", "CRASH-5", "ROUTE-3", "CRASH-9"),
        also=("control", "raises"),
    ),
    # What raises at its turn ends the scheduler, so no callback runs at all
    _kubernetes("DeclaresWithoutDoing", "CRASH-5", "raises", "CRASH-1", "FAIL-1", "FAIL-3", also=("control", "offer")),
)
