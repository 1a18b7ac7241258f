"""Calls that a test lets go on while it looks at something else."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

SECONDS = 30.0


class Call:
    """A call in a thread; ``result`` returns or raises what it did."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._results: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()
        self._function = function
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._results.put((self._function(), None))
        except Exception as error:
            self._results.put((None, error))

    @property
    def pending(self) -> bool:
        return self._results.empty()

    def result(self) -> Any:
        value, error = self._results.get(timeout=SECONDS)
        if error is not None:
            raise error
        return value
