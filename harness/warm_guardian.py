"""A guardian that has imported what its children begin with: each of them is a fork of it that runs a module.

Run by path with the interpreter, the environment and the folder of the processes that it is to start:
``python warm_guardian.py <fd> <rundir> <module> <more modules>``. It imports ``module``'s imports and the further
modules, forgets ``module`` itself, and then serves as ``guardian.py`` does. A request to spawn ``[program, "-m",
module, argument ...]`` is answered by a fork that goes on as that command would: its own session, streams, folder,
environment, title and signals, ``__main__`` run anew. What is imported is what the command imports itself, by the same
interpreter with the same settings; the fork saves only the time. It refuses to serve where a fork would not be as
good as a new process: with a thread running, or without setproctitle to give a fork the command line of its command.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import os
import runpy
import signal
import sys
import types
from typing import Any, NoReturn

ROOM_VARIABLE = "EXECUTOR_CONFORMANCE_ROOM"
"""As long as a title may become: a process's title takes the place of its arguments and its environment."""
PR_SET_NAME = 15


def _sibling(name: str) -> types.ModuleType:
    """A module beside this file, and no other of its name."""
    folder = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(name, os.path.join(folder, f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


guardian = _sibling("guardian")


class Begin(BaseException):
    """In a fork: everything is set up; leave the guardian's frames and be the command."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        super().__init__(argv)
        self.argv, self.env = argv, env


class WarmGuardian(guardian.Guardian):  # type: ignore[misc, name-defined]
    """As its parent class, with forks that run ``module``."""

    def __init__(self, fd: int, rundir: str, module: str) -> None:
        self.module = module
        self.handlers = {number: signal.getsignal(number) for number in guardian.ALL_SIGNALS}
        super().__init__(fd, rundir)

    def _become(self, request: dict[str, Any], log: int, writer: int) -> NoReturn:
        try:
            _entitle(request["argv"])
            if request["argv"][1:3] != ["-m", self.module]:
                raise ValueError(f"only python -m {self.module} is run here")
            self._enter(request, log)
            for number, handler in self.handlers.items():
                if handler is not None:
                    with contextlib.suppress(OSError, ValueError):
                        signal.signal(number, handler)
            for each in (self.wakeup, self.wakeup_writer, self.parent, log):
                if each is not None:
                    os.close(each)
            self.socket.close()
        except BaseException as error:
            self._refuse(writer, error)
        os.close(writer)
        raise Begin(request["argv"], request["env"])


def _entitle(argv: list[str]) -> None:
    """Show ``argv`` to whoever lists processes, as if it had been executed; the name is the program's."""
    from setproctitle import setproctitle

    setproctitle(" ".join(argv))
    ctypes.CDLL(None).prctl(PR_SET_NAME, os.path.basename(argv[0]).encode()[:15], 0, 0, 0)


def _preload(module: str, more: list[str]) -> dict[str, str]:
    """Import; the variables that this and the interpreter's start set, which those of a new process would set too."""
    with open("/proc/self/environ", "rb") as file:
        given = dict(entry.partition("=")[::2] for entry in os.fsdecode(file.read()).split("\0"))
    for each in (module, *more):
        with contextlib.suppress(ModuleNotFoundError):  # of another core: the fork imports what it has
            importlib.import_module(each)
    parent, _, name = module.rpartition(".")
    sys.modules.pop(module, None)  # it is run as __main__, and was not to be there before
    with contextlib.suppress(KeyError, AttributeError):
        delattr(sys.modules[parent], name)
    return {name: value for name, value in os.environ.items() if given.get(name) != value}


def _begin(begin: Begin, changed: dict[str, str]) -> None:
    """Be the command."""
    os.environ.clear()
    os.environ.update(begin.env | changed)
    sys.argv[:] = ["-m", *begin.argv[3:]]
    sys.orig_argv[:] = begin.argv
    sys.modules["__main__"] = main_module = types.ModuleType("__main__")
    main_module.__annotations__ = {}
    runpy._run_module_as_main(begin.argv[2])  # type: ignore[attr-defined]  # what -m does


def main() -> None:
    """Import, serve, and in a fork be the command; whatever ends it, nothing that was started here stays."""
    import setproctitle  # it looks for the room at its import

    del os.environ[ROOM_VARIABLE]
    fd, rundir, module, *more = sys.argv[1:]
    sys.path[0] = os.getcwd()  # as with -m
    for number in guardian.ALL_SIGNALS:  # some are ignored where this was started, and are not in an executed command
        if signal.getsignal(number) == signal.SIG_IGN and number not in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    changed = _preload(module, more)
    setproctitle.setproctitle(f"warm interpreter: {module}")  # a fork has it until it has its own
    if (threads := len(os.listdir("/proc/self/task"))) != 1:
        sys.exit(f"{threads - 1} threads run after the imports of {module}")
    gc.collect()
    gc.freeze()  # or each fork's collections would copy every page
    warm = WarmGuardian(int(fd), rundir, module)
    begin = None
    asked = False
    try:
        asked = warm.serve()
    except Begin as caught:
        begin = caught
    finally:
        if os.getpid() == warm.pid and not asked:
            warm.kill_all()
            warm.remove()
    if begin is not None:
        _begin(begin, changed)


if __name__ == "__main__":
    main()
