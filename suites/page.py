"""``executor-conformance html``: the page of a stored report, drawn again."""

from __future__ import annotations

from pathlib import Path

import click
from executor_conformance.harness.errors import UsageError


@click.command()
@click.argument("report", metavar="REPORT", type=click.Path(path_type=Path))
@click.option("--output", metavar="FILE", type=click.Path(path_type=Path), help="Default: beside REPORT, as .html.")
def html(report: Path, output: Path | None) -> None:
    """Draw the page of a stored REPORT (its folder, or its report.json), with the histories that are beside it."""
    from executor_conformance.harness.report.store import REPORT_NAME, load_report, write_page

    file = report / REPORT_NAME if report.is_dir() else report
    loaded = load_report(file)
    output = output or file.with_suffix(".html")
    if output.resolve() == file.resolve():
        raise UsageError(f"The page cannot take the place of the report {file}; give another --output.")
    write_page(loaded, file.parent, output)
    click.echo(output)
