"""A run: which subjects, their environments, and the result of each case."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from executor_conformance.harness import programs
from executor_conformance.harness.backend import EMULATOR, Backend, Options, Variant
from executor_conformance.harness.case import Case, DoesNotSupport, NotApplicable
from executor_conformance.harness.catalogue import Catalogue
from executor_conformance.harness.checker import decide
from executor_conformance.harness.database import airflow_version
from executor_conformance.harness.environment import Environment, all_at_once
from executor_conformance.harness.errors import ConformanceError, HarnessError, SchedulerDied, UsageError
from executor_conformance.harness.expectations import Expectations
from executor_conformance.harness.history import Clock, History
from executor_conformance.harness.report.model import CaseResult, SubjectInfo, case_verdict, clause_results
from executor_conformance.harness.report.outcome import control_failures, excused
from executor_conformance.harness.settings import PARALLELISM
from executor_conformance.harness.versions import Circumstances, broker_kind, versions_of
from executor_conformance.harness.view import TERMINAL, WAITING

GROUP = "executor_conformance.backends"
LEVELS = ("core", "extended", "provisional")
START_ENDS_S = 3.0
"""Seconds in which the start of an environment notices that everything was stopped."""


def backends() -> dict[str, type[Backend]]:
    """All registered backends by name, ours and third parties'.

    :raises UsageError: a registered backend does not import.
    """
    found: dict[str, type[Backend]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            found[point.name] = point.load()
        except Exception as error:
            raise UsageError(
                f"The backend '{point.name}' ({point.value}) does not import: {type(error).__name__}: {error}; "
                "uninstall or repair the package that registers it."
            ) from None
    return dict(sorted(found.items(), key=lambda item: (item[0] != "local", item[0])))


def choose_backends(names: str | None) -> dict[str, type[Backend]]:
    """The backends of a comma-separated list; all, if there is none.

    :raises UsageError: a name is unknown, or empty, as that of an unset variable is.
    """
    known = backends()
    if names is None:
        return known
    chosen = {}
    for name in (part.strip() for part in names.split(",")):
        if name not in known:
            raise UsageError(f"The backend '{name}' is unknown; this installation has {', '.join(known)}.")
        chosen[name] = known[name]
    return chosen


@dataclass(frozen=True)
class Subject:
    """An executor class in one variant of a backend's environment."""

    label: str
    backend: type[Backend]
    variant: Variant
    options: Options

    @property
    def executor(self) -> str:
        """Import path of the executor class."""
        return self.options.executor or self.variant.executor or self.backend.executor


def subjects_of(chosen: dict[str, type[Backend]], options: Options) -> tuple[list[Subject], list[SubjectInfo]]:
    """The subjects that can run here, and those that cannot with what is missing."""
    runnable: list[Subject] = []
    unavailable: list[SubjectInfo] = []
    for name, backend in chosen.items():
        missing = backend.missing(options)
        for variant in _variants(backend, options):
            label = variant.label
            if options.executor:
                label = f"{options.executor.rpartition('.')[2]}@{variant.label}"
            if missing:
                unavailable.append(
                    SubjectInfo(
                        label=label,
                        backend=name,
                        executor=options.executor or variant.executor or backend.executor,
                        substrate=options.substrate,
                        control_plane="",
                        data_plane="",
                        variant=variant.note,
                        unavailable=missing,
                    )
                )
            else:
                runnable.append(Subject(label, backend, variant, options))
    return runnable, unavailable


def _variants(backend: type[Backend], options: Options) -> Sequence[Variant]:
    if not options.executor:
        return backend.variants
    kept = [variant for variant in backend.variants if variant.executor is None]
    if all(variant.smoke for variant in kept):
        kept = [replace(variant, smoke=False) for variant in kept[:1]]  # a user's own executor is looked at in full
    return kept


