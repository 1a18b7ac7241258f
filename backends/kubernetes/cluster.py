"""A cluster that exists: a namespace of our own in it, a probe pod, and what its API lets us see and do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from executor_conformance.backends.emulation import Way
from executor_conformance.backends.kubernetes import preflight, probe
from executor_conformance.backends.kubernetes.faults import FAULTS
from executor_conformance.backends.kubernetes.preflight import MANAGED, NAME, TIMEOUT, why_not
from executor_conformance.backends.kubernetes.substrate import SECRET, Substrate, variables
from executor_conformance.harness.backend import Options, Site
from executor_conformance.harness.errors import HarnessError

LABELS = {MANAGED: NAME}
OF_THE_HOST = (
    *("PATH", "HOME", "USER", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONPYCACHEPREFIX", "TZ"),
    *("AIRFLOW__CORE__EXECUTOR", "EXECUTOR_CONFORMANCE_FINGERPRINT_KEY"),
    *("EXECUTOR_CONFORMANCE_PRELOAD", "EXECUTOR_CONFORMANCE_SUBJECT"),
)
"""Variables of the processes of this host that mean nothing, or too much, in an image."""
SHIP = """
import importlib.util, os, shutil, sys
folder = importlib.util.find_spec("executor_conformance.suites.bundle").submodule_search_locations[0]
target = os.path.join(sys.argv[1], "conformance_dag.py")
shutil.copyfile(os.path.join(folder, "conformance_dag.py"), f"{target}.{os.getpid()}")
os.replace(f"{target}.{os.getpid()}", target)
"""
"""Puts the Dag file where the host has it: the names of its callables hold a digest of the path."""
ACCOUNT_S = 15.0
"""In so long a new namespace gets its default service account, without which no pod can be created in it."""


class ExistingCluster(Substrate):
    """A cluster of the user's: a namespace with a generated name is all that is made, and all that is touched."""

    on_this_host = False
    victims: ClassVar[frozenset[str]] = frozenset()
    ways = {
        "accepted-lost": ("never-started",),
        "start-impossible": ("command",),
        "stopped-before-start": ("deleted",),
        "stopped": ("deleted", "deleted-by-force"),
    }
    request_timeout = (5, 15)
    launch_timeout_s = 90

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.control_plane = "Kubernetes API server"
        self.image = site.options.image or ""
        self.kubeconfig = Path(site.options.kubeconfig or "")
        self.namespace = ""
        self._uid = ""
        self._node = ""
        self._stopped = False
        self._core: Any = None

    @property
    def data_plane(self) -> str:  # type: ignore[override]
        """The image, for the report."""
        return f"pods of the image {self.image} in the cluster"

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """The three options, and what a look at the cluster finds."""
        given = {"kubeconfig": options.kubeconfig, "image": options.image, "api-host": options.api_host}
        if absent := [f"--conformance-{name}" for name, value in given.items() if not value]:
            return f"the substrate 'cluster' also needs {' and '.join(absent)}"
        if "PYTEST_XDIST_WORKER" in os.environ:
            return None  # the controller has looked
        return preflight.check(str(options.kubeconfig))

    # -- start and end --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Create the namespace.

        :raises HarnessError: the cluster refuses it.
        """
        if self.namespace:
            return
        from kubernetes import client

        self.folder.mkdir(parents=True, exist_ok=True)
        api = preflight.api_client(str(self.kubeconfig))
        self._core = client.CoreV1Api(api)
        body = {"metadata": {"generateName": f"{NAME}-", "labels": LABELS}}
        made = self._asked("create a namespace", self._core.create_namespace, body)
        self._uid, self.namespace = made.metadata.uid, made.metadata.name
        if self._stopped:  # meanwhile, by Ctrl-C
            self.stop()
            raise HarnessError("The run was ended while its namespace was being created.")
        version = self._asked("tell its version", client.VersionApi(api).get_code)
        self.control_plane = f"Kubernetes API server {version.git_version}"

    def stop(self) -> None:
        """Delete the namespace, and all in it: this one and no other of the same name."""
        self._stopped = True
        if not self._uid:
            return
        uid, self._uid = self._uid, ""
        try:
            self.clear()
        finally:
            body = {"preconditions": {"uid": uid}}
            self._asked(
                f"delete the namespace {self.namespace}", self._core.delete_namespace, self.namespace, body=body
            )

    def _asked(self, what: str, call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return call(*arguments, _request_timeout=TIMEOUT, **more)
        except (ApiException, HTTPError) as error:
            raise HarnessError(f"The cluster does not {what}: {why_not(error)}.") from None

    # -- worker pods ----------------------------------------------------------------------------------------

    def template(self) -> dict[str, Any]:
        """With the settings of this run, as far as they mean something in a pod, and folders for what it writes."""
        home = str(self.site.folder / "pod")  # also where pods are processes of this host: it goes with the run
        bundle = str(self.site.folder / "bundle")
        settings = {
            name: value
            for name, value in self.site.env.items()
            if name not in OF_THE_HOST and not name.startswith(SECRET)
        }
        settings |= {
            "TMPDIR": home,
            "AIRFLOW_HOME": f"{home}/home",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": f"{home}/logs",
        }
        settings |= self.site.worker_env
        mounts = [{"name": "bundle", "mountPath": bundle}, {"name": "pod", "mountPath": home}]
        ship = {"name": "dags", "image": self.image, "args": ["python", "-c", SHIP, bundle], "volumeMounts": mounts}
        base = {"name": "base", "image": self.image, "env": variables(settings), "volumeMounts": mounts}
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "initContainers": [ship],
            "containers": [base],
            "volumes": [{"name": mount["name"], "emptyDir": {}} for mount in mounts],
        }
        if self._node:
            # The probe's node has pulled the image; on another the pull would count as the executor's time
            term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [self._node]}]}
            required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
            spec["affinity"] = {"nodeAffinity": required}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worker", "labels": LABELS}, "spec": spec}

    def wait_ready(self) -> None:
        """Run the probe pod; see :mod:`probe` for what it raises."""
        (self.site.folder / "pod").mkdir(exist_ok=True)
        url = self.site.worker_env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]
        pod = {
            "metadata": {"name": "conformance-probe", "labels": LABELS},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "containers": [probe.container(self.image, url)],
            },
        }
        self._create_probe(pod)
        name = "conformance-probe"

        def read() -> Any:
            return self._asked("show the probe pod", self._core.read_namespaced_pod, name, self.namespace)

        try:
            ended = probe.wait_for_end(read, self.image)
            # As bytes: the official client makes a JSON document of text that looks like one
            log = self._asked(
                "give the probe's log",
                self._core.read_namespaced_pod_log,
                *(name, self.namespace),
                _preload_content=False,
            ).data.decode("utf-8", "replace")
        finally:
            self._delete(name, 0)
        probe.judge(ended, log, self.image, str(self.api_host()))
        self._node = ended.spec.node_name or ""
        self.write_template()

    def _create_probe(self, pod: dict[str, Any]) -> None:
        from kubernetes.client import ApiException

        deadline = time.monotonic() + ACCOUNT_S
        while True:
            try:
                self._core.create_namespaced_pod(self.namespace, pod, _request_timeout=TIMEOUT)
                return
            except ApiException as error:
                said = why_not(error)
                if "serviceaccount" not in said.lower() or time.monotonic() > deadline:
                    raise HarnessError(f"The cluster does not create the probe pod: {said}.") from None
            time.sleep(0.1)

    # -- seeing and doing -----------------------------------------------------------------------------------

    def pods(self) -> list[dict[str, Any]]:
        """As the API server lists them; one that is not over is something that may still happen."""
        listed = self._asked("list pods", self._core.list_namespaced_pod, self.namespace).items
        listed.sort(key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name))
        return [
            {
                "namespace": self.namespace,
                "name": pod.metadata.name,
                "phase": pod.status.phase,
                "labels": pod.metadata.labels or {},
                "annotations": pod.metadata.annotations or {},
                "next": ""
                if pod.status.phase in ("Succeeded", "Failed")
                else f"the pod {pod.metadata.name} is {pod.status.phase}",
            }
            for pod in listed
        ]

    def manifests(self) -> list[dict[str, Any]]:
        """As the API server lists them."""
        listed = self._asked("list pods", self._core.list_namespaced_pod, self.namespace)
        found: list[dict[str, Any]] = self._core.api_client.sanitize_for_serialization(listed)["items"]
        return found

    def inject(self, way: Way, pod: dict[str, Any] | None) -> None:
        """By a deletion, or by the pod template, which the executor reads for each pod."""
        if way.act == "delete" and pod:
            self._delete(pod["name"], way.arguments["grace"])
            return
        document = self.template()
        if way is FAULTS["accepted-lost"]["never-started"]:
            document["spec"]["nodeSelector"] = {f"{NAME}/no-node-has-this": "true"}
        elif way is FAULTS["start-impossible"]["command"]:
            document["spec"]["containers"][0]["command"] = ["/executor-conformance/no-such-command"]
        self.write_template(document)

    def _delete(self, name: str, grace: int) -> None:
        from kubernetes.client import ApiException

        try:
            self._core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=grace, _request_timeout=TIMEOUT)
        except ApiException as error:
            if error.status != 404:
                raise HarnessError(f"The cluster does not delete the pod {name}: {why_not(error)}.") from None

    def heal(self) -> None:
        """The pod template as it was."""
        self.write_template()

    def clear(self) -> None:
        """Delete every pod of the namespace with no grace."""
        for pod in self.pods():
            self._delete(pod["name"], 0)
