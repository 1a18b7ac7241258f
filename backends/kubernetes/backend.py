"""The environment of KubernetesExecutor and its subclasses."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from executor_conformance.backends.kubernetes.faults import FAULTS, Way
from executor_conformance.harness.backend import Backend, Options, Site, Variant, installed
from executor_conformance.harness.errors import BoundReached, HarnessError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess

if TYPE_CHECKING:
    from executor_conformance.backends.kubernetes.emulator.client import EmulatorClient

NAMESPACE = "default"
IMAGE, TAG = "conformance-worker", "1"
LAUNCH_TIMEOUT_S = 20
RECONCILE_S = 2
DEAD_SCHEDULER_S = 5
"""After so long without a heartbeat, the pods of another scheduler may be adopted."""
SECRET = ("AIRFLOW__API_AUTH__", "AIRFLOW__API__SECRET_KEY", "AIRFLOW__DATABASE__", "AIRFLOW__KUBERNETES_EXECUTOR__")
"""Settings that a worker pod has no use for."""


class KubernetesBackend(Backend):
    """A Kubernetes API server of our own, over TLS, and a kubelet whose containers are host processes."""

    name: ClassVar[str] = "kubernetes"
    executor: ClassVar[str] = "airflow.providers.cncf.kubernetes.executors.kubernetes_executor.KubernetesExecutor"
    variants: ClassVar = (
        Variant("kubernetes", smoke=True, note="as released"),
        Variant(
            "kubernetes-reference",
            note="the reference executor: KubernetesExecutor with callbacks in pods",
            executor="executor_conformance.backends.kubernetes.reference.KubernetesCallbackExecutor",
            patience_s=LAUNCH_TIMEOUT_S + 2 * RECONCILE_S,
        ),
    )
    stands_alone: ClassVar = True
    victims: ClassVar = frozenset({"child", "supervisor", "unit"})
    faults: ClassVar[Mapping[str, Sequence[str]]] = {point: tuple(ways) for point, ways in FAULTS.items()}

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._emulator: ManagedProcess | None = None
        self._client: EmulatorClient | None = None
        self._folder = self.site.folder / "kubernetes"
        self._pods: tuple[float, list[dict[str, Any]]] = (0.0, [])
        self._timers: list[tuple[float, str]] = []

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """The cncf-kubernetes provider and what the emulator is made of."""
        for distribution in ("apache-airflow-providers-cncf-kubernetes", "jsonpatch", "trustme"):
            if not installed(distribution):
                return (
                    f"the distribution {distribution} is not installed; "
                    "install it with pip install 'airflow-executor-conformance[kubernetes]'"
                )
        if options.substrate != "process":
            return f"this backend runs on host processes only, not on the substrate '{options.substrate}'"
        return None

    @property
    def control_plane(self) -> str:
        """The emulated API server."""
        return "emulated Kubernetes API server"

    @property
    def data_plane(self) -> str:
        """The kubelet of the emulator."""
        return "kubelet that runs containers as host processes"

    @property
    def client(self) -> EmulatorClient:
        """The emulator's own control."""
        assert self._client is not None
        return self._client

    # -- start ----------------------------------------------------------------------------------------------

    def config(self) -> dict[str, str]:
        """Start the emulator, for its address is part of the configuration, and describe the worker pod."""
        if self._emulator is None:
            self._start_emulator()
        template = self._folder / "pod-template.yaml"
        section = "AIRFLOW__KUBERNETES_EXECUTOR__"
        return {
            f"{section}IN_CLUSTER": "False",
            f"{section}CONFIG_FILE": str(self._folder / "kubeconfig"),
            f"{section}NAMESPACE": NAMESPACE,
            f"{section}POD_TEMPLATE_FILE": str(template),
            f"{section}WORKER_CONTAINER_REPOSITORY": IMAGE,
            f"{section}WORKER_CONTAINER_TAG": TAG,
            f"{section}WORKER_PODS_CREATION_BATCH_SIZE": "16",
            f"{section}TASK_PUBLISH_MAX_RETRIES": "3",
            # Without it a request that is never answered blocks the scheduler for good
            f"{section}KUBE_CLIENT_REQUEST_ARGS": json.dumps({"_request_timeout": [2, 3]}),
            # urllib3 repeats a request without an answer three times, each with the full time limit
            f"{section}API_CLIENT_RETRY_CONFIGURATION": json.dumps({"total": 0}),
            f"{section}CALLBACK_RECONCILE_INTERVAL": str(RECONCILE_S),
            "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": str(LAUNCH_TIMEOUT_S),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": str(DEAD_SCHEDULER_S),
        }

    def _start_emulator(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        images = self._folder / "images.json"
        images.write_text(json.dumps({f"{IMAGE}:{TAG}": {"env": self._image_env(), "entrypoint": []}}), "utf-8")
        argv = [sys.executable, "-m", "executor_conformance.backends.kubernetes.emulator"]
        argv += ["--folder", str(self._folder), "--images", str(images)]
        env = {"PATH": os.environ.get("PATH", ""), "HOME": str(self._folder), "TMPDIR": str(self._folder)}
        env |= {name: os.environ[name] for name in ("PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}
        self._emulator = self.site.supervisor.spawn("kubernetes", argv, env, self.site.folder)
        deadline = time.monotonic() + LIMITS.worker_start
        while not (self._folder / "ready.json").exists():
            if not self._emulator.alive:
                raise HarnessError(f"The Kubernetes emulator ended at its start: {self._emulator.log_tail(5)}")
            if time.monotonic() > deadline:
                raise BoundReached(f"The Kubernetes emulator was not ready within {LIMITS.worker_start:g} s.")
            time.sleep(0.02)
        from executor_conformance.backends.kubernetes.emulator.client import EmulatorClient

        self._client = EmulatorClient.from_folder(self._folder)

    def _image_env(self) -> dict[str, str]:
        """What the image of a worker has: its interpreter and its paths, none of the deployment's settings."""
        kept = ("PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
        env = {name: os.environ[name] for name in kept if name in os.environ}
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return env

    def start(self) -> None:
        """Write the pod template: a deployment's settings reach its workers by it."""
        settings = {
            name: value
            for name, value in self.site.env.items()
            if name not in self._image_env() and not name.startswith(SECRET)
        }
        template = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "worker"},
            "spec": {
                "restartPolicy": "Never",
                "containers": [
                    {
                        "name": "base",
                        "image": f"{IMAGE}:{TAG}",
                        "env": [{"name": name, "value": value} for name, value in sorted(settings.items())],
                    }
                ],
            },
        }
        (self._folder / "pod-template.yaml").write_text(json.dumps(template, indent=1), "utf-8")

    def stand_alone(self) -> list[str]:
        """Where the kubeconfig is."""
        return [f"kubectl --kubeconfig {self._folder / 'kubeconfig'} get pods"]

    # -- seeing ---------------------------------------------------------------------------------------------

    def nodes(self) -> list[ManagedProcess]:
        """The emulator, which is the kubelet too."""
        return [self._emulator] if self._emulator and self._emulator.alive else []

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """The containers and all that they started; what lost its parent has become the kubelet's."""
        assert self._emulator is not None
        found = {self._emulator.pid}
        while more := {pid for pid, process in processes.items() if process.ppid in found} - found:
            found |= more
        return sorted(found - {self._emulator.pid})

    def pods(self) -> list[dict[str, Any]]:
        """Pods as the emulator knows them, at most a tenth of a second old."""
        seen, pods = self._pods
        if time.monotonic() - seen > 0.1:
            pods = self.client.pods()
            self._pods = (time.monotonic(), pods)
        return pods

    def pod_of(self, callback: str) -> dict[str, Any] | None:
        """The pod of a callback, whatever the subject writes its id on; else the newest that is not over."""
        mine = [pod for pod in self.pods() if callback in json.dumps([pod["name"], pod["labels"], pod["annotations"]])]
        found = mine or [pod for pod in self.pods() if pod["phase"] in ("Pending", "Running")]
        return found[-1] if found else None

    def accepted(self, callback: str) -> bool:
        """Its pod exists."""
        return self.pod_of(callback) is not None

    def pending(self, callback: str) -> list[str]:
        """What the kubelet will still do by itself, and retries that a fault has made the subject wait for."""
        now = time.monotonic()
        self._timers = [(until, why) for until, why in self._timers if until > now]
        return [pod["next"] for pod in self.pods() if pod["next"]] + [why for _, why in self._timers]

    # -- faults ---------------------------------------------------------------------------------------------

    def inject(self, point: str, way: str, callback: str) -> str:
        """See :data:`FAULTS`."""
        done: Way = FAULTS[point][way]
        self._pods = (0.0, [])
        if done.retry_s:
            self._timers.append((time.monotonic() + done.retry_s, f"a retry is due within {done.retry_s:g} s"))
        for rule in done.rules:
            self.client.add_fault(**rule)
        if done.act:
            if (pod := self.pod_of(callback)) is None:
                raise HarnessError(f"There is no pod of the callback {callback} to be {way}.")
            act: Callable[[str, str], Any] = getattr(self.client, done.act)
            act(pod["namespace"], pod["name"], **done.arguments)
            self._pods = (0.0, [])
        return done.text

    def heal(self) -> None:
        """Remove every rule."""
        self.client.clear_faults()
        self._timers = []

    def repair(self, thorough: bool) -> bool:
        """Force out every pod; a new scheduler forgets what it waits for."""
        for pod in self.client.pods():
            self.client.delete(pod["namespace"], pod["name"], grace=0)
        return thorough
