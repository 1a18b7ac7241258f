"""The commands over stored reports: ``diff``, ``gate``, ``merge`` and ``badge``; nothing is started."""

from __future__ import annotations

import json
from pathlib import Path

import click
from executor_conformance.harness.errors import UsageError
from executor_conformance.harness.report.store import load_report
from executor_conformance.harness.report.wording import one_line

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("reports", metavar="A B [C…]", nargs=-1, required=True, type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.option("--exit-code", is_flag=True, help="End with 1 if something was decided differently.")
@click.pass_context
def diff(ctx: click.Context, reports: tuple[Path, ...], as_json: bool, exit_code: bool) -> None:
    """Show what two reports decided differently, or what is flaky in more of the same thing.

    A report is a report.json or its folder.
    """
    from executor_conformance.harness.report import compare, difference
    from executor_conformance.harness.report.terminal import stdout_console

    if len(reports) < 2:
        raise UsageError("A difference needs two reports or more; give the path of another one.")
    loaded = [load_report(path) for path in reports]
    if len(loaded) == 2:
        comparison = compare.compare(*loaded)
        differs = bool(comparison.changes)
        data = difference.comparison_data(comparison, *loaded)
        lines = difference.comparison_lines(comparison, *loaded)
    else:
        found = compare.stability(loaded)
        differs = bool(found.flaky or found.missing)
        data = difference.stability_data(found, loaded)
        lines = difference.stability_lines(found, loaded)
    if as_json:
        # ASCII, because evidence may quote bytes that no encoding has
        click.echo(json.dumps(data, indent=1))
    else:
        console = stdout_console()
        for line in lines:
            console.print(line)
    ctx.exit(1 if exit_code and differs else 0)


@click.command()
@click.argument("report", metavar="REPORT", type=_PATH)
@click.option("--baseline", metavar="REPORT", type=_PATH, help="What failed there is tolerated, what is lost is not.")
@click.option("--expectations", metavar="FILE", type=_PATH, help="The only failures that are tolerated, strictly.")
@click.option("--require", metavar="SUBJECT[,SUBJECT]", multiple=True, help="Must be there; can be given again.")
@click.pass_context
def gate(
    ctx: click.Context, report: Path, baseline: Path | None, expectations: Path | None, require: tuple[str, ...]
) -> None:
    """Decide whether a report lets a change or a release through.

    Exit codes: 0 the gate is open; 1 it is closed, with a line for each reason; 2 bad usage or input; 3 it is closed
    because the run has shown nothing that can be believed.
    """
    from executor_conformance.harness.catalogue import load_catalogue
    from executor_conformance.harness.expectations import load_expectations
    from executor_conformance.harness.report.gate import judge
    from executor_conformance.harness.report.vote import vote_block

    judged = load_report(report)
    before = load_report(baseline) if baseline else None
    loaded = load_expectations(expectations, load_catalogue()) if expectations else None
    listed = loaded.of(judged.run.circumstances) if loaded else None
    required = [label.strip() for labels in require for label in labels.split(",")]
    if not all(required):
        raise UsageError("--require has an empty subject; give the label of one, as the report shows it.")
    outcome = judge(judged, before, listed, required)
    click.echo("✓ The gate is open." if outcome.open else "✗ The gate is closed:")
    for reason in outcome.reasons:
        click.echo(f"- {one_line(reason.text)}")
    for note in outcome.notes:
        click.echo(f"note: {one_line(note)}")
    sealed = f"{expectations.name}, sha256:{loaded.digest}" if expectations and loaded else ""
    click.echo("\n" + vote_block(outcome, before, sealed))
    ctx.exit(outcome.exit_code)


@click.command()
@click.argument("parts", metavar="PART…", nargs=-1, required=True, type=_PATH)
@click.option("--output", metavar="DIR", required=True, type=_PATH, help="A new folder for the merged report.")
def merge(parts: tuple[Path, ...], output: Path) -> None:
    """Merge the parts of a CI matrix into one report, with their histories."""
    from executor_conformance.harness.report.merge import merge_reports

    path, merged = merge_reports(parts, output)
    for note in merged.notes:
        click.echo(f"note: {note}", err=True)
    report = merged.report
    click.echo(f"{len(parts)} parts, {len(report.labels)} subjects, {len(report.cases)} cases: {path}")


@click.command()
@click.argument("report", metavar="REPORT", type=_PATH)
@click.option("--subject", metavar="SUBJECT", help="Only this subject (default: all together).")
@click.option("--format", "kind", type=click.Choice(("json", "svg")), default="json", show_default=True)
@click.option("--output", metavar="FILE", type=_PATH, help="Default: standard output.")
def badge(report: Path, subject: str | None, kind: str, output: Path | None) -> None:
    """Make a badge of a report: JSON for a shields.io endpoint, or a picture."""
    from executor_conformance.harness.report import badge as badges

    found = badges.badge(load_report(report), subject)
    text = badges.svg(found) if kind == "svg" else json.dumps(badges.endpoint(found)) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_text(text, "utf-8")
    except OSError as error:
        raise UsageError(f"The badge cannot be written to {output} ({error.strerror or error}).") from None