class EnvironmentPool:
    """Starts each environment once, the next one while the present one is at work."""

    def __init__(self, root: Path, clock: Clock, say: Callable[[str], None]) -> None:
        self.root = root
        self.clock = clock
        self.say = say
        self._environments: dict[str, Environment] = {}
        self._failures: dict[str, BaseException] = {}
        self._starting: dict[str, threading.Thread] = {}
        self._closed = False

    def prepare(self, subject: Subject) -> None:
        """Begin to start the environment of ``subject`` in the background."""
        key = subject.backend.name
        if key in self._environments or key in self._starting or key in self._failures or self._closed:
            return

        def start() -> None:
            try:
                # Directly below the folder of all runs: the guardian removes it even if this process is killed
                folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-{key}-", dir=self.root))
                environment = Environment(subject.backend, subject.options, subject.variant, folder, self.clock)
                self._environments[key] = environment
                if self._closed:  # meanwhile, by Ctrl-C
                    environment.stop()
                environment.start()
            except BaseException as error:
                self._environments.pop(key, None)
                self._failures[key] = error

        thread = threading.Thread(target=start, name=f"start-{key}", daemon=True)
        self._starting[key] = thread
        thread.start()

    def acquire(self, subject: Subject) -> Environment:
        """The running environment of ``subject``; environments of other backends are stopped.

        :raises HarnessError: it did not start.
        """
        key = subject.backend.name
        if key in self._environments and not self._environments[key].whole and not self._starting[key].is_alive():
            self.say(f"the environment '{key}' has broken and is made anew …")
            self.release(key)
            del self._starting[key]
        if key not in self._starting:
            self.say(f"starting the environment '{key}' …")
        self.prepare(subject)
        self._starting[key].join()
        if isinstance(failure := self._failures.get(key), UsageError):
            raise UsageError(str(failure)) from None
        if failure:
            raise HarnessError(f"The environment '{key}' did not start: {failure}") from None
        environment = self._environments[key]
        environment.use_variant(subject.variant)
        return environment

    def release(self, backend: str) -> None:
        """Stop the environment of ``backend``; it will not be needed again."""
        if environment := self._environments.pop(backend, None):
            environment.stop()

    def close(self) -> None:
        """Stop everything, all environments at once; those that are still starting too."""
        self._closed = True
        for thread in self._starting.values():
            programs.end_in(thread)
        all_at_once(*(functools.partial(self.release, backend) for backend in list(self._environments)))
        end = time.monotonic() + START_ENDS_S  # nothing is left that a start could wait for
        for thread in self._starting.values():
            thread.join(max(0.0, end - time.monotonic()))


@dataclass
class CaseSpec:
    """What is known of a case before it runs."""

    id: str
    clauses: tuple[str, ...]
    level: str
    reproduce: str
    smoke: bool = False
    callbacks: bool = True
    """The case sends callbacks to the subject."""


