"""The callables that callbacks run. They live in an installed package, as a user's may.

Each tells the harness, over HTTP, that it was entered and how it went; the answer may make it wait,
which is how a case stops a callable at a known point. Only the standard library is used: this module is
imported in workers of every kind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import urllib.request
from typing import Any

EFFECTS_URL = "EXECUTOR_CONFORMANCE_EFFECTS_URL"


def report(what: str, probe: str | None, **data: Any) -> dict[str, Any]:
    """Tell the harness about an effect; returns its answer once it lets the callable go on."""
    from executor_conformance.harness.codec import encode
    from executor_conformance.harness.space import pid_space

    body = {"what": what, "probe": probe, "pid": os.getpid(), "ppid": os.getppid(), "data": encode(data)}
    body["space"] = pid_space()
    request = urllib.request.Request(
        os.environ[EFFECTS_URL], json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the harness needs no proxy
    with opener.open(request, timeout=120) as answer:
        return json.loads(answer.read())


def succeed(probe: str | None = None, **kwargs: Any) -> str:
    """Return after reporting the kwargs received."""
    report("enter", probe, kwargs=kwargs)
    report("return", probe)
    return "done"


def with_context(context: Any, probe: str | None = None, **kwargs: Any) -> None:
    """Accept the context, and report what it holds."""
    report("enter", probe, kwargs=kwargs, context=sorted(context) if isinstance(context, dict) else repr(context))
    report("return", probe)


def without_context(probe: str | None = None) -> None:
    """Accept no context: passing one raises a TypeError."""
    report("enter", probe)
    report("return", probe)


class Notifier:
    """A notifier class: instantiated with the kwargs, then called."""

    def __init__(self, probe: str | None = None, **kwargs: Any) -> None:
        self.probe = probe
        report("instantiate", probe, kwargs={name: value for name, value in kwargs.items() if name != "context"})

    def __call__(self, context: Any = None) -> None:
        """What core calls, with the context."""
        report("enter", self.probe, context=sorted(context) if isinstance(context, dict) else repr(context))
        report("return", self.probe)


def raise_error(probe: str | None = None) -> None:
    """Raise."""
    report("enter", probe)
    raise ValueError("the callable raised on purpose")


def no_arguments() -> None:
    """Take no kwargs at all: any kwarg raises a TypeError before the body runs."""
    report("enter", None)


def exit_3(probe: str | None = None) -> None:
    """``sys.exit(3)``."""
    report("enter", probe)
    sys.exit(3)


def os_exit_9(probe: str | None = None) -> None:
    """``os._exit(9)``."""
    report("enter", probe)
    os._exit(9)


def segfault(probe: str | None = None) -> None:
    """Kill the own process with SIGSEGV."""
    report("enter", probe)
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)  # Airflow 3.3 leaves a handler behind where it read a Dag file
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def run_too_long(probe: str | None = None) -> None:
    """Run past ``[callbacks] callback_execution_timeout``."""
    report("enter", probe)
    time.sleep(300)
    report("late", probe)


def big_log_then_raise(probe: str | None = None, mebibytes: int = 10) -> None:
    """Write a log of ``mebibytes`` MiB, then raise."""
    report("enter", probe)
    line = "x" * 1023
    for _ in range(mebibytes * 1024):
        print(line)
    raise ValueError("the callable raised after a big log")


def speak(probe: str | None = None, words: str = "") -> None:
    """Print ``words``."""
    report("enter", probe)
    print(words, flush=True)
    report("return", probe)


def hold(probe: str | None = None) -> None:
    """Report ``enter``, wait until the harness lets go, report ``effect``, and return."""
    report("enter", probe)
    report("effect", probe)


def read_secrets(probe: str | None = None) -> None:
    """Read a Connection and a Variable through the supervisor."""
    from airflow.sdk import Connection, Variable

    report("enter", probe)
    port = Connection.get("conformance").port
    value = Variable.get("conformance")
    report("return", probe, port=port, value=value)


def hold_then_read_secrets(probe: str | None = None) -> None:
    """As ``read_secrets``; a case lets go of it where it likes."""
    read_secrets(probe)


def ask_variable_set(probe: str | None = None) -> None:
    """Ask the supervisor for ``Variable.set``."""
    from airflow.sdk import Variable

    _ask(probe, lambda: Variable.set("conformance_written", "x"))


def ask_variable_delete(probe: str | None = None) -> None:
    """Ask the supervisor for ``Variable.delete``."""
    from airflow.sdk import Variable

    _ask(probe, lambda: Variable.delete("conformance_absent"))


def ask_xcom(probe: str | None = None) -> None:
    """Ask the supervisor for an XCom."""
    from airflow.sdk.execution_time.xcom import XCom

    _ask(probe, lambda: XCom.get_one(key="k", dag_id="d", task_id="t", run_id="r"))


def ask_missing_variable(probe: str | None = None) -> None:
    """Ask for a Variable that does not exist."""
    from airflow.sdk import Variable

    _ask(probe, lambda: Variable.get("conformance_no_such_variable"))


def remember(probe: str, store: Any, try_number: int) -> None:
    """Look into the task's state store, and write into it where nothing is there yet."""
    report("enter", probe, store=store is not None, try_number=try_number)
    if store is not None:
        found = store.get("conformance")
        report("found", probe, value=found, try_number=try_number)
        if found is None:
            store.set("conformance", "kept")
            report("kept", probe, try_number=try_number)
    report("return", probe, try_number=try_number)


def _ask(probe: str | None, question: Any) -> None:
    report("enter", probe)
    try:
        answer = repr(question())
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    report("answered", probe, answer=answer[:500])
    report("return", probe)


def whole_way(probe: str | None = None) -> None:
    """Report ``enter``, read a Variable through the supervisor, report ``effect`` and ``last``, and return."""
    from airflow.sdk import Variable

    report("enter", probe)
    # An edition may refuse it, and so may a supervisor that was killed; the way goes on without a word, for whoever
    # has lost its supervisor dies of a print
    with contextlib.suppress(Exception):
        Variable.get("conformance")
    report("effect", probe)
    report("last", probe)
