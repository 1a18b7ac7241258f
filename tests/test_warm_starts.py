"""A worker command that begins as a fork is the command that would have been executed, in all that it can see."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.backends.host_processes import NotStarted
from executor_conformance.harness.processes import children_of, is_alive, read_proc
from executor_conformance.harness.warm_starts import LAZY, WORKER

from tests.probe_host import SECONDS, Host, wait_for


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.processes.close()


def test_a_fork_sees_what_the_command_would_see(host: Host) -> None:
    status, output = host.ended("look", "a b", '{"c": "d"}')
    assert status == 0
    executed = json.loads(output.splitlines()[0])
    assert not host.is_fork(host.started[-1])
    host.warm_up()
    status, output = host.ended("look", "a b", '{"c": "d"}')
    assert status == 0
    assert host.is_fork(host.started[-1])
    forked = json.loads(output.splitlines()[0])
    for each in (executed, forked):
        each["descriptors"].pop("1"), each["descriptors"].pop("2")  # logs of their own
    assert executed["environ"]["BY_IMPORT"] == "yes"
    assert forked == executed
    assert output.splitlines()[1:] == ["at exit"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("exit", "0"), 0),
        (("exit", "3"), 3),
        (("say",), 1),
        (("raise",), 1),
        (("signal", str(int(signal.SIGKILL))), -signal.SIGKILL),
        (("signal", str(int(signal.SIGTERM))), -signal.SIGTERM),
        (("signal", str(int(signal.SIGINT))), -signal.SIGINT),
        (("signal", str(int(signal.SIGSEGV))), -signal.SIGSEGV),
    ],
)
def test_a_fork_ends_as_the_command_would_end(host: Host, arguments: tuple[str, ...], status: int) -> None:
    executed = host.ended(*arguments, warm=False)
    host.warm_up()
    forked = host.ended(*arguments)
    assert host.is_fork(host.started[-1])
    assert executed[0] == forked[0] == status
    said = [
        [line for line in output.splitlines() if not line.startswith("  ")]  # frames: the fork has two more
        for output in (executed[1], forked[1])
    ]
    assert said[0] == said[1]


def test_what_a_fork_leaves_behind_ends_with_it(host: Host) -> None:
    pid = host.warm_up()
    status, _ = host.ended("leave")
    assert status == 0
    assert host.is_fork(host.started[-1])
    assert children_of(pid) == []


def test_its_own_variables_are_a_forks_own(host: Host) -> None:
    host.warm_up()
    _, output = host.ended("look", HOSTNAME="another", AWS_BATCH_JOB_ID="7")
    assert host.is_fork(host.started[-1])
    environ = json.loads(output.splitlines()[0])["environ"]
    assert (environ["HOSTNAME"], environ["AWS_BATCH_JOB_ID"]) == ("another", "7")


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (("exit", "0"), {"warm": False}),
        (("exit", "0"), {"COLOUR": "red"}),
        (("exit", "0"), {"PYTHONSAFEPATH": "1", "PYTHONPATH": "."}),
        (("exit", "0", "x" * 121_000), {}),
    ],
    ids=["not wanted", "another environment", "another path", "long arguments"],
)
def test_what_is_not_alike_is_executed(host: Host, arguments: tuple[str, ...], more: dict[str, Any]) -> None:
    host.warm_up()
    assert host.ended(*arguments, **more)[0] == 0
    assert not host.is_fork(host.started[-1])


def test_interpreters_are_not_many(host: Host) -> None:
    host.warm_up()
    for colour in ("red", "green", "blue"):
        assert host.ended("exit", "0", COLOUR=colour)[0] == 0
    wait_for(lambda: len(host.processes._warm._ready) == 2, "the second is ready")
    assert len(host.processes._warm.pids()) == 2


@pytest.mark.parametrize(
    "imported",
    ["import threading, time; threading.Thread(target=time.sleep, args=[60], daemon=True).start()", "raise OSError"],
    ids=["a thread", "an error"],
)
def test_an_interpreter_that_cannot_be_forked_is_not(tmp_path: Path, imported: str) -> None:
    host = Host(
        tmp_path, f"import sys\nif 'warm_guardian' in sys.argv[0]:\n    {imported.replace(chr(10), chr(10) + '    ')}"
    )
    try:
        assert host.ended("exit", "0")[0] == 0
        (guardian,) = wait_for(lambda: [each for each in host.processes._warm._guardians.values() if each], "it begins")
        wait_for(lambda: guardian.lost, "it has ended")
        assert host.ended("exit", "0")[0] == 0
        assert not host.is_fork(host.started[-1])
    finally:
        host.processes.close()


def test_forks_end_with_their_interpreter(host: Host) -> None:
    pid = host.warm_up()
    process = host.start("hold")
    os.kill(pid, signal.SIGKILL)
    assert process.reaped.wait(SECONDS)
    assert process.status == -signal.SIGKILL
    wait_for(lambda: not is_alive(process.pid, process.started), "the fork is gone")
    assert host.ended("exit", "0")[0] == 0  # and others are executed
    assert not host.is_fork(host.started[-1])


def test_nothing_is_left_at_the_end(host: Host) -> None:
    pid = host.warm_up()
    process = host.start("hold")
    assert is_alive(pid)
    host.processes.close()
    wait_for(lambda: not is_alive(pid) and not is_alive(process.pid, process.started), "all are gone")
    assert not list(host.folder.glob("warm-*"))
    with pytest.raises(NotStarted):
        host.start("exit", "0")


def test_nothing_is_left_of_an_interpreter_that_was_not_ready(tmp_path: Path) -> None:
    host = Host(tmp_path, "import time\nif 'warm_guardian' in __import__('sys').argv[0]:\n    time.sleep(60)")
    assert host.ended("exit", "0")[0] == 0
    (pid,) = wait_for(host.processes._warm.pids, "it begins")
    assert not host.processes._warm._ready
    host.processes.close()
    assert not is_alive(pid)
    assert not list(host.folder.glob("warm-*"))


def test_a_fork_is_known_by_its_command(host: Host) -> None:
    pid = host.warm_up()
    assert read_proc(pid, "cmdline").startswith(b"warm interpreter: probe")
    process = host.start("hold")
    assert read_proc(process.pid, "cmdline").rstrip(b"\0") == b"python -m probe hold"


AT_EXIT = "import atexit, json, sys\natexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))\n"


class Agreeable(http.server.BaseHTTPRequestHandler):
    """An Execution API that agrees to everything."""

    def do_PATCH(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_PUT = do_GET = do_PATCH

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def agreeable() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agreeable)
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/execution/"
    server.shutdown()
    server.server_close()


def test_nothing_is_imported_that_the_worker_would_not_import(tmp_path: Path, agreeable: str) -> None:
    """The worker that is executed carries a callback out; what it has imported then is more than what a fork has."""
    from airflow.executors.workloads import ExecuteCallback
    from airflow.executors.workloads.base import BundleInfo
    from airflow.executors.workloads.callback import CallbackDTO, CallbackFetchMethod

    callback = CallbackDTO(
        id="01990000-0000-7000-8000-000000000000",
        fetch_method=CallbackFetchMethod.IMPORT_PATH,
        data={"path": "builtins.len", "kwargs": {}},
    )
    workload = ExecuteCallback(
        callback=callback, token="t", dag_rel_path="d.py", bundle_info=BundleInfo(name="b"), log_path="x.log"
    )
    env = {"PATH": os.path.dirname(sys.executable), "AIRFLOW_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}
    env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] = agreeable

    def modules(code: str, *arguments: str) -> tuple[set[str], str]:
        command = [sys.executable, "-c", AT_EXIT + code, *arguments]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        return set(json.loads(done.stderr.splitlines()[-1])), done.stdout

    run = f"import runpy, sys\nsys.argv[:1] = ['-m']\nrunpy._run_module_as_main({WORKER!r})"
    worker, said = modules(run, "--json-string", workload.model_dump_json())
    assert "len() takes exactly one argument" in said  # it got as far as the callable
    warm, _ = modules(f"import {WORKER}, " + ", ".join(LAZY))
    assert warm - worker <= {WORKER}
