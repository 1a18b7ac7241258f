"""Forks for the worker commands that a program in a container starts itself: the emulator's side of ``warm_relay``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from executor_conformance.harness import warm_relay
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.guardianship import Guardian
from executor_conformance.harness.processes import kill_frozen

LONGEST = 100  # bytes; the kernel takes no longer name of a socket, and hardly a longer one of an interpreter
REQUEST_S = 15.0  # a relay sends it at once

FindGuardian = Callable[[list[str], dict[str, str], str], Guardian | None]


class Fork:
    """A worker command that was asked for from within a container; ``answer`` takes its wait status."""

    def __init__(self, answer: Callable[[int], None]) -> None:
        self.pid = 0
        self.started = 0
        self.guardian_pid = 0
        self.reaped = threading.Event()
        self._answer = answer

    def note_exit(self, status: int) -> None:
        """Let the relay end in the same way."""
        self.reaped.set()
        self._answer(status)

    def kill(self) -> None:
        """SIGKILL it and all below it; ignored after its end."""
        if not self.reaped.is_set():
            kill_frozen(self.pid)


class Relays:
    """Answers the relays of an emulator's containers.

    :param folder: where the relay and its socket are.
    :param worker: the module whose commands it asks forks for.
    :param find_guardian: who can fork a command; see ``WarmStarts.guardian_for``.
    :param forks_of: the forks of the container that a process is in, to be added to; None: it is in none.
    """

    def __init__(
        self, folder: Path, worker: str, find_guardian: FindGuardian, forks_of: Callable[[int], list[Fork] | None]
    ) -> None:
        self._folder = folder / "relay"
        self._find_guardian, self._forks_of = find_guardian, forks_of
        address = folder / "relay.sock"
        interpreter = f"#!{sys.executable} -IS\n"
        self._usable = (
            max(len(os.fsencode(address)), len(os.fsencode(interpreter))) <= LONGEST and " " not in sys.executable
        )
        self._socket = socket.socket(socket.AF_UNIX)
        if not self._usable:
            return
        self._folder.mkdir()
        program = self._folder / "python"
        code = f"""
import sys
sys.argv[1:1] = [{str(address)!r}, {str(self._folder)!r}, {worker!r}]
with open({warm_relay.__file__!r}, "rb") as file:
    code = compile(file.read(), file.name, "exec")
exec(code)
"""
        program.write_text(interpreter + code)
        program.chmod(0o755)
        self._socket.bind(str(address))
        self._socket.listen(64)
        threading.Thread(target=self._accept, name="relays", daemon=True).start()

    def offer(self, argv: list[str], env: dict[str, str]) -> tuple[list[str], dict[str, str]]:
        """A container's main command and environment, so that what it starts as ``python`` asks here.

        The program is named by its path, for it would take itself for the relay by the PATH that it has.
        """
        program = shutil.which(argv[0], path=env.get("PATH", ""))
        if not self._usable or program is None:
            return argv, env
        return [program, *argv[1:]], {**env, "PATH": os.pathsep.join([str(self._folder), env.get("PATH", "")])}

    def close(self) -> None:
        """Take no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], name="relay", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """One relay, until it has ended; its fork does with it."""

        def answer(status: int | None) -> None:
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps({"status": status}).encode() + b"\n")

        with connection, contextlib.suppress(OSError, ValueError):
            connection.settimeout(REQUEST_S)
            asker, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            with connection.makefile("rb") as lines:
                fork = Fork(answer)
                if not self._start(fork, json.loads(lines.readline()), asker):
                    return answer(None)
                connection.settimeout(None)
                with contextlib.suppress(OSError):
                    lines.read()  # until the relay's end
            fork.kill()

    def _start(self, fork: Fork, request: dict[str, Any], asker: int) -> bool:
        argv, env, cwd = request["argv"], request["env"], request["cwd"]
        forks = self._forks_of(asker)
        if forks is None or (guardian := self._find_guardian(argv, env, cwd)) is None:
            return False
        fork.guardian_pid = guardian.pid
        forks.append(fork)  # before it may have ended
        with contextlib.suppress(HarnessError):
            if not guardian.spawn(fork, argv, env, cwd, Path(f"/proc/{asker}/fd/1")):
                return True
        forks.remove(fork)
        return False
