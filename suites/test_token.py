"""TOKEN: what the API server lets a callback's tokens do."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from typing import Any

from executor_conformance.harness.case import Callback, Case, NotApplicable
from executor_conformance.harness.database import cache_folder
from executor_conformance.harness.rules import Hold, WireRule
from executor_conformance.harness.tokens import Mint, ask
from executor_conformance.harness.view import TERMINAL
from executor_conformance.suites.marks import decides

OPEN_ROUTES = ("/execution/health", "/execution/health/ping")


def mint_for(case: Case, callback: Callback) -> Mint:
    """A mint that makes tokens like the one the callback was queued with."""
    case.until(lambda: case.env.history.of("workload", key=callback.id), "the callback's queueing")
    token = case.env.history.of("workload", key=callback.id)[0]["token"]
    return Mint(case.env.site.env["AIRFLOW__API_AUTH__JWT_SECRET"], token["claims"], token["header"])


def routes(case: Case) -> list[tuple[str, str]]:
    """All routes of the running core's Execution API: path with placeholders, and method."""
    cached = cache_folder() / "routes" / f"{case.env.airflow_version}.json"
    if not cached.exists():
        found = case.env.inspect("routes")["routes"]
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_text(json.dumps(found["routes"]), "utf-8")
    return [(path, method) for path, method in json.loads(cached.read_text("utf-8"))]


def probe(
    case: Case,
    name: str,
    method: str,
    route: str,
    path: str,
    what: str,
    token: str | None,
    allowed: list[int],
    row: Callable[[], object],
    body: str | None = None,
) -> None:
    """Ask the server directly; record its status and whether ``row``, what is at stake, has stayed as it was."""
    before = row()
    status = ask(case.env.server_url, method, path, token, body)
    case.env.sink(
        "probe",
        name=name,
        method=method,
        route=route,
        token=what,
        status=status,
        allowed=allowed,
        unchanged=row() == before,
    )


def row_of(case: Case, callback: Callback) -> Callable[[], object]:
    """The callback's row, to be looked at."""
    return lambda: case.env.journal.state(callback.id)


def row_of_task(case: Case, ti: str) -> Callable[[], object]:
    """The task instance's row, to be looked at; the databases write a UUID with and without dashes."""
    query = "SELECT state, hostname, pid FROM task_instance WHERE CAST(id AS VARCHAR(36)) IN (?, ?)"
    return lambda: case.env.journal.query(query, (ti, ti.replace("-", "")))


def held_callback(case: Case) -> tuple[Callback, WireRule]:
    """A callback that is QUEUED, and stays so: its worker's claim is held on the wire."""
    if case.env.edition == "claimless":
        raise NotApplicable("The edition has no claim endpoint.")
    callback = case.submit("succeed")
    rule = case.rule(WireRule(Hold(), path=f"/callbacks/{callback.id}/run"))
    case.reach(rule, "the claim")
    return callback, rule


@decides("TOKEN-2")
def test_queued_token_on_every_route(case: Case) -> None:
    """Every runtime route refuses the queued token."""
    callback = case.submit("hold")
    entered = case.stop_at(callback, "enter")
    mint, row = mint_for(case, callback), row_of(case, callback)
    case.reach(entered, "the start of the callable")
    for route, method in routes(case):
        if route in OPEN_ROUTES or "/callbacks/" in route:
            continue
        path = re.sub(r"\{[^}]*\}", lambda match: str(uuid.uuid4()), route)
        probe(case, "queued token", method, route, path, "queued token", mint.token(), [403], row, "{}")
    entered.release()
    case.settle()


@decides("TOKEN-4")
def test_claim_is_guarded(case: Case) -> None:
    """Only the right token claims, and only once."""
    callback, rule = held_callback(case)
    mint, row = mint_for(case, callback), row_of(case, callback)
    route = "/execution/callbacks/{id}/run"
    path = f"/execution/callbacks/{callback.id}/run"
    stranger = str(uuid.uuid4())
    other = mint.token()
    attempts: list[tuple[str, str | None, list[int]]] = [
        ("another callback's subject", mint.token(sub=stranger), [403]),
        ("expired", mint.token(lifetime_s=-3600), [401, 403]),
        ("tampered", other[:-6] + ("AAAAAA" if not other.endswith("AAAAAA") else "BBBBBB"), [401, 403]),
        ("signed with another secret", mint.token(secret="x" * 64), [401, 403]),
        ("unsigned", mint.unsigned(), [401, 403]),
        ("wrong audience", mint.token(aud="conformance.example"), [401, 403]),
        ("execution scope", mint.token(scope="execution"), [401, 403]),
        ("empty", "", [401, 403]),
        ("none", None, [401, 403]),
    ]
    for what, token, allowed in attempts:
        probe(case, "claim", "PATCH", route, path, what, token, allowed, row)
    probe(
        case,
        "claim",
        "PATCH",
        route,
        f"/execution/callbacks/{stranger}/run",
        "unknown callback",
        mint.token(sub=stranger),
        [404],
        row,
    )
    rule.release()
    case.settle()
    repeated = [204] if case.env.edition == "claim-idempotent" else [409]
    probe(case, "claim", "PATCH", route, path, "claimed again", mint.token(), repeated, row)


@decides("TOKEN-6")
def test_execution_token_is_confined(case: Case) -> None:
    """A callback's execution token acts on no task instance and on no other callback."""
    callback, rule = held_callback(case)
    assert case.env.scheduler is not None
    mint = mint_for(case, callback)
    run: dict[str, Any] = case.env.scheduler.create_run("conformance_task_holds", state="success")
    ti = run["task_instances"]["holds"]
    other = case.submit("succeed", role="filler")
    case.until(lambda: case.state(other) in TERMINAL, "the end of the other callback")
    execution = mint.token(scope="execution")
    task_row = row_of_task(case, ti)
    assert task_row(), "the task instance is not where it was made"
    for method, route, body in (
        (
            "PATCH",
            "run",
            '{"state":"running","hostname":"h","unixname":"u","pid":1,"start_date":"2026-01-01T00:00:00Z"}',
        ),
        ("PATCH", "state", '{"state":"failed","end_date":"2026-01-01T00:00:00Z"}'),
        ("PUT", "heartbeat", '{"hostname":"h","pid":1}'),
        ("PATCH", "skip-downstream", '{"tasks":["holds"]}'),
        ("PUT", "rtif", "{}"),
    ):
        probe(
            case,
            "execution token",
            method,
            f"/execution/task-instances/{{id}}/{route}",
            f"/execution/task-instances/{ti}/{route}",
            "execution token",
            execution,
            [401, 403, 404, 409, 410],
            task_row,
            body,
        )
    probe(
        case,
        "execution token",
        "PATCH",
        "/execution/callbacks/{id}/run",
        f"/execution/callbacks/{other.id}/run",
        "execution token",
        execution,
        [401, 403],
        row_of(case, other),
    )
    rule.release()
    case.settle()
