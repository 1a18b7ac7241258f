"""The environment of KubernetesExecutor and its subclasses."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from executor_conformance.backends.emulation import Timers, Way, reported_of
from executor_conformance.backends.kubernetes.cluster import ExistingCluster
from executor_conformance.backends.kubernetes.faults import FAULTS, FURTHER
from executor_conformance.backends.kubernetes.kind import KindCluster
from executor_conformance.backends.kubernetes.substrate import LAUNCH_TIMEOUT_S, EmulatedCluster, Substrate
from executor_conformance.harness.backend import Backend, Delivery, Options, Site, Variant, installed
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess

SUBSTRATES: dict[str, type[Substrate]] = {
    "process": EmulatedCluster,
    "docker": KindCluster,
    "cluster": ExistingCluster,
}
PUBLISH_RETRIES = 3
RECONCILE_S = 2
DEAD_SCHEDULER_S = 5
"""After so long without a heartbeat, the pods of another scheduler may be adopted."""


class KubernetesBackend(Backend):
    """KubernetesExecutor at a cluster: by default an emulated one, whose containers are host processes."""

    name: ClassVar[str] = "kubernetes"
    carriers: ClassVar = {"pod:spec.containers.args": "the arguments in the pod's specification"}
    executor: ClassVar[str] = "airflow.providers.cncf.kubernetes.executors.kubernetes_executor.KubernetesExecutor"
    variants: ClassVar = (
        Variant("kubernetes", smoke=True, also=("test_leaves_others_alone",), note="as released"),
        Variant(
            "kubernetes-reference",
            note="the reference executor: KubernetesExecutor with callbacks in pods",
            executor="executor_conformance.backends.kubernetes.reference.KubernetesCallbackExecutor",
            patience_s=LAUNCH_TIMEOUT_S + 2 * RECONCILE_S,
        ),
    )
    stands_alone: ClassVar = True
    polls_s: ClassVar = RECONCILE_S
    calls_per_workload: ClassVar = {"create pods": 1.25, "delete pods": 1.5, "patch pods": 2}
    crowd = 10
    faults: ClassVar[Mapping[str, Sequence[str]]] = {point: tuple(ways) for point, ways in FAULTS.items()}
    further: ClassVar = FURTHER
    unreachable: ClassVar = {"redelivery": "The containers of a pod whose restartPolicy is Never are started once."}

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.substrate = SUBSTRATES[site.options.substrate](site)
        self.victims = self.substrate.victims  # type: ignore[misc]
        self.faults = self.substrate.ways  # type: ignore[misc]
        self.on_this_host = self.substrate.on_this_host
        self._pods: tuple[float, list[dict[str, Any]]] = (0.0, [])
        self._timers = Timers()
        self._foreign_keys: list[str] = []

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """The cncf-kubernetes provider, and what the substrate needs."""
        if not installed("apache-airflow-providers-cncf-kubernetes"):
            return (
                "the distribution apache-airflow-providers-cncf-kubernetes is not installed; "
                "install it with pip install 'airflow-executor-conformance[kubernetes]'"
            )
        return SUBSTRATES[options.substrate].missing(options)

    @property
    def control_plane(self) -> str:
        """Of the substrate."""
        return self.substrate.control_plane

    @property
    def data_plane(self) -> str:
        """Of the substrate."""
        return self.substrate.data_plane

    # -- start ----------------------------------------------------------------------------------------------

    def api_host(self) -> str | None:
        """Of the substrate."""
        return self.substrate.api_host()

    def config(self) -> dict[str, str]:
        """Start the substrate, for its address is part of the configuration."""
        self.substrate.start()
        repository, tag = split_image(self.substrate.image)
        section = "AIRFLOW__KUBERNETES_EXECUTOR__"
        return {
            f"{section}IN_CLUSTER": "False",
            f"{section}CONFIG_FILE": str(self.substrate.kubeconfig),
            f"{section}NAMESPACE": self.substrate.namespace,
            f"{section}POD_TEMPLATE_FILE": str(self.substrate.folder / "pod-template.yaml"),
            f"{section}WORKER_CONTAINER_REPOSITORY": repository,
            f"{section}WORKER_CONTAINER_TAG": tag,
            f"{section}WORKER_PODS_CREATION_BATCH_SIZE": "16",
            f"{section}TASK_PUBLISH_MAX_RETRIES": str(PUBLISH_RETRIES),
            # Without it a request that is never answered blocks the scheduler for good
            f"{section}KUBE_CLIENT_REQUEST_ARGS": json.dumps({"_request_timeout": self.substrate.request_timeout}),
            # urllib3 repeats a request without an answer three times, each with the full time limit
            f"{section}API_CLIENT_RETRY_CONFIGURATION": json.dumps({"total": 0}),
            f"{section}CALLBACK_RECONCILE_INTERVAL": str(RECONCILE_S),
            f"{section}CALLBACK_LAUNCH_TIMEOUT": str(self.substrate.launch_timeout_s),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": str(DEAD_SCHEDULER_S),
        }

    def start(self) -> None:
        """Write the pod template: a deployment's settings reach its workers by it."""
        self.substrate.write_template()

    def wait_ready(self) -> None:
        """Of the substrate."""
        self.substrate.wait_ready()

    def stand_alone(self) -> list[str]:
        """Where the kubeconfig is."""
        return [f"kubectl --kubeconfig {self.substrate.kubeconfig} get pods"]

    def renew_workers(self) -> bool | None:
        """By the substrate."""
        return self.substrate.renew_workers()

    def execute_workers(self, always: bool) -> None:
        """By the substrate."""
        self.substrate.execute_workers(always)

    def stop(self) -> None:
        """Of the substrate."""
        self.substrate.stop()

    # -- seeing ---------------------------------------------------------------------------------------------

    def nodes(self) -> list[ManagedProcess]:
        """Of the substrate."""
        return self.substrate.nodes()

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Of the substrate."""
        return self.substrate.units(processes)

    def pods(self) -> list[dict[str, Any]]:
        """Pods as the control plane knows them, at most a tenth of a second old."""
        seen, pods = self._pods
        if time.monotonic() - seen > 0.1:
            pods = self.substrate.pods()
            self._pods = (time.monotonic(), pods)
        return pods

    def submissions(self) -> list[tuple[str, Any]]:
        """The pods as they are stored, status included."""
        return [("pod", manifest) for manifest in self.substrate.manifests()]

    def deliveries(self, workload: str) -> list[Delivery] | None:
        """By the substrate."""
        return self.substrate.deliveries(workload)

    def calls(self) -> Mapping[str, int] | None:
        """By the substrate."""
        return self.substrate.calls()

    def timers(self) -> Mapping[str, float]:
        """Of what :meth:`config` sets."""
        request, launch = sum(self.substrate.request_timeout), self.substrate.launch_timeout_s
        return {
            "timeout of a request": request,
            "all tries to create a pod": (1 + PUBLISH_RETRIES) * request,
            "launch timeout": launch,
            "reconcile interval": RECONCILE_S,
            "end of a pod that does not start": launch + 2 * RECONCILE_S,
            "adoption of the pods of a dead scheduler": DEAD_SCHEDULER_S + RECONCILE_S,
        }

    def plant_foreign(self) -> list[str]:
        """By the substrate."""
        planted, self._foreign_keys = self.substrate.plant_foreign()
        return planted

    def foreign_touched(self) -> list[str]:
        """By the substrate; and what the executor has reported of the other deployment's workloads."""
        return self.substrate.foreign_touched() + reported_of(self._foreign_keys, self.site)

    def remove_foreign(self) -> None:
        """By the substrate."""
        self.substrate.remove_foreign()

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
        return [pod["next"] for pod in self.pods() if pod["next"]] + self._timers.pending()

    # -- faults ---------------------------------------------------------------------------------------------

    def inject(self, point: str, way: str, callback: str) -> str:
        """See :data:`FAULTS`."""
        done: Way = FAULTS[point][way]
        self._pods = (0.0, [])
        self._timers.note(done)
        pod = self.pod_of(callback) if done.act else None
        if done.act and pod is None:
            raise HarnessError(f"There is no pod of the callback {callback} to be {way}.")
        self.substrate.inject(done, pod)
        self._pods = (0.0, [])
        return done.text

    def hits(self) -> int | None:
        """By the substrate."""
        return self.substrate.hits()

    def heal(self) -> None:
        """Take back every fault."""
        self.substrate.heal()
        self._timers.clear()

    def lost(self) -> str:
        """What of the cluster has ended, if it is an emulated one."""
        return self.substrate.lost()

    def repair(self, thorough: bool) -> bool:
        """Force out every pod; a new scheduler forgets what it waits for."""
        self.substrate.clear()
        self._pods = (0.0, [])
        return thorough


def split_image(image: str) -> tuple[str, str]:
    """Repository and tag, which the executor joins with a colon; a digest is taken apart at its own."""
    repository, colon, tag = image.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (image, "latest")
