"""Whether a Dag's own callback is an executor's matter, told from the rows that a core makes; here written by hand."""

from __future__ import annotations

from executor_conformance.suites.dag_attribute import CallbackRow, made_for_an_executor

DEADLINE = CallbackRow("c0", "executor", "import_path")
OF_THE_DAG_PROCESSOR = CallbackRow("c1", "dag_processor", "dag_attribute")
OF_AN_EXECUTOR = CallbackRow("c2", "executor", "dag_attribute")


def test_a_core_that_gives_it_to_an_executor() -> None:
    assert made_for_an_executor([DEADLINE, OF_AN_EXECUTOR]) == OF_AN_EXECUTOR
    assert made_for_an_executor(iter([OF_THE_DAG_PROCESSOR, OF_AN_EXECUTOR])) == OF_AN_EXECUTOR


def test_a_core_that_gives_it_to_the_dag_processor() -> None:
    why = made_for_an_executor([DEADLINE, OF_THE_DAG_PROCESSOR])
    assert isinstance(why, str)
    assert "a callback of the type 'dag_processor' of a Dag's own callback, not one for an executor" in why


def test_a_core_that_keeps_no_row_of_it() -> None:
    for rows in ([], [DEADLINE]):
        assert made_for_an_executor(rows) == (
            "The running core makes no callback of a Dag's own callback that it keeps in its table."
        )
