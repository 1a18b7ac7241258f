"""The command ``executor-conformance``: run the suite, look at what can run, at the contract, at a history."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import importlib
import importlib.metadata
import importlib.util
import inspect
import itertools
import json
import pkgutil
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from executor_conformance.harness.catalogue import (
    LEVELS,
    Catalogue,
    Clause,
    Edition,
    FaultPoint,
    Group,
    load_catalogue,
)
from executor_conformance.harness.errors import ConformanceError, EnvironmentUnavailable, UsageError
from executor_conformance.harness.report.wording import SYMBOLS
from executor_conformance.harness.verdicts import DECIDED, Decision, Verdict
from rich.console import Console
from rich.table import Table
from rich.text import Text

NAME = "executor-conformance"
DISTRIBUTION = "airflow-executor-conformance"
PACKAGE = "executor_conformance.suites"
INTERRUPTED = 130


class Cli(click.Group):
    """Turns what the harness raises into one line on stderr and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except ConformanceError as error:
            click.echo(f"{NAME}: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo(f"{NAME}: interrupted", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(importlib.metadata.version(DISTRIBUTION), prog_name=NAME)
def main() -> None:
    """Decide, clause by clause and with evidence, whether an Airflow executor keeps the callback contract.

    Exit codes: 0 all decided and conformant; 1 a clause failed; 2 bad usage or input; 3 nothing decided, or the
    harness broke; 130 interrupted.
    """


# -- the suite's cases, without a run --


@dataclass(frozen=True)
class SuiteCase:
    """A case as its test function declares it; ``id`` is the same in every environment."""

    id: str
    function: str
    parameters: str
    clauses: tuple[str, ...]
    level: str
    smoke: bool
    summary: str

    @property
    def keyword(self) -> str:
        """An expression for pytest's ``-k`` that selects this case in every environment."""
        terms = [f"test_{self.id.partition('.')[0]}.py", f"{self.function}["]
        if re.fullmatch(r"[\w.+:-]+", self.parameters):
            terms.append(f"([{self.parameters}- or -{self.parameters}])")
        return f"({' and '.join(terms)})"


def suite_cases(catalogue: Catalogue) -> list[SuiteCase]:
    """All cases in the order of their modules; nothing is started, and Airflow need not be there."""
    found: list[SuiteCase] = []
    for info in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__):
        if not info.name.startswith("test_"):
            continue
        for name, function in vars(importlib.import_module(f"{PACKAGE}.{info.name}")).items():
            marks = {mark.name: mark for mark in getattr(function, "pytestmark", [])}
            if not name.startswith("test_") or "conformance" not in marks:
                continue
            mark = marks["conformance"]
            levels = [catalogue.clause(clause).level for clause in mark.args]
            base = f"{info.name.removeprefix('test_')}.{name.removeprefix('test_')}"
            for parameters in _parameters(function):
                found.append(
                    SuiteCase(
                        id=f"{base}[{parameters}]" if parameters else base,
                        function=name,
                        parameters=parameters,
                        clauses=mark.args,
                        level=min(levels, key=LEVELS.index),
                        smoke=bool(mark.kwargs.get("smoke")),
                        summary=(inspect.getdoc(function) or "").partition("\n")[0],
                    )
                )
    return found


def _parameters(function: Callable[..., object]) -> Iterator[str]:
    """The ids that pytest gives to the parameters of a test function."""
    several = []
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            ids = mark.kwargs.get("ids") or [None] * len(mark.args[1])
            several.append([given or _parameter_id(value) for given, value in zip(ids, mark.args[1], strict=True)])
    for combination in itertools.product(*several):
        yield "-".join(combination)


def _parameter_id(value: Any) -> str:
    if hasattr(value, "values") and hasattr(value, "marks"):  # pytest.param
        return str(value.id) if value.id else "-".join(map(str, value.values))
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


# -- run --


class _Ending:
    """Why pytest ended early, if it did."""

    def __init__(self) -> None:
        self.message = ""
        self.interrupted = False

    def pytest_collection(self, session: Any) -> None:
        """Bad input is found before the first module is collected, and in the process that reports."""
        from executor_conformance.suites.plugin import state_of

        state_of(session.config)

    def pytest_keyboard_interrupt(self, excinfo: Any) -> None:
        """Ctrl-C, or bad input that the plugin found; an error while collecting is neither."""
        if type(excinfo.value) is KeyboardInterrupt:
            self.interrupted = True
        elif hasattr(excinfo.value, "msg"):
            self.message = str(excinfo.value.msg).removeprefix("conformance: ")

    def exit_code(self, code: int) -> int:
        """Our exit code for pytest's."""
        if self.interrupted:
            return INTERRUPTED
        if code == 2 and not self.message:
            return 3
        return {4: 2, 5: 3}.get(code, code)


