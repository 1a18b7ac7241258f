"""KubernetesBackend at an existing cluster (here: the emulator, as if it were one), and the commands for kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from executor_conformance.backends.kubernetes import kind, preflight, probe
from executor_conformance.backends.kubernetes.backend import KubernetesBackend, split_image
from executor_conformance.backends.kubernetes.cluster import ExistingCluster
from executor_conformance.backends.kubernetes.faults import FAULTS
from executor_conformance.harness.api_server import free_port
from executor_conformance.harness.backend import Options, Site
from executor_conformance.harness.errors import HarnessError, UsageError
from executor_conformance.harness.peers import EVERYWHERE, LOOPBACK, address_for

from tests.kubernetes_emulator.support import Server, serving, wait_for
from tests.test_bad_input import sentence

IMAGE = "registry.example/worker:3"
OTHER = "somebody-elses"
RUN_S = 400  # a bound on a run on a loaded machine; a quiet one takes a twentieth
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
IMAGES: dict[str, Any] = {
    IMAGE: {"env": {"PATH": PATH}, "entrypoint": []},
    "no-python:1": {"env": {"PATH": "/nowhere"}, "entrypoint": []},
    "no-airflow:1": {"env": {"PATH": "/usr/bin:/bin"}, "entrypoint": ["sh", "-c", 'exec python3 -I -S -c "$3"', "-"]},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An emulator with a namespace and a pod of somebody else's."""
    pytest.importorskip("kubernetes", reason="the official Kubernetes client is not installed")
    with serving(tmp_path_factory.mktemp("cluster")) as server:
        server.control.set_images(IMAGES)
        core = server.core()
        core.create_namespace({"metadata": {"name": OTHER}})
        container = {"name": "base", "image": "none:1"}
        core.create_namespaced_pod(OTHER, {"metadata": {"name": "theirs"}, "spec": {"containers": [container]}})
        yield server


