"""The ``python`` of a container whose main program starts Airflow's worker command itself, as Lambda's handler does.

Run with the standard library only, by a script with the arguments ``<socket> <folder> <module> [argument ...]``.
``folder`` is where the container finds it as ``python``, the first of its PATH. Where the arguments are ``-m module
...``, it asks the emulator at ``socket`` for a fork that does what the next ``python`` of the PATH would do, with this
process's environment, folder and output, and ends as the fork ends; its request and the answer are lines:

* ``{"argv", "env", "cwd"}`` -> ``{"status": wait status}`` at the fork's end, or ``{"status": null}``: there is none

If this process dies, the emulator kills the fork. Without a fork it becomes the command itself. The worker command has
the PATH without ``folder``, as a fork and as a process; any other command keeps it, for what that may start.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import stat
import sys
from typing import NoReturn


def _environ() -> dict[str, str]:
    """What this process was given: at its start an interpreter may set variables of its own."""
    with open("/proc/self/environ", "rb") as file:
        entries = (entry.partition("=")[::2] for entry in os.fsdecode(file.read()).split("\0") if "=" in entry)
        return dict(entries)


def _can_be_shared() -> bool:
    """Whether a fork elsewhere can have the same streams: nothing to read, and one pipe for both outputs."""
    null, out, err = os.fstat(0), os.fstat(1), os.fstat(2)
    return (
        stat.S_ISCHR(null.st_mode)
        and null.st_rdev == os.stat(os.devnull).st_rdev
        and stat.S_ISFIFO(out.st_mode)
        and (out.st_dev, out.st_ino) == (err.st_dev, err.st_ino)
    )


def _die(status: int) -> NoReturn:
    """End with the same wait status."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no disposition
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)


def _relay(address: str, request: dict[str, object]) -> None:
    """Return if there is no fork; else end as it does."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(address)
            client.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            return
        with client.makefile("rb") as answers:
            line = answers.readline()
    status = json.loads(line)["status"] if line else int(signal.SIGKILL)  # the emulator died, and all forks with it
    if status is not None:
        _die(status)


def main() -> NoReturn:
    """Relay, or be the command."""
    address, folder, module, *arguments = sys.argv[1:]
    env = _environ()
    first, _, others = env.get("PATH", "").partition(os.pathsep)
    path = others if first == folder else env.get("PATH", "")
    argv = ["python", *arguments]
    if arguments[:2] == ["-m", module]:
        env["PATH"] = path
        if _can_be_shared():
            _relay(address, {"argv": argv, "env": env, "cwd": os.getcwd()})
    else:
        argv[0] = shutil.which("python", path=path) or argv[0]  # by its name it would take itself for this
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        sys.exit(f"python: {error.strerror}")


if __name__ == "__main__":
    main()