@dataclass
class Recorder:
    """Runs cases in environments and keeps their histories."""

    catalogue: Catalogue
    expectations: Expectations
    folder: Path
    levels: Sequence[str] = ("core", "extended")
    control_failed: dict[str, str] = field(default_factory=dict)
    _earlier: dict[int, list[str]] = field(default_factory=dict)

    def begin(self, spec: CaseSpec, subject: Subject, env: Environment) -> CaseRun:
        """Give a case a history of its own."""
        safe = "".join(char if char.isalnum() or char in "-_." else "-" for char in f"{subject.label}--{spec.id}")
        path = self.folder / "histories" / f"{safe.strip('-')}.jsonl"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise HarnessError(f"The history {path} cannot be made ({error.strerror}).") from None
        env.check()
        assert env.scheduler is not None
        if len(env.scheduler.executors) != 1:
            raise HarnessError("The scheduler of an earlier case is still there; this is a defect of the harness.")
        refusal = env.refuses_callbacks() if spec.callbacks else ""
        header = {
            "case": spec.id,
            "subject": subject.label,
            "executor": env.executor,
            "backend": subject.backend.name,
            "clauses": self._asked(spec),
            "contract": self.catalogue.version,
            "airflow": env.airflow_version,
            "edition": env.edition,
            "python": platform.python_version(),
            "parallelism": PARALLELISM,
            "scheduler_pid": env.scheduler.pid,
            "earlier_callbacks": self._earlier.get(id(env), [])[-200:],
            "processes": sorted(env.processes()),
            **env.scheduler.settings,
        }
        env.observe()
        history = History(env.clock, header, path)
        env.history = history
        return CaseRun(spec, subject, Case(env), history, path, time.monotonic(), env.clock.set_s, refusal)

    def finish(self, run: CaseRun, raised: BaseException | None = None) -> CaseResult:
        """End the history, decide, and bring the environment back to health.

        :param raised: what the case's body raised, if it did not come to its end.
        """
        if run.refusal:
            run.unsupported = run.refusal
        elif isinstance(raised, NotApplicable):
            run.not_applicable = str(raised)
        elif isinstance(raised, DoesNotSupport):
            run.unsupported = str(raised)
        elif raised is not None:
            run.scheduler_died = isinstance(raised, SchedulerDied)
            run.trouble = str(raised) if isinstance(raised, ConformanceError) else f"{type(raised).__name__}: {raised}"
            run.case.disturbed = True
        env = run.case.env
        self._earlier.setdefault(id(env), []).extend(callback.id for callback in run.case.callbacks)
        runaway = env.supervisor.runaway
        if runaway:  # whatever else was raised came of it
            run.trouble, run.not_applicable, run.unsupported, run.scheduler_died = runaway.sentence, "", "", False
        stopped: dict[str, Any] = {"runaway": runaway.sentence} if runaway and runaway.subject else {}
        if not runaway:
            _note_deliveries(run, env)
        run.history.append(
            "end",
            trouble=run.trouble,
            not_applicable=run.not_applicable,
            unsupported=run.unsupported,
            scheduler_died=run.scheduler_died,
            lost="" if stopped else run.trouble if runaway else self._lost(run),
            **stopped,
        )
        result = self._decide(run, round(time.monotonic() - run.began, 3))
        try:
            self._restore(run, env)
        except Exception as trouble:
            if not isinstance(trouble, ConformanceError) and not env.supervisor.runaway:
                raise
            # The verdict stands, for it was reached before; the next case gets an environment of its own
            env.whole = False
            run.environment_lost = str(trouble)
            run.history.append("note", what="environment lost", why=str(trouble))
        run.history.close()
        return result

    @staticmethod
    def _lost(run: CaseRun) -> str:
        """Why nothing of the case can be held against anybody, in a sentence; empty if it can."""
        return run.case.env.lost() or run.history.lost() or _clock_was_set(run.case.env, run)

    def _restore(self, run: CaseRun, env: Environment) -> None:
        env.check()
        rows = {callback: run.case.state(callback) for callback in run.case.callbacks}
        gone = {each for each in rows if rows[each] is None and env.history.of("row", callback=each.id)}
        left = [callback for callback, state in rows.items() if state not in TERMINAL and callback not in gone]
        held = any(run.case.holds_slot(callback.id) for callback in run.case.callbacks)
        new_scheduler = run.case.new_scheduler or run.scheduler_died
        if not run.case.whole_afterwards:
            env.whole = False
            return
        if run.case.disturbed or new_scheduler or left or held:
            env.repair(thorough=bool(left or held), new_scheduler=new_scheduler)
            if waiting := [callback.id for callback in left if run.case.state(callback) in WAITING]:
                env.ask_beside("withdraw", ids=waiting)  # or core would hand them over in the next case
        else:
            env.effects.clear()
            env.wire.clear_rules()

    def _asked(self, spec: CaseSpec) -> list[str]:
        """The clauses of a case that are of the levels of this run."""
        return [clause for clause in spec.clauses if self.catalogue.clause(clause).level in self.levels]

    def _decide(self, run: CaseRun, duration_s: float) -> CaseResult:
        spec = run.spec
        decisions = decide(run.history, self._asked(spec), self.catalogue)
        parent = parent_of(run.subject, run.case.env) if self.expectations.inherited else ""
        label = run.subject.label
        if self.expectations.inherited:  # what is listed for every executor is core's
            label = run.subject.variant.label if parent else ""
        decisions = self.expectations.apply(label, spec.id, decisions, parent)
        results = clause_results(decisions)
        verdict = case_verdict(results)
        telling = [d.reason for d in decisions if d.verdict is verdict and d.reason]
        result = CaseResult(
            id=spec.id,
            subject=run.subject.label,
            backend=run.subject.backend.name,
            executor=run.case.env.executor,
            verdict=verdict,
            clauses=results,
            reason="; ".join(dict.fromkeys(telling)),
            duration_s=duration_s,
            reproduce=spec.reproduce,
            history=str(run.path.relative_to(self.folder)),
            level=spec.level,
        )
        self.control_failed = control_failures([result]) | self.control_failed
        why = self.control_failed.get(result.subject)
        return excused(result, why) if why else result


