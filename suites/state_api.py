"""How a case reads the states of callbacks by every API of the running core that tells them."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from executor_conformance.harness.api_server import ApiServer
from executor_conformance.harness.case import Case, NotApplicable
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.openapi import tells_state
from executor_conformance.harness.view import TERMINAL
from executor_conformance.suites.token_matrix import (
    execution_api,
    matrix_of,
    mint_for,
    row_reader,
    rows_in_every_state,
)


def read_states(case: Case) -> None:
    """Read the state of callbacks in every state by every API that tells it, beside what the database holds.

    :raises NotApplicable: the running core has no such API.
    """
    described = execution_api(case)
    if unknown := [one.name for one in described if tells_state(one)]:
        raise HarnessError(f"The Execution API tells states by {', '.join(unknown)}, which this case cannot ask yet.")
    routes = [tuple(one) for one in case.env.ask_beside("state_apis", limit=LIMITS.api_server_start)["routes"]]
    if not routes and not case.env.offers.has_claim:
        raise NotApplicable("No API of the running core tells a callback's state.")
    callback = case.submit("succeed")
    case.until(lambda: case.state(callback) in TERMINAL, "the end of a callback")
    case.settle()
    mint = mint_for(case, callback)
    with rows_in_every_state(case) as made:
        if routes:
            _ask_core(case, routes, made)
        with matrix_of(case, mint, described, made) as matrix:
            matrix.own_callback()


def _ask_core(case: Case, routes: list[tuple[str, str]], made: Mapping[str, Any]) -> None:
    """Start a server of the core API beside the environment's own, and ask it as one who may read everything."""
    env = case.env.site.env | {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True"}
    server = ApiServer("core", "server of the core API")
    server.start(case.env.supervisor, env, case.env.folder)
    try:
        token = server.wait_for(lambda: _login(server.url))
        for method, path in routes:
            _read(case, server.url, token, path, made)
            case.env.sink("note", what="state API", method=method, route=path)
    finally:
        server.kill_tree()


def _login(base: str) -> str | None:
    try:
        with urllib.request.urlopen(f"{base}/auth/token", timeout=LIMITS.command) as answer:
            return str(json.load(answer)["access_token"])
    except (OSError, ValueError, LookupError):
        return None


def _read(case: Case, base: str, token: str, path: str, made: Mapping[str, Any]) -> None:
    """Read by one route; each state that it tells of a row of ours is an event, with what the row holds."""
    names = {"dag_id": made["dag_id"], "dag_run_id": made["run_id"], "run_id": made["run_id"]}
    look, told = row_reader(case), set()
    for identity in (*made["callbacks"].values(), made["another"]):
        filled = path
        for name, value in {**names, "callback_id": identity}.items():
            filled = filled.replace(f"{{{name}}}", urllib.parse.quote(str(value), safe=""))
        if "{" in filled:
            raise HarnessError(f"The route {path} has a parameter that this case cannot fill in yet.")
        asked = urllib.request.Request(f"{base}{filled}", headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(asked, timeout=LIMITS.command) as answer:
                content = json.load(answer)
        except urllib.error.HTTPError as error:
            raise HarnessError(f"The core API answers {path} with {error.code}.") from None
        for found, state in _states_in(content, identity):
            if found in (*made["callbacks"].values(), made["another"]) and found not in told:
                told.add(found)
                row = look(found)
                holds = row[0] if isinstance(row, list) else None
                case.env.sink("probe", name="state", method="GET", route=path, reported=state, row=holds)
        if "{callback_id}" not in path:
            break


def _states_in(content: Any, asked: str) -> Iterator[tuple[str, str]]:
    """Ids and states of callbacks in an answer, at any depth; an object without an id is of the one asked for."""
    if isinstance(content, dict):
        state = content.get("callback_state", content.get("state") if "callback_id" not in content else None)
        if isinstance(state, str):
            yield str(content.get("callback_id", content.get("id", asked))), state
        for value in content.values():
            yield from _states_in(value, asked)
    elif isinstance(content, list):
        for value in content:
            yield from _states_in(value, asked)
