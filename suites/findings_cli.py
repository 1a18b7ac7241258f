"""``executor-conformance findings``: the page on what the suite found in released executors and in core."""

from __future__ import annotations

import importlib
import inspect
import shlex
from pathlib import Path

import click
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.errors import UsageError
from executor_conformance.harness.findings import FILE, Finding, Findings, load_findings
from executor_conformance.suites.cases import PACKAGE, SuiteCase, suite_cases

_PATH = click.Path(path_type=Path)


def reproduction(found: Findings) -> dict[str, str]:
    """The command that shows each finding, by its id: its first entry, in the first environment that it speaks of.

    :raises UsageError: an entry speaks of no case of this suite, or of no environment of it.
    """
    from executor_conformance.harness.session import backends

    labels = {variant.label: name for name, backend in backends().items() for variant in backend.variants}
    order = sorted(labels, key=lambda label: (label != "local", label))
    cases = suite_cases(load_catalogue())
    return {finding.id: _command(found, finding, labels, order, cases) for finding in found.findings}


def _command(
    found: Findings, finding: Finding, labels: dict[str, str], order: list[str], cases: list[SuiteCase]
) -> str:
    for _, entry in found.entries_of(finding):
        clause = entry.clauses[0]
        matched = [(label, case) for label in order for case in cases if entry.matches(label, case.id, clause)]
        # an invariant is decided in every case, so a case that names the clause goes first
        matched.sort(key=lambda pair: clause not in pair[1].clauses)
        if matched:
            label, case = matched[0]
            more = f" {finding.options}" if finding.options else ""
            return f"executor-conformance run --backend {labels[label]} --case {shlex.quote(case.id)}{more}"
    raise UsageError(f"No entry of the finding {finding.id} speaks of a case in an environment that there is.")


def _own_folder() -> Path:
    """The expectations of the checkout that this package runs from.

    :raises UsageError: it runs from no checkout.
    """
    folder = Path(inspect.getfile(importlib.import_module(PACKAGE))).resolve().parent.parent / "expectations"
    if not (folder / FILE).exists():
        raise UsageError(f"There is no {FILE} beside this package; give the folder that has it with --expectations.")
    return folder


@click.command()
@click.argument("reports", metavar="[REPORT…]", nargs=-1, type=_PATH)
@click.option("-o", "--output", metavar="FILE", type=_PATH, help="Default: standard output.")
@click.option("--expectations", "folder", metavar="DIR", type=_PATH, help="Has findings.toml; default: the checkout's.")
def findings(reports: tuple[Path, ...], output: Path | None, folder: Path | None) -> None:
    """Write the page on what was found in released executors and in core, from the expectations.

    With REPORTs (report.json, or its folder) it also says where each finding was seen, with its evidence.
    """
    from executor_conformance.harness.report.findings import render_findings
    from executor_conformance.harness.report.store import load_report

    loaded = [load_report(path) for path in reports]
    found = load_findings(folder or _own_folder(), load_catalogue())
    commands = reproduction(found)
    text = render_findings(found, lambda finding: commands[finding.id], loaded)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, "utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"The page cannot be written to {output} ({error.strerror or error}).") from None
    click.echo(output)