@pytest.fixture(autouse=True)
def _allow_everything(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").control.set_access([])


def run_pytest(tmp_path: Path, *arguments: str, collect_only: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the suite as a user would, in an empty folder."""
    command = [sys.executable, "-m", "pytest", "--pyargs", "executor_conformance.suites", "-m", "conformance"]
    command += ["-p", "no:cacheprovider", "-q", "--conformance-report", str(tmp_path / "report"), *arguments]
    command += ["--collect-only"] if collect_only else []
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=RUN_S, check=False)


def ours(server: Server) -> list[str]:
    """Namespaces that a run has made."""
    found = server.core().list_namespace(label_selector=f"{preflight.MANAGED}={preflight.NAME}").items
    return [namespace.metadata.name for namespace in found]


def options(server: Server, **more: str) -> Options:
    given = {"kubeconfig": str(server.kubeconfig), "image": IMAGE, "api_host": "127.0.0.1", **more}
    return Options(substrate="cluster", **given)  # type: ignore[arg-type]


def arguments(given: Options) -> list[str]:
    """For pytest."""
    return [
        *("--conformance-backend", "kubernetes", "--conformance-substrate", "cluster"),
        *("--conformance-kubeconfig", str(given.kubeconfig)),
        *("--conformance-image", str(given.image), "--conformance-api-host", str(given.api_host)),
    ]


# -- an existing cluster -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_smoke_run_leaves_nothing_and_touches_nobody(cluster: Server, tmp_path: Path) -> None:
    before = cluster.core().read_namespaced_pod("theirs", OTHER).metadata
    calls = len(cluster.control.calls(0))
    chosen = ["-k", "(control_group or test_success) and kubernetes-reference"]
    result = run_pytest(tmp_path, *arguments(options(cluster)), *chosen)
    assert result.returncode == 0, result.stdout + result.stderr
    assert ours(cluster) == []
    after = cluster.core().read_namespaced_pod("theirs", OTHER).metadata
    assert (after.uid, after.labels, after.deletion_timestamp) == (before.uid, before.labels, None)
    writes = {"create", "update", "patch", "delete", "deletecollection"}
    made = cluster.control.calls(0)[calls:]
    assert [call for call in made if call["namespace"] == OTHER and call["verb"] in writes] == []
    writes = [call for call in cluster.control.calls() if call["verb"] in ("create", "delete", "patch", "update")]
    touched = {call["namespace"] for call in writes if call["resource"] == "pods" and call["name"] != "theirs"}
    assert len(touched) == 1
    assert all(name.startswith("executor-conformance-") for name in touched)


@pytest.mark.parametrize(
    ("changed", "words", "code"),
    [
        ({"kubeconfig": "missing.yaml"}, "missing.yaml cannot be read (No such file or directory)", 2),
        ({"kubeconfig": "broken.yaml"}, "broken.yaml is broken: ", 2),
        ({"image": "registry.example/none:9"}, "The image registry.example/none:9 cannot be pulled in the cluster", 2),
    ],
    ids=["kubeconfig-missing", "kubeconfig-broken", "image-missing"],
)
def test_wrong_input_is_one_sentence(
    cluster: Server, tmp_path: Path, changed: dict[str, str], words: str, code: int
) -> None:
    (tmp_path / "broken.yaml").write_text("clusters: [\n", "utf-8")
    given = options(cluster, **changed)
    result = run_pytest(tmp_path, *arguments(given), "-k", "test_success", collect_only="image" not in changed)
    assert words in sentence(result)
    assert result.returncode == code
    assert ours(cluster) == []


def test_missing_rights_are_named_together(cluster: Server) -> None:
    denied = [("create", "namespaces"), ("watch", "pods"), ("patch", "pods"), ("get", "pods/log")]
    cluster.control.set_access([{"verb": verb, "resource": what, "namespace": None} for verb, what in denied])
    said = preflight.check(str(cluster.kubeconfig))
    assert said is not None
    assert "may not create namespaces, patch/watch pods, get pods/log; bind the ClusterRole of" in said


def test_no_rights_end_the_run_before_anything_starts(cluster: Server, tmp_path: Path) -> None:
    cluster.control.set_access([{"verb": "*", "resource": "*", "namespace": None}])
    result = run_pytest(tmp_path, *arguments(options(cluster)))
    output = " ".join((result.stdout + result.stderr).split())
    assert "Traceback" not in output
    assert "may not create/delete/list namespaces" in output
    assert result.returncode == 3


def test_a_cluster_that_does_not_answer(tmp_path: Path, cluster: Server) -> None:
    config = json.loads(cluster.kubeconfig.read_text("utf-8"))
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{free_port()}"
    (tmp_path / "config").write_text(json.dumps(config), "utf-8")
    said = preflight.check(str(tmp_path / "config"))
    assert said is not None
    assert "cannot be reached" in said


def test_credentials_that_are_refused(tmp_path: Path, cluster: Server) -> None:
    config = json.loads(cluster.kubeconfig.read_text("utf-8"))
    config["users"][0]["user"]["token"] = "another"
    (tmp_path / "config").write_text(json.dumps(config), "utf-8")
    assert "refuses the credentials" in str(preflight.check(str(tmp_path / "config")))


def test_the_options_that_are_missing_are_named() -> None:
    said = KubernetesBackend.missing(Options(substrate="cluster", image="i"))
    assert said == "the substrate 'cluster' also needs --conformance-kubeconfig and --conformance-api-host"


def test_a_leftover_is_named(cluster: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    core = cluster.core()
    labels = {preflight.MANAGED: preflight.NAME}
    core.create_namespace({"metadata": {"name": "executor-conformance-old", "labels": labels}})
    try:
        assert preflight.look(str(cluster.kubeconfig))["leftovers"] == []  # a run that is on
        monkeypatch.setattr(preflight, "LEFT_OVER_HOURS", -1.0)
        (said,) = preflight.look(str(cluster.kubeconfig))["leftovers"]
        assert "kubectl delete namespace executor-conformance-old" in said
    finally:
        core.delete_namespace("executor-conformance-old")


def test_the_manifest_has_the_rules_that_are_checked() -> None:
    yaml = pytest.importorskip("yaml")
    manifest = yaml.safe_load(Path(preflight.__file__).with_name("rbac.yaml").read_text("utf-8"))
    rules = {rule["resources"][0]: tuple(rule["verbs"]) for rule in manifest["rules"]}
    assert rules == dict(preflight.NEEDED)


# -- its parts, without an environment ---------------------------------------------------------------------------


class Started:
    """An ExistingCluster with its namespace, and the Execution API's health route as a server of this test."""

    def __init__(self, server: Server, folder: Path, **more: str) -> None:
        (folder / "bundle").mkdir()
        env = {"AIRFLOW__CORE__X": "1", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "secret", "HOME": "/h"}
        given = options(server, **more)
        self.site = Site(folder, None, given, KubernetesBackend.variants[0], env=env)  # type: ignore[arg-type]
        self.substrate = ExistingCluster(self.site)
        self.substrate.start()

    def answers(self, url: str) -> None:
        self.site.worker_env = {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": url}


@pytest.fixture
def started(cluster: Server, tmp_path: Path) -> Iterator[Started]:
    found = Started(cluster, tmp_path)
    found.answers(f"http://127.0.0.1:{free_port()}/execution/")
    yield found
    found.substrate.stop()
    assert ours(cluster) == []


def test_api_that_pods_do_not_reach(started: Started) -> None:
    with pytest.raises(UsageError, match=r"Pods do not reach the Execution API at 127\.0\.0\.1 \(.*refused.*api-host"):
        started.substrate.wait_ready()
    assert started.substrate.pods() == []


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("none:1", "cannot be pulled in the cluster"),
        ("no-python:1", "cannot run python"),
        ("no-airflow:1", "has no Airflow beside its python"),
    ],
)
def test_images_that_are_of_no_use(started: Started, image: str, words: str) -> None:
    started.substrate.image = image
    with pytest.raises(UsageError, match=words):
        started.substrate.wait_ready()


def test_no_node(started: Started, cluster: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "UNSCHEDULABLE_S", 0.0)
    cluster.control.add_fault(point="schedule", action={"type": "never"})
    try:
        with pytest.raises(HarnessError, match="The cluster has no node for a worker pod: 0/1 nodes are available"):
            started.substrate.wait_ready()
    finally:
        cluster.control.clear_faults()


def test_template_keeps_secrets_and_the_hosts_paths_out(started: Started) -> None:
    spec = started.substrate.template()["spec"]
    names = {variable["name"] for variable in spec["containers"][0]["env"]}
    assert {"AIRFLOW__CORE__X", "AIRFLOW_HOME", "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"} <= names
    assert not {"HOME", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"} & names
    mounts = {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    assert str(started.site.folder / "bundle") in mounts


def test_faults_that_the_api_allows(started: Started, cluster: Server) -> None:
    substrate = started.substrate
    substrate.inject(FAULTS["accepted-lost"]["never-started"], None)
    assert "nodeSelector" in (substrate.folder / "pod-template.yaml").read_text("utf-8")
    substrate.inject(FAULTS["start-impossible"]["command"], None)
    assert "no-such-command" in (substrate.folder / "pod-template.yaml").read_text("utf-8")
    substrate.heal()
    assert json.loads((substrate.folder / "pod-template.yaml").read_text("utf-8")) == substrate.template()
    spec = {"restartPolicy": "Never", "containers": [{"name": "base", "image": IMAGE, "args": ["sleep", "60"]}]}
    cluster.core().create_namespaced_pod(substrate.namespace, {"metadata": {"name": "p"}, "spec": spec})
    (pod,) = substrate.pods()
    assert pod["next"] == f"the pod p is {pod['phase']}"
    substrate.inject(FAULTS["stopped"]["deleted-by-force"], pod)
    wait_for(lambda: substrate.pods() == [], "the pod is gone")


def test_all_ways_are_known() -> None:
    for point, ways in ExistingCluster.ways.items():
        assert set(ways) <= set(FAULTS[point])


def test_images_versions_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = SimpleNamespace(status=SimpleNamespace(container_statuses=[], reason="Evicted"))
    own = probe.importlib.metadata.version("apache-airflow-core")
    good = {"python": "3.12.1", "airflow": own, "callables": probe.callables_digest(), "api": 200}

    def judged(**changed: Any) -> None:
        probe.judge(pod, f"entrypoint says hello\n{probe.MARK}{json.dumps(good | changed)}\n", "i:1", "h")

    judged()
    for changed, words in (
        ({"airflow": "3.0.0"}, f"has Airflow 3.0.0 and this installation {own}"),
        ({"callables": None}, "lacks the suite's callables"),
        ({"callables": "x"}, "another version of airflow-executor-conformance"),
        ({"api": "timed out"}, r"do not reach the Execution API at h \(timed out\)"),
    ):
        with pytest.raises(UsageError, match=words):
            judged(**changed)
    with pytest.raises(HarnessError, match="ended without an answer"):
        probe.judge(pod, "nothing", "i:1", "h")


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("a/b:1", ("a/b", "1")),
        ("host:5000/b", ("host:5000/b", "latest")),
        ("b@sha256:ff", ("b@sha256", "ff")),
        ("b", ("b", "latest")),
    ],
)
def test_split_image(image: str, parts: tuple[str, str]) -> None:
    assert split_image(image) == parts


@pytest.mark.parametrize(("host", "address"), [(None, LOOPBACK), ("127.0.0.1", LOOPBACK), ("192.0.2.7", EVERYWHERE)])
def test_where_to_listen(host: str | None, address: str) -> None:
    assert address_for(host) == address


# -- kind --------------------------------------------------------------------------------------------------------

NETWORK = [{"IPAM": {"Config": [{"Subnet": "fc00::/64", "Gateway": "fc00::1"}, {"Gateway": "172.18.0.1"}]}}]


class Commands:
    """Takes the place of ``kind.run``: notes each command and answers as the tools do."""

    def __init__(self) -> None:
        self.argv: list[list[str]] = []
        self.clusters = "kind\n"
        self.fails: dict[str, str] = {"docker image inspect": "No such image"}

    def __call__(self, argv: list[str], seconds: float, cwd: Path | None = None, always: bool = False) -> str:
        self.argv.append(list(argv))
        line = " ".join(argv)
        for beginning, message in self.fails.items():
            if line.startswith(beginning):
                raise kind.CommandFailed(f"'{beginning}' failed: {message}.")
        answers = {"docker network": json.dumps(NETWORK), "docker info": "Debian\n", "kind get": self.clusters}
        return next((answer for beginning, answer in answers.items() if line.startswith(beginning)), "")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    found = Commands()
    monkeypatch.setattr(kind, "run", found)
    monkeypatch.setattr(kind.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv(kind.CLUSTER, raising=False)
    monkeypatch.setattr(ExistingCluster, "start", lambda self: None)
    return found


def kind_cluster(folder: Path, **given: str) -> kind.KindCluster:
    site = Site(folder, None, Options(substrate="docker", **given), KubernetesBackend.variants[0])  # type: ignore[arg-type]
    return kind.KindCluster(site)


def test_kind_makes_builds_loads_and_deletes(commands: Commands, tmp_path: Path) -> None:
    cluster = kind_cluster(tmp_path)
    assert cluster.api_host() == "172.18.0.1"
    cluster.start()
    cluster.stop()
    cluster.stop()
    name, file = f"executor-conformance-{os.getpid()}", str(tmp_path / "kubernetes" / "kubeconfig")
    assert cluster.image.startswith("executor-conformance-worker:")
    assert commands.argv == [
        ["kind", "create", "cluster", "--name", name, "--wait", "120s", "--kubeconfig", file],
        ["docker", "info", "--format", "{{.OperatingSystem}}"],
        ["docker", "network", "inspect", "kind"],
        ["docker", "image", "inspect", "--format", "{{.Id}}", cluster.image],
        ["docker", "build", "--tag", cluster.image, "."],
        ["kind", "load", "docker-image", cluster.image, "--name", name],
        ["kind", "delete", "cluster", "--name", name, "--kubeconfig", file],
    ]


def test_kind_reuses_the_cluster_of_a_kubeconfig(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("current-context: kind-mine\n", "utf-8")
    cluster = kind_cluster(tmp_path, kubeconfig=str(file), image="mine:1", api_host="10.0.0.1")
    cluster.start()
    cluster.stop()
    assert commands.argv == [["kind", "load", "docker-image", "mine:1", "--name", "mine"]]
    file.write_text("current-context: production\n", "utf-8")
    with pytest.raises(UsageError, match="is of no kind cluster"):
        kind_cluster(tmp_path, kubeconfig=str(file)).api_host()


def test_kind_uses_the_cluster_that_the_variable_names(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kind.CLUSTER, "kind")
    cluster = kind_cluster(tmp_path)
    cluster.api_host()
    cluster.stop()
    file = str(tmp_path / "kubernetes" / "kubeconfig")
    assert commands.argv[1] == ["kind", "export", "kubeconfig", "--name", "kind", "--kubeconfig", file]
    assert not [argv for argv in commands.argv if "delete" in argv]
    monkeypatch.setenv(kind.CLUSTER, "none")
    with pytest.raises(UsageError, match="There is no kind cluster 'none'"):
        kind_cluster(tmp_path).api_host()


def test_kind_says_what_is_missing(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    docker = Options(substrate="docker")
    assert KubernetesBackend.missing(docker) is None
    commands.clusters = "executor-conformance-999999999\n"
    with pytest.warns(UserWarning, match="kind delete cluster --name executor-conformance-999999999"):
        KubernetesBackend.missing(docker)
    commands.fails["docker info"] = "Cannot connect to the Docker daemon"
    assert "no docker engine answers" in str(KubernetesBackend.missing(docker))
    monkeypatch.setattr(kind.shutil, "which", lambda name: None)
    assert "'kind' is not on the PATH" in str(KubernetesBackend.missing(docker))


def test_a_failing_command_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(kind.CommandFailed, match=r"^'sh -c .*' failed: second line\.$"):
        kind.run(["sh", "-c", "echo first; echo second line >&2; exit 1"], 10)
    with pytest.raises(kind.CommandFailed, match="cannot be run: No such file"):
        kind.run([str(tmp_path / "none")], 10)
    with pytest.raises(kind.CommandFailed, match="did not end within"):
        kind.run(["sleep", "10"], 0.1)


def test_the_image_has_the_same_versions(tmp_path: Path) -> None:
    kind.write_context(tmp_path)
    own = probe.importlib.metadata.version("apache-airflow-core")
    text = (tmp_path / "Dockerfile").read_text("utf-8")
    assert text.startswith(f"FROM python:{sys.version_info.major}.{sys.version_info.minor}-slim\n")
    assert f"apache-airflow-core=={own}" in text
    assert f"apache-airflow-core=={own}\n" in (tmp_path / "constraints.txt").read_text("utf-8")
    package = tmp_path / "executor_conformance"
    assert (package / "suites" / "bundle" / "conformance_dag.py").exists()
    assert (package / "harness" / "codec.py").exists()
    assert kind.digest_of(tmp_path) == kind.digest_of(tmp_path)
