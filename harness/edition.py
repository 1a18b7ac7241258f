"""What an edition of Airflow offers for callbacks, and how the edition of a running API server is found."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass

STATUSES = ("released", "proposed", "historical")
"""A release of Airflow has it; a proposal that is discussed; a proposal that was dropped for another one."""
CLAIM_ROUTE, STATE_ROUTE = "run", "state"
"""The last part of the two routes below ``/callbacks/{callback_id}/``."""
_NOBODY = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Edition:
    """What a release of Airflow, or a proposal, offers for callbacks; ``detected`` says how it is told from the others.

    ``claim_method`` is the method of the claim route, empty where there is none. ``queued_scope`` is the scope of the
    token that a callback is queued with. ``idempotent``: the claim may be repeated while the row is RUNNING, and takes
    execution tokens too. ``worker_reports_end``: the worker records the terminal state by the state route.
    ``end_is_final``: no event of the executor changes a row whose worker has reported its end.
    """

    id: str
    status: str
    text: str
    detected: str
    queued_scope: str
    claim_method: str = ""
    idempotent: bool = False
    worker_reports_end: bool = False
    end_is_final: bool = False

    @property
    def has_claim(self) -> bool:
        """True where the worker exchanges the queued token for an execution token."""
        return bool(self.claim_method)

    @property
    def claiming_scopes(self) -> tuple[str, ...]:
        """Scopes of the tokens that the claim takes."""
        return (self.queued_scope, "execution") if self.idempotent else (self.queued_scope,)


def edition_of(server_url: str, editions: Iterable[Edition]) -> Edition:
    """Return the edition of a running server by the routes that it has; a version number would not tell.

    Without a token a route that is there answers 401 or 403, and one that is not there 404 or 405.
    """
    known = list(editions)
    methods = sorted({edition.claim_method for edition in known} - {""}, reverse=True)
    claim = next((method for method in methods if _is_there(server_url, method, CLAIM_ROUTE)), "")
    alike = [edition for edition in known if edition.claim_method == claim]
    reports_end = len(alike) > 1 and _is_there(server_url, "PATCH", STATE_ROUTE)
    return next((edition for edition in alike if edition.worker_reports_end == reports_end), alike[0])


def _is_there(server_url: str, method: str, route: str) -> bool:
    request = urllib.request.Request(f"{server_url}/execution/callbacks/{_NOBODY}/{route}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status) in (401, 403)
    except urllib.error.HTTPError as error:
        with error:
            return error.code in (401, 403)
