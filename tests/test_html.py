"""``report.html``: whole, self-contained, safe against what is quoted in it, and what a browser makes of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.history import Event
from executor_conformance.harness.report.html import MAX_BYTES, render_html
from executor_conformance.harness.report.model import CaseResult, Exploration, Report, SubjectInfo
from executor_conformance.harness.report.store import load_report, write_report
from executor_conformance.harness.verdicts import Verdict
from executor_conformance.suites.cli import main

from tests.test_report import case, report
from tests.test_timeline import crash, write

P, F, E, K, N = Verdict.PASS, Verdict.FAIL, Verdict.ERROR, Verdict.KNOWN, Verdict.NOT_APPLICABLE
HOSTILE = (
    "</script></style><script>alert(1)</script><img src=x onerror=alert(2)>\" ' {{ 7*7 }} \x00\x1b[31mred\x1b[0m\ud800"
)
VOID = {"meta", "br", "input", "link", "img"}


class Page(HTMLParser):
    """The page as a browser would see it: its elements, its text, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def parse(text: str) -> Page:
    page = Page(text)
    assert page.open == []
    return page


def mixed(tmp_path: Path) -> Report:
    """A case of each kind, with a history for the failed one."""
    (tmp_path / "histories").mkdir()
    write(tmp_path / "histories" / "broken.jsonl", crash())
    cases = [
        case("good", RUN_1=P, CRASH_1=P),
        case("broken", CRASH_1=F, RUN_1=P, RUN_2=N),
        case("listed", RUN_2=K),
        case("strange", "celery", TOKEN_2=Verdict.FINDING),
        case("lost", "celery", ROUTE_1=E),
        case("other", RUN_3=N),
    ]
    gone = SubjectInfo("edge", "edge", "EdgeExecutor", unavailable="no edge provider")
    return report(*cases, subjects=[*report().subjects, gone], problems=["RUN-2 passes now; remove it."])


