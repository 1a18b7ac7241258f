"""The cases of the suite as their test functions declare them; nothing is started, and Airflow need not be there."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from executor_conformance.harness.catalogue import LEVELS, Catalogue

PACKAGE = "executor_conformance.suites"


@dataclass(frozen=True)
class SuiteCase:
    """A case as its test function declares it; ``id`` is the same in every environment."""

    id: str
    function: str
    clauses: tuple[str, ...]
    level: str
    smoke: bool
    summary: str

    @property
    def keyword(self) -> str:
        """An expression for pytest's ``-k`` that selects this case in every environment."""
        name, _, rest = self.id.partition("[")
        parameters = rest.removesuffix("]")
        exactly = f" and ([{parameters}- or -{parameters}])" if re.fullmatch(r"[\w.+:-]+", parameters) else ""
        return f"(test_{name.partition('.')[0]}.py and {self.function}[{exactly})"


def suite_cases(catalogue: Catalogue) -> list[SuiteCase]:
    """All cases in the order of their modules; nothing is started, and Airflow need not be there."""
    found: list[SuiteCase] = []
    for info in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__):
        module = importlib.import_module(f"{PACKAGE}.{info.name}") if info.name.startswith("test_") else None
        for name, function in vars(module).items() if module else ():
            marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "conformance"]
            if any(mark.name == "on_demand" for mark in getattr(function, "pytestmark", [])):
                continue  # what its cases are is not known before one has run
            for parameters in _parameters(function) if marks else ():
                clauses = marks[0].args
                base = f"{info.name}.{name}".replace("test_", "")
                found.append(
                    SuiteCase(
                        id=f"{base}[{parameters}]" if parameters else base,
                        function=name,
                        clauses=clauses,
                        level=min((catalogue.clause(clause).level for clause in clauses), key=LEVELS.index),
                        smoke=bool(marks[0].kwargs.get("smoke")),
                        summary=(inspect.getdoc(function) or "").partition("\n")[0],
                    )
                )
    return found


def _parameters(function: Any) -> Iterator[str]:
    """The ids that pytest gives to the parameters of a test function."""
    several = []
    for mark in function.pytestmark:
        if mark.name == "ways":
            from executor_conformance.harness.session import backends

            known = [backend.faults.get(mark.args[0], ()) for backend in backends().values()]
            several.append(list(dict.fromkeys(way for ways in known for way in ways)))
        if mark.name == "parametrize":
            given = mark.kwargs.get("ids") or [getattr(value, "id", None) for value in mark.args[1]]
            several.append([name or str(value) for name, value in zip(given, mark.args[1], strict=True)])
    yield from map("-".join, itertools.product(*several))
