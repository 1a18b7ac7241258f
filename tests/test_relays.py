"""A worker command that a container's own program starts, as Lambda's handler does, may be a fork, unawares."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.backends.host_processes import HostProcess
from executor_conformance.harness.processes import children_of, is_alive, read_proc, tree_of

from tests.probe_host import SECONDS, Host, wait_for

MAIN = """
import json, os, subprocess, sys

def tell(**what):
    print(json.dumps(what), flush=True)

tell(executable=sys.executable, prefix=sys.prefix, folders=len(os.environ["PATH"].split(os.pathsep)))
for line in sys.argv[1:]:
    arguments = json.loads(line)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    if arguments[0] == "apart":
        arguments, streams = arguments[1:], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done = subprocess.run(arguments, check=False, **streams)
    tell(status=done.returncode, said=done.stdout.decode())
"""


class Handlers(Host):
    """Starts a program that runs commands as its children, one after the other."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.env["PATH"] += ":/bin"
        (folder / "main.py").write_text(MAIN)

    def handler(self, *commands: list[str], warm: bool = True, **env: str) -> HostProcess:
        """One that is to run ``commands``; ``probe ...`` is the worker command."""
        process = HostProcess("h", self.folder / "logs" / f"{len(self.started)}.log")
        lines = [json.dumps(["python", "-m", *words] if words[0] == "probe" else words) for words in commands]
        self._run(process, ["python", "main.py", *lines], env, warm)
        return process

    def told(self, *commands: list[str], warm: bool = True, **env: str) -> list[dict[str, Any]]:
        """What it tells of itself, and of each command."""
        process = self.handler(*commands, warm=warm, **env)
        assert process.reaped.wait(SECONDS), "it has not ended"
        process.sweep()
        assert process.status == 0, process.log.read_text()
        return [json.loads(line) for line in process.log.read_text().splitlines()]

    def warm_up(self) -> int:
        """As of the parent class, with the variables that an interpreter sets in the handler."""
        self.told(["probe", "exit", "0"])
        return self.warm()

    def running(self, *more: list[str]) -> tuple[HostProcess, int]:
        """A handler whose command is a fork that holds on, and the pid of the fork."""
        self.warm_up()
        process = self.handler(["probe", "hold"], *more)
        return process, wait_for(lambda: process.forks and process.forks[0].pid, "there is a fork")


@pytest.fixture
def handlers(tmp_path: Path) -> Iterator[Handlers]:
    handlers = Handlers(tmp_path)
    yield handlers
    handlers.processes.close()


LOOK = ["probe", "look", "a b", '{"c": "d"}']


def test_a_handlers_command_sees_what_it_would_see(handlers: Handlers) -> None:
    plain = handlers.told(LOOK, warm=False)
    handlers.told(LOOK)  # executed by the relay, while an interpreter gets ready
    assert not handlers.started[-1].forks
    handlers.warm_up()
    forked = handlers.told(LOOK)
    assert handlers.started[-1].forks
    assert (forked[0]["executable"], forked[0]["prefix"]) == (plain[0]["executable"], plain[0]["prefix"])
    assert forked[0]["folders"] == plain[0]["folders"] + 1  # the relay's
    seen = []
    for told in (plain, forked):
        assert told[1]["status"] == 0
        look, *others = told[1]["said"].splitlines()
        assert others == ["at exit"]
        seen.append(json.loads(look))
    assert seen[0]["descriptors"]["1"].startswith("pipe:")
    for look in seen:
        assert look["descriptors"].pop("1") == look["descriptors"].pop("2")
        look.pop("leads")  # a fork has a session of its own
    assert seen[1] == seen[0]


