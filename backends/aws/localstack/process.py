"""Lambda at a LocalStack of our own on a loopback port, whose functions are host processes."""

from __future__ import annotations

import importlib.metadata
import inspect
import io
import json
import os
import time
import urllib.request
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from executor_conformance import backends, harness
from executor_conformance.backends.aws.emulator.__main__ import provider_handler
from executor_conformance.backends.aws.localstack import install
from executor_conformance.backends.aws.queues import hidden_messages
from executor_conformance.backends.aws.substrate import CONNECT_S, ENDED, READ_S, WITHHELD, AwsSubstrate
from executor_conformance.backends.emulation import Way, below, image_env
from executor_conformance.harness import processes as host
from executor_conformance.harness.backend import Options, Site, installed
from executor_conformance.harness.errors import BoundReached, EnvironmentUnavailable, HarnessError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.harness.supervisor import ManagedProcess

REGION = "us-east-1"
NAME = "conformance"
RUNTIME = "python3.12"
"""Only a name here: functions run in this interpreter."""
FUNCTION_TIMEOUT_S, VISIBILITY_S = 60, 30
RETRY_S = 1
RETRIES = 2
ENTRY_POINT = "[localstack.lambda.runtime_executor]\nprocess = executor_conformance.backends.aws.localstack.plugin:"


