"""The pytest plugin: options, one parameter per subject, the verdict of each case, the report at the end."""

from __future__ import annotations

import datetime as dt
import importlib
import inspect
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from executor_conformance.harness.case import Case
    from executor_conformance.harness.environment import Environment
    from executor_conformance.harness.session import CaseSpec, EnvironmentPool, Recorder, Subject

PACKAGE = "executor_conformance.suites"
STATE = pytest.StashKey["ConformanceState"]()
RESULT = "conformance"


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
    group.addoption("--conformance-expectations", metavar="FILE", help="known failures, strictly")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "conformance(*clauses, smoke=False): a case that decides these clauses")


class ConformanceState:
    """What a pytest process knows about the run; made only when a conformance case is collected."""

    def __init__(self, config: pytest.Config) -> None:
        from executor_conformance.harness.backend import Options
        from executor_conformance.harness.catalogue import load_catalogue
        from executor_conformance.harness.history import Clock
        from executor_conformance.harness.session import LEVELS, choose_backends, subjects_of

        option = config.option
        self.config = config
        self.catalogue = load_catalogue()
        self.options = Options(
            executor=option.conformance_executor,
            database=option.conformance_database,
            substrate=option.conformance_substrate,
            broker=option.conformance_broker,
        )
        level = option.conformance_level
        self.levels = LEVELS[: LEVELS.index(level) + 1]
        _check_airflow()
        _check_database(self.options.database)
        chosen = choose_backends(option.conformance_backend)
        if self.options.executor:
            if len(chosen) != 1:
                from executor_conformance.harness.errors import UsageError

                raise UsageError("An executor of your own needs one environment; name it with --conformance-backend.")
            if not hasattr(config, "workerinput"):
                from executor_conformance.harness.scheduler import check_executor_path

                check_executor_path(self.options.executor)
        self.subjects, self.unavailable = subjects_of(chosen, self.options)
        self.clock = Clock()
        self.started = dt.datetime.now(dt.UTC)
        self.began = time.monotonic()
        self.folder = Path(option.conformance_report).absolute()
        self.expectations = self._load_expectations(option.conformance_expectations)
        self.results: list[dict[str, Any]] = []
        self.described: dict[str, dict[str, Any]] = {}
        self.run_facts: dict[str, Any] = {}
        self._pool: EnvironmentPool | None = None
        self._recorder: Recorder | None = None
        self.root: Path | None = None

    def _load_expectations(self, given: str | None) -> Any:
        from executor_conformance.harness.expectations import Expectations, load_expectations

        path = Path(given) if given else _own_expectations(self.config)
        if path is None or (self.options.executor and not given):
            return Expectations()
        return load_expectations(path, self.catalogue)

    @property
    def pool(self) -> EnvironmentPool:
        """The environments of this process."""
        if self._pool is None:
            from executor_conformance.harness.session import EnvironmentPool
            from executor_conformance.harness.supervisor import sweep_stale

            base = Path(tempfile.gettempdir()) / "executor-conformance"
            base.mkdir(mode=0o700, exist_ok=True)
            sweep_stale(base)
            worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
            self.root = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-{worker}-", dir=base))
            sweep_stale(self.root)
            self._pool = EnvironmentPool(self.root, self.clock, self._say)
        return self._pool

    @property
    def recorder(self) -> Recorder:
        """Runs cases and keeps their histories."""
        if self._recorder is None:
            from executor_conformance.harness.session import Recorder

            self._recorder = Recorder(self.catalogue, self.expectations, self.folder, self.levels)
        return self._recorder

    def _say(self, text: str) -> None:
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("")
            reporter.write_line(text)

    def close(self) -> None:
        """Stop the environments of this process."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self.root is not None:
            import shutil

            shutil.rmtree(self.root, ignore_errors=True)


def _own_expectations(config: pytest.Config) -> Path | None:
    """The checkout's own expectations for the installed Airflow, if pytest runs in the checkout."""
    folder = config.rootpath / "expectations"
    if not (config.rootpath / "suites" / "contract.toml").exists():
        return None
    from importlib.metadata import version

    line = ".".join(version("apache-airflow-core").split(".")[:2])
    path = folder / f"{line}.toml"
    return path if path.exists() else None


def _check_airflow() -> None:
    from importlib.metadata import PackageNotFoundError, version

    from executor_conformance.harness.errors import UsageError

    try:
        found = version("apache-airflow-core")
    except PackageNotFoundError:
        raise UsageError(
            "Airflow is not installed in this environment; install apache-airflow 3.3 or later beside this package."
        ) from None
    major, minor = (int(part) for part in found.split(".")[:2])
    if (major, minor) < (3, 3):
        raise UsageError(f"Airflow {found} is too old: callbacks on executors need Airflow 3.3 or later.")