def hostile() -> Report:
    bad = CaseResult.from_dict(
        {
            **case("case", CRASH_1=F).to_dict(),
            "id": HOSTILE,
            "subject": HOSTILE,
            "executor": HOSTILE,
            "reason": HOSTILE,
            "reproduce": HOSTILE,
            "history": "javascript:alert(3)",
            "clauses": {
                "CRASH-1": {
                    "verdict": "known",
                    "reason": HOSTILE,
                    "evidence": [HOSTILE, "x" * 100_000, "\n".join("line" for _ in range(1000))],
                    "listed": True,
                    "review": HOSTILE,
                    "link": "javascript:alert(4)",
                },
                "ODD-1": {"verdict": "fail", "reason": HOSTILE, "evidence": []},
            },
        }
    )
    subject = SubjectInfo(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    found = report(bad, subjects=[subject], problems=[HOSTILE])
    found.explorations = [Exploration("sweep", HOSTILE, HOSTILE, {HOSTILE: 1}, 1.0, [HOSTILE])]
    found.run.command = found.run.airflow_version = found.run.database = HOSTILE
    return found


# -- what is in it


def test_everything_is_there_without_the_script(tmp_path: Path) -> None:
    page = parse(render_html(mixed(tmp_path), tmp_path))
    for words in (
        "1 ? finding",
        "CRASH_1 was fail.",
        load_catalogue().clause("CRASH-1").text.replace("`", ""),
        "Source: " + load_catalogue().clause("CRASH-1").source[0],
        "t=1 row | RUNNING",
        "pytest -k 'broken' --executor local",
        "RUN-2 passes now; remove it.",
        "unavailable no edge provider",
        "3.3.2 (edition claimless)",
        "celery 3.26.0",
        "pytest -m conformance",
    ):
        assert words in page.text
    cards = [attributes for attributes in page.of("details") if "data-verdict" in attributes]
    assert [card["data-verdict"] for card in cards] == ["fail", "error", "known", "finding"]
    assert "open" in cards[0]
    rows = [attributes for attributes in page.of("tr") if "data-verdict" in attributes]
    assert sorted(str(row["data-verdict"]) for row in rows) == ["not-applicable", "pass"]
    assert cards[0]["data-clauses"] == "CRASH-1:fail RUN-1:pass RUN-2:not-applicable"
    # what only the script can use is hidden until it runs
    assert all("hidden" in attributes for attributes in page.of("form"))


def test_only_what_is_not_passed_has_a_time_line(tmp_path: Path) -> None:
    page = parse(render_html(mixed(tmp_path), tmp_path))
    (picture,) = page.of("svg")
    assert picture["aria-label"] == "Time line of broken on local"
    for words in ("queue_workload", "during: supervisor", "time in s", "row: subject", "status -9", "The history"):
        assert words in page.text
    assert page.text.count("is not beside the report") == 3


def test_every_link_within_the_page_leads_somewhere(tmp_path: Path) -> None:
    page = parse(render_html(mixed(tmp_path), tmp_path))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    inner = [str(link["href"])[1:] for link in page.of("a") if str(link["href"]).startswith("#")]
    assert set(inner) <= set(ids)
    groups, subjects = len(load_catalogue().groups), 3
    assert len([link for link in inner if link.startswith("m-")]) == groups * subjects
    assert "case-1" in inner


def test_a_sweep_is_told_as_a_whole(tmp_path: Path) -> None:
    found = mixed(tmp_path)
    assert "What was searched" not in parse(render_html(found, tmp_path)).text
    found.explorations = [Exploration("sweep", "local", "each boundary", {"runs": 13, "violations": 0}, 9, ["left: x"])]
    page = parse(render_html(found, tmp_path))
    assert "What was searched sweep of local, each boundary: 13 runs, 0 violations; 9 s left: x" in page.text


def test_an_empty_report_is_a_page(tmp_path: Path) -> None:
    page = parse(render_html(report(subjects=[]), tmp_path))
    assert "Nothing was run." in page.text
    assert "No subject was run." in page.text


# -- what must not be in it


def test_the_page_needs_and_loads_nothing(tmp_path: Path) -> None:
    text = render_html(mixed(tmp_path), tmp_path)
    page = parse(text)
    loading = {"img", "link", "iframe", "object", "embed", "video", "audio", "source", "image", "use", "base", "frame"}
    assert not loading & {tag for tag, _ in page.elements}
    assert not any({"src", "srcset", "style", "xlink:href"} & set(attributes) for _, attributes in page.elements)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.S)
    assert "url(" not in style
    assert "@import" not in style
    policy = next(str(meta["content"]) for meta in page.of("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_nothing_that_is_quoted_becomes_markup(tmp_path: Path) -> None:
    text = render_html(hostile(), tmp_path)
    page = parse(text)
    assert len(page.of("script")) == len(page.of("style")) == 1
    assert not page.of("img")
    assert "<img src=x onerror=alert(2)>" in page.text
    assert "{{ 7*7 }}" in page.text
    assert not any(str(link["href"]).startswith("javascript:") for link in page.of("a"))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", text)
    assert "␀red\\ud800" in page.text
    text.encode("utf-8")


def test_long_text_is_clipped_with_a_note(tmp_path: Path) -> None:
    text = render_html(hostile(), tmp_path)
    assert len(text) < 200_000
    assert "more characters)" in text
    assert "more lines" in text


def test_a_hostile_history_is_escaped_too(tmp_path: Path) -> None:
    events: list[Event] = [*crash()[:-1]]
    t = events[-1]["t"] + 0.1
    events += [
        {"t": t, "kind": "event", "key": "c1", "key_type": "CallbackKey", "state": HOSTILE, "info": HOSTILE},
        {"t": t, "kind": "process", "what": "born", "pid": HOSTILE, "title": HOSTILE},
        {"t": t, "kind": "row", "callback": "c1", "seq": 999, "old": "x", "new": HOSTILE, "output": HOSTILE},
        {"t": t, "kind": "fault", "name": HOSTILE},
        {"t": t, "kind": HOSTILE},
    ]
    (tmp_path / "histories").mkdir()
    write(tmp_path / "histories" / "c.jsonl", events)
    page = parse(render_html(report(case("c", CRASH_1=F)), tmp_path))
    assert len(page.of("svg")) == len(page.of("script")) == 1
    assert not page.of("img")
    assert "onerror" in page.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "The history histories/c.jsonl is not beside the report."),
        (b"", "is no history of this tool"),
        (b"\xff\x00\x80" * 1000, "is no history of this tool"),
        (json.dumps(crash()[0]).encode() + b'\n{"t": 1, "kind": "row", "ca', "is incomplete: 1 of its 2 lines"),
    ],
)
def test_a_missing_or_broken_history_is_said(tmp_path: Path, content: bytes | None, words: str) -> None:
    (tmp_path / "histories").mkdir()
    if content is not None:
        (tmp_path / "histories" / "c.jsonl").write_bytes(content)
    page = parse(render_html(report(case("c", CRASH_1=F)), tmp_path))
    assert words in page.text
    assert not page.of("svg")


def test_two_hundred_failures_with_long_histories_are_no_monster(tmp_path: Path) -> None:
    events = crash()[:-1]
    fetch: dict[str, Any] = {"kind": "wire", "api": "edge", "method": "POST", "path": "/edge_worker/v1/jobs/fetch/w"}
    for number in range(150):
        events.append({"t": 2 + number / 50, "seq": 5000 + number, "phase": "request", "pid": number, **fetch})
        events.append({"t": 2 + number / 50, "kind": "effect", "what": "enter", "probe": "p-c1", "pid": number})
    (tmp_path / "histories").mkdir()
    write(tmp_path / "histories" / "c.jsonl", events)
    cases = []
    for number in range(200):
        broken = case(f"case {number}", CRASH_1=F, CRASH_5=F, RUN_1=K)
        broken.history = "histories/c.jsonl"
        for result in broken.clauses.values():
            result.update(reason="why " * 400, evidence=["a line of evidence " * 40] * 30)
        cases.append(broken)
    text = render_html(report(*cases), tmp_path)
    assert len(text.encode("utf-8")) < MAX_BYTES
    page = parse(text)
    assert len(page.of("svg")) == 200
    assert "of each case less is shown" in page.text
    assert "left out:" in page.text


