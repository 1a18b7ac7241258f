"""The session factory by which an AWS executor's credentials go missing, as Airflow's own hooks use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.aws_emulator.support import REGION, Server, serving

pytest.importorskip("moto", reason="moto is not installed")
SCRIPT = """
import sys
from pathlib import Path
from airflow.providers.amazon.aws.hooks.ecs import EcsHook
from executor_conformance.backends.aws.emulator.client import EmulatorClient

admin = EmulatorClient.from_folder(Path(sys.argv[1]))
ecs = EcsHook(aws_conn_id="aws_default").conn

def ask(what):
    try:
        ecs.describe_tasks(cluster="conformance", tasks=["a" * 32])
        print(what, "answered", flush=True)
    except Exception as error:
        print(what, type(error).__name__, str(error), flush=True)

ask("at first:")
for kind in ("missing", "failing"):
    admin.add_fault(service="ecs", credentials="DescribeTasks", times=1, action={"type": kind})
    admin.add_fault(service="ecs", credentials="RunTask", action={"type": kind})
    ask(f"{kind}:")
    ask("then:")
    print("hits:", [rule["hits"] for rule in admin.faults()], flush=True)
    admin.clear_faults()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("--services", "ecs") as it:
        yield it


def said(server: Server, tmp_path: Path, **extra: str) -> list[str]:
    """What a process of Airflow's says that has the factory and a connection without keys."""
    connection = {"region_name": REGION, "endpoint_url": server.admin.url, **extra}
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps({"conn_type": "aws", "extra": connection}),
        "AIRFLOW__AWS__SESSION_FACTORY": "executor_conformance.backends.aws.session_factory.CurrentSessionFactory",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "*",
    }
    argv = [sys.executable, "-c", SCRIPT, str(server.folder)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return [line for line in done.stdout.splitlines() if line.partition(":")[0] in LINES]


LINES = ("at first", "missing", "failing", "then", "hits")


def test_each_request_asks_for_its_credentials(server: Server, tmp_path: Path) -> None:
    """botocore's own errors come of it, each for the one operation that the fault is about."""
    told = said(server, tmp_path, credentials_url=f"{server.admin.url}/_credentials")
    assert told == [
        "at first: answered",
        "missing: NoCredentialsError Unable to locate credentials",
        "then: answered",
        "hits: [1, 0]",
        "failing: CredentialRetrievalError Error when retrieving credentials from conformance: HTTP Error 500: Error",
        "then: answered",
        "hits: [1, 0]",
    ]


def test_a_service_that_is_away_is_a_provider_that_fails(server: Server, tmp_path: Path) -> None:
    told = said(server, tmp_path, credentials_url="http://127.0.0.1:9/_credentials")
    assert told[0].startswith("at first: CredentialRetrievalError")


def test_other_connections_are_as_usual(server: Server, tmp_path: Path) -> None:
    """Without keys, and without a service for them, a client has no credentials from its making on."""
    assert said(server, tmp_path)[0] == "at first: NoCredentialsError Unable to locate credentials"
