"""Which worker of pytest-xdist runs which cases: an environment is started by as few of them as can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from xdist.scheduler import LoadScopeScheduling

CHUNK = 8
"""Cases that are handed out together; that many take longer than the start of an environment."""


def backend_of(nodeid: str, backends: Mapping[str, str]) -> str:
    """The backend of a case by the label of its subject, with which its parameters begin; others are their own.

    :param backends: the backend of each label.
    """
    parameters = nodeid.rpartition("[")[2].rpartition("]")[0]
    labels = [label for label in backends if parameters == label or parameters.startswith(f"{label}-")]
    return backends[max(labels, key=len)] if labels else nodeid


class ByBackend(LoadScopeScheduling):
    """Each worker takes a backend of its own, and when none is left, helps where most is left to do."""

    def __init__(self, config: Any, log: Any, backends: Mapping[str, str]) -> None:
        super().__init__(config, log)
        self._backends = backends
        self._chunks: dict[str, str] = {}
        self._serves: dict[Any, str] = {}

    def schedule(self) -> None:
        """As of xdist, in chunks."""
        if self.collection is None:
            seen: Counter[str] = Counter()
            for nodeid in next(iter(self.registered_collections.values())):
                backend = backend_of(nodeid, self._backends)
                self._chunks[nodeid] = f"{backend}#{seen[backend] // CHUNK}"
                seen[backend] += 1
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self._chunks[nodeid]

    def _choose(self, node: Any) -> str | None:
        waiting: dict[str, list[str]] = {}
        for scope in self.workqueue:
            waiting.setdefault(scope.rpartition("#")[0], []).append(scope)
        own = self._serves.get(node)
        if own in waiting:
            return waiting[own][0]
        served = {backend for other, backend in self._serves.items() if other in self.assigned_work}
        if free := {backend: scopes for backend, scopes in waiting.items() if backend not in served}:
            return max(free.values(), key=len)[0]
        most = max(waiting.values(), key=len)
        return most[-1] if len(most) > 1 else None  # whoever has the environment is faster with the last ones

    def _assign_work_unit(self, node: Any) -> None:
        scope = self._choose(node) or next(iter(self.workqueue))
        self._serves[node] = scope.rpartition("#")[0]
        self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: Any) -> None:
        if self.workqueue and not node.shutting_down and self._choose(node) is None:
            node.shutdown()
            return
        super()._reschedule(node)
