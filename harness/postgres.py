"""PostgreSQL metadata databases: clusters of local binaries, and databases at an address that was given."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from executor_conformance.harness import programs
from executor_conformance.harness.database import (
    Connection,
    Database,
    Spawn,
    cached_template,
    first_line,
    last_lines,
    migrate,
    require_callback_table,
    template_key,
)
from executor_conformance.harness.errors import EnvironmentUnavailable, HarnessError, UsageError
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.pressure import Deadline

OWNER = "conformance"
DATABASE = "airflow"
START_SECONDS = 30.0
CONNECT_SECONDS = 5
_LONGEST_FOLDER = 80  # a socket's whole path must stay below 108 bytes

# PostgreSQL refuses to run as root. Changing the user clears the parent-death signal that a supervisor may
# have asked for, so it is set again; the process stays the same one.
_AS_USER = """
import ctypes, os, sys
libc, asked = ctypes.CDLL(None), ctypes.c_int()
libc.prctl(2, ctypes.byref(asked), 0, 0, 0)
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
libc.prctl(1, asked.value, 0, 0, 0)
os.execv(sys.argv[3], sys.argv[3:])
"""


class ChildProcess:
    """A process started by :func:`spawn_process`; its output is in a file."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: Path) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def log_tail(self) -> str:
        """The last lines of its output."""
        size = os.fstat(self._log.fileno()).st_size
        return last_lines(os.pread(self._log.fileno(), 8192, max(0, size - 8192)).decode(errors="replace"))


def spawn_process(name: str, argv: list[str], env: dict[str, str], cwd: Path) -> ChildProcess:
    """Start a plain child process, for use without a supervisor."""
    return ChildProcess(argv, env, cwd)


def find_binary(name: str) -> Path:
    """Locate a program of PostgreSQL's server, newest version first where several are installed.

    :raises EnvironmentUnavailable: it is not installed.
    """
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda folder: [int(part) for part in re.findall(r"\d+", folder.parent.name)],
        reverse=True,
    )
    for path in (None, *versions, "/usr/local/bin", "/usr/local/pgsql/bin"):
        found = shutil.which(name, path=path and str(path))
        if found:
            return Path(found).resolve()
    raise EnvironmentUnavailable(
        f"PostgreSQL's {name} is not installed here; install its server or give an address "
        "with --conformance-database postgresql://user:password@host:port/database."
    )


@functools.cache
def server_version() -> str:
    """The version of the local binaries, e.g. ``15.18``."""
    said = subprocess.run([find_binary("postgres"), "--version"], capture_output=True, text=True, check=True)
    return next(iter(re.findall(r"\d[\d.]*", said.stdout)), "unknown")


@functools.cache
def _server_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EnvironmentUnavailable(
        "PostgreSQL refuses to run as root and there is no user postgres or nobody; run as another user."
    )


def _as_server_user(argv: list[str]) -> list[str]:
    user = _server_user()
    if user is None:
        return argv
    return [sys.executable, "-I", "-c", _AS_USER, str(user.pw_uid), str(user.pw_gid), *argv]


