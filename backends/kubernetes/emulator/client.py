"""The synchronous client of the emulator's control API; standard library only."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from pathlib import Path
from typing import Any

from executor_conformance.harness.errors import HarnessError

CALL_SECONDS = 5.0


class EmulatorClient:
    """Controls a running emulator. Every method raises HarnessError if it is not there, or refuses.

    :param ready: what ``ready.json`` holds.
    """

    def __init__(self, ready: dict[str, Any]) -> None:
        self.ready = ready
        self.url: str = ready["url"]
        self.kubeconfig = Path(ready["kubeconfig"])
        self.pid: int = ready["pid"]
        address = urllib.parse.urlsplit(ready["admin_url"])
        self._host, self._port = address.hostname or "", address.port
        self._token: str = ready["admin_token"]

    @classmethod
    def from_folder(cls, folder: Path) -> EmulatorClient:
        """For the emulator that was started with ``--folder folder`` and is ready.

        :raises HarnessError: there is no readable ``ready.json``.
        """
        path = Path(folder) / "ready.json"
        try:
            return cls(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError) as error:
            raise HarnessError(f"The Kubernetes emulator is not ready: {path} can't be read ({error!r}).") from None

    def pods(self) -> list[dict[str, Any]]:
        """All pods: namespace, name, uid, phase, labels, annotations, pids by container, deleting, next."""
        return self._call("GET", "pods")

    def manifests(self) -> list[dict[str, Any]]:
        """All pods, whole, as the API serves them."""
        return self._call("GET", "manifests")

    def add_fault(self, **rule: Any) -> str:
        """Make a rule (``verb`` or ``point``, ``action`` ...) and return its id."""
        return self._call("POST", "faults", rule)["id"]

    def remove_fault(self, fault_id: str) -> None:
        """Take a rule out; what it holds goes on."""
        self._call("DELETE", f"faults/{_quoted(fault_id)}")

    def clear_faults(self) -> None:
        """Take all rules out."""
        self._call("DELETE", "faults")

    def faults(self) -> list[dict[str, Any]]:
        """All rules, with their ``id`` and ``hits``."""
        return self._call("GET", "faults")

    def kill(self, namespace: str, name: str, signal: int = 9, container: str | None = None) -> int:
        """Signal a container, by default the first that runs; returns the pid of its main process."""
        return self._pod(namespace, name, "kill", {"signal": signal, "container": container})["pid"]

    def oom(self, namespace: str, name: str, container: str | None = None) -> int:
        """Kill a container as the kernel does that is out of memory; returns the pid of its main process."""
        return self._pod(namespace, name, "oom", {"container": container})["pid"]

    def evict(self, namespace: str, name: str) -> None:
        """Evict a pod as a kubelet under pressure does."""
        self._pod(namespace, name, "evict", {})

    def delete(self, namespace: str, name: str, grace: int | None = None) -> None:
        """Delete a pod as another client would; ``grace`` in seconds, None for the pod's own."""
        self._pod(namespace, name, "delete", {"grace": grace})

    def compact(self) -> str:
        """Make every resourceVersion so far too old; returns the oldest that is not."""
        return self._call("POST", "compact")["resourceVersion"]

    def calls(self, since: int = 0) -> list[dict[str, Any]]:
        """Requests with ``n`` above ``since``; ``status`` is None for those that are not answered yet."""
        return self._call("GET", f"calls?since={int(since)}")

    def counts(self) -> dict[str, int]:
        """How many requests there have been, by verb and resource, such as 'delete pods'; the rest is 'other'."""
        return self._call("GET", "counts")

    def deliveries(self, workload: str) -> list[dict[str, Any]]:
        """The pods that carry a workload's id, those that are gone too: id, accepted and ended (monotonic seconds)."""
        return self._call("GET", f"deliveries?workload={_quoted(workload)}")

    def plant_foreign(self, namespace: str) -> dict[str, list[str]]:
        """Plant pods of another deployment: ``planted`` (sentences) and ``keys``."""
        return self._call("POST", "foreign", {"namespace": namespace})

    def foreign_touched(self) -> list[str]:
        """A sentence for each of these pods that is not as it was."""
        return self._call("GET", "foreign")["touched"]

    def remove_foreign(self) -> None:
        """Take these pods away."""
        self._call("DELETE", "foreign")

    def set_access(self, deny: list[dict[str, Any]]) -> None:
        """Deny verbs on resources: ``{"verb", "resource", "namespace"}`` each, ``namespace`` may be None."""
        self._call("POST", "access", {"deny": deny})

    def set_images(self, images: dict[str, dict[str, Any]]) -> None:
        """Replace the images that can be pulled: ``{"repository:tag": {"env", "entrypoint", "working_dir"}}``."""
        self._call("PUT", "images", images)

    def _pod(self, namespace: str, name: str, action: str, body: dict[str, Any]) -> Any:
        return self._call("POST", f"pods/{_quoted(namespace)}/{_quoted(name)}/{action}", body)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=CALL_SECONDS)
        what = f"{method} /_admin/{path} of the Kubernetes emulator"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.request(method, f"/_admin/{path}", None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except TimeoutError:
            raise HarnessError(f"{what} was not answered within {CALL_SECONDS:g} s.") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise HarnessError(f"{what} failed: {error!r}.") from None
        finally:
            connection.close()
        if response.status != 200:
            detail = answer.get("error", "") if isinstance(answer, dict) else ""
            raise HarnessError(f"{what} was refused with {response.status}: {detail}.")
        return answer


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
