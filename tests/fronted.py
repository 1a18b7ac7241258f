"""A real environment with the state route of `claim-state` before its API server: a stand-in for this one route.

All other requests go on to Airflow's own server, and the route works on the real rows.
"""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
from executor_conformance.harness.api_server import ApiServer
from executor_conformance.harness.supervisor import Supervisor
from fastapi import FastAPI, HTTPException, Request, Response

from tests.claim_state import ClaimState
from tests.stand_in import Row

AUDIENCE = "urn:airflow.apache.org:task"
"""The default of `[execution_api] jwt_audience`."""
PER_CONNECTION = {"host", "connection", "content-length", "transfer-encoding"}


class Front(ClaimState):
    """The state route on the rows of a SQLite database; whatever else is asked goes to ``upstream``."""

    upstream = ""
    database = ""
    described: Mapping[str, Any] = MappingProxyType({})
    """What the real server describes; it fails to send that itself."""

    def app(self) -> FastAPI:
        """The route, its description, and the way on to the real server."""
        app = FastAPI()
        self.state_route(app)
        client = httpx.AsyncClient(base_url=self.upstream, timeout=60, trust_env=False)

        @app.get("/execution/openapi.json", include_in_schema=False)
        def describe() -> dict[str, Any]:
            document = app.openapi()
            paths = {path.removeprefix("/execution"): item for path, item in document["paths"].items()}
            schemas = document["components"]["schemas"] | self.described.get("components", {}).get("schemas", {})
            whole = {**self.described.get("paths", {}), **paths}
            return {**document, "paths": whole, "components": {"schemas": schemas}}

        methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

        @app.api_route("/{path:path}", methods=methods, include_in_schema=False)
        async def go_on(path: str, request: Request) -> Response:
            headers = [(name, value) for name, value in request.headers.items() if name not in PER_CONNECTION]
            target = f"/{path}" + (f"?{request.url.query}" if request.url.query else "")
            try:
                answer = await client.request(request.method, target, headers=headers, content=await request.body())
            except httpx.TransportError as error:
                raise HTTPException(502, f"The API server does not answer: {error!r}") from None
            kept = {name: value for name, value in answer.headers.items() if name not in PER_CONNECTION}
            kept.pop("content-encoding", None)  # the client has decoded it
            return Response(answer.content, answer.status_code, kept)

        return app

    def look(self, identity: str) -> object:
        """State and output of a callback's row; None if there is none."""
        found = self._execute("SELECT state, output FROM callback WHERE id = ?", uuid.UUID(identity).hex)
        return list(found[0]) if found else None

    def row(self, identity: uuid.UUID) -> Row:
        """The row of a callback, or 404."""
        if not isinstance(row := self.look(str(identity)), list):
            raise HTTPException(404, {"reason": "not_found"})
        return row

    def write(self, identity: object, state: str | None, output: str | None) -> None:
        """Write state and output of a callback's row."""
        sql = "UPDATE callback SET state = ?, output = ? WHERE id = ?"
        self._execute(sql, state, output, uuid.UUID(str(identity)).hex)

    def _execute(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as connection, connection:
            return connection.execute(sql, values).fetchall()


class FrontedServer(ApiServer):
    """Airflow's own API server, behind a front that answers at ``url``."""

    def __init__(self, apps: str, name: str = "API server") -> None:
        super().__init__(apps, name)
        self.front = Front(audience=AUDIENCE)
        self.front.upstream = self.url
        self._serving = contextlib.ExitStack()
        self._serving.enter_context(self.front.serving())
        self.url = self.front.url

    def start(self, supervisor: Supervisor, env: dict[str, str], folder: Path) -> None:
        """Start the server; the front learns where its rows are and how its tokens are signed."""
        self.front.secret = env["AIRFLOW__API_AUTH__JWT_SECRET"]
        self.front.database = env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].partition("///")[2].partition("?")[0]
        super().start(supervisor, env, folder)

    def close(self) -> None:
        """Stop the front."""
        self._serving.close()
