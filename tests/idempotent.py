"""A stand-in for an API server with the callback routes that apache/airflow#66141 proposed first.

It keeps to what the proposal says: the claim takes queued tokens of the scope 'workload' and execution tokens, is
idempotent while the row is RUNNING, and gives a new execution token for a queued one; the worker records the end.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import Body, FastAPI, Response

from tests.stand_in import TERMINAL, End, StandIn


class Idempotent(StandIn):
    """The stand-in of the edition `claim-idempotent`."""

    edition = "claim-idempotent"
    queued_scope = "workload"

    def callback_routes(self, app: FastAPI) -> None:
        """Add the claim and the state route."""
        either, execution = self.auth("workload", "execution"), self.auth("execution")

        @app.post("/execution/callbacks/{callback_id}/run", status_code=204)
        def run(callback_id: uuid.UUID, response: Response, claims: Any = either) -> None:
            row = self.row(callback_id)
            again = row[0] == "running" and "single use" not in self.faults
            again = again or (row[0] in TERMINAL and "claims what has ended" in self.faults)
            if row[0] != "queued" and not again:
                self.refuse(current_state=row[0])
            if "leaves the row" not in self.faults:
                self.write(callback_id, "running", row[1])
            if claims["scope"] == "workload" and not (again and "no second token" in self.faults):
                response.headers["Refreshed-API-Token"] = self.token(str(callback_id), "execution")

        @app.patch("/execution/callbacks/{callback_id}/state", status_code=204)
        def end(callback_id: uuid.UUID, told: Annotated[End, Body()], claims: Any = execution) -> None:
            row = self.row(callback_id)
            if row[0] != "running" and "writes over the end" not in self.faults:
                self.refuse(current_state=row[0])
            self.write(callback_id, told.state, told.output)
