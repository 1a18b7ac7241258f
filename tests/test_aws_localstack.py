"""LocalStack as a control plane: what is missing is a sentence, and no invocation is forgotten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.backends.aws.batch import BatchBackend
from executor_conformance.backends.aws.ecs import EcsBackend
from executor_conformance.backends.aws.lambda_ import WAYS, LambdaBackend
from executor_conformance.backends.aws.localstack import container, install
from executor_conformance.backends.aws.localstack.container import LocalStackContainer
from executor_conformance.backends.aws.localstack.process import LocalStackProcess
from executor_conformance.harness.api_server import free_port
from executor_conformance.harness.backend import Options, Site
from executor_conformance.harness.errors import EnvironmentUnavailable, HarnessError, UsageError
from executor_conformance.harness.processes import ProcessInfo
from executor_conformance.suites.run_state import check_control_plane


def made(tmp_path: Path, *lines: dict[str, Any]) -> LocalStackProcess:
    site = Site(tmp_path, None, Options(control_plane="localstack"), LambdaBackend.variants[0])  # type: ignore[arg-type]
    substrate = LocalStackProcess(site, WAYS)
    substrate.folder.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (substrate.folder / "runs.jsonl").write_text(text + '{"what": "beg', "utf-8")  # one is still being written
    return substrate


def begin(pid: int = 5) -> dict[str, Any]:
    return {"what": "begin", "key": "k", "request": "r", "pid": pid}


def end(error: bool, pid: int = 5) -> dict[str, Any]:
    return {"what": "end", "key": "k", "request": "r", "pid": pid, "error": error}


FAILED = [begin(), end(True)]


@pytest.mark.parametrize(
    ("lines", "status", "following"),
    [
        ([], "QUEUED", "it is in the queue"),
        ([begin()], "RUNNING", "the invocation has not ended"),
        ([begin(), end(False)], "SUCCEEDED", ""),
        (FAILED, "WAITING", "retry 1 of 2 is due"),
        ([*FAILED, begin()], "RUNNING", "the invocation has not ended"),
        ([*FAILED, *FAILED], "WAITING", "retry 2 of 2 is due"),
        ([*FAILED, *FAILED, *FAILED], "FAILED", ""),
        ([*FAILED, begin(), end(False)], "SUCCEEDED", ""),
    ],
)
def test_an_invocation_until_no_retry_is_left(
    tmp_path: Path, lines: list[dict[str, Any]], status: str, following: str
) -> None:
    substrate = made(tmp_path, *lines)
    assert substrate.know(["k"])
    assert not substrate.know(["k"])
    (run,) = substrate.runs()
    assert (run["status"], run["next"]) == (status, following)


def test_units_and_idle_runtimes(tmp_path: Path) -> None:
    substrate = made(tmp_path, {"what": "guardian", "pid": 4}, begin(5), end(False, 5), begin(6))
    processes = {pid: ProcessInfo(pid, parent, "", "S", 0, 0) for pid, parent in [(4, 1), (5, 4), (6, 4), (7, 6)]}
    assert substrate.units(processes) == [5, 6, 7]
    assert substrate.idle() == {5}


def test_nothing_to_kill(tmp_path: Path) -> None:
    substrate = made(tmp_path)
    with pytest.raises(HarnessError, match="no runtime to be killed"):
        substrate.inject(WAYS["stopped"]["killed"], {"id": "k", "pid": 0})


def test_only_lambda_runs_there() -> None:
    for backend in (EcsBackend, BatchBackend):
        assert "LocalStack has no" in str(backend.missing(Options(control_plane="localstack")))
    assert LambdaBackend.substrate_of(Options(control_plane="localstack")) is LocalStackProcess
    assert LambdaBackend.substrate_of(Options(control_plane="http://h:1")) is LocalStackContainer
    assert LambdaBackend.substrate_of(Options(control_plane="localstack", substrate="docker")) is LocalStackContainer
    assert LambdaBackend.substrate_of(Options()) is None


def test_no_python_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "folder", lambda: tmp_path / "localstack" / "x")
    monkeypatch.setattr(install, "interpreter", lambda: "")
    monkeypatch.setattr(install.shutil, "which", lambda name: None)
    with pytest.raises(EnvironmentUnavailable, match=r"needs Python 3\.12 or 3\.13"):
        install.ensure()
    assert "needs Python 3.12 or 3.13" in str(LocalStackProcess.missing(Options(control_plane="localstack")))


def test_pins_name_the_version() -> None:
    assert f"localstack-core=={install.VERSION}" in install.requirements().read_text("utf-8")


def test_a_container_needs_a_way_back_and_an_answer() -> None:
    with pytest.raises(UsageError, match="--conformance-api-host"):
        LocalStackContainer.missing(Options(control_plane="http://127.0.0.1:1"))
    address = f"http://127.0.0.1:{free_port()}"
    said = LocalStackContainer.missing(Options(control_plane=address, api_host="h"))
    assert said is not None
    assert said.startswith(f"no LocalStack answers at {address} (")


def test_the_newest_with_a_token_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(container.TOKEN, raising=False)
    assert container.image_tag() == "4.14.0"
    assert container.TOKEN not in container.container_environment("i")
    monkeypatch.setenv(container.TOKEN, "t")
    assert container.image_tag() == "latest"
    assert container.container_environment("i")[container.TOKEN] == "t"


def test_control_planes_that_are_unknown() -> None:
    with pytest.raises(UsageError, match="The control plane 'mars' is unknown"):
        check_control_plane("mars")
    assert check_control_plane("http://h:1/") == "http://h:1"
