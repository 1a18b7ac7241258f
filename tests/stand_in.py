"""What the stand-ins for API servers of editions that no release has share: rows, tokens, and the routes of others.

A stand-in is a real HTTP server over a model of the rows. It keeps to what its edition promises; ``faults`` break one
promise each.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jwt
import uvicorn
from executor_conformance.harness.matrix import STATES, Ids, Matrix
from executor_conformance.harness.openapi import Operation, operations
from executor_conformance.harness.tokens import Client, Mint
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, ConfigDict

from tests.written import Written, history

SECRET = "stand-in " * 8
AUDIENCE = "urn:stand-in"
ALGORITHM = "HS512"
TERMINAL = ("success", "failed")
Row = list[str | None]
"""State and output."""


class End(BaseModel):
    """What the worker says at the end of a callback."""

    model_config = ConfigDict(extra="forbid")
    state: Literal["success", "failed"]
    output: str | None = None


@dataclass
class StandIn:
    """The rows, and which promises the server breaks."""

    edition: ClassVar[str]
    queued_scope: ClassVar[str]
    faults: frozenset[str] = frozenset()
    callbacks: dict[str, Row] = field(default_factory=dict)
    tasks: dict[str, Row] = field(default_factory=dict)
    secret: str = SECRET
    audience: str = AUDIENCE
    url: str = ""
    written: Callable[[str, Row], Any] = lambda identity, row: None
    """Told of each write to a callback's row, with its id."""

    def callback_routes(self, app: FastAPI) -> None:
        """Add the routes of callbacks, which make the edition."""
        raise NotImplementedError

    # -- rows and tokens ----------------------------------------------------------------------------------

    def look(self, identity: str) -> object:
        """State and output of a row; None if there is none."""
        row = self.callbacks.get(identity) or self.tasks.get(identity)
        return list(row) if row else None

    def row(self, identity: uuid.UUID) -> Row:
        """The row of a callback, or 404."""
        if str(identity) not in self.callbacks:
            raise HTTPException(404, {"reason": "not_found"})
        return self.callbacks[str(identity)]

    def write(self, identity: object, state: str | None, output: str | None) -> None:
        """Write state and output of a callback's row."""
        self.callbacks[str(identity)][:] = [state, output]
        self.written(str(identity), [state, output])

    def refuse(self, **told: str | None) -> None:
        """Answer 409 with the row's state under the name that the edition has for it."""
        if "tells another state" in self.faults:
            told = {name: "queued" if state != "queued" else "running" for name, state in told.items()}
        raise HTTPException(409, {"reason": "invalid_state", **({} if "tells no state" in self.faults else told)})

    def token(self, sub: str, scope: str) -> str:
        """A token as the server gives it out."""
        now = int(time.time())
        claims = {"sub": sub, "scope": scope, "aud": self.audience, "iat": now, "nbf": now, "exp": now + 600}
        return jwt.encode(claims, self.secret, algorithm=ALGORITHM)

    def auth(self, *scopes: str) -> Any:
        """A dependency that lets in tokens of these scopes whose subject is the id in the path, if there is one."""

        def check(request: Request) -> dict[str, Any]:
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not token:
                raise HTTPException(401, "Missing auth token")
            try:
                claims: dict[str, Any] = jwt.decode(token, self.secret, [ALGORITHM], audience=self.audience)
            except jwt.PyJWTError:
                raise HTTPException(403, "Invalid auth token") from None
            taken = (*scopes, self.queued_scope) if "queued token everywhere" in self.faults else scopes
            if claims["scope"] not in taken:
                raise HTTPException(403, "Token type not allowed")
            subject = request.path_params.get("callback_id", request.path_params.get("task_instance_id"))
            if subject and subject != claims["sub"] and "any subject" not in self.faults:
                raise HTTPException(403, "Token subject does not match")
            return claims

        return Depends(check)

    # -- the server ---------------------------------------------------------------------------------------

    def app(self) -> FastAPI:
        """The routes."""
        app = FastAPI()
        either, execution = self.auth("workload", "execution"), self.auth("execution")
        self.callback_routes(app)

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
                claims = jwt.decode(token, self.secret, [ALGORITHM], audience=self.audience)
                ended = (self.callbacks.get(claims["sub"]) or ["running"])[0] in TERMINAL
                old = claims["exp"] - time.time() < 30 and claims["scope"] == "execution"
                if old and (not ended or "renews after the end" in self.faults):
                    answer.headers["Refreshed-API-Token"] = self.token(claims["sub"], "execution")
            return answer

        return app

    @contextlib.contextmanager
    def serving(self) -> Iterator[list[Operation]]:
        """The app behind a real HTTP server on a free port of the loopback interface; gives what it describes."""
        app = self.app()
        server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", 0, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        assert server.started, "the stand-in's server did not start"
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        document = app.openapi()
        paths = {path.removeprefix("/execution"): item for path, item in document["paths"].items()}
        try:
            yield list(operations({**document, "paths": paths}))
        finally:
            server.should_exit = True
            thread.join(30)


def asked(kind: type[StandIn], *faults: str) -> Written:
    """The history of the whole matrix against a stand-in with these faults."""
    ids = Ids({state: str(uuid.uuid4()) for state in STATES}, *(str(uuid.uuid4()) for _ in range(3)))
    server = kind(
        frozenset(faults),
        {**{one: [state, None] for state, one in ids.callbacks.items()}, ids.another: ["running", None]},
        {ids.task_instance: ["running", None]},
    )
    written = history(kind.edition)
    now = int(time.time())
    claims = {"sub": "", "scope": kind.queued_scope, "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 600}
    mint = Mint(SECRET, claims, {"alg": ALGORITHM, "typ": "JWT"})
    with server.serving() as described, Client(server.url) as client:
        Matrix(client, mint, written.offers, described, ids, server.look, written.add).run()
    return written
