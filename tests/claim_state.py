"""A stand-in for an API server with the claim of Airflow 3.4 and the state route that is proposed beside it.

The claim is single-use and takes queued tokens of the scope 'callback'. The worker reports the end with its execution
token, and only while the row is RUNNING. An event of the executor is for a row that has not ended.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, HTTPException, Request, Response

from tests.stand_in import TERMINAL, End, StandIn


class ClaimState(StandIn):
    """The stand-in of the edition `claim-state`."""

    edition = "claim-state"
    queued_scope = "callback"

    def callback_routes(self, app: FastAPI) -> None:
        """Add the claim and the state route."""
        queued = self.auth("callback")

        @app.patch("/execution/callbacks/{callback_id}/run", status_code=204)
        def run(callback_id: uuid.UUID, response: Response, claims: Any = queued) -> None:
            row = self.row(callback_id)
            if row[0] != "queued" and "claimed again" not in self.faults:
                self.refuse(previous_state=row[0])
            self.write(callback_id, "running", row[1])
            response.headers["Refreshed-API-Token"] = self.token(str(callback_id), "execution")

        if "no state route" not in self.faults:
            self.state_route(app)

    def state_route(self, app: FastAPI) -> None:
        """Add the route by which a worker reports the end."""
        scopes = ("execution", self.queued_scope) if "end by queued token" in self.faults else ("execution",)
        auth = Depends(_nobody) if "end by anybody" in self.faults else self.auth(*scopes)

        @app.patch("/execution/callbacks/{callback_id}/state", status_code=204)
        def end(callback_id: uuid.UUID, told: Annotated[End, Body()], request: Request, claims: Any = auth) -> None:
            if "ends the unknown" in self.faults and self.look(str(callback_id)) is None:
                return
            row = self.row(callback_id)
            from_here = {"running"}
            if "ends what is queued" in self.faults:
                from_here.add("queued")
            if "ends again" in self.faults:
                from_here.update(TERMINAL)
            if row[0] not in from_here:
                if "refuses and writes" in self.faults:
                    self.write(callback_id, row[0], "written")
                self.refuse(current_state=row[0])
            if "refuses every end" in self.faults:
                raise HTTPException(403, "Nobody reports an end")
            if "takes and forgets" not in self.faults:
                opposite = {"success": "failed", "failed": "success"}[told.state]
                state = opposite if "takes for the opposite" in self.faults else told.state
                self.write(callback_id, state, told.output)

    def event(self, identity: str, state: str, output: str | None = None) -> None:
        """Do what the scheduler does with an executor's event."""
        row = self.callbacks[identity]
        if row[0] in TERMINAL and "events overwrite" not in self.faults:
            return
        if state in TERMINAL:
            self.write(identity, state, output)


def _nobody() -> dict[str, Any]:
    return {}
