"""``report.html``: the report to look at, one file that needs nothing else and runs nothing but its own filter."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from executor_conformance.harness.catalogue import Catalogue, load_catalogue
from executor_conformance.harness.errors import UsageError
from executor_conformance.harness.report.lanes import Story, tell
from executor_conformance.harness.report.lenient import read_events
from executor_conformance.harness.report.model import CaseResult, ClauseResult, Report, count, group_of, matrix
from executor_conformance.harness.report.timeline import Drawing, draw
from executor_conformance.harness.report.visible import brief, clip, one_line, visible
from executor_conformance.harness.report.wording import SYMBOLS, cell_text, clause_text
from executor_conformance.harness.verdicts import SEVERITY, Verdict, worst
from markupsafe import Markup, escape

MAX_BYTES = 3_000_000
"""The size that a page of up to 200 cases keeps to, by showing less of each; more cases may take more."""
SHOWN = (Verdict.FAIL, Verdict.ERROR, Verdict.KNOWN, Verdict.FINDING)
"""The verdicts whose cases are shown one by one, with a time line."""


class Detail(NamedTuple):
    """How much of each case is shown: marks of its time line, lines of evidence, characters of a text."""

    marks: int
    evidence: int
    text: int


_DETAILS = (Detail(160, 14, 700), Detail(60, 8, 400), Detail(24, 6, 240), Detail(0, 3, 120))


@dataclass
class Shown:
    """A case that is shown by itself; ``broken`` are its clauses that are not kept."""

    number: int
    case: CaseResult
    broken: list[dict[str, Any]]
    story: Story | None
    trouble: str
    drawing: Drawing | None = None
    link: str = ""


def render_html(report: Report, folder: Path, *, linked: bool = True) -> str:
    """The page for a report whose histories are relative to ``folder``; a missing or broken history is said in it.

    ``linked``: the page will be in that folder, so that it can link to the histories.
    """
    catalogue = load_catalogue()
    shown = [_prepared(number, case, folder, linked) for number, case in enumerate(_worst_first(report), 1)]
    limit = MAX_BYTES * max(1.0, len(report.cases) / 200)
    page = ""
    for detail in _DETAILS:
        for each in shown:
            each.broken = [_clause(name, result, catalogue, detail) for name, result in _broken(each.case)]
            each.drawing = draw(each.story, detail.marks) if each.story and detail.marks else None
        page = _template().render(_context(report, shown, catalogue, detail))
        if len(page.encode("utf-8")) <= limit:
            break
    return page


def _prepared(number: int, case: CaseResult, folder: Path, linked: bool) -> Shown:
    events, trouble = read_events(folder, case.history)
    story = tell(events)
    if story and sum(len(lane.items) for lane in [*story.lanes, story.faults]) < 3:
        story = None
    if story is None and not trouble:
        trouble = f"The history {case.history} has nothing to draw a time line of."
    link = urllib.parse.quote(case.history) if linked and events else ""
    return Shown(number, case, [], story, trouble, link=link)


def _worst_first(report: Report) -> list[CaseResult]:
    found = [case for case in report.cases if case.verdict in SHOWN]
    return sorted(found, key=lambda case: SHOWN.index(case.verdict))


def _broken(case: CaseResult) -> list[tuple[str, ClauseResult]]:
    found = [(clause, result) for clause, result in case.clauses.items() if Verdict(result["verdict"]) in SHOWN]
    return sorted(found, key=lambda entry: SEVERITY.index(Verdict(entry[1]["verdict"])))


def _clause(name: str, result: ClauseResult, catalogue: Catalogue, detail: Detail) -> dict[str, Any]:
    """One broken clause as the template shows it."""
    try:
        source = catalogue.clause(name).source
        title = catalogue.group(group_of(name)).title
    except UsageError:
        source, title = (), ""
    lines = [line for text in result["evidence"] for line in visible(text).splitlines() if line.strip()]
    link = str(result.get("link") or "")
    return {
        "id": name,
        "verdict": Verdict(result["verdict"]),
        "reason": one_line(result["reason"], detail.text),
        "title": title,
        "text": clause_text(name, catalogue),
        "sources": [(each, each if _is_address(each) else "") for each in source],
        "evidence": [clip(line, detail.text) for line in lines[: detail.evidence]],
        "more": max(0, len(lines) - detail.evidence),
        "review": str(result.get("review") or ""),
        "link": link,
        "address": link if _is_address(link) else "",
        "listed": bool(result.get("listed")),
    }


def _verdicts(report: Report) -> list[Verdict]:
    """All that cases have, as they are counted, and then those that only clauses have."""
    of_clauses = {result["verdict"] for case in report.cases for result in case.clauses.values()}
    return list(dict.fromkeys([*map(Verdict, report.totals), *(each for each in Verdict if each in of_clauses)]))


def _is_address(text: str) -> bool:
    return re.fullmatch(r"https?://[^\s<>\"']+", text) is not None


def _context(report: Report, shown: list[Shown], catalogue: Catalogue, detail: Detail) -> dict[str, Any]:
    others = [case for case in report.cases if case.verdict not in SHOWN]
    style, script = (_resource(name) for name in ("report.css", "report.js"))
    return {
        "style": Markup(style),
        "script": Markup(script),
        "style_hash": _hash(style),
        "script_hash": _hash(script),
        "report": report,
        "facts": _facts(report),
        "totals": [(Verdict(name), number) for name, number in report.totals.items()],
        "verdicts": _verdicts(report),
        "groups": [(group, _group_title(group, catalogue)) for group in report.groups],
        "rows": matrix(report),
        "clauses": _clause_matrix(report, shown, catalogue),
        "used": sorted({clause for case in report.cases for clause in case.clauses}, key=_order),
        "shown": shown,
        "others": sorted(others, key=lambda case: (report.labels.index(case.subject), case.id)),
        "detail": detail,
        "reduced": detail is not _DETAILS[0],
    }


def _facts(report: Report) -> list[tuple[str, str]]:
    run = report.run
    providers = ", ".join(f"{name} {version}" for name, version in sorted(run.providers.items()))
    facts = [
        ("Airflow", f"{run.airflow_version} (edition {run.edition})" if run.airflow_version else ""),
        ("Contract", run.contract_version),
        ("Tool", run.tool_version),
        ("Python", run.python),
        ("Database", run.database),
        ("Started", run.started),
        ("Took", f"{run.duration_s:.0f} s"),
        ("Providers", providers),
    ]
    return [(name, value) for name, value in facts if value]


def _group_title(group: str, catalogue: Catalogue) -> str:
    try:
        return catalogue.group(group).title
    except UsageError:
        return ""


def _order(clause: str) -> tuple[str, int]:
    group, _, number = clause.rpartition("-")
    return group, int(number) if number.isdigit() else 0


def _clause_matrix(report: Report, shown: list[Shown], catalogue: Catalogue) -> list[dict[str, Any]]:
    """By group: each clause with its level, sentence and one square per subject (``None``: not decided there)."""
    found: dict[tuple[str, str], list[Verdict]] = {}
    for case in report.cases:
        for clause, result in case.clauses.items():
            found.setdefault((clause, case.subject), []).append(Verdict(result["verdict"]))
    # what a square leads to: the first case that shows its worst verdict
    first: dict[tuple[str, str, Verdict], int] = {}
    for each in shown:
        for clause, result in each.case.clauses.items():
            first.setdefault((clause, each.case.subject, Verdict(result["verdict"])), each.number)
    groups = []
    for group in report.groups:
        known = [clause.id for clause in catalogue.clauses if clause.group == group]
        foreign = sorted({clause for clause, _ in found if group_of(clause) == group} - set(known), key=_order)
        clauses = []
        for clause in [*known, *foreign]:
            squares = [_square(clause, subject, found, first) for subject in report.labels]
            level = catalogue.clause(clause).level if clause in known else ""
            clauses.append((clause, level, clause_text(clause, catalogue), squares))
        groups.append({"id": group, "title": _group_title(group, catalogue), "clauses": clauses})
    return groups


def _square(
    clause: str,
    subject: str,
    found: dict[tuple[str, str], list[Verdict]],
    first: dict[tuple[str, str, Verdict], int],
) -> dict[str, Any] | None:
    verdicts = found.get((clause, subject))
    if not verdicts:
        return None
    verdict = worst(verdicts)
    number = sum(1 for each in verdicts if each is verdict)
    words = ", ".join(f"{times} {name}" for name, times in count(verdicts).items())
    target = first.get((clause, subject, verdict), 0) if verdict in SHOWN else 0
    return {"verdict": verdict, "number": number, "of": len(verdicts), "words": words, "target": target}


# -- the template -----------------------------------------------------------------------------------------


def _shown_text(value: Any) -> Any:
    """Whatever the template prints, without what a page must not hold; markup is the template's own."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _prose(text: str) -> Markup:
    """A sentence of the contract or of a check, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(visible(text)))))


def _slug(verdict: Verdict | None) -> str:
    return verdict.value.replace(" ", "-") if verdict else "none"


def _clause_verdicts(case: CaseResult) -> str:
    """What the filter reads: ``CRASH-1:pass CRASH-8:not-applicable``."""
    items: Iterable[tuple[str, ClauseResult]] = case.clauses.items()
    return " ".join(f"{clause}:{_slug(Verdict(result['verdict']))}" for clause, result in items)


@functools.lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown_text,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(clip=clip, one_line=one_line, prose=_prose, brief=brief)
    environment.filters.update(slug=_slug, clause_verdicts=_clause_verdicts, square=cell_text)
    environment.globals["symbols"] = SYMBOLS
    return environment.from_string(_resource("report.html.j2"))


def _resource(name: str) -> str:
    return resources.files("executor_conformance.harness.report").joinpath(name).read_text("utf-8")


def _hash(text: str) -> str:
    """What a Content-Security-Policy calls an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
