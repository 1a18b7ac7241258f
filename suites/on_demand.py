"""What runs only when it is asked for: the crash sweep and drawn sequences.

Asked for, they take the place of the other cases; the control group stays, for without it nothing can be held
against an executor.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from executor_conformance.suites import searching

if TYPE_CHECKING:
    from executor_conformance.harness.environment import Environment
    from executor_conformance.harness.explore.plan import Sweep
    from executor_conformance.harness.report.model import CaseResult, Exploration
    from executor_conformance.harness.session import CaseSpec, Subject
    from executor_conformance.suites.run_state import ConformanceState

CONTROL = "test_task"
MODULES = {"test_sweep": "sweep", "test_sequences": "sequences"}
"""The modules of the suite that are collected on demand only, with the demand."""
PROGRESS = "conformance-progress"
SEARCHER = pytest.StashKey["searching.Searcher"]()
SEARCHES = pytest.StashKey[list["searching.Searcher"]]()
KEPT = pytest.StashKey["CaseResult"]()
SWEEPS = pytest.StashKey[dict[str, "Sweep"]]()


def add_options(group: Any) -> None:
    """The options that ask for it."""
    group.addoption(
        "--conformance-sweep",
        nargs="?",
        const="anew",
        choices=("anew", "resume"),
        help="kill the worker at every boundary of one recorded callback; =resume goes on with a stopped one",
    )
    group.addoption(
        "--conformance-sweep-victim",
        choices=("unit", "supervisor", "child"),
        default="unit",
        help="whom the sweep kills (default: unit, which is the supervisor with its child)",
    )
    searching.add_options(group)


def demanded(config: pytest.Config) -> set[str]:
    """What was asked for: 'sweep', 'sequences'; empty if it is a usual run."""
    asked = {"sweep": config.option.conformance_sweep, "sequences": config.option.conformance_sequences is not None}
    return {name for name, wanted in asked.items() if wanted}


def is_wanted(module: str, config: pytest.Config) -> bool:
    """Whether the cases of a module of the suite are part of the run."""
    asked = demanded(config)
    if module in MODULES:
        return MODULES[module] in asked
    return not asked or module == CONTROL


def check(config: pytest.Config) -> None:
    """Refuse what cannot be done on demand.

    :raises UsageError: several environments, or several processes.
    """
    from executor_conformance.harness.errors import UsageError

    searching.check(config)
    asked = sorted(demanded(config))
    if not asked:
        return
    chosen = config.option.conformance_backend
    if not chosen or "," in chosen:
        raise UsageError(f"--conformance-{asked[0]} looks at one environment; name it with --conformance-backend.")
    if hasattr(config, "workerinput") or getattr(config.option, "numprocesses", None):
        raise UsageError(f"--conformance-{asked[0]} runs in one process, for it has one environment; leave out -n.")


# -- the sweep: planned while pytest collects, so that each boundary is a case of its own ---------------------


def prepare(config: pytest.Config, state: ConformanceState) -> None:
    """Plan what is swept, before anything is collected.

    :raises UsageError: bad input, or a kept sweep that cannot be taken up.
    """
    if "sweep" in demanded(config):
        for subject in state.subjects:
            if subject.variant.runs("test_killed", smoke=False):
                _sweep_of(config, state, subject)


def parametrize(metafunc: pytest.Metafunc, subjects: Iterable[Subject]) -> bool:
    """Give a function of the sweep its parameters; false if it is none."""
    mark = metafunc.definition.get_closest_marker("on_demand")
    if mark is None or "sweep" not in metafunc.fixturenames:
        return False
    several = []
    for subject in subjects:
        sweep = metafunc.config.stash[SWEEPS][subject.label]
        if mark.args[1] == "recording":
            several.append(pytest.param(subject, sweep, None, id=subject.label))
        else:
            prefix = "" if sweep.victim == "unit" else f"{sweep.victim}, "
            several += [
                pytest.param(subject, sweep, boundary, id=f"{subject.label}-{prefix}{boundary.name}")
                for boundary in sweep.planned
            ]
    metafunc.parametrize(("case", "sweep", "boundary"), several, indirect=["case"])
    return True


def _sweep_of(config: pytest.Config, state: ConformanceState, subject: Subject) -> Sweep:
    """The sweep of a subject: taken up from the report folder, or planned from a recording made now."""
    from executor_conformance.harness.explore.plan import load

    sweeps = config.stash.setdefault(SWEEPS, {})
    if subject.label not in sweeps:
        victim = config.option.conformance_sweep_victim
        about = _about(state, subject)
        kept = None
        if config.option.conformance_sweep == "resume":
            kept = load(state.folder, subject.label, victim, about)
            if kept is None:
                state.say(f"no sweep of {subject.label} is kept in {state.folder}, so it begins")
        sweep = sweeps[subject.label] = kept or _plan(state, subject, victim, about)
        done = sum(sweep.finished(name) is not None for name in sweep.results)
        for line in sweep.plan_lines(done):
            state.say(line)
        if not kept and _is_kept(config):
            sweep.save(state.folder)
    return sweeps[subject.label]


def _is_kept(config: pytest.Config) -> bool:
    """Whether results are kept for a resumption: a look at single boundaries must not wipe what is there."""
    single = any("::" in argument for argument in config.args)
    narrowed = bool(config.option.keyword) or single or config.option.collectonly
    return config.option.conformance_sweep == "resume" or not narrowed


def _about(state: ConformanceState, subject: Subject) -> dict[str, str]:
    from importlib.metadata import version

    from executor_conformance.harness.session import providers

    options = state.options
    return {
        "executor": subject.executor,
        "Airflow": version("apache-airflow-core"),
        "tool": version("airflow-executor-conformance"),
        "contract": state.catalogue.version,
        "database": options.database,
        "broker": options.broker or "",
        "substrate": options.substrate,
        "worker start": options.worker_start,
        **providers(),
    }


def _plan(state: ConformanceState, subject: Subject, victim: str, about: dict[str, str]) -> Sweep:
    """Start the environment, record the healthy callback, and read the boundaries from its history."""
    from dataclasses import asdict

    from executor_conformance.harness.errors import ConformanceError, UsageError
    from executor_conformance.harness.explore.boundaries import boundaries_of, unhealthy
    from executor_conformance.harness.explore.plan import Sweep
    from executor_conformance.harness.explore.sweep import killable_nodes, record
    from executor_conformance.harness.session import CaseSpec, describe, reproduce_line
    from executor_conformance.suites.test_sweep import test_recording

    sweep = Sweep(subject.label, victim, about)
    [clauses] = [mark.args for mark in test_recording.pytestmark if mark.name == "conformance"]  # type: ignore[attr-defined]
    line = reproduce_line(
        "executor_conformance.suites.test_sweep", "test_recording", subject.label, state.options, subject
    )
    spec = CaseSpec("sweep.recording", clauses, "core", f"{line} --conformance-sweep")
    try:
        env = state.pool.acquire(subject)
    except UsageError:
        raise
    except ConformanceError as error:
        sweep.trouble, sweep.recording = str(error), _error(spec, subject, str(error))
        return sweep
    sweep.facts = {
        "subject": asdict(describe(subject, env)),
        "run": {"airflow_version": env.airflow_version, "edition": env.edition, "database": env.database.label},
    }
    began = time.monotonic()
    run = state.recorder.begin(spec, subject, env)
    run.case.disturbed = True  # so that its time has the repair in it that each run needs
    raised: Exception | None = None
    try:
        record(run.case)
    except Exception as error:
        raised = error
    sweep.recording = state.recorder.finish(run, raised)
    sweep.healthy_s = round(time.monotonic() - began, 1)
    sweep.trouble = (str(raised) or type(raised).__name__) if raised else unhealthy(run.history)
    if not sweep.trouble:
        idle = "idle" in env.backend.victims
        sweep.boundaries = boundaries_of(run.history, victim, idle, killable_nodes(env))
    return sweep


def _error(spec: CaseSpec, subject: Subject, why: str) -> CaseResult:
    from executor_conformance.harness.report.model import CaseResult, clause_results
    from executor_conformance.harness.verdicts import Decision, Verdict

    return CaseResult(
        id=spec.id,
        subject=subject.label,
        backend=subject.backend.name,
        executor=subject.executor,
        verdict=Verdict.ERROR,
        clauses=clause_results([Decision(clause, Verdict.ERROR, why) for clause in spec.clauses]),
        reason=why,
        reproduce=spec.reproduce,
        level=spec.level,
    )


# -- running: what is kept is not run again ---------------------------------------------------------------------


def options_line(item: pytest.Item) -> str:
    """What a line that reproduces a case needs besides; begins with a space, or is empty."""
    mark, config = item.get_closest_marker("on_demand"), item.config
    if mark is None:
        return ""
    if mark.args[0] == "sweep":
        victim = config.option.conformance_sweep_victim
        return " --conformance-sweep" + (f" --conformance-sweep-victim {victim}" if victim != "unit" else "")
    count, seed = config.option.conformance_sequences, searching.seed_of(config)
    return f" --conformance-sequences {count} --conformance-seed {seed}"


def searcher(
    item: pytest.Item, state: ConformanceState, subject: Subject, spec: CaseSpec, env: Environment
) -> searching.Searcher | None:
    """The handle of a case that is a search; None for any other."""
    mark = item.get_closest_marker("on_demand")
    if mark is None or mark.args[0] != "sequences":
        return None
    made = item.stash[SEARCHER] = searching.Searcher(item.config, state, subject, spec, env)
    item.config.stash.setdefault(SEARCHES, []).append(made)
    return made


def finished(item: pytest.Item, state: ConformanceState, raised: Exception | None) -> CaseResult | None:
    """The result of a case that was kept or is a search; None for any other."""
    if KEPT in item.stash:
        return item.stash[KEPT]
    made = item.stash.get(SEARCHER, None)
    if made is None:
        return None
    if made.result is None or raised is not None:
        # It decided nothing: the subject runs no callbacks, or the harness broke on the way
        run = state.recorder.begin(made.spec, made.subject, state.pool.acquire(made.subject))
        return state.recorder.finish(run, raised)
    return made.result


def take_kept(item: pytest.Item, name: str) -> bool:
    """Whether a case has a result already, from the recording or from a sweep that was stopped."""
    sweep = _params(item).get("sweep")
    if sweep is None:
        return False
    found = sweep.recording if name == "sweep.recording" else sweep.finished(name)
    if found is not None:
        item.stash[KEPT] = found
        item.user_properties += [("conformance-subject", sweep.facts["subject"])] if sweep.facts else []
        item.user_properties += [("conformance-run", sweep.facts["run"])] if sweep.facts else []
    return found is not None


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A case whose result is kept is not run."""
    return True if KEPT in pyfuncitem.stash else None


