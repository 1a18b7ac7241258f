"""The suite finds out executors with a defect, on the right clause and on no unrelated one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from executor_conformance.backends.aws.batch import BatchBackend
from executor_conformance.backends.aws.ecs import EcsBackend
from executor_conformance.backends.aws.lambda_ import LambdaBackend
from executor_conformance.backends.celery.backend import CeleryBackend
from executor_conformance.backends.kubernetes.backend import KubernetesBackend
from executor_conformance.backends.local import LocalBackend
from executor_conformance.harness.backend import Backend, Options, Variant
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.environment import Environment
from executor_conformance.harness.expectations import Expectations, load_for_line
from executor_conformance.harness.report.model import CaseResult
from executor_conformance.harness.session import CaseSpec, Recorder, Subject, circumstances
from executor_conformance.harness.verdicts import Verdict
from executor_conformance.harness.versions import CORE, line_of
from executor_conformance.suites.cases import suite_cases

from tests.mutants.table import CASES, MUTANTS, Mutant, case_id

LINE = line_of(version("apache-airflow-core"))
PLACES: dict[str, tuple[type[Backend], Variant]] = {
    "local": (LocalBackend, LocalBackend.variants[0]),
    "batch": (BatchBackend, BatchBackend.variants[0]),
    "celery": (CeleryBackend, CeleryBackend.variants[0]),
    "ecs": (EcsBackend, EcsBackend.variants[0]),
    "kubernetes": (KubernetesBackend, KubernetesBackend.variants[-1]),
    "lambda": (LambdaBackend, LambdaBackend.variants[0]),
}
ROOT = Path(__file__).parent.parent
PROCESSES = 60
"""Four times as many as the sound ones have at their peak; a runaway is to disturb nothing else on this machine."""
EARLIER: dict[int, list[str]] = {}
"""Callbacks of earlier mutants by environment: one that no scheduler survived is taken up by the next."""
Place = Callable[[str], Environment]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One environment of each backend, made when it is first asked for, in which the executor class is exchanged."""
    started: dict[str, Environment] = {}

    def get(name: str) -> Environment:
        backend, variant = PLACES[name]
        if missing := backend.missing(Options()):
            pytest.skip(missing)
        if name in started and not started[name].whole:
            started.pop(name).stop()
        if name not in started:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("PYTHONPATH", str(Path(__file__).parent / "mutants"))
                options = Options(processes=PROCESSES)
                env = Environment(backend, options, variant, tmp_path_factory.mktemp("mutants") / "env")
                env.start()
            started[name] = env
        return started[name]

    yield get
    for env in started.values():
        env.stop()


@pytest.fixture(scope="module")
def known() -> Expectations:
    """What the executors that the mutants are made from fail themselves on this Airflow."""
    run = circumstances("sqlite")
    return load_for_line(ROOT / "expectations", run.versions[CORE], load_catalogue()).of(run)


def run_case(env: Environment, recorder: Recorder, name: str, subject: Subject) -> CaseResult:
    """Run one case of the suite against whatever executor the environment has."""
    module, function, arguments = CASES[name]
    body = getattr(importlib.import_module(f"executor_conformance.suites.{module}"), function)
    marker = next(mark for mark in body.pytestmark if mark.name == "conformance")
    run = recorder.begin(CaseSpec(case_id(name), marker.args, "core", "pytest"), subject, env)
    try:
        body(run.case, *arguments)
    except Exception as error:
        return recorder.finish(run, error)
    return recorder.finish(run)


def run_cases(
    place: Place, where: str, executor: str, known: Expectations, cases: tuple[str, ...], folder: Path
) -> dict[str, CaseResult]:
    """Run cases against ``executor``, with the known failures of the class that the environment is made for."""
    env = place(where)
    env.use_executor(executor)
    backend, variant = PLACES[where]
    subject = Subject(variant.label, backend, variant, Options())
    recorder = Recorder(load_catalogue(), known, folder, _earlier=EARLIER)
    results = {name: run_case(env, recorder, name, subject) for name in cases}
    for name, result in results.items():
        if result.verdict is Verdict.ERROR:  # a machine that stood still can break a case; a defect is found again
            results[name] = run_case(place(where), recorder, name, subject)
    return results


def failed(result: CaseResult) -> dict[str, str]:
    """Clauses that failed with their reasons."""
    return {
        clause: f"{result.id}: {found['reason']}"
        for clause, found in result.clauses.items()
        if found["verdict"] == Verdict.FAIL
    }