@dataclass
class CaseRun:
    """One case while and after it runs."""

    spec: CaseSpec
    subject: Subject
    case: Case
    history: History
    path: Path
    began: float
    clock_set_s: float
    refusal: str
    """Why the subject cannot run the case at all: it runs no callbacks. Then nothing of the case is run."""
    trouble: str = ""
    not_applicable: str = ""
    unsupported: str = ""
    scheduler_died: bool = False
    environment_lost: str = ""
    """Why the environment could not be used again afterwards, which costs time and no verdict."""


def parent_of(subject: Subject, env: Environment) -> str:
    """Return the executor of the subject's environment if the user's own is made from it; else ''."""
    parent = subject.variant.executor or subject.backend.executor
    bases = env.scheduler.executors[0].get("bases", ()) if env.scheduler else ()
    return parent if parent in bases and parent != env.executor else ""


def _note_deliveries(run: CaseRun, env: Environment) -> None:
    """Write down each acceptance of the case's callbacks by the control plane, from its own record."""
    if env.lost() or run.refusal:
        return
    with contextlib.suppress(ConformanceError):  # a control plane that cannot be asked has told nothing
        for callback in run.case.callbacks:
            for delivery in env.backend.deliveries(callback.id) or ():
                ended = None if delivery.ended is None else round(delivery.ended - env.clock.origin, 4)
                accepted = round(delivery.accepted - env.clock.origin, 4)
                run.history.append(
                    "delivery", t=accepted, callback=callback.id, id=delivery.id, accepted=accepted, ended=ended
                )


def _clock_was_set(env: Environment, run: CaseRun) -> str:
    """Why nothing can be said of the order of rows and reports: rows have times of the wall clock."""
    env.clock.follow()
    moved = env.clock.set_s - run.clock_set_s
    return f"The clock of this machine was set by {moved:.2f} s while the case was on." if moved else ""


def describe(subject: Subject, env: Environment) -> SubjectInfo:
    """What the report says about a subject whose environment runs."""
    return SubjectInfo(
        label=subject.label,
        backend=subject.backend.name,
        executor=env.executor,
        substrate=subject.options.substrate,
        control_plane=env.backend.control_plane,
        data_plane=env.backend.data_plane,
        variant=subject.variant.note,
        unavailable="",
    )


def providers() -> dict[str, str]:
    """Installed Airflow providers and the executors' own libraries, with versions."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower()
        if name.startswith("apache-airflow-providers-") or name in (
            "apache-airflow-task-sdk",
            "celery",
            "kombu",
        ):
            found[name] = distribution.version
    return dict(sorted(found.items()))


def circumstances(database: str, broker: str | None = None) -> Circumstances:
    """Return those of a run in this Python environment, on a database and with a broker named as in options."""
    return Circumstances(database, versions_of(airflow_version(), providers()), broker_kind(broker))


def reproduce_line(module: str, function: str, parameters: str, options: Options, subject: Subject) -> str:
    """The shell line that runs one case again."""
    line = f"pytest --pyargs {shlex.quote(f'{module}::{function}[{parameters}]')}"
    line += f" --conformance-backend {subject.backend.name}"
    for option, value, default in (
        ("executor", options.executor, None),
        ("database", options.database, "sqlite"),
        ("substrate", options.substrate, "process"),
        ("broker", options.broker, None),
        ("kubeconfig", options.kubeconfig, None),
        ("image", options.image, None),
        ("api-host", options.api_host, None),
        ("aws", options.aws, None),
        ("control-plane", options.control_plane, EMULATOR),
        ("worker-start", options.worker_start, "fork"),
        ("patience", options.patience_s, 0.0),
        ("processes", options.processes, None),
    ):
        if value != default:
            line += f" --conformance-{option} {shlex.quote(str(value))}"
    return line
