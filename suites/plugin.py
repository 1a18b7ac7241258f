"""The pytest plugin: options, one parameter per subject, the verdict of each case, the report at the end."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from executor_conformance.suites import on_demand
from executor_conformance.suites.cases import PACKAGE
from executor_conformance.suites.interrupt import interrupt_workers
from executor_conformance.suites.items import level_of_item, spec_of, subject_of
from executor_conformance.suites.marks import extended
from executor_conformance.suites.reporting import LOST, RESULT, SUBJECT, Collected
from executor_conformance.suites.reporting import RUN as RUN_FACTS

if TYPE_CHECKING:
    from executor_conformance.harness.case import Case
    from executor_conformance.harness.environment import Environment
    from executor_conformance.harness.session import CaseSpec, Subject
    from executor_conformance.suites.run_state import ConformanceState

STATE = pytest.StashKey["ConformanceState"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The ``--conformance-…`` options."""
    group = parser.getgroup("conformance", "conformance of Airflow executors")
    group.addoption("--conformance-backend", metavar="NAME[,NAME]", help="only these environments (default: all)")
    group.addoption("--conformance-executor", metavar="PATH", help="the executor class to put into the environment")
    group.addoption(
        "--conformance-level",
        choices=("core", "extended", "provisional"),
        default="extended",
        help="the highest level of clauses to decide (default: extended, which is core and extended)",
    )
    group.addoption("--conformance-report", metavar="DIR", default="conformance-report", help="folder of the report")
    group.addoption(
        "--conformance-database",
        metavar="KIND",
        default="sqlite",
        help="sqlite, postgres, or a postgresql:// address",
    )
    group.addoption("--conformance-substrate", choices=("process", "docker", "cluster"), default="process")
    group.addoption("--conformance-broker", metavar="BROKER", help="filesystem, redis, rabbitmq, or an address")
    group.addoption("--conformance-kubeconfig", metavar="FILE", help="the Kubernetes cluster of the substrate")
    group.addoption("--conformance-image", metavar="IMAGE", help="the workers' image, on a substrate that has images")
    group.addoption(
        "--conformance-api-host",
        metavar="HOST",
        help="the name or address by which workers in containers reach this host (default: loopback only)",
    )
    group.addoption("--conformance-aws", metavar="FILE", help="the AWS account of the substrate, and what to use in it")
    group.addoption(
        "--conformance-control-plane",
        metavar="NAME",
        default="emulator",
        help="of the backend lambda: emulator, localstack, or the address of a LocalStack (default: emulator)",
    )
    group.addoption(
        "--conformance-worker-start",
        choices=("fork", "exec"),
        default="fork",
        help="of Airflow's worker command in emulated containers: a fork that has imported Airflow, or a new process",
    )
    group.addoption(
        "--conformance-patience",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="for how long nothing may move before 'stuck' is proven; for an executor with timers of its own",
    )
    group.addoption(
        "--conformance-processes",
        metavar="N",
        type=int,
        help="how many processes an environment may have at once before it is stopped as a runaway (default: far more "
        "than a sound executor needs)",
    )
    group.addoption("--conformance-expectations", metavar="FILE", help="known failures, strictly")
    on_demand.add_options(group)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, and the hooks of what runs on demand."""
    config.pluginmanager.register(on_demand, "executor_conformance_on_demand")
    config.addinivalue_line("markers", "on_demand(what, part): a case that runs only when it is asked for")
    config.addinivalue_line(
        "markers", "conformance(*clauses, smoke=False, once=False, callbacks=True): a case that decides these clauses"
    )
    config.addinivalue_line("markers", "extended: a case that the core level leaves out, whatever it decides")
    config.addinivalue_line("markers", "ways(point): run once for each way in which the environment injects it")


def state_of(config: pytest.Config) -> ConformanceState:
    """The run's state, made at the first call; bad input ends the run with exit code 2."""
    global _present
    if STATE not in config.stash:
        from executor_conformance.harness.errors import ConformanceError
        from executor_conformance.suites.run_state import ConformanceState, check_folder, refuse

        try:
            on_demand.check(config)
            state = ConformanceState(config)
            check_folder(state.folder)
            config.stash[STATE] = state
            config.stash[COLLECTED] = Collected(state)
            _present = config
        except ConformanceError as error:
            refuse(config, error)
    return config.stash[STATE]


# -- collection: the suite's modules have one import name, wherever pytest finds their files --------------------


def _suite_folder() -> Path:
    return Path(inspect.getfile(importlib.import_module(PACKAGE))).parent


class SuiteModule(pytest.Module):
    """A module of the suite, imported as ``executor_conformance.suites.…``."""

    def _getobj(self) -> Any:
        return importlib.import_module(f"{PACKAGE}.{self.path.stem}")

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Nothing where something else was asked for."""
        return super().collect() if on_demand.is_wanted(self.path.stem, self.config) else []


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Refuse bad input before anything is collected, and let the controller of pytest-xdist know the run."""
    config = session.config
    expression = config.option.markexpr or ""
    if ("conformance" in expression or on_demand.demanded(config)) and "not conformance" not in expression:
        from executor_conformance.harness.errors import UsageError
        from executor_conformance.suites.run_state import refuse

        state = state_of(config)
        try:
            on_demand.prepare(config, state)
        except UsageError as error:
            refuse(config, error)