# -- files and the command


def test_a_run_leaves_the_page_beside_the_report(tmp_path: Path) -> None:
    write_report(mixed(tmp_path), tmp_path)
    assert "CRASH_1 was fail." in parse((tmp_path / "report.html").read_text("utf-8")).text


def test_the_command_draws_a_stored_report_again(tmp_path: Path) -> None:
    write_report(mixed(tmp_path), tmp_path)
    first = (tmp_path / "report.html").read_text("utf-8")
    (tmp_path / "report.html").unlink()
    result = CliRunner().invoke(main, ["html", str(tmp_path)])
    assert (result.exit_code, result.stdout.strip()) == (0, str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").read_text("utf-8") == first
    (tmp_path / "else").mkdir()
    elsewhere = tmp_path / "else" / "page.html"
    result = CliRunner().invoke(main, ["html", str(tmp_path / "report.json"), "--output", str(elsewhere)])
    assert result.exit_code == 0
    page = parse(elsewhere.read_text("utf-8"))
    assert len(page.of("svg")) == 1
    assert not [link for link in page.of("a") if str(link["href"]).startswith("histories")]
    assert load_report(tmp_path).totals["fail"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{}/none"], "cannot be read"),
        (["{}/junk.json"], "is no JSON"),
        (["{}", "--output", "{}/report.json"], "cannot take the place of the report"),
        (["{}", "--output", "{}/no/such/folder/page.html"], "cannot be written to"),
        (["{}", "--output", "{}"], "cannot be written to"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    write_report(report(case("c", RUN_1=P)), tmp_path)
    (tmp_path / "junk.json").write_text("{", "utf-8")
    before = (tmp_path / "report.json").read_bytes()
    result = CliRunner().invoke(main, ["html", *(each.replace("{}", str(tmp_path)) for each in arguments)])
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert words in line
    assert (tmp_path / "report.json").read_bytes() == before


# -- a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH (apt-get install chromium)")


def browse(folder: Path, page: Path, fragment: str = "") -> str:
    """The page as Chromium has it after its script ran."""
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += ["--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri() + fragment]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Content Security Policy" not in done.stderr, done.stderr
    assert "Uncaught" not in done.stderr, done.stderr
    return done.stdout


@needs_browser
def test_in_a_browser_a_link_opens_its_case(tmp_path: Path) -> None:
    path = write_report(mixed(tmp_path), tmp_path).with_suffix(".html")
    page = Page(browse(tmp_path, path, "#case-3"))
    assert "6 of 6 cases" in page.text
    assert all("hidden" not in attributes for attributes in page.of("form"))
    (third,) = [attributes for attributes in page.of("details") if attributes.get("id") == "case-3"]
    assert "open" in third


def test_the_filter_has_the_verdicts_that_only_clauses_have(tmp_path: Path) -> None:
    page = Page(render_html(report(case("good", RUN_1=P, RUN_2=N)), tmp_path))
    boxes = [attributes["value"] for attributes in page.of("input") if attributes.get("name") == "verdict"]
    assert boxes == ["pass", "not-applicable"]


@needs_browser
@pytest.mark.parametrize(
    ("choice", "left"),
    [
        ("subject.value = 'celery'", ["lost", "strange"]),
        ("clause.value = 'RUN-1'", ["broken", "good"]),
        ("verdict[0].checked = false", ["good", "listed", "lost", "other", "strange"]),
    ],
)
def test_in_a_browser_the_filter_hides_the_rest(tmp_path: Path, choice: str, left: list[str]) -> None:
    text = render_html(mixed(tmp_path), tmp_path)
    # the page's own policy would not let a foreign script choose
    text = re.sub(r"<meta http-equiv[^>]*>", "", text)
    act = f"const form = document.forms[0]; form.elements.{choice}; form.dispatchEvent(new Event('change'));"
    path = tmp_path / "page.html"
    path.write_text(text.replace("</body>", f"<script>{act}</script></body>"), "utf-8")
    dom = browse(tmp_path, path)
    assert f"{len(left)} of 6 cases" in Page(dom).text
    items = re.findall(r"<(?:details|tr)( [^>]*data-verdict[^>]*)>.*?<code>(\w+)</code>", dom, re.S)
    assert sorted(name for attributes, name in items if " hidden" not in attributes) == left


@needs_browser
def test_in_a_browser_nothing_quoted_runs(tmp_path: Path) -> None:
    path = write_report(hostile(), tmp_path).with_suffix(".html")
    page = Page(browse(tmp_path, path))
    assert "1 of 1 cases" in page.text
    assert not page.of("img")
