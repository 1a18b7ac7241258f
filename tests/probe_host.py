"""A module ``probe`` that stands for Airflow's worker command, and a host that runs it as a container's."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from executor_conformance.backends.host_processes import HostProcess, HostProcesses

SECONDS = 30.0
PROBE = """
import atexit, json, os, signal, sys, threading, time

import probe_imported

def seen():
    return {
        "name": __name__,
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "path": sys.path,
        "flags": list(sys.flags),
        "executable": sys.executable,
        "folder": os.getcwd(),
        "environ": dict(os.environ),
        "handlers": {number: repr(signal.getsignal(number)) for number in sorted(map(int, signal.valid_signals()))},
        "mask": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        "descriptors": {n: os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if int(n) < 3},
        "how many": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "leads": os.getpid() == os.getsid(0) == os.getpgid(0),
        "comm": open("/proc/self/comm").read(),
        "title": open("/proc/self/cmdline").read().rstrip(chr(0)).replace(chr(0), " "),
        "globals": sorted(name for name in globals()),
        "main": sys.modules["__main__"].__dict__ is globals(),
        "itself": sorted(name for name in sys.modules if "warm" in name or "guardian" in name),
        "buffers": (sys.stdout.line_buffering, sys.stdout.write_through, sys.stdout.encoding, sys.stdout.isatty()),
    }

def main():
    atexit.register(lambda: print("at exit", flush=True))
    what = sys.argv[1]
    if what == "look":
        print(json.dumps(seen()))
    elif what == "exit":
        sys.exit(int(sys.argv[2]))
    elif what == "say":
        sys.exit("a last word")
    elif what == "raise":
        raise ValueError("on purpose")
    elif what == "signal":
        os.kill(os.getpid(), int(sys.argv[2]))
        time.sleep(60)
    elif what == "hold":
        time.sleep(60)
    elif what == "leave":
        if os.fork() == 0:
            if sys.argv[2:] == ["apart"]:  # whoever waits for the end of the output waits for this too
                os.close(1), os.close(2)
            time.sleep(60)

if __name__ == "__main__":
    main()
"""


class Host:
    """Starts the module ``probe`` as a container's command."""

    def __init__(self, folder: Path, imported: str = "") -> None:
        self.folder = folder
        (folder / "logs").mkdir(parents=True)
        (folder / "probe.py").write_text(PROBE)
        (folder / "probe_imported.py").write_text(f"import os\nos.environ['BY_IMPORT'] = 'yes'\n{imported}\n")
        self.processes = HostProcesses(folder, folder / "logs", "probe", ())
        self.env = {"PATH": os.path.dirname(sys.executable), "PYTHONUNBUFFERED": "1", "HOSTNAME": "h"}
        self.started: list[HostProcess] = []

    def start(self, *arguments: str, warm: bool = True, **env: str) -> HostProcess:
        process = HostProcess("-", self.folder / "logs" / f"{len(self.started)}.log")
        self._run(process, ["python", "-m", "probe", *arguments], env, warm)
        return process

    def _run(self, process: HostProcess, argv: list[str], env: dict[str, str], warm: bool) -> None:
        self.processes.start(process, argv, {**self.env, **env}, str(self.folder), warm)
        self.started.append(process)

    def ended(self, *arguments: str, **more: Any) -> tuple[int | None, str]:
        """Exit status and output."""
        process = self.start(*arguments, **more)
        assert process.reaped.wait(SECONDS), "it has not ended"
        process.sweep()
        return process.status, process.log.read_text()

    def warm_up(self) -> int:
        """Have an interpreter; its pid."""
        self.ended("exit", "0")
        return self.warm()

    def warm(self) -> int:
        """The pid of an interpreter, once it is ready."""
        warm = self.processes._warm
        wait_for(lambda: warm._ready, "an interpreter is ready")
        return warm.pids()[0]

    def is_fork(self, process: HostProcess) -> bool:
        return process.guardian_pid != self.processes.guardian_pid


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + SECONDS
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {SECONDS:g} s: {what}"
        time.sleep(0.01)
    return value
