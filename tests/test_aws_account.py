"""An AWS account as a substrate: bad input in a sentence each, and end to end with the emulator as if it were AWS."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from executor_conformance.backends.aws import preflight, probe
from executor_conformance.backends.aws.account import ExistingAccount
from executor_conformance.backends.aws.account_file import LEAST_SETTLE_S, load, problems
from executor_conformance.backends.aws.account_services import BatchAccount, EcsAccount, LambdaAccount, merged
from executor_conformance.backends.aws.batch import WAYS as BATCH_WAYS
from executor_conformance.backends.aws.ecs import SECTION, EcsBackend
from executor_conformance.backends.aws.ecs import WAYS as ECS_WAYS
from executor_conformance.backends.aws.emulator.client import EmulatorClient
from executor_conformance.backends.aws.lambda_ import LambdaBackend
from executor_conformance.harness.backend import Options, Site, Variant
from executor_conformance.harness.errors import HarnessError, UsageError
from executor_conformance.harness.settings import bytecode_cache

from tests.test_bad_input import run_pytest, sentence

RUN_S = 600  # a bound on a run on a loaded machine
ACCOUNT = "123456789012"
SECTIONS = {
    "ecs": 'cluster = "conformance"\ntask_definition = "conformance"\ncontainer_name = "conformance"\n',
    "batch": 'job_queue = "conformance"\njob_definition = "conformance"\n',
    "lambda": 'function_name = "conformance"\n',
}
SERVICES = list(SECTIONS)


def written(
    folder: Path, endpoint: str = "http://127.0.0.1:1", account: str = ACCOUNT, more: str = "", **changed: str
) -> str:
    """A complete file; ``changed`` replaces sections."""
    text = f'account = "{account}"\nregion = "us-east-1"\nendpoint_url = "{endpoint}"\n{more}'
    text += "".join(f"[{name}]\n{section}" for name, section in {**SECTIONS, **changed}.items())
    path = folder / "aws.toml"
    path.write_text(text, "utf-8")
    return str(path)


# -- the file ----------------------------------------------------------------------------------------------------


def test_each_missing_thing_is_a_sentence(tmp_path: Path) -> None:
    said = problems({}, "ecs", "aws.toml")
    assert len(said) == 5
    for words in ("the account", "the region", "the cluster", "the task definition", "the container"):
        assert sum(words in sentence and sentence.endswith(".") for sentence in said) >= 1
    assert len(problems({"account": ACCOUNT, "region": "r", "batch": {"job_queue": "q"}}, "batch", "f")) == 1


@pytest.mark.parametrize(
    ("more", "changed", "words"),
    [
        ("colour = 1\n", {}, "has the unknown entry 'colour'"),
        ("settle_s = 60\n", {}, "it is at least 210 seconds"),
        ("profile = 3\n", {}, "gives profile as no text in quotes"),
        ("", {"ecs": SECTIONS["ecs"] + "subnet = 'a'\n"}, "has the unknown entry 'subnet' in [ecs]"),
        ("", {"ecs": SECTIONS["ecs"] + "subnets = 'a'\n"}, "gives subnets in [ecs] as no list"),
        ("", {"ecs": ""}, "does not name the cluster (cluster in [ecs])"),
        (
            "",
            {"ecs": SECTIONS["ecs"] + "launch_type = 'EC2'\ncapacity_provider_strategy = []\n"},
            "both launch_type and capacity_provider_strategy",
        ),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, more: str, changed: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(written(tmp_path, more=more, **changed), "ecs")
    assert words in str(caught.value)


def test_accounts_are_twelve_digits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no number of twelve digits"):
        load(written(tmp_path, account="12345"), "ecs")


def test_a_file_that_is_complete(tmp_path: Path) -> None:
    for service in SERVICES:
        file = load(written(tmp_path), service)
        assert (file.account, file.region) == (ACCOUNT, "us-east-1")
        assert "at the endpoint http://127.0.0.1:1" in file.place


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "The substrate 'cluster' of ecs also needs --conformance-aws. The substrate 'cluster' of ecs also needs"),
        (["--conformance-aws", "none.toml", "--conformance-api-host", "h"], "none.toml cannot be read (No such file"),
        (["--conformance-aws", "bad.toml", "--conformance-api-host", "h"], "is not TOML"),
        (["--conformance-aws", "empty.toml", "--conformance-api-host", "h"], "does not name the account"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "bad.toml").write_text("account = \n", "utf-8")
    (tmp_path / "empty.toml").write_text("", "utf-8")
    chosen = ["--conformance-backend", "ecs", "--conformance-substrate", "cluster"]
    result = run_pytest(tmp_path, *chosen, *arguments)
    assert words in sentence(result)
    assert result.returncode == 2


# -- the account, which is the emulator --------------------------------------------------------------------------


class Aws:
    """An emulator that stands in for AWS, and a file that names it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url = url
        self.folder = folder
        self.file = written(folder, url)
        self.control = EmulatorClient.from_folder(folder / "emulator")

    def client(self, service: str) -> Any:
        import boto3

        return boto3.client(service, endpoint_url=self.url, region_name="us-east-1")

    def left(self) -> list[str]:
        """Names of what a run has made and not removed."""
        found = self.client("ecs").list_task_definitions(status="ACTIVE")["taskDefinitionArns"]
        jobs = self.client("batch").describe_job_definitions(status="ACTIVE")["jobDefinitions"]
        found += [job["jobDefinitionArn"] for job in jobs]
        found += [one["FunctionArn"] for one in self.client("lambda").list_functions()["Functions"]]
        found += self.client("sqs").list_queues().get("QueueUrls", [])
        return [name for name in found if preflight.PREFIX in name]


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    pytest.importorskip("moto", reason="moto is not installed")
    folder = tmp_path_factory.mktemp("aws")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    image = {"env": {"PATH": path, "PYTHONPYCACHEPREFIX": bytecode_cache()}}
    (folder / "images.json").write_text(json.dumps({"conformance-worker": image}), "utf-8")
    command = [sys.executable, "-m", "executor_conformance.backends.aws.emulator", "--folder", str(folder / "emulator")]
    process = subprocess.Popen([*command, "--images", str(folder / "images.json"), "--stop-timeout", "1"])
    try:
        deadline = time.monotonic() + 120
        while not (folder / "emulator" / "ready.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            yield Aws(folder, json.loads((folder / "emulator" / "ready.json").read_text())["url"])
    finally:
        process.terminate()
        process.wait(20)


def look(path: str, service: str) -> dict[str, Any]:
    return preflight.look(load(path, service), service)


@pytest.mark.parametrize("service", SERVICES)
def test_an_account_that_has_everything(aws: Aws, service: str) -> None:
    assert look(aws.file, service) == {"wrong": [], "unavailable": None, "leftovers": []}


def test_another_account(aws: Aws, tmp_path: Path) -> None:
    (said,) = look(written(tmp_path, aws.url, account="999999999999"), "ecs")["wrong"]
    assert said.startswith(f"The credentials are of the account {ACCOUNT}, and the file ")
    assert said.endswith("names 999999999999.")


@pytest.mark.parametrize(
    ("service", "section", "words"),
    [
        ("ecs", SECTIONS["ecs"].replace('"conformance"', '"none"'), ["cluster none", "task definition none"]),
        ("ecs", SECTIONS["ecs"].replace('container_name = "conformance"', 'container_name = "c"'), ["no container c"]),
        ("batch", SECTIONS["batch"].replace('"conformance"', '"none"'), ["job queue none", "job definition none"]),
        ("lambda", SECTIONS["lambda"].replace('"conformance"', '"none"'), ["function none"]),
    ],
)
def test_each_resource_that_is_not_there_is_named(
    aws: Aws, tmp_path: Path, service: str, section: str, words: list[str]
) -> None:
    said = look(written(tmp_path, aws.url, **{service: section}), service)["wrong"]
    assert len(said) == len(words)
    assert all(word in sentence for word, sentence in zip(words, said, strict=True))


def test_what_is_not_there_ends_the_run_with_exit_code_2(aws: Aws, tmp_path: Path) -> None:
    path = written(tmp_path, aws.url, ecs=SECTIONS["ecs"].replace('"conformance"', '"none"'))
    chosen = ["--conformance-backend", "ecs", "--conformance-substrate", "cluster", "--conformance-aws", path]
    result = run_pytest(tmp_path, *chosen, "--conformance-api-host", "127.0.0.1")
    said = sentence(result)
    assert "The cluster none is not there" in said
    assert "The task definition none is not there" in said
    assert result.returncode == 2


def test_no_answer_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3", reason="boto3 is not installed")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    found = look(written(tmp_path), "ecs")
    assert found["wrong"] == []
    assert "EndpointConnectionError" in found["unavailable"]


def test_leftovers_are_told_by_their_age() -> None:
    now = int(time.time())
    names = [("queue", f"{preflight.PREFIX}{now - 36000}-a"), ("queue", f"{preflight.PREFIX}{now}-b"), ("queue", "q")]
    (said,) = preflight._leftovers(iter(names))
    assert said == f"The queue {names[0][1]} was left 10 h ago by a run that was killed; remove it."


class Started:
    """A substrate in a run's folder, with the settings that an environment would have."""

    def __init__(self, kind: type[ExistingAccount], aws: Aws, folder: Path, ways: Any = None) -> None:
        events: list[dict[str, Any]] = []
        self.events = events
        options = Options(substrate="cluster", aws=aws.file, api_host="127.0.0.1")
        bundles = [{"name": "conformance", "classpath": "x.Y", "kwargs": {"path": str(folder / "bundle")}}]
        env = {
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
            "AIRFLOW__CORE__X": "1",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "secret",
            "AIRFLOW__API_AUTH__JWT_SECRET": "secret",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "HOME": "/h",
        }
        site = Site(folder, None, options, Variant("v"), env=env)  # type: ignore[arg-type]
        site.events_of = lambda key: events
        site.worker_env = {
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://127.0.0.1:1/execution/",
            "EXECUTOR_CONFORMANCE_EFFECTS_URL": "http://127.0.0.1:1/x",
        }
        self.substrate = kind(site, ways or {})
        self.substrate.seen_s = 0.0
        self.substrate.start()
        self.substrate.prepare_workers()


@pytest.mark.parametrize("kind", [EcsAccount, BatchAccount, LambdaAccount])
def test_what_is_made_goes_and_the_probe_tells(kind: type[ExistingAccount], aws: Aws, tmp_path: Path) -> None:
    """Here nothing answers at the API's address."""
    substrate = Started(kind, aws, tmp_path).substrate
    try:
        assert aws.left()
        with pytest.raises(UsageError, match=r"Workers do not reach the Execution API at 127\.0\.0\.1"):
            substrate.wait_ready()
        assert substrate.lost() == ""
    finally:
        substrate.stop()
    assert aws.left() == []


def test_workers_get_settings_and_no_secret(aws: Aws, tmp_path: Path) -> None:
    substrate = Started(EcsAccount, aws, tmp_path).substrate
    try:
        definition = aws.client("ecs").describe_task_definition(taskDefinition=substrate.name)["taskDefinition"]
        env = {entry["name"]: entry["value"] for entry in definition["containerDefinitions"][0]["environment"]}
    finally:
        substrate.stop()
    assert env["AIRFLOW__CORE__X"] == "1"
    assert "ShippedBundle" in env["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"]
    assert "HOME" not in env
    assert "secret" not in env.values()


def submitted(started: Started, command: list[str]) -> str:
    """A task or a job of the run's definition, as the executor would start it; its id."""
    substrate = started.substrate
    if substrate.service == "ecs":
        name = substrate.file.settings["container_name"]
        override = {"containerOverrides": [{"name": name, "command": command}]}
        asked = {"cluster": "conformance", "taskDefinition": substrate.name, "overrides": override}
        return str(substrate.client().run_task(launchType="FARGATE", **asked)["tasks"][0]["taskArn"])
    asked = {"jobName": substrate.name, "jobQueue": "conformance", "jobDefinition": substrate.name}
    return str(substrate.client().submit_job(**asked, containerOverrides={"command": command})["jobId"])


def until_ended(substrate: ExistingAccount, identity: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        run = next(run for run in substrate.runs() if run["id"] == identity)
        if not run["next"]:
            return run
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(("kind", "ways"), [(EcsAccount, ECS_WAYS), (BatchAccount, BATCH_WAYS)])
def test_runs_are_seen_and_stopped(kind: type[ExistingAccount], ways: Any, aws: Aws, tmp_path: Path) -> None:
    started = Started(kind, aws, tmp_path, ways)
    substrate = started.substrate
    try:
        first = submitted(started, ["sh", "-c", "exit 7"])
        assert until_ended(substrate, first)["exit_code"] == 7
        second = submitted(started, ["sleep", "60"])
        run = next(run for run in substrate.runs() if run["id"] == second)
        assert run["next"]
        substrate.inject(ways["stopped"]["by-a-user"], run)
        assert "from outside" in until_ended(substrate, second)["reason"]
        substrate.inject(ways["start-impossible"]["image"], None)
        third = submitted(started, ["true"])
        assert until_ended(substrate, third)["exit_code"] is None
        assert substrate.lost() == ""  # it was asked for
        substrate.heal()
        fourth = submitted(started, ["true"])
        assert until_ended(substrate, fourth)["exit_code"] == 0
        fifth = submitted(started, ["sleep", "60"])
    finally:
        substrate.stop()
    assert fifth in substrate._ended_by_us
    assert aws.left() == []


def test_what_aws_keeps_from_its_start_is_not_the_executors(aws: Aws, tmp_path: Path) -> None:
    started = Started(EcsAccount, aws, tmp_path, ECS_WAYS)
    try:
        aws.control.add_fault(service="ecs", point="start", action={"type": "image-missing"})
        until_ended(started.substrate, submitted(started, ["true"]))
        assert started.substrate.lost().startswith("AWS ended the run ")
    finally:
        aws.control.clear_faults()
        started.substrate.stop()


def test_an_invocation_is_over_when_the_executor_says_so_or_no_retry_is_due(aws: Aws, tmp_path: Path) -> None:
    started = Started(LambdaAccount, aws, tmp_path)
    substrate = started.substrate
    try:
        assert substrate.know(["key"])
        assert substrate.runs()[0]["next"] == "the run key is INVOKED"
        started.events.append({"state": "success"})
        assert substrate.runs()[0]["next"] == ""
        started.events.clear()
        assert substrate.know(["other"])
        substrate._found_at["other"] -= 3 * 60 + 180 + 31
        assert substrate.runs()[1]["next"] == ""
        assert substrate.settle_s >= 3 * 60 + 180
    finally:
        substrate.stop()


def test_a_retry_of_the_executor_that_cannot_be_seen_may_be_due(aws: Aws, tmp_path: Path) -> None:
    options = Options(substrate="cluster", aws=aws.file, api_host="127.0.0.1")
    backend = EcsBackend(Site(tmp_path, None, options, EcsBackend.variants[1]))  # type: ignore[arg-type]
    backend.substrate = SimpleNamespace(  # type: ignore[assignment]
        seen_s=0.0, runs=lambda: [], know=lambda told: False, refused=lambda operation: None
    )
    assert backend.pending("c") == ["a retry may be due within 22 s"]
    backend._asked["c"] -= 23
    assert backend.pending("c") == []


def test_members_of_the_backend(aws: Aws, tmp_path: Path) -> None:
    options = Options(substrate="cluster", aws=aws.file, api_host="127.0.0.1")
    for kind in (EcsBackend, LambdaBackend):
        backend = kind(Site(tmp_path, None, options, kind.variants[0]))  # type: ignore[arg-type]
        assert not backend.on_this_host
        assert backend.victims == frozenset()
        assert f"of the account {ACCOUNT}, us-east-1 at the endpoint" in backend.control_plane
        assert backend.settle_s == 300
        assert backend.callable_timeout_s + 60 <= LEAST_SETTLE_S, "no callable is given up on before its timeout"
        assert set(backend.faults) <= set(kind.ways)


def test_network_and_launch_type_go_to_the_executor(aws: Aws, tmp_path: Path) -> None:
    section = SECTIONS["ecs"] + "subnets = ['a', 'b']\nassign_public_ip = true\nlaunch_type = 'EC2'\n"
    options = Options(substrate="cluster", aws=written(tmp_path, aws.url, ecs=section), api_host="h")
    backend = EcsBackend(Site(tmp_path, None, options, EcsBackend.variants[0]))  # type: ignore[arg-type]
    backend.substrate.start()
    settings = backend.executor_settings()
    assert settings[f"{SECTION}SUBNETS"] == "a,b"
    assert settings[f"{SECTION}ASSIGN_PUBLIC_IP"] == "True"
    assert settings[f"{SECTION}LAUNCH_TYPE"] == "EC2"
    assert settings[f"{SECTION}TASK_DEFINITION"].startswith(preflight.PREFIX)


@pytest.mark.slow
@pytest.mark.parametrize("backend", SERVICES)
def test_a_run_leaves_nothing(aws: Aws, tmp_path: Path, backend: str) -> None:
    command = [sys.executable, "-m", "pytest", "--pyargs", "executor_conformance.suites", "-m", "conformance"]
    command += ["-p", "no:cacheprovider", "-q", "--conformance-report", str(tmp_path / "report")]
    command += ["--conformance-backend", backend, "--conformance-substrate", "cluster"]
    command += ["--conformance-aws", aws.file, "--conformance-api-host", "127.0.0.1"]
    command += ["-k", "test_success and not default"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (
        f"the account {ACCOUNT}, us-east-1 at the endpoint {aws.url}" in (tmp_path / "report/report.json").read_text()
    )
    assert aws.left() == []


# -- parts -------------------------------------------------------------------------------------------------------


def test_a_definitions_own_variables_stay() -> None:
    own = [{"name": "A", "value": "theirs"}, {"name": "B", "value": "theirs"}]
    assert merged(own, {"B": "ours"}) == [{"name": "A", "value": "theirs"}, {"name": "B", "value": "ours"}]


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (probe.NO_AIRFLOW, UsageError, "has no Airflow"),
        (probe.OTHER_AIRFLOW, UsageError, f"which has {importlib.metadata.version('apache-airflow-core')}"),
        (probe.NO_CALLABLES, UsageError, "lacks the suite's callables"),
        (probe.OTHER_CALLABLES, UsageError, "another version of airflow-executor-conformance"),
        (probe.NO_API, UsageError, "do not reach the Execution API at h"),
        (probe.NO_EFFECTS, UsageError, "open all ports"),
        (probe.NO_FOLDER, UsageError, "cannot write below /tmp"),
        (127, UsageError, "cannot run python"),
        (None, HarnessError, "it was not started; no capacity"),
        (1, HarnessError, "exit code 1"),
    ],
)
def test_what_a_probe_tells(code: int | None, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        probe.judge(code, "no capacity", "i", "h")
    probe.judge(0, "", "i", "h")


def test_exit_codes_of_the_probe_are_those_of_its_script() -> None:
    codes = (probe.NO_AIRFLOW, probe.OTHER_AIRFLOW, probe.NO_CALLABLES, probe.OTHER_CALLABLES, probe.NO_API)
    for code in (*codes, probe.NO_EFFECTS, probe.NO_FOLDER):
        assert f"sys.exit({code})" in probe.SCRIPT
