"""Databases of test environments and the row-state journal."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from executor_conformance.harness import database as databases
from executor_conformance.harness import postgres
from executor_conformance.harness.database import Database, SqliteDatabase, cached_template, make_database
from executor_conformance.harness.errors import EnvironmentUnavailable, HarnessError, UsageError
from executor_conformance.harness.journal import TABLE, Journal

INSERT = (
    "INSERT INTO callback (id, type, fetch_method, data, state, priority_weight, created_at) "
    "VALUES (?, 'executor', 'import_path', '{}', ?, 1, '2026-01-01 00:00:00')"
)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A cache folder of the session's own; yields the environment for subprocesses."""
    bytecode = databases.cache_folder() / "pycache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield {"PYTHONPYCACHEPREFIX": str(bytecode)}


@pytest.fixture
def plain(tmp_path: Path) -> SqliteDatabase:
    """A database with only the table of callbacks, for what needs no migration."""
    made = SqliteDatabase(tmp_path / "plain.db")
    made.path.touch()
    writer = made.connect(readonly=False)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute(
        "CREATE TABLE callback (id CHAR(32) PRIMARY KEY, type TEXT, fetch_method TEXT, data JSON, "
        "state TEXT, output TEXT, priority_weight INTEGER, created_at TIMESTAMP)"
    )
    writer.close()
    return made


