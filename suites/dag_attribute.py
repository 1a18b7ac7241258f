"""Whether the running core gives a Dag's own callbacks to executors: found out by what it does, not by its version."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

FETCH_METHOD = "dag_attribute"
"""As ``CallbackFetchMethod.DAG_ATTRIBUTE`` of Airflow's ``executors/workloads/callback.py`` is written in a row."""
EXECUTOR_TYPE = "executor"
"""As ``CallbackType.EXECUTOR`` of Airflow's ``models/callback.py`` is written in a row."""
QUERY = "SELECT id, type, fetch_method FROM callback"


class CallbackRow(NamedTuple):
    """A row of core's table of callbacks: its id, who is to run it, and how what it calls is found."""

    id: str
    type: str
    fetch_method: str


def made_for_an_executor(rows: Iterable[CallbackRow]) -> CallbackRow | str:
    """Of the rows that core made when a Dag run with an ``on_success_callback`` had succeeded, the one for an executor.

    Where there is none, why the callback is no executor's matter.
    """
    found = [row for row in rows if row.fetch_method == FETCH_METHOD]
    for row in found:
        if row.type == EXECUTOR_TYPE:
            return row
    if found:
        kinds = ", ".join(dict.fromkeys(row.type for row in found))
        return (
            f"The running core makes a callback of the type '{kinds}' of a Dag's own callback, not one for an executor."
        )
    return "The running core makes no callback of a Dag's own callback that it keeps in its table."
