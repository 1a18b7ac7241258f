"""What the pods of the environment run on: the members that each substrate has, and the emulated cluster."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from executor_conformance.backends.emulation import FORKED, Way, emulator_lost, image_env, in_containers, start_emulator
from executor_conformance.backends.kubernetes.faults import FAULTS
from executor_conformance.harness.backend import Delivery, Options, Site, installed
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess

if TYPE_CHECKING:
    from executor_conformance.backends.kubernetes.emulator.client import EmulatorClient

LAUNCH_TIMEOUT_S = 20
SECRET = (
    "AIRFLOW__API_AUTH__",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__DATABASE__",
    "AIRFLOW__KUBERNETES_EXECUTOR__",
)
"""Settings that a worker pod has no use for."""


class Substrate(ABC):
    """A Kubernetes cluster, and what can be seen and done there.

    ``namespace``, ``image`` and ``kubeconfig`` hold once ``start`` has returned.
    """

    control_plane: str
    data_plane: str
    on_this_host: ClassVar[bool]
    victims: ClassVar[frozenset[str]]
    ways: ClassVar[Mapping[str, Sequence[str]]]
    """The fault points and ways of :data:`FAULTS` that are possible here."""
    request_timeout: ClassVar[tuple[int, int]]
    """Seconds in which the executor's requests connect and are answered."""
    launch_timeout_s: ClassVar[int]
    """``[scheduler] task_queued_timeout``: in so long a pod starts, and so long its first token is valid."""
    namespace: str
    image: str

    def __init__(self, site: Site) -> None:
        self.site = site
        self.folder = site.folder / "kubernetes"
        self.kubeconfig = self.folder / "kubeconfig"

    @classmethod
    @abstractmethod
    def missing(cls, options: Options) -> str | None:
        """What is missing for it, in one sentence."""

    def api_host(self) -> str | None:
        """By what pods reach this host; asked before ``start``."""
        return self.site.options.api_host

    @abstractmethod
    def start(self) -> None:
        """Make the cluster and the namespace ready to be used."""

    def lost(self) -> str:
        """As :meth:`Backend.lost`."""
        return ""

    @abstractmethod
    def template(self) -> dict[str, Any]:
        """The pod template of the executor."""

    def write_template(self, document: dict[str, Any] | None = None) -> None:
        """Write the pod template, which the executor reads for each pod."""
        path = self.folder / "pod-template.yaml"
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(document or self.template(), indent=1), "utf-8")
        temporary.replace(path)

    def wait_ready(self) -> None:  # noqa: B027
        """Return once a worker pod would do its work; called when the API server answers."""

    @abstractmethod
    def pods(self) -> list[dict[str, Any]]:
        """All pods, oldest first: namespace, name, phase, labels, annotations, and ``next``.

        The latter says what will still happen to the pod by itself, or is empty.
        """

    @abstractmethod
    def manifests(self) -> list[dict[str, Any]]:
        """All pods, whole, as the API server shows them."""

    def deliveries(self, workload: str) -> list[Delivery] | None:
        """As :meth:`Backend.deliveries`; a cluster keeps no record of the pods that are gone."""
        return None

    def calls(self) -> Mapping[str, int] | None:
        """As :meth:`Backend.calls`."""
        return None

    def plant_foreign(self) -> tuple[list[str], list[str]]:
        """As :meth:`Backend.plant_foreign`; and the keys of the other deployment's workloads."""
        return [], []

    def foreign_touched(self) -> list[str]:
        """As :meth:`Backend.foreign_touched`."""
        return []

    def remove_foreign(self) -> None:  # noqa: B027
        """As :meth:`Backend.remove_foreign`."""

    def nodes(self) -> list[ManagedProcess]:
        """Processes that it consists of."""
        return []

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Pids of all that runs in containers, as far as those are processes of this host."""
        return []

    def renew_workers(self) -> bool | None:
        """As :meth:`Backend.renew_workers`."""
        return None

    def execute_workers(self, always: bool) -> None:  # noqa: B027
        """As :meth:`Backend.execute_workers`."""

    @abstractmethod
    def inject(self, way: Way, pod: dict[str, Any] | None) -> None:
        """Do what ``way`` says, to ``pod`` if it is about one.

        :raises HarnessError: it was refused.
        """

    def hits(self) -> int | None:
        """To how many requests the faults in force were applied; None: it cannot be told, or none is in force."""
        return None

    @abstractmethod
    def heal(self) -> None:
        """Take back what ``inject`` left in force."""

    @abstractmethod
    def clear(self) -> None:
        """Force out every pod."""

    def stop(self) -> None:  # noqa: B027
        """Delete what was made outside of this host."""


class EmulatedCluster(Substrate):
    """The API server of our own and its kubelet, whose containers are host processes."""

    control_plane = "emulated Kubernetes API server"
    on_this_host = True
    victims = frozenset({"child", "supervisor", "unit"})
    ways = {point: tuple(ways) for point, ways in FAULTS.items()}
    request_timeout = (2, 3)
    launch_timeout_s = LAUNCH_TIMEOUT_S
    namespace = "default"
    image = "conformance-worker:1"

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        forked = FORKED if site.options.worker_start == "fork" else ""
        self.data_plane = f"kubelet that runs containers as host processes{forked}"
        self._emulator: ManagedProcess | None = None
        self._client: EmulatorClient | None = None

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """What the emulator is made of."""
        for distribution in ("jsonpatch", "trustme"):
            if not installed(distribution):
                return (
                    f"the distribution {distribution} is not installed; "
                    "install it with pip install 'airflow-executor-conformance[kubernetes]'"
                )
        return None

    @property
    def client(self) -> EmulatorClient:
        """The emulator's own control."""
        assert self._client is not None
        return self._client

    def start(self) -> None:
        """Start the emulator, and wait until it is ready."""
        if self._emulator is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        images = self.folder / "images.json"
        images.write_text(json.dumps(self._images(warm=self.site.options.worker_start == "fork")), "utf-8")
        module = "executor_conformance.backends.kubernetes.emulator"
        self._emulator = start_emulator(self.site, "Kubernetes", module, self.folder, "--images", str(images))
        from executor_conformance.backends.kubernetes.emulator.client import EmulatorClient

        self._client = EmulatorClient.from_folder(self.folder)

    def _images(self, warm: bool) -> dict[str, Any]:
        return {self.image: {"env": image_env(), "entrypoint": [], "warm": warm}}

    def renew_workers(self) -> bool:
        """By the pod template."""
        self.write_template()
        return False

    def execute_workers(self, always: bool) -> None:
        """By the workers' image."""
        self.client.set_images(self._images(warm=not always and self.site.options.worker_start == "fork"))

    def template(self) -> dict[str, Any]:
        """A deployment's settings reach its workers by it."""
        settings = {
            name: value
            for name, value in self.site.env.items()
            if name not in image_env() and not name.startswith(SECRET)
        }
        container = {"name": "base", "image": self.image, "env": variables(settings)}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "worker"},
            "spec": {"restartPolicy": "Never", "containers": [container]},
        }

    def pods(self) -> list[dict[str, Any]]:
        """As the emulator knows them."""
        return self.client.pods()

    def manifests(self) -> list[dict[str, Any]]:
        """As the emulator stores them."""
        return self.client.manifests()

    def deliveries(self, workload: str) -> list[Delivery]:
        """From the emulator's record of pods."""
        return [Delivery(**delivery) for delivery in self.client.deliveries(workload)]

    def calls(self) -> Mapping[str, int]:
        """As the emulator counts."""
        return self.client.counts()

    def plant_foreign(self) -> tuple[list[str], list[str]]:
        """By the emulator."""
        made = self.client.plant_foreign(self.namespace)
        return made["planted"], made["keys"]

    def foreign_touched(self) -> list[str]:
        """As the emulator compares."""
        return self.client.foreign_touched()

    def remove_foreign(self) -> None:
        """By the emulator."""
        self.client.remove_foreign()

    def nodes(self) -> list[ManagedProcess]:
        """The emulator, which is the kubelet too."""
        return [self._emulator] if self._emulator and self._emulator.alive else []

    def lost(self) -> str:
        """The emulator, if it has ended."""
        return emulator_lost(self._emulator)

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """The containers and all that they started, below the guardians that the emulator starts."""
        assert self._emulator is not None
        return in_containers(processes, self._emulator.pid)

    def inject(self, way: Way, pod: dict[str, Any] | None) -> None:
        """By the rules of the emulator, and by what its client can do to a pod."""
        for rule in way.rules:
            self.client.add_fault(**rule)
        if way.act and pod:
            act: Callable[..., Any] = getattr(self.client, way.act)
            act(pod["namespace"], pod["name"], **way.arguments)

    def hits(self) -> int | None:
        """As the emulator counts."""
        rules = self.client.faults()
        return sum(rule["hits"] for rule in rules) if rules else None

    def heal(self) -> None:
        """Remove every rule."""
        self.client.clear_faults()

    def clear(self) -> None:
        """Delete with no grace."""
        for pod in self.client.pods():
            self.client.delete(pod["namespace"], pod["name"], grace=0)


def variables(settings: Mapping[str, str]) -> list[dict[str, str]]:
    """As a container has them."""
    return [{"name": name, "value": value} for name, value in sorted(settings.items())]
