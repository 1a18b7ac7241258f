"""Writing and reading ``report.json``, and the ``summary.md`` and ``report.html`` beside it."""

from __future__ import annotations

import functools
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
from executor_conformance.harness.errors import HarnessError, UsageError
from executor_conformance.harness.report.html import render_html
from executor_conformance.harness.report.markdown import render_markdown
from executor_conformance.harness.report.model import FORMAT, FORMAT_VERSION, Report, digest

REPORT_NAME = "report.json"
SUMMARY_NAME = "summary.md"
PAGE_NAME = "report.html"


def write_report(report: Report, folder: Path) -> Path:
    """Write ``summary.md``, ``report.json`` and ``report.html`` into the folder, which is made; the path of the second.

    Each file appears whole or not at all.

    :raises HarnessError: the report breaks its own schema; nothing is written.
    :raises UsageError: the folder cannot be written.
    """
    content = report.to_dict()
    problem = _schema_problem(content)
    if problem:
        raise HarnessError(f"The report breaks its own schema at {problem}; this is a fault of the harness.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / SUMMARY_NAME, render_markdown(report))
        _replace(folder / REPORT_NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        # last, so that a report is whole for machines before it is drawn
        _replace(folder / PAGE_NAME, render_html(report, folder))
    except OSError as error:
        raise UsageError(
            f"The report cannot be written to {folder} ({error.strerror or error}); give a folder that is writable."
        ) from None
    return folder / REPORT_NAME


def write_page(report: Report, folder: Path, output: Path) -> None:
    """Write ``report.html`` for a stored report, whose histories are relative to ``folder``, to the file ``output``.

    :raises UsageError: it cannot be written.
    """
    try:
        _replace(output, render_html(report, folder, linked=output.resolve().parent == folder.resolve()))
    except OSError as error:
        raise UsageError(
            f"The page cannot be written to {output} ({error.strerror or error}); give a file in a writable folder."
        ) from None


def load_report(path: Path) -> Report:
    """Read ``report.json``, or the one in a folder.

    :raises UsageError: it is missing, truncated, foreign, of another version, was edited, or contradicts itself.
    """
    if path.is_dir():
        path = path / REPORT_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The report {path} cannot be read ({error}); give the path of a report.json.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The report {path} is no JSON ({error}); it was truncated or edited, run it again.") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UsageError(f"The file {path} does not say that it is of the format {FORMAT}, so it is no report.")
    if content.get("version") != FORMAT_VERSION:
        raise UsageError(
            f"The report {path} has format version {content.get('version')!r}; this tool reads {FORMAT_VERSION}."
        )
    problem = _schema_problem(content)
    if problem:
        raise UsageError(f"The report {path} is not valid at {problem}; it is not of this tool or was edited.")
    if content["digest"] != digest(content):
        raise UsageError(f"The report {path} was edited: its digest does not fit its content; run it again.")
    report = Report.from_dict(content)
    # so that the digest of what was loaded is the one in the file
    if report.to_dict()["digest"] != content["digest"]:
        raise UsageError(f"The report {path} contradicts itself: its summary does not fit its cases; run it again.")
    return report


@functools.lru_cache(maxsize=1)
def _validator() -> Any:
    text = resources.files("executor_conformance.harness.report").joinpath("report.schema.json").read_text("utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


def _schema_problem(content: dict[str, Any]) -> str:
    """Where and how the content breaks the schema, in one line; empty if it does not."""
    error = next(_validator().iter_errors(content), None)
    if error is None:
        return ""
    message = " ".join(error.message.split())
    return f"{error.json_path}: {message if len(message) <= 200 else message[:200] + ' …'}"


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # evidence may quote bytes that are no Unicode; as \udcXX they are still JSON and read back the same
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