def _check_database(kind: str) -> None:
    from executor_conformance.harness.errors import UsageError

    if kind not in ("sqlite", "postgres") and not kind.startswith(("postgresql://", "postgresql+", "postgres://")):
        raise UsageError(f"The database '{kind}' is unknown; give 'sqlite', 'postgres', or a postgresql:// address.")


def _check_folder(folder: Path) -> None:
    from executor_conformance.harness.errors import UsageError

    try:
        (folder / "histories").mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("", "utf-8")
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"The report folder {folder} is not writable ({error.strerror}); name another with --conformance-report."
        ) from None


def state_of(config: pytest.Config) -> ConformanceState:
    """The run's state, made at the first call; bad input ends the run with exit code 2."""
    if STATE not in config.stash:
        from executor_conformance.harness.errors import ConformanceError

        try:
            state = ConformanceState(config)
            _check_folder(state.folder)
            config.stash[STATE] = state
        except ConformanceError as error:
            pytest.exit(f"conformance: {error}", returncode=error.exit_code)
    return config.stash[STATE]


# -- collection: the suite's modules have one import name, wherever pytest finds their files --------------------


def _suite_folder() -> Path:
    return Path(inspect.getfile(importlib.import_module(PACKAGE))).parent


class SuiteModule(pytest.Module):
    """A module of the suite, imported as ``executor_conformance.suites.…``."""

    def _getobj(self) -> Any:
        return importlib.import_module(f"{PACKAGE}.{self.path.stem}")


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
        return
    state = state_of(metafunc.config)
    subjects = [s for s in state.subjects if marker.kwargs.get("smoke") or not s.variant.smoke]
    parameters = [pytest.param(s, id=s.label, marks=pytest.mark.xdist_group(s.backend.name)) for s in subjects]
    metafunc.parametrize("case", parameters, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Subject by subject, so that an environment starts once; clauses above the chosen level are left out."""
    cases = [item for item in items if _subject_of(item)]
    if not cases:
        return
    state = state_of(config)
    levels = set(state.levels)

    def chosen(item: pytest.Item) -> bool:
        marker = item.get_closest_marker("conformance")
        assert marker is not None
        return any(state.catalogue.clause(clause).level in levels for clause in marker.args)

    dropped = [item for item in cases if not chosen(item)]
    order = {subject.label: number for number, subject in enumerate(state.subjects)}
    kept = [item for item in cases if chosen(item)]
    # The control group comes first: if it fails, nothing that follows may accuse the executor
    kept.sort(key=lambda item: (order[_subject_of(item).label], "test_task.py" not in str(item.path)))
    items[:] = [item for item in items if item not in cases] + kept
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    config.stash[PLAN] = kept


PLAN = pytest.StashKey[list[pytest.Item]]()


def _subject_of(item: pytest.Item) -> Any:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("case") if callspec and item.get_closest_marker("conformance") else None


def case_id(item: pytest.Item) -> str:
    """The id of a case, the same in every environment: ``crash.killed_during[child]``."""
    module = item.path.stem.removeprefix("test_")
    function = getattr(item, "originalname", item.name).removeprefix("test_")
    callspec = getattr(item, "callspec", None)
    subject = _subject_of(item)
    label = subject.label if subject else ""
    rest = (callspec.id if callspec else "").replace(label, "", 1).strip("-")
    return f"{module}.{function}" + (f"[{rest}]" if rest else "")


def spec_of(item: pytest.Item, state: ConformanceState) -> CaseSpec:
    """What is known of a case before it runs."""
    from executor_conformance.harness.session import LEVELS, CaseSpec, reproduce_line

    marker = item.get_closest_marker("conformance")
    assert marker is not None
    levels = [state.catalogue.clause(clause).level for clause in marker.args]
    callspec = item.callspec  # type: ignore[attr-defined]
    return CaseSpec(
        id=case_id(item),
        clauses=marker.args,
        level=min(levels, key=LEVELS.index),
        reproduce=reproduce_line(
            f"{PACKAGE}.{item.path.stem}",
            item.originalname,
            callspec.id,
            state.options,
            _subject_of(item),  # type: ignore[attr-defined]
        ),
        smoke=bool(marker.kwargs.get("smoke")),
    )


# -- running ----------------------------------------------------------------------------------------------------


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The case's handle on the running environment of its subject."""
    from executor_conformance.harness.errors import ConformanceError

    state = state_of(request.config)
    subject: Subject = request.param
    spec = spec_of(request.node, state)
    try:
        env = state.pool.acquire(subject)
    except ConformanceError as error:
        _note_broken_environment(request.node, state, subject, spec, str(error))
        pytest.fail(str(error), pytrace=False)
    _note_run(request.node, state, subject, env)
    _look_ahead(request.node, state)
    run = state.recorder.begin(spec, subject, env)
    request.node.stash[RUN] = run
    return run.case


RUN = pytest.StashKey[Any]()


def _note_run(item: pytest.Item, state: ConformanceState, subject: Subject, env: Environment) -> None:
    from dataclasses import asdict

    from executor_conformance.harness.session import describe

    item.user_properties.append(("conformance-subject", asdict(describe(subject, env))))
    item.user_properties.append(
        (
            "conformance-run",
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
    backends = list(dict.fromkeys(_subject_of(other).backend.name for other in upcoming))
    for name in list(state.pool._environments):
        if name not in backends:
            state.pool.release(name)
    for other in upcoming:
        if _subject_of(other).backend.name != backends[0]:
            state.pool.prepare(_subject_of(other))
            break


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run the scenario, end its history, decide, and turn the verdict into pytest's outcome."""
    if _subject_of(item) is None:
        return (yield)
    from executor_conformance.harness.errors import ConformanceError

    raised: Exception | None = None
    try:
        yield
    except Exception as error:
        raised = error
    result = state_of(item.config).recorder.finish(item.stash[RUN], raised)
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


# -- reporting --------------------------------------------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One environment is served by one worker: cases are handed out by backend."""
    if config.getoption("dist", "no") not in ("load", "loadgroup"):
        return None
    from xdist.scheduler import LoadGroupScheduling

    return LoadGroupScheduling(config, log)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What the run is about."""
    return [] if STATE not in config.stash else [f"conformance report: {config.stash[STATE].folder}"]


REPORTS = pytest.StashKey[dict[str, Any]]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect results; with pytest-xdist they come from the workers."""
    properties = dict(report.user_properties)
    if report.when == "teardown" or RESULT not in properties or _collected is None:
        return
    key = (properties[RESULT]["subject"], properties[RESULT]["id"])
    if key in _collected["cases"]:
        return
    _collected["cases"][key] = properties[RESULT]
    if subject := properties.get("conformance-subject"):
        _collected["subjects"][subject["label"]] = subject
    if run := properties.get("conformance-run"):
        _collected["run"] = run


_collected: dict[str, Any] | None = None


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin to collect."""
    global _collected
    _collected = {"cases": {}, "subjects": {}, "run": {}}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Stop the environments, write the report, and say what the run amounts to."""
    if STATE not in session.config.stash:
        return
    state = session.config.stash[STATE]
    state.close()
    if hasattr(session.config, "workerinput") or session.config.option.collectonly:
        return
    from executor_conformance.harness.errors import ConformanceError
    from executor_conformance.harness.report.outcome import exit_code
    from executor_conformance.harness.report.store import write_report

    report = _make_report(session, state)
    session.config.stash[REPORTS] = {"report": report, "path": None}
    try:
        session.config.stash[REPORTS]["path"] = write_report(report, state.folder)
    except ConformanceError as error:
        session.config.stash[REPORTS]["error"] = str(error)
        session.exitstatus = error.exit_code
        return
    if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = max(exit_code(report), int(exitstatus == pytest.ExitCode.TESTS_FAILED))


def _make_report(session: pytest.Session, state: ConformanceState) -> Any:
    from executor_conformance.harness.report.model import CaseResult, Report, RunInfo, SubjectInfo
    from executor_conformance.harness.report.outcome import apply_control_group
    from executor_conformance.harness.session import providers

    assert _collected is not None
    cases = apply_control_group([CaseResult.from_dict(case) for case in _collected["cases"].values()])
    subjects = [SubjectInfo(**subject) for subject in _collected["subjects"].values()] + state.unavailable
    facts = _collected["run"]
    cells = [
        (case.subject, case.id, clause, str(found["verdict"]))
        for case in cases
        for clause, found in case.clauses.items()
    ]
    option = session.config.option
    complete = not (option.keyword or option.conformance_backend or option.maxfail or session.shouldstop) and (
        option.conformance_level != "core" and not any("::" in argument for argument in session.config.args)
    )
    run = RunInfo(
        tool_version=_own_version(),
        contract_version=state.catalogue.version,
        airflow_version=facts.get("airflow_version", ""),
        edition=facts.get("edition", ""),
        providers=providers(),
        python=platform.python_version(),
        database=facts.get("database", state.options.database),
        started=state.started.isoformat(timespec="seconds").replace("+00:00", "Z"),
        duration_s=round(time.monotonic() - state.began, 1),
        command=shlex.join(["pytest", *sys.argv[1:]]),
    )
    problems = state.expectations.problems(cells, complete=complete)
    return Report(run=run, subjects=subjects, cases=cases, problems=problems)


def _own_version() -> str:
    from importlib.metadata import version

    return version("airflow-executor-conformance")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The matrix, and what is to be said about the run."""
    kept = config.stash.get(REPORTS, None)
    if kept is None:
        return
    from executor_conformance.harness.report.terminal import render_matrix

    terminalreporter.section("conformance")
    writer = terminalreporter._tw
    text = render_matrix(kept["report"], writer.fullwidth, color=writer.hasmarkup, path=kept["path"])
    terminalreporter.write_line(text)
    if kept.get("error"):
        terminalreporter.write_line(f"conformance: {kept['error']}", red=True)