@pytest.hookimpl(tryfirst=True)
def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """The suite's folder is a plain folder to pytest, not a package of its own."""
    if path.resolve() == _suite_folder().resolve():
        return pytest.Dir.from_parent(parent, path=path)
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Import the suite's modules under their one name."""
    if module_path.parent.resolve() == _suite_folder().resolve():
        return SuiteModule.from_parent(parent, path=module_path)
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One parameter per subject that can run here."""
    marker = metafunc.definition.get_closest_marker("conformance")
    if marker is None or "case" not in metafunc.fixturenames:
        return
    if "conformance" not in (metafunc.config.option.markexpr or "conformance"):
        return
    if "not conformance" in (metafunc.config.option.markexpr or ""):
        metafunc.parametrize("case", [pytest.param(None, id="deselected")], indirect=True)
        if metafunc.definition.get_closest_marker("ways"):
            metafunc.parametrize("way", ["none"])
        return
    state = state_of(metafunc.config)
    smoke = bool(marker.kwargs.get("smoke"))
    subjects = [s for s in state.subjects if s.variant.runs(metafunc.function.__name__, smoke)]
    if on_demand.parametrize(metafunc, subjects):
        return
    again = subjects[1:] if marker.kwargs.get("once") else []
    marked = [s for s in subjects if s.variant.leaves_to_extended(metafunc.function.__name__) or s in again]
    further = {s.label: [extended] if s in marked else [] for s in subjects}
    by_way = metafunc.definition.get_closest_marker("ways")
    if by_way is None:
        each = [pytest.param(s, id=s.label, marks=further[s.label]) for s in subjects]
        metafunc.parametrize("case", each, indirect=True)
        return
    point = by_way.args[0]
    several = [
        pytest.param(
            s,
            way,
            id=f"{s.label}-{way}",
            marks=[extended] if way in s.backend.further.get(point, ()) else further[s.label],
        )
        for s in subjects
        for way in s.backend.faults.get(point) or ("none",)
    ]
    metafunc.parametrize(("case", "way"), several, indirect=["case"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Subject by subject, so that an environment starts once; what is above the chosen level is left out."""
    cases = [item for item in items if subject_of(item)]
    if not cases:
        return
    state = state_of(config)
    levels = set(state.levels)

    dropped = [item for item in cases if level_of_item(item, state) not in levels]
    backends = list(dict.fromkeys(subject.backend.name for subject in state.subjects))
    if hasattr(config, "workerinput"):
        # Side by side, the longest comes first, or the others have ended while it still runs alone
        backends.sort(key=lambda name: -sum(subject_of(item).backend.name == name for item in cases))
    order = {
        subject.label: (backends.index(subject.backend.name), number) for number, subject in enumerate(state.subjects)
    }
    kept = [item for item in cases if level_of_item(item, state) in levels]
    # The control group comes first: if it fails, nothing that follows may accuse the executor
    kept.sort(key=lambda item: (order[subject_of(item).label], "test_task.py" not in str(item.path)))
    items[:] = [item for item in items if item not in cases] + kept
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    config.stash[PLAN] = kept


PLAN = pytest.StashKey[list[pytest.Item]]()


# -- running ----------------------------------------------------------------------------------------------------


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The case's handle on the running environment of its subject."""
    from executor_conformance.harness.errors import ConformanceError, UsageError
    from executor_conformance.suites.run_state import refuse

    state = state_of(request.config)
    subject: Subject = request.param
    spec = spec_of(request.node, state)
    if on_demand.take_kept(request.node, spec.id):
        return None  # type: ignore[return-value]  # its body is not run
    try:
        env = state.pool.acquire(subject)
    except UsageError as error:
        # Bad input that only the start could find: every other case would meet it too
        if hasattr(request.config, "workerinput"):
            _note_broken_environment(request.node, state, subject, spec, str(error))
            pytest.fail(str(error), pytrace=False)
        refuse(request.config, error)
    except ConformanceError as error:
        _note_broken_environment(request.node, state, subject, spec, str(error))
        pytest.fail(str(error), pytrace=False)
    _note_run(request.node, state, subject, env)
    _look_ahead(request.node, state)
    if searcher := on_demand.searcher(request.node, state, subject, spec, env):
        return searcher  # type: ignore[return-value]
    try:
        run = state.recorder.begin(spec, subject, env)
    except ConformanceError as error:
        _note_broken_environment(request.node, state, subject, spec, str(error))
        pytest.fail(str(error), pytrace=False)
    request.node.stash[RUN] = run
    if run.refusal:  # decided before anything is submitted
        _conclude(request.node, state.recorder.finish(run))
    return run.case


RUN = pytest.StashKey[Any]()


