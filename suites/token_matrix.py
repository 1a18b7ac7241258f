"""How a case runs the matrix of :mod:`executor_conformance.harness.matrix` in its environment."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from executor_conformance.harness.case import Case
from executor_conformance.harness.database import cache_folder
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.matrix import STATES, Ids, Matrix
from executor_conformance.harness.openapi import Operation, operations
from executor_conformance.harness.tokens import Client, Mint
from executor_conformance.harness.view import TERMINAL
from executor_conformance.harness.waits import Callback

VERSION_HEADER = "Airflow-API-Version"


def mint_for(case: Case, callback: Callback) -> Mint:
    """A mint that makes tokens like the one the callback was queued with."""
    case.until(lambda: case.env.history.of("workload", key=callback.id), "the callback's queueing")
    token = case.env.history.of("workload", key=callback.id)[0]["token"]
    return Mint(case.env.site.env["AIRFLOW__API_AUTH__JWT_SECRET"], token["claims"], token["header"])


def run_matrix(case: Case) -> None:
    """Ask the API server everything about the tokens of callbacks in every state; no scheduler steps meanwhile."""
    callback = case.submit("succeed")
    case.until(lambda: case.state(callback) in TERMINAL, "the end of a callback")
    case.settle()
    mint, described = mint_for(case, callback), execution_api(case)
    with rows_in_every_state(case) as made, matrix_of(case, mint, described, made) as matrix:
        matrix.run()


@contextlib.contextmanager
def matrix_of(case: Case, mint: Mint, described: list[Operation], made: Mapping[str, Any]) -> Iterator[Matrix]:
    """Give the matrix for rows that :func:`rows_in_every_state` has made, with a connection to the server."""
    ids = Ids(made["callbacks"], made["another"], made["task_instance"], str(uuid.uuid4()))
    with Client(case.env.server_url) as client:
        yield Matrix(client, mint, case.env.offers, described, ids, row_reader(case), case.env.sink)


@contextlib.contextmanager
def rows_in_every_state(case: Case) -> Iterator[dict[str, Any]]:
    """Make callbacks in every state beside the scheduler, and remove them again; gives their ids."""
    case.whole_afterwards = False  # until the rows are gone again
    made = case.env.ask_beside("make_rows", states=list(STATES))
    try:
        yield made
    finally:
        rows = [*made["callbacks"].values(), made["another"]]
        case.env.ask_beside("remove_rows", ids=rows, dag_run_id=made["dag_run_id"])
    case.env.observe()
    case.whole_afterwards = True


def row_reader(case: Case) -> Callable[[str], object]:
    """From an id to what the database holds of the callback or the task instance; the state comes first."""
    queries = (
        "SELECT state, output FROM callback WHERE CAST(id AS VARCHAR(36)) IN (?, ?)",
        "SELECT state, hostname, pid, try_number FROM task_instance WHERE CAST(id AS VARCHAR(36)) IN (?, ?)",
    )

    def look(identity: str) -> object:
        names = (identity, identity.replace("-", ""))
        return next((list(rows[0]) for query in queries if (rows := case.env.journal.query(query, names))), None)

    return look


def execution_api(case: Case) -> list[Operation]:
    """All operations that the running API server describes; from where the description is goes into the history."""
    document, source = _from_server(case), "the server"
    if document is None:
        document, source = _from_app(case), "the server's app, for the server itself fails to send it"
    described = list(operations(document))
    version = document.get("info", {}).get("version")
    case.env.sink("note", what="OpenAPI description", source=source, version=version, operations=len(described))
    return described


def _from_server(case: Case) -> dict[str, Any] | None:
    base = f"{case.env.server_url}/execution"
    try:
        with urllib.request.urlopen(f"{base}/changelog", timeout=LIMITS.command) as answer:
            version = json.load(answer)["versions"][0]["value"]
        asked = urllib.request.Request(f"{base}/openapi.json", headers={VERSION_HEADER: version})
        with urllib.request.urlopen(asked, timeout=LIMITS.command) as answer:
            document = json.load(answer)
    except (OSError, http.client.HTTPException, ValueError, LookupError, urllib.error.URLError):
        return None
    return document if isinstance(document, dict) and document.get("paths") else None


def _from_app(case: Case) -> dict[str, Any]:
    """The same from the app of the same code; kept, under a name that changes with the code."""
    spec = importlib.util.find_spec("airflow")
    digest = hashlib.sha256(case.env.airflow_version.encode())
    for root in map(Path, (spec.submodule_search_locations or ()) if spec else ()):
        for path in sorted((root / "api_fastapi" / "execution_api").rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    cached = cache_folder() / "openapi" / f"{case.env.airflow_version}-{digest.hexdigest()[:12]}.json"
    if not cached.exists():
        document = case.env.ask_beside("openapi", limit=LIMITS.api_server_start)
        cached.parent.mkdir(parents=True, exist_ok=True)
        whole = cached.with_suffix(f".{uuid.uuid4().hex[:8]}")
        whole.write_text(json.dumps(document), "utf-8")
        whole.replace(cached)
    found: dict[str, Any] = json.loads(cached.read_text("utf-8"))
    return found
