"""Workers in containers of a docker engine on this host: what it takes, what they get, whose children they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from executor_conformance.harness import processes
from executor_conformance.harness.backend import Site
from executor_conformance.harness.errors import EnvironmentUnavailable

END_S = 20.0
"""For how long an emulator removes its containers at its end."""
_SHIM = "containerd-shim"


def missing() -> str | None:
    """What keeps this host from running containers, in one sentence; None if nothing does."""
    from executor_conformance.backends.aws.emulator.docker_runner import engine

    try:
        engine().close()
    except EnvironmentUnavailable as error:
        return str(error)
    return None


def description() -> str:
    """The data plane for the report."""
    from executor_conformance.backends.aws.emulator.docker_runner import engine

    client = engine()
    try:
        return f"containers of docker {client.version()['Version']}, with this host's programs and network"
    finally:
        client.close()


def image(site: Site) -> dict[str, Any]:
    """The workers' image and its mounts, as the emulator's images file has them.

    :raises EnvironmentUnavailable: no engine answers.
    """
    from executor_conformance.backends.aws.emulator.docker_image import ensure_image, host_volumes
    from executor_conformance.backends.aws.emulator.docker_runner import engine

    client = engine()
    try:
        reference = ensure_image(client)
    finally:
        client.close()
    logs, bundle, bytecode = site.folder / "task-logs", site.folder / "bundle", site.env["PYTHONPYCACHEPREFIX"]
    logs.mkdir(exist_ok=True)
    own = [f"{logs}:{logs}:rw", f"{bundle}:{bundle}:ro", f"{bytecode}:{bytecode}:rw"]
    return {"reference": reference, "volumes": [*host_volumes(), *own]}


class Parents:
    """The engine's own processes between it and its containers, which adopt what a container's processes leave."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[int, int]] = {}

    def of(self, pids: Iterable[int]) -> list[int]:
        """The parents of the containers with these main processes, now or formerly, as long as they live."""
        for pid in pids:
            main = None if pid in self._of else processes.read_stat(pid)
            parent = processes.read_stat(main.ppid) if main else None
            if parent and parent.comm.startswith(_SHIM):
                self._of[pid] = (parent.pid, parent.started)
        self._of = {pid: parent for pid, parent in self._of.items() if processes.is_alive(*parent)}
        return sorted({pid for pid, _ in self._of.values()})
