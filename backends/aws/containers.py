"""Workers in containers of a docker engine on this host: what they get, and whose children they are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from executor_conformance.backends.aws.emulated import EmulatedAws
from executor_conformance.backends.emulation import below
from executor_conformance.harness import processes as host
from executor_conformance.harness.backend import Site
from executor_conformance.harness.errors import EnvironmentUnavailable
from executor_conformance.harness.processes import ProcessInfo

END_S = 20.0
"""For how long an emulator removes its containers at its end."""
_SHIM = "containerd-shim"


def missing_engine() -> str | None:
    """What keeps this host from running containers, in one sentence; None if nothing does."""
    from executor_conformance.backends.aws.emulator.docker_runner import engine

    try:
        engine().close()
    except EnvironmentUnavailable as error:
        return str(error)
    return None


class Parents:
    """The engine's own processes between it and its containers, which adopt what a container's processes leave."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[int, int]] = {}

    def of(self, pids: Iterable[int]) -> list[int]:
        """The parents of the containers with these main processes, now or formerly, as long as they live."""
        for pid in pids:
            main = None if pid in self._of else host.read_stat(pid)
            parent = host.read_stat(main.ppid) if main else None
            if parent and parent.comm.startswith(_SHIM):
                self._of[pid] = (parent.pid, parent.started)
        self._of = {pid: parent for pid, parent in self._of.items() if host.is_alive(*parent)}
        return sorted({pid for pid, _ in self._of.values()})


class ContainedAws(EmulatedAws):
    """The emulated account, whose containers are an engine's."""

    runner = "docker"

    def __init__(self, site: Site, service: str) -> None:
        super().__init__(site, service)
        self._parents = Parents()
        self._seen: tuple[float, list[int]] = (0.0, [])

    def data_plane(self, own: str) -> str:
        """The engine; what is its own of the image is only the mount points."""
        from executor_conformance.backends.aws.emulator.docker_runner import engine

        client = engine()
        try:
            version = client.version()["Version"]
        finally:
            client.close()
        return f"{own.replace('host processes', 'docker')}: {version}, with this host's programs and network"

    def image(self, env: dict[str, str]) -> dict[str, Any]:
        """With this host's programs, the environment's Dags and logs."""
        from executor_conformance.backends.aws.emulator.docker_image import ensure_image, host_volumes
        from executor_conformance.backends.aws.emulator.docker_runner import engine

        client = engine()
        try:
            reference = ensure_image(client)
        finally:
            client.close()
        logs, bundle = self.site.folder / "task-logs", self.site.folder / "bundle"
        bytecode = self.site.env["PYTHONPYCACHEPREFIX"]
        logs.mkdir(exist_ok=True)
        own = [f"{logs}:{logs}:rw", f"{bundle}:{bundle}:ro", f"{bytecode}:{bytecode}:rw"]
        return {"env": {**env, "TMPDIR": "/tmp"}, "reference": reference, "volumes": [*host_volumes(), *own]}

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """All that runs below the engine's own processes."""
        return below(processes, self.roots())

    def roots(self) -> list[int]:
        """The parents of the containers, asked of the emulator at most every tenth of a second."""
        if self._client is None or self.lost():
            return []
        seen, roots = self._seen
        if time.monotonic() - seen > self.seen_s:
            roots = self._parents.of(run["pid"] for run in self.runs() if run["pid"])
            self._seen = (time.monotonic(), roots)
        return roots

    def stop(self) -> None:
        """Let the emulator remove its containers; a killed one leaves that to its reaper."""
        if self._emulator is not None and self._emulator.alive:
            self._emulator.terminate(grace=END_S)