class PostgresCluster:
    """A throw-away server of local binaries, on a socket in a folder that only its user enters."""

    def __init__(self, folder: Path, env: Mapping[str, str], spawn: Spawn = spawn_process) -> None:
        self._spawn = spawn
        self.env = {"PATH": env.get("PATH", os.environ.get("PATH", os.defpath)), "LC_ALL": "C", "TZ": "UTC"}
        self.folder = folder / "postgres"
        # The server's user could not enter a folder of root's, and a long path leaves no room for a socket.
        if _server_user() is not None or len(str(self.folder.resolve())) > _LONGEST_FOLDER:
            self.folder = Path(tempfile.mkdtemp(prefix="executor-conformance-pg-", dir="/tmp"))
        self.data = self.folder / "pgdata"
        self.process: Any = None

    @property
    def argv(self) -> list[str]:
        """The command that runs the server in the foreground."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "unix_socket_permissions": "0700",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "jit": "off",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return _as_server_user([str(find_binary("postgres")), "-D", str(self.data), *options])

    def url(self, driver: str, database: str = DATABASE) -> str:
        """The SQLAlchemy address of a database of this cluster."""
        return f"postgresql+{driver}://{OWNER}@/{database}?host={self.folder}"

    def prepare(self, source: Path | None = None) -> None:
        """Fill the data folder: a copy of ``source``, or a new cluster.

        :raises HarnessError: ``initdb`` failed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if source is not None:
            shutil.copytree(source, self.data)
        self.folder.chmod(0o700)
        user = _server_user()
        if user is not None:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid)
        if source is None:
            options = f"-U {OWNER} --auth=trust --encoding=UTF8 --no-locale --no-sync --wal-segsize=1"
            argv = _as_server_user([str(find_binary("initdb")), "-D", str(self.data), *options.split()])
            done = programs.run(argv, START_SECONDS, env=self.env, cwd=self.folder)
            if done.returncode:
                raise HarnessError(f"PostgreSQL's initdb failed; it said last:\n{last_lines(done.stderr)}")

    def start(self) -> None:
        """Spawn the server and wait until it answers.

        :raises HarnessError: it ended or did not answer in time.
        """
        self.process = self._spawn("postgres", self.argv, self.env, self.data)
        deadline = Deadline(START_SECONDS)
        while not self.ready():
            if not self.process.alive or deadline.over():
                said = self.process.log_tail()
                self.stop()
                raise HarnessError(f"PostgreSQL did not start in {self.data}; it said last:\n{said}")
            time.sleep(0.02)

    def ready(self) -> bool:
        """Whether the server accepts connections."""
        try:
            self.connect("postgres").close()
        except HarnessError:
            return False
        return True

    def connect(self, database: str = DATABASE, *, readonly: bool = False) -> Connection:
        """Open an autocommit connection.

        :raises HarnessError: the server does not answer.
        """
        try:
            return _connect(self.url("psycopg2", database), readonly=readonly)
        except _Unreachable as error:
            raise HarnessError(f"PostgreSQL in {self.folder} does not answer: {error}.") from None

    def stop(self) -> None:
        """End the server, at once if it does not end by itself, and remove its folder; again is harmless."""
        self.halt()
        shutil.rmtree(self.folder, ignore_errors=True)

    def halt(self) -> None:
        """End the server and keep its data, in a clean state if it ended by itself."""
        process, self.process = self.process, None
        for number, seconds in ((signal.SIGINT, LIMITS.stop_grace), (signal.SIGKILL, LIMITS.stop_grace)):
            if process is None or not process.alive:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
            end = time.monotonic() + seconds
            while process.alive and time.monotonic() < end:
                time.sleep(0.01)


class LocalPostgres(Database):
    """A database in a cluster of its own, whose data folder is a copy of the template's."""

    kind = "postgres"

    def __init__(self, folder: Path, env: Mapping[str, str], spawn: Spawn = spawn_process) -> None:
        _driver()
        self.label = f"PostgreSQL {server_version()} (local binaries)"
        template = _local_template(env, spawn)
        self.cluster = PostgresCluster(folder, env, spawn)
        self.url = self.cluster.url("psycopg2")
        self.async_url = self.cluster.url("asyncpg")
        try:
            self.cluster.prepare(template / "pgdata")
            self.cluster.start()
        except BaseException:
            self.cluster.stop()
            raise

    def connect(self, *, readonly: bool = True) -> Connection:
        """Open an autocommit connection; see :meth:`Database.connect`."""
        return self.cluster.connect(readonly=readonly)

    def drop(self) -> None:
        """End the cluster and remove its folder."""
        self.cluster.stop()


def _local_template(env: Mapping[str, str], spawn: Spawn) -> Path:
    def build(staging: Path) -> None:
        cluster = PostgresCluster(staging, env, spawn)
        try:
            cluster.prepare()
            cluster.start()
            with contextlib.closing(cluster.connect("postgres")) as connection:
                connection.execute(f"CREATE DATABASE {DATABASE}")
            migrate(cluster.url("psycopg2"), cluster.url("asyncpg"), env)
            with contextlib.closing(cluster.connect()) as connection:
                require_callback_table(connection)
                connection.execute("CHECKPOINT")
            cluster.halt()
            if (cluster.data / "postmaster.pid").exists():
                raise HarnessError("PostgreSQL did not end cleanly after the migration; run again.")
            shutil.copytree(cluster.data, staging / "pgdata")
        finally:
            cluster.stop()

    return cached_template(template_key(f"postgres{server_version().split('.')[0]}", env), build)