def only(mutant: Mutant) -> list[str]:
    """The line of Airflow that a mutant is for, if it is for one."""
    return [f"only-{mutant.airflow[0]}"] if len(mutant.airflow) == 1 else []


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, id="-".join([mutant.where, mutant.breaks, mutant.name, *only(mutant)]))
        for mutant in sorted(MUTANTS, key=lambda mutant: mutant.where, reverse=True)
    ],
)
def test_mutant_is_found_out(mutant: Mutant, place: Place, known: Expectations, tmp_path: Path) -> None:
    if LINE not in mutant.airflow:
        pytest.skip(mutant.why_not)
    cases = (mutant.by, *mutant.also)
    results = run_cases(
        place, mutant.where, mutant.executor, Expectations() if mutant.mended else known, cases, tmp_path
    )
    found = {name: failed(result) for name, result in results.items()}
    told = {name: f"{result.verdict}: {result.reason}" for name, result in results.items()}
    errors = {name: told[name] for name, result in results.items() if result.verdict is Verdict.ERROR}
    assert mutant.breaks in found[mutant.by], f"alive: {told}, {found}"
    assert {clause for each in found.values() for clause in each} <= {mutant.breaks} | mutant.follows, found
    assert not errors, errors


def test_parent_that_was_mended_passes(place: Place, tmp_path: Path) -> None:
    cases = tuple(dict.fromkeys(mutant.by for mutant in MUTANTS if mutant.mended))
    results = run_cases(place, "local", "local_base.Mended", Expectations(), cases, tmp_path)
    assert {name: result.verdict for name, result in results.items()} == dict.fromkeys(cases, Verdict.PASS), [
        (result.id, result.verdict, result.reason) for result in results.values()
    ]
    clauses = {mutant.breaks for mutant in MUTANTS if mutant.mended}
    passed = {
        clause for result in results.values() for clause, found in result.clauses.items() if found["verdict"] == "pass"
    }
    assert clauses <= passed


def test_executor_that_waits_for_credentials_passes(place: Place, known: Expectations, tmp_path: Path) -> None:
    """It keeps its workloads as long as there are no credentials; that they come back in time is all that it needs."""
    cases = ("no-credentials", "no-credentials-to-poll")
    results = run_cases(place, "ecs", "aws_mutants.WaitsForCredentials", known, cases, tmp_path)
    assert {name: result.verdict for name, result in results.items()} == dict.fromkeys(cases, Verdict.PASS), [
        (result.id, result.verdict, result.reason) for result in results.values()
    ]


def test_executor_that_gives_up_on_what_no_worker_begins_passes(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    executor = "celery_mutants.GivesUpOnSilence"
    env = place("celery")
    monkeypatch.setattr(env, "options", replace(env.options, executor=executor, patience_s=8))  # its bound is 4 s
    results = run_cases(place, "celery", executor, Expectations(), ("no-consumer",), tmp_path)
    assert [result.verdict for result in results.values()] == [Verdict.PASS], results


def test_what_is_published_twice_is_two_deliveries(place: Place, tmp_path: Path) -> None:
    """The claim of 3.4 refuses one of the two workers, so only the broker shows the second message."""
    run_cases(place, "celery", "celery_mutants.PublishesTwice", Expectations(), ("no-context",), tmp_path)
    env = place("celery")
    [submitted] = env.history.of("submitted")
    assert len(env.backend.deliveries(submitted["callback"]) or []) == 2


def test_each_clause_of_the_executor_that_has_cases_has_a_mutant() -> None:
    catalogue = load_catalogue()
    cases = suite_cases(catalogue)
    named = {clause for case in cases for clause in case.clauses}
    # What no release has is tried in tests/test_claim_state_cases.py
    released = [clause for clause in catalogue.clauses if catalogue.is_released(clause)]
    owned = {clause.id for clause in released if "executor" in (clause.owner, *clause.owner_in.values())}
    broken = {mutant.breaks for mutant in MUTANTS}
    invariants = {clause.id for clause in catalogue.invariants}
    assert sorted(owned & (named | invariants) - broken) == []
    assert broken <= owned


def test_table_of_mutants_is_sound() -> None:
    catalogue = load_catalogue()
    known = {case.id: case.clauses for case in suite_cases(catalogue)}
    invariants = {clause.id for clause in catalogue.invariants}
    assert len({(mutant.name, mutant.breaks) for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        assert {case_id(name) for name in (mutant.by, *mutant.also)} <= set(known), mutant
        # Where the scheduler has died, CRASH-5 is asked about whatever the case is; of a runaway, ROUTE-4
        assert mutant.breaks in {*known[case_id(mutant.by)], *invariants, "CRASH-5", "ROUTE-4"}, mutant
        assert mutant.breaks not in mutant.follows, mutant
        assert bool(mutant.why_not) == (len(mutant.airflow) < 2), mutant