def _settings(stack: contextlib.ExitStack) -> list[str]:
    """pytest's configuration: of the checkout, or an empty one; never what the current folder happens to have."""
    checkout = Path(inspect.getfile(importlib.import_module(PACKAGE))).resolve().parent.parent
    file = checkout / "pyproject.toml"
    if not (file.exists() and (checkout / "suites" / "contract.toml").exists()):
        checkout = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="executor-conformance-cli-")))
        file = checkout / "pytest.ini"
        file.write_text("[pytest]\naddopts = --import-mode=importlib\n", "utf-8")
    return ["-c", str(file), "--rootdir", str(checkout), "--noconftest", "-p", "no:cacheprovider"]


def _chosen(pattern: str, cases: list[SuiteCase]) -> list[SuiteCase]:
    """The cases whose id is or has ``pattern``, or is like it.

    :raises UsageError: there is none.
    """
    # square brackets stand for themselves, because ids have them
    like = pattern.replace("[", "[[]")
    chosen = [case for case in cases if pattern in case.id or fnmatch.fnmatchcase(case.id, like)]
    if not chosen:
        near = difflib.get_close_matches(pattern, [case.id for case in cases], n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"'{NAME} list' shows them."
        raise UsageError(f"No case matches '{pattern}'; {hint}")
    return chosen


@main.command()
@click.option("--backend", metavar="NAME[,NAME]", help="Only these environments (default: all).")
@click.option("--executor", metavar="PATH", help="Your executor class, in the environment of --backend.")
@click.option("--level", type=click.Choice(LEVELS), default="extended", show_default=True)
@click.option("--report", metavar="DIR", default="conformance-report", show_default=True)
@click.option("--database", metavar="KIND", help="sqlite (default), postgres, or a postgresql:// address.")
@click.option("--substrate", type=click.Choice(("process", "docker", "cluster")), help="Default: process.")
@click.option("--broker", metavar="BROKER", help="filesystem, redis, rabbitmq, or an address.")
@click.option("--expectations", metavar="FILE", help="Known failures, strictly.")
@click.option("--case", "pattern", metavar="GLOB", help="Only cases whose id is like this or contains it.")
@click.option("-n", "workers", metavar="WORKERS", type=click.IntRange(1), help="Environments at the same time.")
@click.option("-v", "--verbose", is_flag=True, help="One line per case.")
@click.pass_context
def run(ctx: click.Context, pattern: str | None, workers: int | None, verbose: bool, **options: str | None) -> None:
    """Run the suite and write a report."""
    import pytest

    arguments = ["--pyargs", PACKAGE, "-m", "conformance"]
    for name, value in options.items():
        if value is not None:
            arguments.append(f"--conformance-{name}={value}")
    if pattern:
        chosen = _chosen(pattern, suite_cases(load_catalogue()))
        arguments += ["-k", " or ".join(case.keyword for case in chosen)]
    if workers:
        if importlib.util.find_spec("xdist") is None:
            raise UsageError("-n needs pytest-xdist, which is not installed (pip install pytest-xdist).")
        arguments += ["-n", str(workers)]
    if verbose:
        arguments.append("-v")
    ending = _Ending()
    with contextlib.ExitStack() as stack:
        code = int(pytest.main([*arguments, *_settings(stack)], plugins=[ending]))
    if ending.message:
        click.echo(f"{NAME}: {ending.message}", err=True)
    ctx.exit(ending.exit_code(code))


# -- doctor --


@main.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Show what can run here, and what is missing for the rest."""
    from executor_conformance.harness.session import providers

    airflow, why = _airflow()
    environments = _environments(why)
    table = Table("environment", "", "missing", box=None, pad_edge=False)
    for name, missing in environments.items():
        state = Text("✗ cannot run", "red") if missing else Text("✓ can run", "green")
        table.add_row(name, state, Text(missing or ""))
    temporary = tempfile.gettempdir()
    machine = {
        "Airflow": airflow,
        "Python": platform.python_version(),
        **providers(),
        **_services(),
        "free disk": f"{shutil.disk_usage(temporary).free / 1e9:.1f} GB in {temporary}",
        "cache": _cache(),
    }
    facts = Table(show_header=False, box=None, pad_edge=False)
    for name, value in machine.items():
        facts.add_row(name, Text(value))
    console = _console()
    console.print(table, Text(), facts, sep="\n")
    ctx.exit(0 if any(missing is None for missing in environments.values()) else 3)


def _airflow() -> tuple[str, str | None]:
    """The installed version and, if it is of no use, why."""
    from executor_conformance.suites.plugin import _check_airflow

    try:
        version = importlib.metadata.version("apache-airflow-core")
        _check_airflow()
    except importlib.metadata.PackageNotFoundError:
        return "not installed", "Airflow is not installed here (pip install 'apache-airflow-core>=3.3')"
    except UsageError as error:
        return f"{version} (too old)", str(error)
    return version, None


def _environments(airflow_missing: str | None) -> dict[str, str | None]:
    """Each registered backend with what is missing for it, if anything."""
    from executor_conformance.harness.backend import Options
    from executor_conformance.harness.session import GROUP

    found: dict[str, str | None] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            found[point.name] = airflow_missing or point.load().missing(Options())
        except Exception as error:
            found[point.name] = f"{point.value} does not work: {type(error).__name__}: {error}"
    return dict(sorted(found.items(), key=lambda item: (item[0] != "local", item[0])))


def _services() -> dict[str, str]:
    """What the options --conformance-database, -broker and -substrate can use here."""
    from executor_conformance.backends.celery import brokers
    from executor_conformance.harness import postgres

    try:
        postgres_binary = str(postgres.find_binary("postgres"))
    except EnvironmentUnavailable:
        postgres_binary = "not installed; give an address with --database"
    return {
        "docker engine": "answers" if brokers.has_docker() else "does not answer",
        "redis-server": brokers.find_binary("redis") or "not installed; give an address with --broker",
        "rabbitmq-server": brokers.find_binary("amqp") or "not installed; give an address with --broker",
        "postgres": postgres_binary,
        "pytest-xdist": "installed" if importlib.util.find_spec("xdist") else "not installed; -n needs it",
    }


def _cache() -> str:
    from executor_conformance.harness.database import cache_folder

    try:
        folder = cache_folder()
        used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        return f"cannot be used: {error}"
    return f"{folder} ({used / 1e6:.0f} MB)"


# -- list and explain --


@main.command("list")
@click.option("--backend", metavar="NAME[,NAME]", help="Also show in which variants of these environments.")
@click.option("--level", type=click.Choice(LEVELS), default="provisional", help="Up to this (default: all).")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def list_cases(backend: str | None, level: str, as_json: bool) -> None:
    """List the cases with their levels and clauses."""
    from executor_conformance.harness.session import choose_backends

    catalogue = load_catalogue()
    levels = LEVELS[: LEVELS.index(level) + 1]
    cases = [
        case
        for case in suite_cases(catalogue)
        if any(catalogue.clause(clause).level in levels for clause in case.clauses)
    ]
    chosen = choose_backends(backend).values() if backend else ()
    variants = [variant for each in chosen for variant in each.variants]
    subjects = [[v.label for v in variants if case.smoke or not v.smoke] for case in cases]
    if as_json:
        rows = [
            {"id": case.id, "level": case.level, "clauses": case.clauses, "smoke": case.smoke}
            | {"summary": case.summary}
            | ({"subjects": labels} if backend else {})
            for case, labels in zip(cases, subjects, strict=True)
        ]
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    table = Table("case", "level", "clauses", *(["subjects"] if backend else []), box=None, pad_edge=False)
    for case, labels in zip(cases, subjects, strict=True):
        cells = [case.id, case.level, ", ".join(case.clauses), *([", ".join(labels)] if backend else [])]
        table.add_row(*map(Text, cells))
    _console().print(table)
    click.echo(f"{len(cases)} cases")


@main.command()
@click.argument("identifier", metavar="ID")
def explain(identifier: str) -> None:
    """Explain a clause (CRASH-3), a group (CRASH), a fault point (before-claim) or an edition (claim)."""
    catalogue = load_catalogue()
    every = (*catalogue.clauses, *catalogue.groups, *catalogue.points, *catalogue.editions)
    items: dict[str, Clause | Group | FaultPoint | Edition] = {item.id.casefold(): item for item in every}
    if identifier.casefold() not in items:
        near = [items[name].id for name in difflib.get_close_matches(identifier.casefold(), items)]
        groups = ", ".join(group.id for group in catalogue.groups)
        hint = f"did you mean {', '.join(near)}?" if near else f"its groups are {groups}."
        raise UsageError(f"The contract has no clause, group, fault point or edition '{identifier}'; {hint}")
    console = _console()
    for line in _explained(items[identifier.casefold()], catalogue):
        console.print(Text(line))


def _explained(item: Clause | Group | FaultPoint | Edition, catalogue: Catalogue) -> Iterator[str]:
    cases = suite_cases(catalogue)
    if isinstance(item, Group):
        yield f"{item.id}: {item.title}"
        for clause in catalogue.in_group(item.id):
            yield f"  {clause.id} ({clause.level}, {clause.owner})  {clause.text}"
        return
    yield f"{item.id}: {item.text}"
    if isinstance(item, Edition):
        yield f"detected: {item.detected}"
        left_out = [clause.id for clause in catalogue.clauses if clause.applies_to(item.id)]
        yield "not applicable on it: " + (", ".join(left_out) or "nothing")
    elif isinstance(item, FaultPoint):
        yield "cases: " + (", ".join(cases_at(item, cases)) or "none yet")
    else:
        others = "".join(f", {owner} on {edition}" for edition, owner in item.owner_in.items())
        yield f"level: {item.level}\nowner: {item.owner}{others}\nsince: {item.since}"
        yield f"source: {', '.join(item.source)}"
        for edition, why in item.not_applicable.items():
            yield f"not applicable on {edition}: {why}"
        named = ", ".join(case.id for case in cases if item.id in case.clauses)
        if item.invariant:
            yield "cases: every one, as an invariant over its history" + (named and f"; named by {named}")
        else:
            yield f"cases: {named or 'none yet'}"


def cases_at(point: FaultPoint, cases: list[SuiteCase]) -> list[str]:
    """The ids of the cases that say in their first line that they are about ``point``."""
    return [case.id for case in cases if case.summary.startswith(f"{point.id}:")]


# -- check --


@main.command()
@click.argument("histories", metavar="HISTORY…", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_context
def check(ctx: click.Context, histories: tuple[Path, ...]) -> None:
    """Decide again from stored histories (files, or folders of them); no environment is needed."""
    files = [file for path in histories for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    if not files:
        raise UsageError(f"There is no history in {', '.join(map(str, histories))}; give .jsonl files.")
    # bad input is found before the first line is printed
    decided = [(file, *decide_again(file, load_catalogue())) for file in files]
    for file, header, decisions in decided:
        click.echo(f"{header.get('case', '')} on {header.get('subject', '')} ({file})")
        for decision in decisions:
            mark = SYMBOLS[decision.verdict]
            click.echo(f"  {mark} {decision.clause} {decision.verdict}" + (decision.reason and f": {decision.reason}"))
            if decision.verdict in (Verdict.FAIL, Verdict.FINDING):
                for line in decision.evidence:
                    click.echo(f"      | {line}")
    verdicts = [decision.verdict for _, _, decisions in decided for decision in decisions]
    if Verdict.FAIL in verdicts:
        ctx.exit(1)
    ctx.exit(3 if Verdict.ERROR in verdicts or not DECIDED.intersection(verdicts) else 0)


def decide_again(path: Path, catalogue: Catalogue) -> tuple[dict[str, Any], list[Decision]]:
    """The header of a stored history, and its clauses decided from it.

    :raises UsageError: the history is broken.
    """
    from executor_conformance.harness.checker import check as decide
    from executor_conformance.harness.history import read_history

    history = read_history(path)
    header = history.events[0]
    clauses = header.get("clauses")
    if not isinstance(clauses, list) or not clauses:
        raise UsageError(f"The history {path} does not say which clauses it is about; run the case again.")
    for clause in clauses:
        catalogue.clause(str(clause))
    try:
        decisions = decide(history, clauses, catalogue)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(
            f"The history {path} cannot be decided ({type(error).__name__}: {error}); it was truncated or edited."
        ) from None
    trouble = next((str(event.get("trouble") or "") for event in history.of("end")), "the case did not come to its end")
    if trouble and not any(decision.verdict in (Verdict.FAIL, Verdict.FINDING) for decision in decisions):
        decisions = [Decision(clause, Verdict.ERROR, trouble) for clause in clauses]
    return header, decisions


def _console() -> Console:
    """Where tables go; wide enough to be read by machines where it is no terminal."""
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(file=sys.stdout, width=160, highlight=False, markup=False)


if __name__ == "__main__":
    main()
