"""What is told to the harness of an exception in a process that imports Airflow: never with a token.

SQLAlchemy writes the parameters of a statement into its errors, and a workload's token may be one of them.
"""

from __future__ import annotations

import traceback
from typing import Any

from executor_conformance.harness.rules import without_tokens


def trace() -> str:
    """The traceback of the exception that is being handled."""
    return without_tokens(traceback.format_exc())


def raised(error: Exception) -> dict[str, Any]:
    """That the subject raised it: ``raised``, its type, and ``message``, at most 500 characters."""
    return {"raised": type(error).__name__, "message": without_tokens(str(error))[:500]}


def failure(error: Exception) -> dict[str, Any]:
    """The answer to a request that ended with it, which is being handled: ``failed`` and ``details``."""
    return {"failed": without_tokens(f"{type(error).__name__}: {error}"), "details": trace()}