def _note_run(item: pytest.Item, state: ConformanceState, subject: Subject, env: Environment) -> None:
    from dataclasses import asdict

    from executor_conformance.harness.session import describe

    item.user_properties.append((SUBJECT, asdict(describe(subject, env))))
    item.user_properties.append(
        (
            RUN_FACTS,
            {"airflow_version": env.airflow_version, "edition": env.edition, "database": env.database.label},
        )
    )


def _note_broken_environment(
    item: pytest.Item, state: ConformanceState, subject: Subject, spec: CaseSpec, why: str
) -> None:
    from executor_conformance.harness.report.model import CaseResult, clause_results
    from executor_conformance.harness.verdicts import Decision, Verdict

    decisions = [Decision(clause, Verdict.ERROR, why) for clause in spec.clauses]
    result = CaseResult(
        id=spec.id,
        subject=subject.label,
        backend=subject.backend.name,
        executor=subject.executor,
        verdict=Verdict.ERROR,
        clauses=clause_results(decisions),
        reason=why,
        reproduce=spec.reproduce,
        level=spec.level,
    )
    item.user_properties.append((RESULT, result.to_dict()))


def _look_ahead(item: pytest.Item, state: ConformanceState) -> None:
    """Start the next environment while this one works; stop those that are done with."""
    plan = item.config.stash.get(PLAN, [])
    if item not in plan or hasattr(item.config, "workerinput"):
        return
    upcoming = plan[plan.index(item) :]
    backends = list(dict.fromkeys(subject_of(other).backend.name for other in upcoming))
    for name in list(state.pool._environments):
        if name not in backends:
            state.pool.release(name)
    for other in upcoming:
        if subject_of(other).backend.name != backends[0]:
            state.pool.prepare(subject_of(other))
            break


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run the scenario, end its history, decide, and turn the verdict into pytest's outcome."""
    if subject_of(item) is None:
        return (yield)
    from executor_conformance.harness.errors import ConformanceError

    raised: Exception | None = None
    try:
        yield
    except Exception as error:
        raised = error
    state = state_of(item.config)
    result = on_demand.finished(item, state, raised) or state.recorder.finish(item.stash[RUN], raised)
    if (run := item.stash.get(RUN, None)) and run.environment_lost:
        item.user_properties.append((LOST, run.environment_lost))
    on_demand.note(item, state, result)
    _conclude(item, result)
    if raised is not None and not isinstance(raised, ConformanceError):
        raise raised


def _conclude(item: pytest.Item, result: Any) -> None:
    from executor_conformance.harness.report.terminal import failure_text
    from executor_conformance.harness.verdicts import Verdict

    state = state_of(item.config)
    item.user_properties.append((RESULT, result.to_dict()))
    if result.verdict in (Verdict.FAIL, Verdict.ERROR):
        pytest.fail(failure_text(result, state.catalogue), pytrace=False)
    if result.verdict is Verdict.KNOWN:
        pytest.xfail(result.reason)
    if result.verdict in (Verdict.NOT_APPLICABLE, Verdict.UNSUPPORTED, Verdict.UNAVAILABLE):
        pytest.skip(f"{result.verdict}: {result.reason}")


# -- reporting ----------------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Say why a process of pytest-xdist has refused to work."""
    from executor_conformance.suites.run_state import REFUSAL

    if said := getattr(node, "workeroutput", {}).get(REFUSAL):
        print(said, file=sys.stderr)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """An environment is served by one worker: cases are handed out by backend."""
    if config.getoption("dist", "no") not in ("load", "loadgroup") or STATE not in config.stash:
        return None
    from executor_conformance.suites.distribution import ByBackend

    return ByBackend(config, log, {subject.label: subject.backend.name for subject in state_of(config).subjects})


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What the run is about."""
    return [] if STATE not in config.stash else [f"conformance report: {config.stash[STATE].folder}"]


COLLECTED = pytest.StashKey["Collected"]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect results; with pytest-xdist they come from the workers."""
    if _present is not None and COLLECTED in _present.stash:
        _present.stash[COLLECTED].take(report)


_present: pytest.Config | None = None
"""The configuration of this process; the hook above is given none."""


@pytest.hookimpl(tryfirst=True)
def pytest_keyboard_interrupt(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Begin to stop the environments before anything else is done: they may have loaded the machine."""
    if _present is None or STATE not in _present.stash:
        return
    state = _present.stash[STATE]
    state.interrupts.ending = True
    interrupt_workers(_present)
    state.begin_to_close()
    if type(excinfo.value) is KeyboardInterrupt and not _present.option.fulltrace:
        excinfo.traceback = excinfo.traceback[-1:]  # pytest parses the source of each entry, and shows the last


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Stop the environments, write the report, and say what the run amounts to."""
    if STATE not in session.config.stash:
        return
    state = session.config.stash[STATE]
    state.interrupts.ending = True
    state.begin_to_close()
    try:
        if not hasattr(session.config, "workerinput") and not session.config.option.collectonly:
            session.exitstatus = session.config.stash[COLLECTED].conclude(session, exitstatus)
    finally:
        state.close()
        state.interrupts.give_back()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The matrix."""
    if COLLECTED in config.stash:
        config.stash[COLLECTED].show(terminalreporter)