def test_without_a_fork_the_relay_becomes_the_command(handlers: Handlers) -> None:
    plain = handlers.told(LOOK, warm=False)
    relayed = handlers.told(LOOK)
    assert not handlers.started[-1].forks
    looks = [json.loads(told[1]["said"].splitlines()[0]) for told in (plain, relayed)]
    for look in looks:
        assert look["descriptors"].pop("1") == look["descriptors"].pop("2")
    assert looks[1] == looks[0]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("exit", "0"), 0),
        (("exit", "3"), 3),
        (("say",), 1),
        (("signal", str(int(signal.SIGKILL))), -signal.SIGKILL),
        (("signal", str(int(signal.SIGTERM))), -signal.SIGTERM),
        (("signal", str(int(signal.SIGSEGV))), -signal.SIGSEGV),
    ],
)
def test_a_handlers_command_ends_as_it_would_end(handlers: Handlers, arguments: tuple[str, ...], status: int) -> None:
    plain = handlers.told(["probe", *arguments], warm=False)
    handlers.warm_up()
    forked = handlers.told(["probe", *arguments])
    assert handlers.started[-1].forks
    assert plain[1]["status"] == forked[1]["status"] == status
    assert plain[1]["said"] == forked[1]["said"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["python", "-c", "import sys; print(sys.executable, sys.orig_argv[1])"], "{executable} -c\n"),
        (["python", "-m", "json.tool", "/dev/null"], None),
        (["apart", "python", "-m", "probe", "exit", "0"], "at exit\n"),
        (["sh", "-c", "command -v python >/dev/null && echo found"], "found\n"),
    ],
    ids=["code", "another module", "streams apart", "another program"],
)
def test_other_commands_are_executed(handlers: Handlers, command: list[str], said: str | None) -> None:
    handlers.warm_up()
    told = handlers.told(command)
    assert not handlers.started[-1].forks
    if said is None:
        assert told[1]["status"] == 1
        assert "Expecting value" in told[1]["said"]
    else:
        assert told[1] == {"status": 0, "said": said.format(executable=told[0]["executable"])}


def test_each_command_of_a_handler_is_a_fork(handlers: Handlers) -> None:
    handlers.warm_up()
    told = handlers.told(["probe", "exit", "1"], ["probe", "exit", "2"], ["probe", "exit", "0"])
    assert [one["status"] for one in told[1:]] == [1, 2, 0]
    assert len(handlers.started[-1].forks) == 3


def test_a_handlers_address_does_not_need_another_interpreter(handlers: Handlers) -> None:
    handlers.warm_up()
    (_, told) = handlers.told(LOOK, AWS_LAMBDA_RUNTIME_API="127.0.0.1:1")
    assert handlers.started[-1].forks
    assert json.loads(told["said"].splitlines()[0])["environ"]["AWS_LAMBDA_RUNTIME_API"] == "127.0.0.1:1"


def test_a_fork_that_is_killed_is_a_command_that_was_killed(handlers: Handlers) -> None:
    process, pid = handlers.running()
    assert read_proc(pid, "cmdline").rstrip(b"\0") == b"python -m probe hold"
    os.kill(pid, signal.SIGKILL)
    assert process.reaped.wait(SECONDS)
    assert json.loads(process.log.read_text().splitlines()[1])["status"] == -signal.SIGKILL


def test_a_fork_ends_with_its_relay(handlers: Handlers) -> None:
    process, pid = handlers.running()
    (relay,) = wait_for(lambda: children_of(process.pid), "the relay runs")
    os.kill(relay, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid), "the fork is gone")
    assert process.reaped.wait(SECONDS)
    assert json.loads(process.log.read_text().splitlines()[1])["status"] == -signal.SIGKILL


def test_a_fork_is_killed_with_its_container(handlers: Handlers) -> None:
    process, pid = handlers.running()
    process.signal(signal.SIGKILL)
    assert process.reaped.wait(SECONDS)
    wait_for(lambda: not is_alive(pid), "the fork is gone")
    process.sweep()
    assert process.status == -signal.SIGKILL


def test_what_a_fork_leaves_behind_lasts_as_long_as_its_container(handlers: Handlers) -> None:
    warm = handlers.warm_up()
    process = handlers.handler(["probe", "leave", "apart"], ["sh", "-c", "sleep 60"])
    (orphan,) = wait_for(lambda: process.forks and process.forks[0].reaped.is_set() and children_of(warm), "an orphan")
    time.sleep(0.2)
    assert is_alive(orphan)  # the container goes on
    process.signal(signal.SIGKILL)
    assert process.reaped.wait(SECONDS)
    process.sweep()
    assert not is_alive(orphan)
    assert tree_of(warm) == [warm]


def test_nothing_is_left_at_the_end(handlers: Handlers) -> None:
    process, pid = handlers.running()
    handlers.processes.close()
    wait_for(lambda: not is_alive(pid) and not is_alive(process.pid), "all are gone")
    assert process.reaped.is_set()


def test_a_folder_with_a_long_name_has_no_relay(tmp_path: Path) -> None:
    handlers = Handlers(folder := tmp_path / ("long" * 30))
    try:
        Host.warm_up(handlers)
        told = handlers.told(["probe", "exit", "4"])
        assert told[1]["status"] == 4
        assert not handlers.started[-1].forks
        assert told[0]["folders"] == 2  # as given
    finally:
        handlers.processes.close()
    assert not list(folder.glob("relay*"))