class LocalStackProcess(AwsSubstrate):
    """Runs are workloads: what the plugin tells of their attempts, and what the executor's events name."""

    on_this_host = True
    victims = frozenset({"child", "supervisor", "unit"})
    ways = {"stopped": ("killed",)}
    seen_s = 0.1

    def __init__(self, site: Site, ways: Mapping[str, Mapping[str, Way]]) -> None:
        super().__init__(site, "lambda")
        self._process: ManagedProcess | None = None
        self._told: dict[str, float] = {}
        self._forgotten: set[str] = set()
        self.resources = {}
        self.region = REGION
        self.url = ""
        self._clients: dict[str, Any] = {}

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """LocalStack, which is fetched if it is not there, and AWS's runtime client."""
        if not installed("awslambdaric"):
            return "the distribution awslambdaric is not installed (pip install 'airflow-executor-conformance[lambda]')"
        try:
            install.ensure()
        except EnvironmentUnavailable as error:
            return str(error)
        return None

    def control_plane(self, title: str) -> str:
        """LocalStack, of the version that is pinned."""
        return f"{title} of LocalStack {install.VERSION}"

    def data_plane(self, own: str) -> str:
        """Our runner behind LocalStack's plugin point."""
        return f"{own}, behind LocalStack's plugin point"

    # -- start ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start LocalStack, and make role, queues and function.

        :raises HarnessError: it ended at its start, or refuses one of them.
        :raises BoundReached: it is not ready in time.
        """
        if self._process is not None:
            return
        from executor_conformance.harness.api_server import free_port

        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._plugin_path()
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        env = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.folder),
            "FILESYSTEM_ROOT": str(self.folder / "filesystem"),
            "OVERRIDE_IN_DOCKER": "0",
            "PYTHONPATH": str(path),
            "EXECUTOR_CONFORMANCE_LOCALSTACK_FOLDER": str(self.folder),
            "GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "LOCALSTACK_HOST": f"127.0.0.1:{port}",
            "SQS_ENDPOINT_STRATEGY": "path",
            "DNS_ADDRESS": "0",
            "DISABLE_EVENTS": "1",
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "SERVICES": "sqs,lambda,iam,sts,logs,s3",
            "LAMBDA_RUNTIME_EXECUTOR": "process",
            "LAMBDA_RETRY_BASE_DELAY": str(RETRY_S),
        }
        argv = [str(install.ensure()), "-m", "localstack.runtime.main"]
        self._process = self.site.supervisor.spawn("localstack", argv, env, self.folder)
        self._wait()
        self._write_image({})
        self.resources = self._make()

    def _plugin_path(self) -> Path:
        """A folder for LocalStack's path: this package's parts that the plugin needs, and its entry point."""
        path = self.folder / "plugin-path"
        package = path / "executor_conformance"
        package.mkdir(parents=True, exist_ok=True)
        for name, module in (("harness", harness), ("backends", backends)):
            if not (package / name).exists():
                (package / name).symlink_to(Path(inspect.getfile(module)).parent)
        entry = path / "executor_conformance_localstack-1.dist-info"
        entry.mkdir(exist_ok=True)
        metadata = "Metadata-Version: 2.1\nName: executor-conformance-localstack\nVersion: 1\n"
        (entry / "METADATA").write_text(metadata, "utf-8")
        (entry / "entry_points.txt").write_text(f"{ENTRY_POINT}ProcessRuntimeExecutorPlugin\n", "utf-8")
        return path

    def _wait(self) -> None:
        assert self._process is not None
        deadline = Deadline(LIMITS.worker_start)
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/_localstack/health", timeout=5) as answer:
                    if json.loads(answer.read())["services"].get("lambda") in ("available", "running"):
                        return
            except (OSError, ValueError, KeyError):
                pass  # not listening yet
            if not self._process.alive:
                raise HarnessError(f"LocalStack ended at its start: {self._process.log_tail(5)}")
            if deadline.over():
                raise BoundReached(f"LocalStack was not ready within {deadline}.")
            time.sleep(0.05)

    def client(self, service: str) -> Any:
        """boto3's client of a service of this LocalStack."""
        if service not in self._clients:
            import boto3

            self._clients[service] = boto3.client(
                service,
                endpoint_url=self.url,
                region_name=REGION,
                aws_access_key_id="test",
                aws_secret_access_key="test",
            )
        return self._clients[service]

    def _make(self) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return make_function(self.client, NAME, {"Runtime": RUNTIME, "Timeout": FUNCTION_TIMEOUT_S})
        except (BotoCoreError, ClientError) as error:
            raise HarnessError(f"LocalStack does not make the function: {error}") from None

    def connection(self) -> dict[str, Any]:
        """With LocalStack's address."""
        timeouts = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": {"total_max_attempts": 1}}
        extra = {"region_name": REGION, "endpoint_url": self.url, "config_kwargs": timeouts}
        return {"login": "test", "password": "test", "extra": extra}

    def environ(self) -> dict[str, str]:
        """No look for an instance's own credentials."""
        return {"AWS_EC2_METADATA_DISABLED": "true"}

    def timers(self) -> Mapping[str, float]:
        """Of the executor's client, of the function and of its queues."""
        return {
            "timeout of a request": CONNECT_S + READ_S,
            "timeout of the function": FUNCTION_TIMEOUT_S,
            "visibility timeout": VISIBILITY_S,
            "Lambda's waits before it tries an invocation again": sum(RETRY_S * n for n in range(1, RETRIES + 1)),
        }

    def prepare_workers(self) -> None:
        """Give the function's image its interpreter, its paths and the deployment's settings."""
        self._write_image({name: value for name, value in self.site.env.items() if not name.startswith(WITHHELD)})

    def _write_image(self, settings: dict[str, str]) -> None:
        image = {"env": {**settings, **image_env()}, "entrypoint": ["python", "-m", "awslambdaric"]}
        draft = self.folder / "image.json.new"
        draft.write_text(json.dumps(image), "utf-8")
        draft.replace(self.folder / "image.json")

    def nodes(self) -> list[ManagedProcess]:
        """LocalStack."""
        return [self._process] if self._process and self._process.alive else []

    def lost(self) -> str:
        """LocalStack, if it has ended."""
        if self._process is None or self._process.alive:
            return ""
        return f"LocalStack has ended: {self._process.log_tail(1) or 'without a word'} (log: {self._process.log})."

    # -- seeing ---------------------------------------------------------------------------------------------

    def told(self) -> list[dict[str, Any]]:
        """What the plugin has told, oldest first; a line that is still being written is left out."""
        try:
            text = (self.folder / "runs.jsonl").read_text("utf-8")
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """All that runs below the guardian of the functions' processes."""
        return below(processes, [entry["pid"] for entry in self.told() if entry["what"] == "guardian"])

    def idle(self) -> set[int]:
        """Runtimes whose last invocation is over."""
        idle: dict[int, bool] = {}
        for entry in self.told():
            if entry["what"] in ("begin", "end"):
                idle[entry["pid"]] = entry["what"] == "end"
        return {pid for pid, waits in idle.items() if waits}

    def know(self, told: Iterable[str]) -> bool:
        """An invocation that LocalStack has accepted and the plugin has not seen is in its queue."""
        new = [key for key in told if key not in self._told]
        self._told.update(dict.fromkeys(new, time.monotonic()))
        return bool(new)

    def runs(self) -> list[dict[str, Any]]:
        """A run for each workload that was invoked; over when an attempt succeeded or no retry is left."""
        found: dict[str, dict[str, Any]] = {
            key: {"id": key, "status": "QUEUED", "exit_code": None, "pid": 0, "errors": 0, "next": "it is in the queue"}
            for key in self._told
        }
        for entry in self.told():
            if entry["what"] not in ("begin", "end") or not entry["key"]:
                continue
            run = found.setdefault(entry["key"], {"id": entry["key"], "exit_code": None, "errors": 0})
            if entry["what"] == "begin":
                run |= {"status": "RUNNING", "pid": entry["pid"], "next": "the invocation has not ended"}
                continue
            run["errors"] += entry["error"]
            waits = entry["error"] and run["errors"] <= RETRIES
            status = "WAITING" if waits else "FAILED" if entry["error"] else "SUCCEEDED"
            run |= {"status": status, "pid": 0, "next": f"retry {run['errors']} of {RETRIES} is due" if waits else ""}
        for key in self._forgotten & set(found):
            found[key] |= {"status": "FAILED", "next": ""}
        return list(found.values())

    def refused(self, submission: str) -> bool | None:
        """It cannot be told."""
        return None

    def messages(self) -> dict[str, dict[str, Any]]:
        """The numbers of messages that nobody can see at present; LocalStack tells no times."""
        return hidden_messages(self.client("sqs"), self.resources)

    # -- faults ---------------------------------------------------------------------------------------------

    def inject(self, way: Way, run: dict[str, Any] | None) -> None:
        """SIGKILL to the runtime with all that it started."""
        if way.act != "kill" or run is None or not run["pid"]:
            raise HarnessError("The invocation has no runtime to be killed.")
        host.kill_frozen(run["pid"])

    def heal(self) -> None:
        """Nothing stays in force."""

    def clear(self) -> None:
        """Forget what is not over, whose processes have been killed, and empty the queues."""
        self._forgotten |= {run["id"] for run in self.runs() if run["status"] not in ENDED}
        for kind in ("queue_url", "dead_letter_queue_url"):
            self.client("sqs").purge_queue(QueueUrl=self.resources[kind])