def note(item: pytest.Item, state: ConformanceState, result: CaseResult) -> None:
    """Keep a result, and say how far the sweep is."""
    sweep = _params(item).get("sweep")
    if sweep is None or result.id == "sweep.recording":
        return
    again = KEPT in item.stash
    sweep.results[result.id] = result
    if not again and _is_kept(item.config):
        sweep.save(state.folder)
    from executor_conformance.harness.explore.plan import duration

    boundary = _params(item)["boundary"]
    number = sweep.planned.index(boundary) + 1
    total = len(sweep.planned)
    verdict = "not reached" if result.reason.startswith("not reached") else str(result.verdict)
    broken = [name for name, found in result.clauses.items() if found["verdict"] == result.verdict]
    named = f" {', '.join(broken)}" if verdict in ("fail", "known", "error") else ""
    took = "kept from before" if again else f"{result.duration_s:.1f} s"
    left = f"; about {duration(sweep.left(number))} left" if number < total else ""
    text = f"[{number:>{len(str(total))}}/{total}] {boundary.name}: {verdict}{named}, {took}{left}"
    item.user_properties.append((PROGRESS, text))


@pytest.hookimpl(wrapper=True)
def pytest_report_teststatus(report: Any) -> Iterator[None]:
    """A line for each boundary instead of a dot."""
    found = yield
    text = dict(getattr(report, "user_properties", ())).get(PROGRESS)
    if text and found and found[1] and getattr(report, "when", "") == "call":
        return found[0], f"\n  {text}", found[2]  # type: ignore[return-value]
    return found


