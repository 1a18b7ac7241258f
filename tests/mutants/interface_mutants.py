"""Mutants of LocalExecutor in what the class declares and offers; ``table.py`` has the clauses."""

from __future__ import annotations

from typing import Any

from airflow.cli.cli_config import GroupCommand
from airflow.executors.local_executor import LocalExecutor
from airflow.executors.workloads import ExecuteCallback
from local_base import Mended, Mutant


def _undeclared() -> dict[str, Any]:
    if hasattr(LocalExecutor, "supported_workload_types"):
        callbacks = {kind for kind in LocalExecutor.supported_workload_types if kind.value == "ExecuteCallback"}
        return {"supported_workload_types": LocalExecutor.supported_workload_types - callbacks}
    return {"supports_callbacks": False}


class AcceptsWithoutDeclaring(Mutant):
    """DECL-1."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        if not isinstance(workload, ExecuteCallback):
            super().queue_workload(workload, session)
        elif hasattr(self, "executor_queues"):
            self.executor_queues[workload.type][workload.key] = workload
        else:
            self.queued_callbacks[workload.key] = workload


for _name, _value in _undeclared().items():
    setattr(AcceptsWithoutDeclaring, _name, _value)


class DeclaresAndRefuses(Mutant):
    """DECL-1."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        if isinstance(workload, ExecuteCallback):
            raise NotImplementedError("DeclaresAndRefuses does not take ExecuteCallback")
        super().queue_workload(workload, session)


class AttributeOfAnotherType(Mutant):
    """DECL-3."""

    sentry_integration = None


class TakesNoAlias(Mutant):
    """DECL-4."""

    @property
    def name(self) -> Any:
        """What ExecutorLoader has set."""
        return self._name

    @name.setter
    def name(self, value: Any) -> None:
        if value is not None and value.alias and value.alias != type(self).__name__:
            raise ValueError("TakesNoAlias has no other name")
        self._name = value

    _name: Any = None


class TakesACommandOfCore(Mutant):
    """DECL-5."""

    @staticmethod
    def get_cli_commands() -> list[GroupCommand]:
        return [GroupCommand(name="dags", help="Not those of core", subcommands=[])]


class DumpsNothing(Mended):
    """DECL-6."""

    def debug_dump(self) -> None:
        raise NotImplementedError


class TakesWhatItDoesNotKnow(Mutant):
    """DECL-7."""

    def queue_workload(self, workload: Any, session: Any) -> None:
        if type(workload).__name__.startswith("Execute"):
            super().queue_workload(workload, session)
        elif hasattr(self, "executor_queues"):
            self.executor_queues[workload.type][workload.key] = workload
        else:
            self.queued_tasks[workload.key] = workload