def handler_archive() -> bytes:
    """A .zip archive with the provider's own handler.

    :raises HarnessError: the provider has none.
    """
    handler = provider_handler()
    if handler is None:
        version = importlib.metadata.version("apache-airflow-providers-amazon")
        raise HarnessError(f"The amazon provider {version} has no Lambda handler where others have it.")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("app.py", handler.read_text("utf-8"))
    return archive.getvalue()


def make_function(client: Any, name: str, more: dict[str, Any]) -> dict[str, Any]:
    """Role, queues and function of the name; ``more`` is of the function. Raises botocore's errors."""
    sqs, functions = client("sqs"), client("lambda")
    hidden = {"VisibilityTimeout": str(VISIBILITY_S)}
    urls = [
        sqs.create_queue(QueueName=f"{name}-{kind}", Attributes=hidden)["QueueUrl"]
        for kind in ("results", "dead-letters")
    ]
    arn = sqs.get_queue_attributes(QueueUrl=urls[1], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    role = client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    variables = {"QUEUE_URL": urls[0], **more.pop("variables", {})}
    functions.create_function(
        FunctionName=name,
        Role=role,
        Handler="app.lambda_handler",
        Code={"ZipFile": handler_archive()},
        Environment={"Variables": variables},
        DeadLetterConfig={"TargetArn": arn},
        MemorySize=512,
        **more,
    )
    functions.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})
    return {"function_name": name, "queue_url": urls[0], "dead_letter_queue_url": urls[1]}
