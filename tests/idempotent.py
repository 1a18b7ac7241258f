"""A stand-in for an API server with the callback routes of apache/airflow#66141, over a model of the rows.

It keeps to what the proposal says: the claim takes queued tokens of the scope 'workload' and execution tokens, is
idempotent while the row is RUNNING, and gives a new execution token for a queued one; the worker records the end.
``faults`` break one promise each.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import jwt
import uvicorn
from fastapi import Body, Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict

SECRET = "stand-in " * 8
AUDIENCE = "urn:stand-in"
ALGORITHM = "HS512"
TERMINAL = ("success", "failed")


class End(BaseModel):
    """What the worker says at the end of a callback."""

    model_config = ConfigDict(extra="forbid")
    state: str
    output: str | None = None


@dataclass
class Server:
    """The rows, and which promises the server breaks."""

    faults: frozenset[str] = frozenset()
    callbacks: dict[str, list[str | None]] = field(default_factory=dict)
    tasks: dict[str, list[str | None]] = field(default_factory=dict)
    url: str = ""

    def look(self, identity: str) -> object:
        """State and output of a row; None if there is none."""
        row = self.callbacks.get(identity) or self.tasks.get(identity)
        return list(row) if row else None

    def token(self, sub: str, scope: str) -> str:
        """A token as the server gives it out."""
        now = int(time.time())
        claims = {"sub": sub, "scope": scope, "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 600}
        return jwt.encode(claims, SECRET, algorithm=ALGORITHM)

    def auth(self, *scopes: str) -> Any:
        """A dependency that lets in tokens of these scopes whose subject is the id in the path, if there is one."""

        def check(request: Request) -> dict[str, Any]:
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not token:
                raise HTTPException(401, "Missing auth token")
            try:
                claims: dict[str, Any] = jwt.decode(token, SECRET, [ALGORITHM], audience=AUDIENCE)
            except jwt.PyJWTError:
                raise HTTPException(403, "Invalid auth token") from None
            taken = (*scopes, "workload") if "workload everywhere" in self.faults else scopes
            if claims["scope"] not in taken:
                raise HTTPException(403, "Token type not allowed")
            subject = request.path_params.get("callback_id", request.path_params.get("task_instance_id"))
            if subject and subject != claims["sub"] and "any subject" not in self.faults:
                raise HTTPException(403, "Token subject does not match")
            return claims

        return Depends(check)

    def row(self, identity: uuid.UUID) -> list[str | None]:
        """The row of a callback, or 404."""
        if str(identity) not in self.callbacks:
            raise HTTPException(404, {"reason": "not_found"})
        return self.callbacks[str(identity)]

    def app(self) -> FastAPI:
        """The routes."""
        app = FastAPI()
        either, execution = self.auth("workload", "execution"), self.auth("execution")

        claim = app.patch if "claim of 3.4" in self.faults else app.post
        place = "/execution/callbacks/{callback_id}/run"

        @claim("/execution/none" if "no claim" in self.faults else place, status_code=204)
        def run(callback_id: uuid.UUID, response: Response, claims: Any = either) -> None:
            row = self.row(callback_id)
            state = row[0]
            again = state == "running" and "single use" not in self.faults
            again = again or (state in TERMINAL and "claims what has ended" in self.faults)
            if state != "queued" and not again:
                told = "queued" if "tells another state" in self.faults else state
                raise HTTPException(409, {"reason": "invalid_state", "current_state": told})
            if "leaves the row" not in self.faults:
                row[0] = "running"
            if claims["scope"] == "workload" and not (again and "no second token" in self.faults):
                response.headers["Refreshed-API-Token"] = self.token(str(callback_id), "execution")

        @app.patch("/execution/callbacks/{callback_id}/state", status_code=204)
        def end(callback_id: uuid.UUID, told: Annotated[End, Body()], claims: Any = execution) -> None:
            row = self.row(callback_id)
            if row[0] != "running" and "writes over the end" not in self.faults:
                raise HTTPException(409, {"reason": "invalid_state", "current_state": row[0]})
            row[:] = [told.state, told.output]

        @app.get("/execution/variables/{variable_key}")
        def variable(variable_key: str, claims: Any = execution) -> str:
            raise HTTPException(404, "no such variable")

        @app.patch("/execution/task-instances/{task_instance_id}/run")
        def run_task(task_instance_id: uuid.UUID, claims: Any = either) -> None:
            if str(task_instance_id) not in self.tasks:
                raise HTTPException(404, "no such task instance")
            raise HTTPException(409, "not queued")

        @app.put("/execution/task-instances/{task_instance_id}/heartbeat", status_code=204)
        def heartbeat(task_instance_id: uuid.UUID, claims: Any = execution) -> None:
            if str(task_instance_id) not in self.tasks:
                raise HTTPException(404, "no such task instance")
            self.tasks[str(task_instance_id)] = ["alive", None]

        @app.get("/execution/health")
        def health() -> str:
            return "healthy"

        if "open route" in self.faults:

            @app.get("/execution/secrets")
            def secrets() -> str:
                return "for everyone"

        @app.middleware("http")
        async def renew(request: Request, call_next: Any) -> Response:
            answer: Response = await call_next(request)
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            with contextlib.suppress(jwt.PyJWTError):
                claims = jwt.decode(token, SECRET, [ALGORITHM], audience=AUDIENCE)
                ended = (self.callbacks.get(claims["sub"]) or ["running"])[0] in TERMINAL
                old = claims["exp"] - time.time() < 30 and claims["scope"] == "execution"
                if old and (not ended or "renews after the end" in self.faults):
                    answer.headers["Refreshed-API-Token"] = self.token(claims["sub"], "execution")
            return answer

        return app

    @contextlib.contextmanager
    def serving(self) -> Iterator[FastAPI]:
        """The app behind a real HTTP server on a free port of the loopback interface."""
        app = self.app()
        server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert server.started, "the stand-in's server did not start"
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            yield app
        finally:
            server.should_exit = True
            thread.join(30)
