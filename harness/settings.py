"""The environment variables that every process of an environment starts from."""

from __future__ import annotations

import json
import os
import secrets
from importlib import resources
from pathlib import Path

from executor_conformance.harness.limits import API_TIMEOUT_S

PARALLELISM = 3
"""``[core] parallelism`` of every environment: small, so that a full executor is cheap to make."""

EXTERNAL_MANAGERS = "AIRFLOW__DATABASE__EXTERNAL_DB_MANAGERS"
"""Where an installation names what makes tables beside Airflow's and is not declared by a provider."""


def bytecode_cache() -> str:
    """Where Airflow's byte code is kept between runs; without it each process compiles what it imports."""
    from platformdirs import user_cache_dir

    return str(Path(user_cache_dir("airflow-executor-conformance")) / "bytecode")


def base_environ(folder: Path, executor: str, callable_timeout_s: float, fingerprint_key: str) -> dict[str, str]:
    """Airflow's settings, a fresh signing secret among them; makes the folders that they name.

    :param folder: of the environment.
    :param executor: the dotted path of its class.
    :param callable_timeout_s: how long a callable may run, ``[callbacks] callback_execution_timeout``.
    :param fingerprint_key: with which tokens are told apart in a history without being in it.
    """
    kept = (
        "PATH",
        "LANG",
        "LC_ALL",
        "HOME",
        "USER",
        "VIRTUAL_ENV",
        "PYTHONPATH",
        "LD_LIBRARY_PATH",
        "TZ",
        EXTERNAL_MANAGERS,
    )
    env = {name: os.environ[name] for name in kept if name in os.environ}
    if path := env.get("PYTHONPATH"):  # Airflow's processes start in other folders
        env["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in path.split(os.pathsep) if entry)
    bundle = folder / "bundle"
    bundle.mkdir(exist_ok=True)
    source = resources.files("executor_conformance.suites") / "bundle" / "conformance_dag.py"
    (bundle / "conformance_dag.py").write_text(source.read_text("utf-8"), "utf-8")
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    bundles = [
        {
            "name": "conformance",
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(bundle)},
        }
    ]
    return env | {
        "TMPDIR": str(temporary),
        "PYTHONPYCACHEPREFIX": bytecode_cache(),
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "AIRFLOW_HOME": str(folder / "home"),
        "AIRFLOW__CORE__EXECUTOR": executor,
        "AIRFLOW__CORE__PARALLELISM": str(PARALLELISM),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(bundle),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__FERNET_KEY": "",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "0",
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "task-logs"),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.05",
        "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
        # A supervisor waits one heartbeat interval when its child's sockets close late
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "3",
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": str(API_TIMEOUT_S),
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MIN": "0.1",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "0.4",
        "AIRFLOW__CALLBACKS__CALLBACK_EXECUTION_TIMEOUT": str(callable_timeout_s),
        "AIRFLOW__TRACES__OTEL_ON": "False",
        "EXECUTOR_CONFORMANCE_FINGERPRINT_KEY": fingerprint_key,
        "EXECUTOR_CONFORMANCE_PRELOAD": executor.rpartition(".")[0],
        "EXECUTOR_CONFORMANCE_SUBJECT": executor,
    }
