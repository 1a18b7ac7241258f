"""A cluster of kind: made with docker for the run, or one of the user's; the worker image is built and loaded."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from executor_conformance.backends.commands import CommandFailed, run
from executor_conformance.backends.kubernetes.cluster import ExistingCluster
from executor_conformance.harness.backend import Options, Site
from executor_conformance.harness.errors import HarnessError, UsageError

PREFIX = "executor-conformance-"
CLUSTER = "EXECUTOR_CONFORMANCE_KIND_CLUSTER"
"""Names a cluster of kind to use; it is not deleted at the end."""
QUERY_S, CREATE_S, BUILD_S, LOAD_S = 20, 300, 1800, 600
REQUIRED = ("apache-airflow-core", "apache-airflow-task-sdk", "apache-airflow-providers-standard")
"""What a worker needs of Airflow."""
PACKAGE = "executor_conformance"


class KindCluster(ExistingCluster):
    """One of ``--conformance-kubeconfig``, of the variable CLUSTER, or a new one that is deleted at the end."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.name = ""
        self._own = False
        self._host = ""
        if not site.options.kubeconfig:
            self.kubeconfig = self.folder / "kubeconfig"

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """The command kind, and a docker engine; clusters that killed runs left become warnings.

        :raises UsageError: the kubeconfig cannot be read.
        """
        if shutil.which("kind") is None:
            return "the command 'kind' is not on the PATH (https://kind.sigs.k8s.io)"
        if shutil.which("docker") is None:
            return "the command 'docker' is not on the PATH, and kind needs it"
        try:
            run(["docker", "info", "--format", "{{.OperatingSystem}}"], QUERY_S)
        except CommandFailed as error:
            return f"no docker engine answers ({str(error).rstrip('.')})"
        if options.kubeconfig and not os.access(options.kubeconfig, os.R_OK):
            raise UsageError(f"The kubeconfig {options.kubeconfig} cannot be read; correct --conformance-kubeconfig.")
        if "PYTEST_XDIST_WORKER" not in os.environ:
            for name in _left_over(run(["kind", "get", "clusters"], QUERY_S).split()):
                warnings.warn(
                    f"The kind cluster {name} was left by a run that was killed; "
                    f"delete it with: kind delete cluster --name {name}",
                    stacklevel=2,
                )
        return None

    # -- the cluster ----------------------------------------------------------------------------------------

    def api_host(self) -> str:
        """The gateway of kind's network, which is this host; ``host.docker.internal`` with Docker Desktop.

        The cluster is made first, for its network comes with it.

        :raises HarnessError: kind or docker failed.
        """
        if not self._host:
            self._ensure_cluster()
            self._host = self.site.options.api_host or self._gateway()
        return self._host

    def _ensure_cluster(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = str(self.kubeconfig)
        if self.site.options.kubeconfig:
            self.name = _cluster_of(file)
            return
        if name := os.environ.get(CLUSTER):
            if name not in run(["kind", "get", "clusters"], QUERY_S).split():
                raise UsageError(f"There is no kind cluster '{name}', which {CLUSTER} names.")
            self.name = name
            run(["kind", "export", "kubeconfig", "--name", name, "--kubeconfig", file], QUERY_S)
            return
        self.name, self._own = f"{PREFIX}{os.getpid()}", True
        run(["kind", "create", "cluster", "--name", self.name, "--wait", "120s", "--kubeconfig", file], CREATE_S)
        if self._stopped:  # meanwhile, by Ctrl-C
            self.stop()
            raise HarnessError("The run was ended while its kind cluster was being created.")

    def _gateway(self) -> str:
        if "Docker Desktop" in run(["docker", "info", "--format", "{{.OperatingSystem}}"], QUERY_S):
            return "host.docker.internal"
        networks = json.loads(run(["docker", "network", "inspect", "kind"], QUERY_S))
        configured = [entry for network in networks for entry in (network.get("IPAM") or {}).get("Config") or ()]
        found = [entry["Gateway"] for entry in configured if re.fullmatch(r"[\d.]+", entry.get("Gateway") or "")]
        if not found:
            raise HarnessError("The docker network 'kind' has no IPv4 gateway; give --conformance-api-host.")
        return found[0]

    def start(self) -> None:
        """Build the image, unless one was given or it is there already; load it; then as with any cluster."""
        if self.namespace:
            return
        self.api_host()
        if not self.image:
            self.image = self._build()
        run(["kind", "load", "docker-image", self.image, "--name", self.name], LOAD_S)
        super().start()

    def _build(self) -> str:
        folder = self.folder / "image"
        write_context(folder)
        image = f"executor-conformance-worker:{digest_of(folder)}"
        try:
            run(["docker", "image", "inspect", "--format", "{{.Id}}", image], QUERY_S)
        except CommandFailed:
            run(["docker", "build", "--tag", image, "."], BUILD_S, cwd=folder)
        return image

    def stop(self) -> None:
        """Delete the cluster, if it was made for the run; else the namespace."""
        self._stopped = True
        if not self._own:
            super().stop()
            return
        self._own = False
        gone = ["kind", "delete", "cluster", "--name", self.name, "--kubeconfig", str(self.kubeconfig)]
        run(gone, CREATE_S, always=True)


def _cluster_of(kubeconfig: str) -> str:
    """The cluster of kind that a kubeconfig's current context is of.

    :raises UsageError: it is of none.
    """
    try:
        found = re.search(r"(?m)^current-context:\s*[\"']?kind-([\w.-]+)", Path(kubeconfig).read_text("utf-8"))
    except (OSError, UnicodeDecodeError):
        found = None
    if not found:
        raise UsageError(
            f"The current context of the kubeconfig {kubeconfig} is of no kind cluster ('kind-NAME'); "
            "for another cluster use --conformance-substrate cluster."
        )
    return found[1]


def _left_over(clusters: Sequence[str]) -> list[str]:
    """Those of runs whose process is no longer there."""
    found = []
    for name in clusters:
        number = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and number.isdigit() and not Path(f"/proc/{number}").exists():
            found.append(name)
    return found


# -- the worker image --------------------------------------------------------------------------------------------


def dockerfile() -> str:
    """Of the worker image: the versions of the running interpreter and of what is installed beside it."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = [f"{name}=={version}" for name, version in _installed() if name in REQUIRED]
    return (
        f"FROM python:{python}-slim\n"
        "COPY constraints.txt /tmp/constraints.txt\n"
        f"RUN pip install --no-cache-dir -c /tmp/constraints.txt {' '.join(wanted)}\n"
        f"COPY {PACKAGE} /opt/conformance/{PACKAGE}\n"
        "ENV PYTHONPATH=/opt/conformance PYTHONUNBUFFERED=1\n"
    )


def constraints() -> str:
    """What is installed here, as far as an index can have it: no local versions."""
    return "".join(f"{name}=={version}\n" for name, version in _installed() if "+" not in version)


def _installed() -> list[tuple[str, str]]:
    found = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name and name != "airflow-executor-conformance":
            found[name] = distribution.version
    return sorted(found.items())


def write_context(folder: Path) -> None:
    """What ``docker build`` gets: Dockerfile, constraints, and what workers import of this package."""
    from executor_conformance import harness, suites

    for name, module in (("harness", harness), ("suites", suites)):
        source = Path(inspect.getfile(module)).parent
        ignored = shutil.ignore_patterns("__pycache__", "test_*.py")
        shutil.copytree(source, folder / PACKAGE / name, ignore=ignored, dirs_exist_ok=True)
    (folder / "constraints.txt").write_text(constraints(), "utf-8")
    (folder / "Dockerfile").write_text(dockerfile(), "utf-8")


def digest_of(folder: Path) -> str:
    """Of all files below, so that the same content has the same tag, and another has another."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()[:12]
