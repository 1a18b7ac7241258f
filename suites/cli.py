"""The command ``executor-conformance``: run the suite, look at what can run, at the contract, a history, reports."""

from __future__ import annotations

import contextlib
import difflib
import errno
import fnmatch
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pytest
from executor_conformance.harness.catalogue import LEVELS, Catalogue, FaultPoint, Group, load_catalogue
from executor_conformance.harness.edition import Edition
from executor_conformance.harness.errors import ConformanceError, EnvironmentUnavailable, UsageError
from executor_conformance.harness.report.terminal import stdout_console
from executor_conformance.harness.report.wording import SYMBOLS
from executor_conformance.harness.verdicts import DECIDED, Decision, Verdict
from executor_conformance.suites.cases import PACKAGE, SuiteCase, subjects_of, suite_cases
from executor_conformance.suites.findings_cli import findings
from executor_conformance.suites.gate_cli import badge, diff, gate, merge
from executor_conformance.suites.on_demand_cli import sequences, sweep
from executor_conformance.suites.page import html
from executor_conformance.suites.up import up
from rich.table import Table
from rich.text import Text

NAME = "executor-conformance"
DISTRIBUTION = "airflow-executor-conformance"
INTERRUPTED = 130
ABSENT = "not installed"


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
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            name = str(error.filename)
            click.echo(f"{NAME}: The path {name[:60]}… is longer than a path can be; give a shorter one.", err=True)
            ctx.exit(UsageError.exit_code)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(importlib.metadata.version(DISTRIBUTION), prog_name=NAME)
def main() -> None:
    """Decide, clause by clause and with evidence, whether an Airflow executor keeps the callback contract.

    Exit codes: 0 all decided and conformant; 1 a clause failed; 2 bad usage or input; 3 nothing decided, or the
    harness broke; 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a history quotes may be of no encoding


class _Ending:
    """Why pytest ended early, if it did."""

    def __init__(self) -> None:
        self.message = ""
        self.interrupted = False

    @pytest.hookimpl(tryfirst=True)  # pytest-xdist's controller collects nothing itself
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
        if code == 2 and not self.message:
            return INTERRUPTED if self.interrupted else 3
        return {4: 2, 5: 3}.get(code, code)


def _settings(stack: contextlib.ExitStack) -> list[str]:
    """pytest's configuration: of the checkout, or an empty one; never what the current folder happens to have."""
    folder = Path(inspect.getfile(importlib.import_module(PACKAGE))).resolve().parent.parent
    file = folder / "pyproject.toml"
    if not (file.exists() and (folder / "suites" / "contract.toml").exists()):
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="executor-conformance-cli-"))
        file = Path(temporary) / "pytest.ini"
        file.write_text("[pytest]\naddopts = --import-mode=importlib\n", "utf-8")
    # the root is what the names of the cases are relative to
    return ["-c", str(file), "--rootdir", str(folder), "--noconftest", "-p", "no:cacheprovider"]


def _chosen(pattern: str) -> list[SuiteCase]:
    """The cases whose id is or has ``pattern``, or is like it.

    :raises UsageError: there is none, or the pattern is empty, as that of an unset variable is.
    """
    if not pattern.strip():
        raise UsageError(f"An empty --case chooses nothing; '{NAME} list' shows the cases.")
    # square brackets stand for themselves, because ids have them
    like = pattern.replace("[", "[[]")
    cases = suite_cases(load_catalogue())
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
@click.option("--kubeconfig", metavar="FILE", help="The Kubernetes cluster of --substrate.")
@click.option("--image", metavar="IMAGE", help="The workers' image, on a substrate that has images.")
@click.option("--api-host", metavar="HOST", help="By what workers in containers reach this host.")
@click.option("--aws", metavar="FILE", help="The AWS account of --substrate, and what to use in it.")
@click.option("--control-plane", metavar="NAME", help="Of lambda: emulator, localstack, or a LocalStack's address.")
@click.option("--worker-start", type=click.Choice(("fork", "exec")), help="Of commands in emulated containers.")
@click.option("--patience", metavar="SECONDS", type=float, help="Stillness that proves 'stuck', for own timers.")
@click.option("--processes", metavar="N", type=int, help="Processes of an environment above which it is stopped.")
@click.option("--expectations", metavar="FILE", help="Known failures, strictly.")
@click.option("--case", "patterns", metavar="GLOB", multiple=True, help="Only cases like this; can be given again.")
@click.option("-n", "workers", metavar="WORKERS", type=click.IntRange(1), help="Environments at the same time.")
@click.option("-v", "--verbose", is_flag=True, help="One line per case.")
@click.pass_context
def run(
    ctx: click.Context, patterns: tuple[str, ...], workers: int | None, verbose: bool, **options: str | None
) -> None:
    """Run the suite and write a report."""
    arguments = ["-v"] if verbose else []
    if patterns:
        chosen = {case.keyword: None for pattern in patterns for case in _chosen(pattern)}
        arguments += ["-k", " or ".join(chosen)]
    if workers:
        if importlib.util.find_spec("xdist") is None:
            raise UsageError("-n needs pytest-xdist, which is not installed (pip install pytest-xdist).")
        arguments += ["-n", str(workers)]
    ctx.exit(carry_out(options, arguments))


