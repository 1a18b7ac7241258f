"""A second executor, to configure beside the subject: LocalExecutor under a class path of its own."""

from airflow.executors.local_executor import LocalExecutor


class CompanionExecutor(LocalExecutor):
    """LocalExecutor; Airflow refuses to configure one class twice, and the subject may be LocalExecutor."""
