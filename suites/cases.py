"""The cases of the suite as their test functions declare them; nothing is started, and Airflow need not be there."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from executor_conformance.harness.backend import Variant
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
    once: bool
    summary: str

    @property
    def keyword(self) -> str:
        """An expression for pytest's ``-k`` that selects this case in every environment."""
        name, _, rest = self.id.partition("[")
        parameters = rest.removesuffix("]")
        exactly = f" and ([{parameters}- or -{parameters}])" if re.fullmatch(r"[\w.+:-]+", parameters) else ""
        return f"(test_{name.partition('.')[0]}.py and {self.function}[{exactly})"


def level_of(clauses: Sequence[str], catalogue: Catalogue, further: bool) -> str:
    """The level of a case: that of its first clause; extended at least, if it is a further form of another case."""
    about = catalogue.clause(clauses[0]).level
    return max(about, "extended", key=LEVELS.index) if further else about


def subjects_of(case: SuiteCase, variants: Sequence[Variant], level: str) -> list[str]:
    """The labels of those variants that run a case at a level, in a run of all of them that can run."""
    runs = [each for each in variants if each.runs(case.function, case.smoke)]
    if level == LEVELS[0]:
        runs = [each for each in runs[: 1 if case.once else None] if not each.leaves_to_extended(case.function)]
    return [each.label for each in runs]


def suite_cases(catalogue: Catalogue) -> list[SuiteCase]:
    """All cases in the order of their modules; nothing is started, and Airflow need not be there."""
    found: list[SuiteCase] = []
    for info in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__):
        module = importlib.import_module(f"{PACKAGE}.{info.name}") if info.name.startswith("test_") else None
        for name, function in vars(module).items() if module else ():
            marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "conformance"]
            if any(mark.name == "on_demand" for mark in getattr(function, "pytestmark", [])):
                continue  # what its cases are is not known before one has run
            for parameters, further in _parameters(function) if marks else ():
                clauses = marks[0].args
                base = f"{info.name}.{name}".replace("test_", "")
                found.append(
                    SuiteCase(
                        id=f"{base}[{parameters}]" if parameters else base,
                        function=name,
                        clauses=clauses,
                        level=level_of(clauses, catalogue, further=further),
                        smoke=bool(marks[0].kwargs.get("smoke")),
                        once=bool(marks[0].kwargs.get("once")),
                        summary=(inspect.getdoc(function) or "").partition("\n")[0],
                    )
                )
    return found


def _parameters(function: Any) -> Iterator[tuple[str, bool]]:
    """The ids that pytest gives to the parameters of a test function, and whether only the extended level has them."""
    several = []
    for mark in function.pytestmark:
        if mark.name == "ways":
            from executor_conformance.harness.session import backends

            point = mark.args[0]
            further: dict[str, bool] = {}
            for backend in backends().values():
                for way in backend.faults.get(point, ()):
                    # of the core level, if it is so in one of the environments
                    further[way] = further.get(way, True) and way in backend.further.get(point, ())
            several.append(list(further.items()))
        if mark.name == "parametrize":
            names = mark.kwargs.get("ids") or [None] * len(mark.args[1])
            several.append([_parameter(value, name) for value, name in zip(mark.args[1], names, strict=True)])
    for found in itertools.product(*several):
        yield "-".join(name for name, _ in found), any(further for _, further in found)


def _parameter(value: Any, name: str | None) -> tuple[str, bool]:
    if marks := getattr(value, "marks", None):  # of pytest.param
        given = name or value.id or "-".join(map(str, value.values))
        return given, any(mark.name == "extended" for mark in marks)
    return name or str(value), False