class GivenPostgres(Database):
    """A database of its own name on the server at an address; its template is made once per process."""

    kind = "postgres"

    def __init__(self, address: str, env: Mapping[str, str]) -> None:
        try:
            parts = urllib.parse.urlsplit(address)
            self._where = f"{parts.hostname or 'localhost'}:{parts.port or 5432}"
        except ValueError:
            raise UsageError(
                "The address given with --conformance-database is not valid; "
                "write postgresql://user:password@host:port/database."
            ) from None
        self._parts = parts._replace(scheme="postgresql", path=parts.path if parts.path.strip("/") else "/postgres")
        with self._admin() as admin:
            version = str(admin.execute("SHOW server_version")[0][0]).split()[0]
            self.label = f"PostgreSQL {version} (address given)"
            template = self._template(admin, env)
            self._name = f"executor_conformance_{secrets.token_hex(6)}"
            self._create(admin, self._name, f"TEMPLATE {template}")
        self.url = self._address(self._name, "psycopg2")
        self.async_url = self._address(self._name, "asyncpg")

    def _address(self, name: str, driver: str) -> str:
        url = self._parts._replace(scheme=f"postgresql+{driver}", path=f"/{name}").geturl()
        return url.replace("sslmode=", "ssl=") if driver == "asyncpg" else url

    @contextlib.contextmanager
    def _admin(self) -> Iterator[Connection]:
        try:
            connection = _connect(self._parts.geturl())
        except _Unreachable as error:
            raise EnvironmentUnavailable(
                f"PostgreSQL at {self._where} cannot be used ({error}); "
                "check that it runs and the address given with --conformance-database."
            ) from None
        with contextlib.closing(connection):
            yield connection

    def _create(self, admin: Connection, name: str, options: str = "") -> None:
        end = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                admin.execute(f"CREATE DATABASE {name} {options}")
                return
            except HarnessError as error:
                # A template is busy until the server has noticed that its last client went away.
                if "being accessed" not in str(error) or time.monotonic() > end:
                    said = first_line(error.__cause__ or error)
                    raise EnvironmentUnavailable(
                        f"PostgreSQL at {self._where} made no database ({said}); give a user with CREATEDB."
                    ) from error
            time.sleep(0.05)

    def _template(self, admin: Connection, env: Mapping[str, str]) -> str:
        key = self._parts.geturl()
        with _templates_lock:
            if key not in _templates:
                name = f"executor_conformance_template_{secrets.token_hex(6)}"
                self._create(admin, name, "ENCODING 'UTF8' TEMPLATE template0")
                try:
                    migrate(self._address(name, "psycopg2"), self._address(name, "asyncpg"), env)
                    with contextlib.closing(_connect(self._address(name, "psycopg2"))) as connection:
                        require_callback_table(connection)
                except BaseException:
                    self._drop(name)
                    raise
                atexit.register(self._drop, name)
                _templates[key] = name
            return _templates[key]

    def connect(self, *, readonly: bool = True) -> Connection:
        """Open an autocommit connection; see :meth:`Database.connect`."""
        try:
            return _connect(self.url, readonly=readonly)
        except _Unreachable as error:
            raise HarnessError(f"PostgreSQL at {self._where} does not answer: {error}.") from None

    def drop(self) -> None:
        """Drop the database, whoever is still connected to it."""
        self._drop(self._name)

    def _drop(self, name: str) -> None:
        with contextlib.suppress(HarnessError, EnvironmentUnavailable), self._admin() as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


_templates: dict[str, str] = {}
_templates_lock = threading.Lock()


class _Unreachable(Exception):
    """The server refused a connection; the message is one line."""


def _driver() -> Any:
    try:
        import psycopg2
    except ImportError:
        raise EnvironmentUnavailable(
            "PostgreSQL needs psycopg2; run pip install 'airflow-executor-conformance[postgres]'."
        ) from None
    return psycopg2


def _connect(url: str, *, readonly: bool = False) -> Connection:
    psycopg2 = _driver()
    try:
        raw = psycopg2.connect(re.sub(r"^postgresql\+\w+:", "postgresql:", url), connect_timeout=CONNECT_SECONDS)
        raw.set_session(readonly=readonly, autocommit=True)
    except psycopg2.Error as error:
        raise _Unreachable(first_line(error)) from None
    return Connection("postgres", raw)
