"""Metadata databases for test environments: each starts as a copy of a migrated template.

A template is made once per version of Airflow, of its providers and of Python by ``airflow db migrate`` in a
subprocess, which runs the migrations of providers too. It is kept under the user's cache folder; see
:func:`cached_template`.
"""

from __future__ import annotations

import abc
import contextlib
import os
import platform
import re
import shutil
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import platformdirs
from executor_conformance.harness import programs
from executor_conformance.harness.errors import EnvironmentUnavailable, HarnessError, UsageError
from executor_conformance.harness.fingerprint import tables_fingerprint
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline
from executor_conformance.harness.settings import EXTERNAL_MANAGERS

CACHE_NAME = "airflow-executor-conformance"
BUSY_SECONDS = 5.0

Spawn = Callable[[str, list[str], dict[str, str], Path], Any]
"""``spawn(name, argv, env, cwd)`` starts a process; the result has ``pid``, ``alive`` and ``log_tail()``."""


class Connection:
    """One autocommit connection, safe to use from several threads; parameters are written ``?``."""

    def __init__(self, kind: str, raw: Any) -> None:
        self.kind = kind
        self.raw = raw
        self._lock = threading.Lock()

    def execute(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows (empty if it has none).

        UUIDs come as the database keeps them: 32 hexadecimal digits in SQLite, dashed in PostgreSQL.

        :raises HarnessError: the database refused the statement or is gone.
        """
        if self.kind == "postgres" and params:
            sql = sql.replace("%", "%%").replace("?", "%s")
        try:
            with self._lock, contextlib.closing(self.raw.cursor()) as cursor:
                # psycopg2 leaves a % alone only where there are no parameters at all.
                cursor.execute(sql, *([tuple(params)] if params else []))
                return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
        except Exception as error:
            if not _is_database_error(error):
                raise
            raise HarnessError(
                f"The metadata database refused {' '.join(sql.split())[:120]!r}: {first_line(error)}"
            ) from error

    def close(self) -> None:
        """Close the connection; again is harmless."""
        with self._lock:
            self.raw.close()


class Database(abc.ABC):
    """A metadata database that belongs to one environment."""

    kind: str  # "sqlite" or "postgres"
    label: str  # for a report, e.g. "SQLite 3.40.1"
    url: str  # SQLAlchemy address for synchronous engines
    async_url: str

    @property
    def environ(self) -> dict[str, str]:
        """The variables that make Airflow use this database."""
        return {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.url,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": self.async_url,
        }

    @abc.abstractmethod
    def connect(self, *, readonly: bool = True) -> Connection:
        """Open an autocommit connection; one that is read-only cannot write and never blocks writers."""

    @abc.abstractmethod
    def drop(self) -> None:
        """Remove the database and whatever serves only it; again is harmless."""


class SqliteDatabase(Database):
    """A SQLite file in WAL mode, which lets readers and one writer work at once."""

    kind = "sqlite"
    label = f"SQLite {sqlite3.sqlite_version}"

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.url = f"sqlite:///{self.path}"
        self.async_url = f"sqlite+aiosqlite:///{self.path}"

    def connect(self, *, readonly: bool = True) -> Connection:
        """Open an autocommit connection; see :meth:`Database.connect`.

        :raises HarnessError: the file is missing.
        """
        try:
            raw = sqlite3.connect(
                f"{self.path.as_uri()}?mode=rw",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise HarnessError(f"The database file {self.path} cannot be opened: {error}.") from error
        if readonly:
            raw.execute("PRAGMA query_only=ON")
        return Connection(self.kind, raw)

    def drop(self) -> None:
        """Delete the file and its journals."""
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)


def make_database(kind: str, folder: Path, env: Mapping[str, str], spawn: Spawn | None = None) -> Database:
    """Make a migrated database of its own for an environment.

    :param kind: value of ``--conformance-database``: ``sqlite``, ``postgres`` (local binaries) or
        ``postgresql://user:password@host:port/database``.
    :param folder: the environment's folder; it is made if missing.
    :param env: environment variables for subprocesses; those of Airflow's configuration are left out.
    :param spawn: starts the server of local PostgreSQL; a plain child process, if not given.
    :raises UsageError: ``kind`` is none of these.
    :raises EnvironmentUnavailable: no Airflow, no PostgreSQL binaries, or the address does not answer.
    :raises HarnessError: the migration failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "sqlite":
        return _make_sqlite(folder, env)
    from executor_conformance.harness import postgres

    if kind == "postgres":
        return postgres.LocalPostgres(folder, env, spawn or postgres.spawn_process)
    if re.match(r"postgres(ql)?(\+\w+)?://", kind):
        return postgres.GivenPostgres(kind, env)
    raise UsageError(
        f"The database {kind.split('://')[0]!r} is not known; "
        "give sqlite, postgres or postgresql://user:password@host:port/database."
    )


def _make_sqlite(folder: Path, env: Mapping[str, str]) -> SqliteDatabase:
    def build(staging: Path) -> None:
        made = SqliteDatabase(staging / "airflow.db")
        migrate(made.url, made.async_url, env)
        connection = made.connect(readonly=False)
        require_callback_table(connection)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    template = cached_template(template_key("sqlite", env), build)
    database = SqliteDatabase(folder / "airflow.db")
    database.drop()
    shutil.copyfile(template / "airflow.db", database.path)
    return database


def cache_folder() -> Path:
    """The folder of templates and compiled bytecode; made if missing."""
    folder = Path(platformdirs.user_cache_dir(CACHE_NAME))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cached_template(key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder of the template ``key``; ``build(empty folder)`` fills it if there is none yet.

    Several processes may ask at once: one builds, the others wait, and nobody sees a half-made template.

    :raises HarnessError: the build failed, or another process holds the lock for too long.
    """
    templates = cache_folder() / "templates"
    templates.mkdir(exist_ok=True)
    final = templates / key
    if final.is_dir():
        return final
    with _locked(templates / f"{key}.lock"):
        if not final.is_dir():
            with tempfile.TemporaryDirectory(prefix=".making-", dir=templates) as staging:
                content = Path(staging) / "content"
                content.mkdir()
                build(content)
                content.rename(final)
    return final


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a template; another process's migration may come first."""
    lock = filelock.FileLock(path)
    deadline = Deadline(2 * LIMITS.template_migration)
    while not lock.is_locked:
        programs.check_not_ended()
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=deadline.slice_s())
        if not lock.is_locked and deadline.over():
            raise HarnessError(
                f"Another process has been making the database template {path.stem} for {deadline}; "
                f"end it, or delete {path}."
            )
    try:
        yield
    finally:
        lock.release()


def template_key(server: str, env: Mapping[str, str]) -> str:
    """The name of the template for this installation; it changes with all that shapes the tables."""
    fingerprint = tables_fingerprint(env.get(EXTERNAL_MANAGERS, ""))
    return f"airflow-{airflow_version()}-py{platform.python_version()}-{server}-{fingerprint}"


def airflow_version() -> str:
    """The version of Airflow beside which this project is installed.

    :raises EnvironmentUnavailable: there is none.
    """
    for name in ("apache-airflow-core", "apache-airflow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    raise EnvironmentUnavailable("Airflow is not installed here; install apache-airflow-core>=3.3.")


def migrate(url: str, async_url: str, env: Mapping[str, str]) -> None:
    """Run ``airflow db migrate`` on an empty database, with the migrations of the installed providers.

    :raises HarnessError: it failed, did not end in time, or left a provider's tables behind; the message ends with its
        last lines.
    """
    with tempfile.TemporaryDirectory(prefix="executor-conformance-home-") as home:
        try:
            done = programs.run(
                [sys.executable, "-m", "executor_conformance.harness.airflow_side.migration"],
                LIMITS.template_migration,
                env=_migration_environ(url, async_url, env, home),
                cwd=home,
                merge=True,
            )
        except programs.NotInTime as error:
            raise HarnessError(
                f"'airflow db migrate' did not end within {error.deadline}; it said last:\n{last_lines(error.output)}"
            ) from None
    if done.returncode:
        raise HarnessError(
            f"'airflow db migrate' failed with exit code {done.returncode}; it said last:\n{last_lines(done.stdout)}"
        )


def _migration_environ(url: str, async_url: str, env: Mapping[str, str], home: str) -> dict[str, str]:
    # A template serves every environment, so no setting of a single one may shape it. Which tables there are besides
    # Airflow's own is a matter of the installation.
    managers = env.get(EXTERNAL_MANAGERS)
    kept = {k: v for k, v in {**os.environ, **env}.items() if not k.startswith(("AIRFLOW", "_AIRFLOW"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    if managers:
        kept[EXTERNAL_MANAGERS] = managers
    return kept | {
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": async_url,
        "PYTHONPYCACHEPREFIX": env.get("PYTHONPYCACHEPREFIX") or str(cache_folder() / "pycache"),
    }


def require_callback_table(connection: Connection) -> None:
    """Check that a migrated database can hold callbacks.

    :raises HarnessError: it has no table ``callback``.
    """
    try:
        connection.execute("SELECT id, state, output FROM callback WHERE 1 = 0")
    except HarnessError as error:
        raise HarnessError(
            f"The database migrated by Airflow {airflow_version()} has no usable table 'callback' ({error})."
        ) from None


def last_lines(text: str, count: int = 15) -> str:
    """The last ``count`` non-empty lines of ``text``."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without a final full stop."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _is_database_error(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) or type(error).__module__.split(".")[0] == "psycopg2"
