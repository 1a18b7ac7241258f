"""The harness's client of a running emulator; standard library only."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from executor_conformance.harness.errors import HarnessError

CALL_SECONDS = 5.0


class EmulatorClient:
    """Synchronous calls of the admin API (``admin``), each bounded by 5 s.

    Every method raises HarnessError if the emulator does not answer in time or refuses.
    """

    def __init__(self, ready: dict[str, Any]) -> None:
        """``ready`` is the content of the emulator's ready.json."""
        self.url: str = ready["url"]
        self.pid: int = ready["pid"]
        self.resources: dict[str, Any] = ready["resources"]
        self._token: str = ready["admin_token"]
        parts = urlsplit(ready["admin_url"])
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._prefix = parts.path.rstrip("/")

    @classmethod
    def from_folder(cls, folder: Path) -> EmulatorClient:
        """The client of the emulator that works in ``folder``.

        :raises HarnessError: it is not ready.
        """
        file = folder / "ready.json"
        try:
            return cls(json.loads(file.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HarnessError(f"The AWS emulator is not ready: {file} is missing or broken ({error}).") from None

    def runs(self) -> list[dict[str, Any]]:
        """All runs, oldest first: service, id, status, pid, container_id, attempt, exit_code, env_names, next."""
        return self._call("GET", "/runs")

    def run(self, identity: str) -> dict[str, Any]:
        """One run.

        :raises HarnessError: there is none with this id.
        """
        for run in self.runs():
            if run["id"] == identity or run["id"].endswith(f"/{identity}"):
                return run
        raise HarnessError(f"The AWS emulator has no run '{identity}'.")

    def idle_runtimes(self) -> list[int]:
        """Pids of the Lambda runtimes that wait for work."""
        return self._call("GET", "/runtimes")["idle"]

    def messages(self) -> dict[str, dict[str, Any]]:
        """By queue: ``visible`` (a number), ``delayed`` and ``in_flight`` (lists of seconds left)."""
        return self._call("GET", "/messages")

    def purge(self) -> None:
        """Delete all messages of all queues, those in flight too."""
        self._call("DELETE", "/messages")

    def calls(self, since: int = 0) -> list[dict[str, Any]]:
        """API calls after number ``since``: n, at (monotonic seconds), service, operation, status, fault."""
        return self._call("GET", f"/calls?since={since}")

    def counts(self) -> dict[str, int]:
        """How many requests there have been, by operation."""
        return self._call("GET", "/counts")

    def deliveries(self, workload: str) -> list[dict[str, Any]]:
        """The accepted requests that carry a workload's id: id, accepted and ended (monotonic seconds, or None)."""
        return self._call("GET", f"/deliveries?workload={quote(workload, safe='')}")

    def plant_foreign(self, service: str) -> dict[str, list[str]]:
        """Plant what another deployment has at a service: ``planted`` (sentences) and ``keys``."""
        return self._call("POST", "/foreign", {"service": service})

    def foreign_touched(self) -> list[str]:
        """A sentence for each planted thing that is not as it was."""
        return self._call("GET", "/foreign")["touched"]

    def remove_foreign(self) -> None:
        """Take away all that is planted."""
        self._call("DELETE", "/foreign")

    def submissions(self) -> list[Any]:
        """The bodies of the last requests RunTask, SubmitJob and Invoke, as their JSON has them."""
        return self._call("GET", "/submissions")

    def add_fault(self, **rule: Any) -> str:
        """Put a fault into force (service, operation or point, action, times, skip) and return its id."""
        return self._call("POST", "/faults", rule)["id"]

    def faults(self) -> list[dict[str, Any]]:
        """All faults, with ``hits``."""
        return self._call("GET", "/faults")

    def remove_fault(self, identity: str) -> None:
        """Take one fault out; requests that hang by it go on."""
        self._call("DELETE", f"/faults/{quote(identity, safe='')}")

    def clear_faults(self) -> None:
        """Take all faults out."""
        self._call("DELETE", "/faults")

    def kill(self, identity: str, signal: int = 9) -> None:
        """Signal a run's container; SIGKILL reaches all of it."""
        self._act(identity, "kill", {"signal": signal})

    def stop(self, identity: str, reason: str = "Stopped from outside") -> None:
        """StopTask or TerminateJob by somebody else."""
        self._act(identity, "stop", {"reason": reason})

    def vanish(self, identity: str) -> None:
        """Make the control plane forget a run."""
        self._act(identity, "vanish", {})

    def oom(self, identity: str) -> None:
        """End a run's container as out of memory."""
        self._act(identity, "oom", {})

    def timeout(self, identity: str) -> None:
        """End an invocation of Lambda as one that has lasted too long."""
        self._act(identity, "timeout", {})

    def repeat(self, identity: str) -> None:
        """Carry out an asynchronous invocation of Lambda once more."""
        self._act(identity, "repeat", {})

    def set_images(self, images: dict[str, Any]) -> None:
        """Replace the images; as the images file."""
        self._call("PUT", "/images", images)

    def _act(self, identity: str, verb: str, data: dict[str, Any]) -> None:
        self._call("POST", f"/runs/{quote(identity, safe='')}/{verb}", data)

    def _call(self, method: str, path: str, data: Any = None) -> Any:
        connection = http.client.HTTPConnection(*self._address, timeout=CALL_SECONDS)
        body = None if data is None else json.dumps(data)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.request(method, self._prefix + path, body, headers)
            response = connection.getresponse()
            answer = json.loads(response.read() or b"null")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise HarnessError(f"The AWS emulator does not answer {method} {path}: {error!r}.") from None
        finally:
            connection.close()
        if response.status != 200:
            said = answer.get("error") if isinstance(answer, dict) else answer
            raise HarnessError(f"The AWS emulator refuses {method} {path}: {said}")
        return answer