def carry_out(options: Mapping[str, object], arguments: Sequence[str] = ()) -> int:
    """Run pytest on the suite; the exit code of the command.

    :param options: values of ``--conformance-…`` options by name; None: not given.
    :param arguments: further ones of pytest.
    """
    given = [f"--conformance-{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    ending = _Ending()
    with contextlib.ExitStack() as stack:
        whole = ["--pyargs", PACKAGE, "-m", "conformance", *given, *arguments, *_settings(stack)]
        code = int(pytest.main(whole, plugins=[ending]))
    if ending.message:
        click.echo(f"{NAME}: {ending.message}", err=True)
    return ending.exit_code(code)


@main.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Show what can run here, and what is missing for the rest."""
    environments = _environments()
    table = Table("environment", "", "what is missing", box=None, pad_edge=False)
    for name, missing in environments.items():
        state = Text("✗ cannot run", "red") if missing else Text("✓ can run", "green")
        table.add_row(name, state, Text(missing or ""))
    facts = Table(show_header=False, box=None, pad_edge=False)
    for name, value in _machine().items():
        facts.add_row(name, Text(value))
    stdout_console().print(table, Text(), facts, sep="\n")
    ctx.exit(0 if any(missing is None for missing in environments.values()) else 3)


def _environments() -> dict[str, str | None]:
    """Each registered backend with what is missing for it, if anything."""
    from executor_conformance.harness.backend import Options
    from executor_conformance.harness.session import GROUP
    from executor_conformance.suites.run_state import check_airflow

    found: dict[str, str | None] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            check_airflow()
            found[point.name] = point.load().missing(Options())
        except ConformanceError as error:
            found[point.name] = str(error)
        except Exception as error:
            found[point.name] = f"{point.value} does not work: {type(error).__name__}: {error}"
    return dict(sorted(found.items(), key=lambda item: (item[0] != "local", item[0])))


def _machine() -> dict[str, str]:
    """The software that a run uses, and what the options can choose here."""
    from executor_conformance.backends.celery import brokers
    from executor_conformance.harness import postgres, session, settings

    temporary = tempfile.gettempdir()
    installed = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
    try:
        postgres_binary = str(postgres.find_binary("postgres"))
    except EnvironmentUnavailable:
        postgres_binary = ABSENT
    return {
        "Airflow": installed.get("apache-airflow-core", ABSENT),
        "Python": platform.python_version(),
        **session.providers(),
        "pytest-xdist (for -n)": installed.get("pytest-xdist", ABSENT),
        "docker engine": "answers" if brokers.has_docker() else "does not answer",
        "redis-server": brokers.find_binary("redis") or ABSENT,
        "rabbitmq-server": brokers.find_binary("amqp") or ABSENT,
        "postgres": postgres_binary,
        "free disk": f"{shutil.disk_usage(temporary).free / 1e9:.1f} GB in {temporary}",
        "cache": str(Path(settings.bytecode_cache()).parent),
    }


@main.command("list")
@click.option("--backend", metavar="NAME[,NAME]", help="Also show in which variants of these environments.")
@click.option("--level", type=click.Choice(LEVELS), default="provisional", help="Up to this (default: all).")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def list_cases(backend: str | None, level: str, as_json: bool) -> None:
    """List the cases with their levels and clauses."""
    from executor_conformance.harness.session import choose_backends

    catalogue = load_catalogue()
    levels = LEVELS[: LEVELS.index(level) + 1]
    chosen = choose_backends(backend).values() if backend is not None else ()
    variants = [variant for each in chosen for variant in each.variants]
    cases = {case: subjects_of(case, variants, level) for case in suite_cases(catalogue) if case.level in levels}
    if as_json:
        rows = [{**asdict(case), **({"subjects": cases[case]} if backend else {})} for case in cases]
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    table = Table("case", "level", "clauses", "subjects" if backend else "", box=None, pad_edge=False)
    for case, labels in cases.items():
        table.add_row(*map(Text, (case.id, case.level, ", ".join(case.clauses), ", ".join(labels))))
    stdout_console().print(table)
    click.echo(f"{len(cases)} cases")


@main.command()
@click.argument("identifier", metavar="ID")
def explain(identifier: str) -> None:
    """Explain a clause (CRASH-3), a group (CRASH), a fault point (before-claim) or an edition (claim)."""
    catalogue = load_catalogue()
    every: tuple[Any, ...] = (*catalogue.clauses, *catalogue.groups, *catalogue.points, *catalogue.editions)
    items: dict[str, Any] = {item.id.casefold(): item for item in every}
    if identifier.casefold() not in items:
        near = [items[name].id for name in difflib.get_close_matches(identifier.casefold(), items)]
        groups = ", ".join(group.id for group in catalogue.groups)
        hint = f"did you mean {', '.join(near)}?" if near else f"its groups are {groups}."
        raise UsageError(f"The contract has no clause, group, fault point or edition '{identifier}'; {hint}")
    console = stdout_console()
    for line in _explained(items[identifier.casefold()], catalogue):
        console.print(Text(line))


def _explained(item: Any, catalogue: Catalogue) -> Iterator[str]:
    cases = suite_cases(catalogue)
    if isinstance(item, Group):
        yield f"{item.id}: {item.title}"
        for clause in catalogue.in_group(item.id):
            yield f"  {clause.id} ({clause.level}, {clause.owner})  {clause.text}"
        return
    if isinstance(item, Edition):
        yield f"{item.id} ({item.status}): {item.text}"
        yield f"detected: {item.detected}"
        left_out = [clause.id for clause in catalogue.clauses if clause.applies_to(item.id)]
        yield "not applicable on it: " + (", ".join(left_out) or "nothing")
        return
    yield f"{item.id}: {item.text}"
    if isinstance(item, FaultPoint):
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
        click.echo(f"{header.get('case')} on {header.get('subject')} ({file})")
        for found in decisions:
            reason = f": {found.reason}" if found.reason else ""
            click.echo(f"  {SYMBOLS[found.verdict]} {found.clause} {found.verdict}{reason}")
            for line in found.evidence:
                click.echo(f"      | {line}")
    verdicts = {found.verdict for _, _, decisions in decided for found in decisions}
    ctx.exit(1 if Verdict.FAIL in verdicts else 3 if Verdict.ERROR in verdicts or not DECIDED & verdicts else 0)


def decide_again(path: Path, catalogue: Catalogue) -> tuple[dict[str, Any], list[Decision]]:
    """The header of a stored history, and its clauses decided from it.

    :raises UsageError: the history is broken.
    """
    from executor_conformance.harness.checker import decide
    from executor_conformance.harness.history import read_history

    history = read_history(path)
    header = history.events[0]
    clauses = header.get("clauses")
    if not isinstance(clauses, list) or not clauses:
        raise UsageError(f"The history {path} does not say which clauses it is about; run the case again.")
    try:
        decisions = decide(history, clauses, catalogue)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(
            f"The history {path} cannot be decided ({type(error).__name__}: {error}); it was truncated or edited."
        ) from None
    return header, decisions


for command in (sweep, sequences, up, diff, findings, gate, html, merge, badge):
    main.add_command(command)
