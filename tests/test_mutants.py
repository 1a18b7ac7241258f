"""The suite finds out executors with a defect, on the right clause and on no unrelated one."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from executor_conformance.backends.kubernetes.backend import KubernetesBackend
from executor_conformance.backends.local import LocalBackend
from executor_conformance.harness.backend import Backend, Options, Variant
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.environment import Environment
from executor_conformance.harness.expectations import Expectations, load_expectations
from executor_conformance.harness.report.model import CaseResult
from executor_conformance.harness.session import CaseSpec, Recorder, Subject
from executor_conformance.harness.verdicts import Verdict

from tests.mutants.table import CASES, MUTANTS, Mutant

LINE = ".".join(version("apache-airflow-core").split(".")[:2])
PLACES: dict[str, tuple[type[Backend], Variant]] = {
    "local": (LocalBackend, LocalBackend.variants[0]),
    "kubernetes": (KubernetesBackend, KubernetesBackend.variants[-1]),
}
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """One environment of a backend, in which the executor class is exchanged."""
    backend, variant = PLACES[request.param]
    if missing := backend.missing(Options()):
        pytest.skip(missing)
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(Path(__file__).parent / "mutants"))
    env = Environment(backend, Options(), variant, tmp_path_factory.mktemp("mutants") / "env")
    env.start()
    patch.undo()
    yield env
    env.stop()


@pytest.fixture(scope="module")
def known() -> Expectations:
    """What the executors that the mutants are made from fail themselves on this Airflow."""
    path = ROOT / "expectations" / f"{LINE}.toml"
    return load_expectations(path, load_catalogue()) if path.exists() else Expectations()


def run_case(env: Environment, recorder: Recorder, name: str, subject: Subject) -> CaseResult:
    """Run one case of the suite against whatever executor the environment has."""
    module, function, arguments = CASES[name]
    body = getattr(importlib.import_module(f"executor_conformance.suites.{module}"), function)
    marker = next(mark for mark in body.pytestmark if mark.name == "conformance")
    parameters = f"[{'-'.join(arguments)}]" if arguments else ""
    identity = f"{module.removeprefix('test_')}.{function.removeprefix('test_')}{parameters}"
    run = recorder.begin(CaseSpec(identity, marker.args, "core", "pytest"), subject, env)
    try:
        body(run.case, *arguments)
    except Exception as error:
        return recorder.finish(run, error)
    return recorder.finish(run)


def failed(results: list[CaseResult]) -> dict[str, str]:
    """Clauses that failed with their reasons."""
    return {
        clause: f"{result.id}: {found['reason']}"
        for result in results
        for clause, found in result.clauses.items()
        if found["verdict"] == Verdict.FAIL
    }


@pytest.mark.parametrize(
    ("place", "mutant"),
    [pytest.param(mutant.where, mutant, id=f"{mutant.where}-{mutant.name}") for mutant in MUTANTS],
    indirect=["place"],
)
def test_mutant_is_found_out(mutant: Mutant, place: Environment, known: Expectations, tmp_path: Path) -> None:
    if LINE not in mutant.airflow:
        pytest.skip(f"the executor of {LINE} has this defect itself")
    place.use_executor(mutant.executor)
    recorder = Recorder(load_catalogue(), known, tmp_path)
    # The known failures of the executor are known of its subclass too
    backend, variant = PLACES[mutant.where]
    subject = Subject(variant.label, backend, variant, Options())
    results = [run_case(place, recorder, name, subject) for name in mutant.cases]
    found = failed(results)
    errors = [f"{result.id}: {result.reason}" for result in results if result.verdict is Verdict.ERROR]
    assert mutant.breaks in found, f"alive; found {found}, errors {errors}"
    assert set(found) <= {mutant.breaks} | mutant.follows, found
    assert not errors, errors
    if mutant.name != "NeverFreesTheSlot" and "control" in mutant.cases:
        control = next(result for result in results if result.id.startswith("task."))
        assert control.verdict is Verdict.PASS