@pytest.fixture(scope="session")
def local_postgres(cache: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    try:
        postgres.find_binary("postgres")
        postgres.find_binary("initdb")
    except EnvironmentUnavailable as error:
        pytest.skip(str(error))
    made = make_database("postgres", tmp_path_factory.mktemp("pg"), cache)
    yield made
    made.drop()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def migrated(request: pytest.FixtureRequest, tmp_path: Path, cache: dict[str, str]) -> Iterator[Database]:
    if request.param == "postgres":
        yield request.getfixturevalue("local_postgres")
        return
    made = make_database("sqlite", tmp_path / "environment", cache)
    yield made
    made.drop()


def stored(database: Database, callback_id: uuid.UUID) -> str:
    return str(callback_id) if database.kind == "postgres" else callback_id.hex


@pytest.mark.slow
def test_template_is_made_once_and_copies_are_independent(
    cache: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_database("sqlite", tmp_path / "a", cache)

    def refuse(*_: object) -> None:
        pytest.fail("migrated again")

    monkeypatch.setattr(databases, "migrate", refuse)
    began = time.monotonic()
    second = make_database("sqlite", tmp_path / "b", cache)
    assert time.monotonic() - began < 1.0
    with_row = first.connect(readonly=False)
    with_row.execute(INSERT, [uuid.uuid4().hex, "scheduled"])
    assert with_row.execute("PRAGMA journal_mode") == [("wal",)]
    with_row.close()
    reader = second.connect()
    assert reader.execute("SELECT count(*) FROM callback") == [(0,)]
    assert reader.execute("PRAGMA journal_mode") == [("wal",)]
    reader.close()
    assert second.label.startswith("SQLite 3.")
    assert second.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{tmp_path}/b/airflow.db"
    second.drop()
    second.drop()
    assert not (tmp_path / "b" / "airflow.db").exists()


@pytest.mark.slow
def test_journal_on_the_tables_of_airflow(migrated: Database) -> None:
    journal = Journal(migrated)
    tables = journal.install()
    assert tables[:2] == ["callback", "task_instance"]
    journal.read()
    callback_id = uuid.uuid4()
    writer = migrated.connect(readonly=False)
    before = time.time()
    writer.execute(INSERT, [stored(migrated, callback_id), "scheduled"])
    writer.execute("UPDATE callback SET state = 'queued', output = NULL")
    writer.execute("UPDATE callback SET state = 'queued', priority_weight = 2")
    writer.execute("UPDATE callback SET priority_weight = 3")
    writer.execute("UPDATE callback SET state = ?, output = ?", ["failed", "50 % done?"])
    assert (journal.state(str(callback_id)), journal.output(str(callback_id))) == ("failed", "50 % done?")
    writer.execute("DELETE FROM callback")
    entries = journal.read()
    assert [(e.op, e.old, e.new, e.info) for e in entries] == [
        ("insert", None, "scheduled", None),
        ("update", "scheduled", "queued", None),
        ("update", "queued", "failed", "50 % done?"),
        ("delete", "failed", None, "50 % done?"),
    ]
    assert {(e.table, e.row_id) for e in entries} == {("callback", str(callback_id))}
    assert [e.seq for e in entries] == sorted(e.seq for e in entries)
    assert before - 0.01 <= entries[0].at <= entries[-1].at <= time.time() + 0.01
    assert journal.read() == []
    assert journal.state(str(callback_id)) is None
    with pytest.raises(HarnessError):
        journal.query("DELETE FROM callback")
    if "edge_job" in tables:
        writer.execute(
            "INSERT INTO edge_job (dag_id, task_id, run_id, map_index, try_number, state, queue, "
            "concurrency_slots, command) VALUES ('ExecuteCallback', ?, 'r', -1, 0, 'queued', 'd', 1, '')",
            [str(callback_id)],
        )
        writer.execute("UPDATE edge_job SET state = 'running', edge_worker = 'w'")
        writer.execute("DELETE FROM edge_job")
        assert [(e.table, e.row_id, e.old, e.new, e.info) for e in journal.read()] == [
            ("edge_job", str(callback_id), None, "queued", None),
            ("edge_job", str(callback_id), "queued", "running", "w"),
            ("edge_job", str(callback_id), "running", None, "w"),
        ]
    writer.execute("CREATE TABLE celery_taskmeta (id INTEGER PRIMARY KEY, task_id VARCHAR(155), status VARCHAR(50))")
    assert "celery_taskmeta" in journal.install()
    assert journal.install() == journal.install()
    writer.execute("INSERT INTO celery_taskmeta VALUES (1, 'x', 'PENDING')")
    writer.execute("UPDATE celery_taskmeta SET status = 'SUCCESS'")
    assert [(e.table, e.row_id, e.old, e.new) for e in journal.read()] == [
        ("celery_taskmeta", "x", None, "PENDING"),
        ("celery_taskmeta", "x", "PENDING", "SUCCESS"),
    ]
    writer.execute("DROP TABLE celery_taskmeta")
    writer.close()
    journal.close()


@pytest.mark.slow
def test_airflow_itself_works_on_the_copy(migrated: Database, cache: dict[str, str], tmp_path: Path) -> None:
    code = (
        "from airflow.utils.session import create_session, create_session_async\n"
        "import asyncio, sqlalchemy\n"
        "rows = sqlalchemy.text('SELECT count(*) FROM callback')\n"
        "async def count():\n"
        "    async with create_session_async() as session:\n"
        "        return await session.scalar(rows)\n"
        "with create_session() as session:\n"
        "    print('rows', session.scalar(rows), asyncio.run(count()))\n"
    )
    env = {**os.environ, **cache, **migrated.environ, "AIRFLOW_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert "rows 0 0" in done.stdout, done.stderr


def test_journal_sees_another_process_and_not_its_rollbacks(plain: SqliteDatabase) -> None:
    journal = Journal(plain)
    assert journal.install() == ["callback"]
    code = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "c.execute('INSERT INTO callback (id, state) VALUES (?, ?)', ('0123456789ABCDEF' * 2, 'queued'))\n"
        "c.commit()\n"
        "c.execute(\"UPDATE callback SET state = 'success'\")\n"
        "c.rollback()\n"
        "c.execute(\"UPDATE callback SET state = 'running'\")\n"
        "c.commit()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(plain.path)], check=True)
    assert [(e.row_id, e.old, e.new) for e in journal.read()] == [
        ("01234567-89ab-cdef-0123-456789abcdef", None, "queued"),
        ("01234567-89ab-cdef-0123-456789abcdef", "queued", "running"),
    ]
    journal.close()


def test_reading_is_fast_and_blocks_no_writer(plain: SqliteDatabase) -> None:
    journal = Journal(plain)
    journal.install()
    writer = plain.connect(readonly=False)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO callback (id, state) VALUES ('a', 'queued')")
    assert journal.read() == []
    writer.execute("COMMIT")
    assert len(journal.read()) == 1
    began = time.perf_counter()
    for _ in range(200):
        journal.read()
    assert (time.perf_counter() - began) / 200 < 0.001
    writer.close()
    journal.close()


@pytest.mark.slow
def test_entry_that_is_committed_late_is_not_lost(local_postgres: Database) -> None:
    journal = Journal(local_postgres)
    journal.install()
    journal.read()
    early, late = local_postgres.connect(readonly=False), local_postgres.connect(readonly=False)
    ids = [str(uuid.uuid4()), str(uuid.uuid4())]
    late.execute("BEGIN")
    late.execute(INSERT, [ids[0], "queued"])
    early.execute(INSERT, [ids[1], "queued"])
    assert [e.row_id for e in journal.read()] == [ids[1]]
    late.execute("COMMIT")
    assert [e.row_id for e in journal.read()] == [ids[0]]
    assert journal.read() == []
    assert not journal.query(f"SELECT 1 FROM {TABLE} WHERE tbl LIKE 'x%' AND seq > ?", [0])
    early.execute("DELETE FROM callback")
    for connection in (early, late, journal):
        connection.close()


@pytest.mark.slow
def test_local_postgres_ends_with_its_folder(local_postgres: Database, cache: dict[str, str], tmp_path: Path) -> None:
    began = time.monotonic()
    made = make_database("postgres", tmp_path, cache)
    assert time.monotonic() - began < 10.0
    assert isinstance(made, postgres.LocalPostgres)
    assert made.kind == "postgres"
    assert made.label.endswith("(local binaries)")
    process, folder = made.cluster.process, made.cluster.folder
    assert process.alive
    made.drop()
    made.drop()
    assert not process.alive
    assert not folder.exists()
    with pytest.raises(HarnessError, match="does not answer"):
        made.connect()


@pytest.mark.slow
def test_given_address_gets_databases_of_its_own(
    local_postgres: Database, cache: dict[str, str], tmp_path: Path
) -> None:
    assert isinstance(local_postgres, postgres.LocalPostgres)
    address = local_postgres.cluster.url("psycopg2", "postgres").replace("+psycopg2", "")
    names = "SELECT datname FROM pg_database WHERE datname LIKE 'executor_conformance%'"
    admin = local_postgres.connect()
    first, second = (make_database(address, tmp_path / name, cache) for name in "ab")
    assert first.url != second.url
    assert first.label.endswith("(address given)")
    assert len(admin.execute(names)) == 3
    reader = first.connect()
    assert reader.execute("SELECT count(*) FROM callback") == [(0,)]
    first.drop()
    second.drop()
    left = admin.execute(names)
    assert [name.startswith("executor_conformance_template_") for (name,) in left] == [True]
    admin.close()


@pytest.mark.parametrize("address", ["postgresql://u:secret@127.0.0.1:{port}/db", "postgres://127.0.0.1:{port}"])
def test_unreachable_address_is_one_sentence(address: str, tmp_path: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening: refuses
        port = held.getsockname()[1]
        with pytest.raises(EnvironmentUnavailable) as caught:
            make_database(address.format(port=port), tmp_path, {})
    message = str(caught.value)
    assert f"127.0.0.1:{port}" in message
    assert "secret" not in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["mysql://u:secret@h/d", "oracle", "postgresql://h:port/d"])
def test_unknown_database_is_a_usage_error(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        make_database(kind, tmp_path, {})
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_binaries_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres.shutil, "which", lambda name, path=None: None)
    with pytest.raises(EnvironmentUnavailable, match="initdb is not installed"):
        postgres.find_binary("initdb")


def test_template_is_built_once_under_contention(cache: dict[str, str]) -> None:
    built, together = [], threading.Barrier(4)

    def build(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.1)
        (folder / "content.txt").write_text("x")

    def ask(_: int) -> Path:
        together.wait()
        return cached_template("contended", build)

    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(ask, range(4)))
    assert len(built) == 1
    assert [(folder / "content.txt").read_text() for folder in folders] == ["x"]


def test_failed_build_leaves_no_template(cache: dict[str, str]) -> None:
    def fail(folder: Path) -> None:
        raise HarnessError("no")

    with pytest.raises(HarnessError):
        cached_template("broken", fail)
    assert not [
        path
        for path in (databases.cache_folder() / "templates").iterdir()
        if path.is_dir() and path.name.startswith((".making-", "broken"))
    ]


@pytest.mark.slow
def test_the_template_is_at_the_latest_migration_of_each_provider(migrated: Database) -> None:
    """So no component makes a table of its own as it starts."""
    spec = importlib.util.find_spec("airflow")
    assert spec is not None
    folders = [Path(each) / "providers/edge3/migrations" for each in spec.submodule_search_locations or ()]
    folder = next((each for each in folders if each.exists()), None)
    if folder is None:
        pytest.skip("the provider edge3 is not installed")
    reader = migrated.connect()
    [(version,)] = reader.execute("SELECT version_num FROM alembic_version_edge3")
    assert version == ScriptDirectory(str(folder)).get_current_head()
    assert reader.execute("SELECT count(*) FROM edge_job") == [(0,)]
    reader.close()


@pytest.mark.slow
def test_failing_migration_tells_its_last_lines(tmp_path: Path, cache: dict[str, str]) -> None:
    with pytest.raises(HarnessError, match="airflow db migrate") as caught:
        databases.migrate(f"sqlite:///{tmp_path}/missing/airflow.db", "", cache)
    assert "unable to open database file" in str(caught.value)
