"""DECL: what the executor class declares and offers."""

from executor_conformance.harness.case import Case
from executor_conformance.suites.inspections import inspect
from executor_conformance.suites.marks import decides


@decides("DECL-1", smoke=True, callbacks=False)
def test_declares_what_it_does(case: Case) -> None:
    """Declared and done agree."""
    inspect(case, "offer")


@decides("DECL-3", smoke=True, callbacks=False)
def test_class_attributes(case: Case) -> None:
    """What core reads from the class is there."""
    inspect(case, "attributes")


@decides("DECL-4", smoke=True, callbacks=False)
def test_loads_by_path_and_alias(case: Case) -> None:
    """ExecutorLoader finds it."""
    inspect(case, "load")


@decides("DECL-5", smoke=True, callbacks=False)
def test_commands(case: Case) -> None:
    """Its commands merge into the command line."""
    inspect(case, "commands")


@decides("DECL-6", smoke=True, callbacks=False)
def test_methods(case: Case) -> None:
    """What core calls is implemented."""
    inspect(case, "methods")


@decides("DECL-7", smoke=True, callbacks=False)
def test_unknown_workload(case: Case) -> None:
    """A workload of a type that it does not know is refused."""
    inspect(case, "unknown_workload")


@decides("DECL-8", callbacks=False)
def test_construction(case: Case) -> None:
    """Loading the module and constructing the executor start nothing, also where nothing of its own is configured."""
    inspect(case, "construction", own_settings=case.env.own_settings)