def _params(item: pytest.Item) -> dict[str, Any]:
    callspec = getattr(item, "callspec", None)
    return callspec.params if callspec else {}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """How to go on with a sweep that was stopped."""
    for sweep in config.stash.get(SWEEPS, {}).values():
        done = sum(sweep.finished(name) is not None for name in sweep.results)
        if _is_kept(config) and sweep.planned and done < len(sweep.planned):
            terminalreporter.write_line(
                f"the sweep of {sweep.subject} has {done} of {len(sweep.planned)} runs; "
                "the same command with --conformance-sweep=resume goes on"
            )


# -- the report ---------------------------------------------------------------------------------------------------


def explorations(config: pytest.Config, cases: Iterable[CaseResult]) -> list[Exploration]:
    """What the report says of sweeps as a whole."""
    from executor_conformance.harness.report.model import Exploration, count

    found = []
    for sweep in config.stash.get(SWEEPS, {}).values():
        results = [case for case in cases if case.subject == sweep.subject and case.id.startswith("sweep.killed")]
        unreached = [case for case in results if case.reason.startswith("not reached")]
        skipped = [boundary for boundary in sweep.boundaries if boundary.skipped]
        found.append(
            Exploration(
                kind="sweep",
                subject=sweep.subject,
                title=f"the {sweep.victim} killed at every boundary of one callback",
                counts={
                    "boundaries": len(sweep.boundaries),
                    "skipped": len(skipped),
                    "runs": len(results),
                    "not reached": len(unreached),
                    "violations": count(case.verdict for case in results).get("fail", 0),
                    "known": count(case.verdict for case in results).get("known", 0),
                    "errors": count(case.verdict for case in results).get("error", 0),
                },
                duration_s=round(sum(case.duration_s for case in results), 1),
                notes=[f"{boundary.name}: skipped, {boundary.skipped}" for boundary in skipped]
                + [f"{case.id}: {case.reason}" for case in unreached]
                + ([f"no plan: {sweep.trouble}"] if sweep.trouble else []),
            )
        )
    return found + [each.exploration for each in config.stash.get(SEARCHES, []) if each.exploration]
