"""Migrations that providers bring: they run with Airflow's own, and the template changes with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from executor_conformance.harness import database as databases
from executor_conformance.harness.database import SqliteDatabase
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.fingerprint import tables_fingerprint
from executor_conformance.harness.settings import EXTERNAL_MANAGERS

PROVIDER = """
def get_provider_info():
    return {
        "package-name": "acme-provider",
        "name": "Acme",
        "description": "A provider with a table.",
        "versions": ["1.0.0"],
        "db-managers": ["acme_provider.db.AcmeDBManager"],
    }
"""
MANAGER = """
from pathlib import Path

from airflow.utils.db_manager import BaseDBManager
from sqlalchemy import Column, Integer, MetaData, Table

HERE = Path(__file__).parent
acme = MetaData()
Table("acme_job", acme, Column("id", Integer, primary_key=True))


class AcmeDBManager(BaseDBManager):
    metadata = acme
    version_table_name = "alembic_version_acme"
    migration_dir = str(HERE / "migrations")
    alembic_file = str(HERE / "alembic.ini")
"""
IDLE = """
    def initdb(self, use_migration_files=False):
        pass
"""
REVISION = '''"""Make the table."""

from alembic import op

revision, down_revision, branch_labels, depends_on = "acme0001", None, None, None


def upgrade() -> None:
    op.execute("CREATE TABLE acme_job (id INTEGER PRIMARY KEY)")
'''
RUN = """
from acme_provider.db import AcmeDBManager, acme
from airflow import settings
from alembic import context

with settings.engine.connect() as connection:
    context.configure(connection=connection, target_metadata=acme, version_table="alembic_version_acme")
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
"""


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    """A folder for ``sys.path`` with a provider that has a database manager."""
    package, info = tmp_path / "site" / "acme_provider", tmp_path / "site" / "acme_provider-1.0.0.dist-info"
    (package / "migrations" / "versions").mkdir(parents=True)
    info.mkdir()
    files = {
        package / "__init__.py": PROVIDER,
        package / "db.py": MANAGER,
        package / "alembic.ini": "[alembic]\n",
        package / "migrations" / "env.py": RUN,
        package / "migrations" / "versions" / "0001.py": REVISION,
        info / "METADATA": "Metadata-Version: 2.1\nName: acme-provider\nVersion: 1.0.0\n",
        info / "entry_points.txt": "[apache_airflow_provider]\nprovider_info = acme_provider:get_provider_info\n",
    }
    for path, text in files.items():
        path.write_text(text)
    return package.parent


@pytest.mark.slow
@pytest.mark.parametrize("declared", [True, False], ids=["declared by the provider", "external_db_managers"])
def test_a_database_manager_runs(acme: Path, tmp_path: Path, declared: bool) -> None:
    env = {"PYTHONPATH": str(acme)}
    if not declared:
        next(acme.glob("*.dist-info/entry_points.txt")).unlink()
        env[EXTERNAL_MANAGERS] = "acme_provider.db.AcmeDBManager"
    made = SqliteDatabase(tmp_path / "airflow.db")
    databases.migrate(made.url, made.async_url, env)
    reader = made.connect()
    assert reader.execute("SELECT version_num FROM alembic_version_acme") == [("acme0001",)]
    assert reader.execute("SELECT count(*) FROM acme_job") == [(0,)]
    reader.close()


@pytest.mark.slow
def test_a_database_manager_that_does_not_migrate_is_told(acme: Path, tmp_path: Path) -> None:
    (acme / "acme_provider" / "db.py").write_text(MANAGER + IDLE)
    with pytest.raises(
        HarnessError, match=r"tables of acme_provider\.db\.AcmeDBManager are not at their latest migration"
    ):
        databases.migrate(f"sqlite:///{tmp_path}/airflow.db", "", {"PYTHONPATH": str(acme)})


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("acme_provider/db.py", True),
        ("acme_provider/migrations/versions/0001.py", True),
        ("acme_provider/migrations/versions/0002.py", True),
        ("acme_provider-1.0.0.dist-info/METADATA", True),
        ("airflow/providers/acme/migrations/versions/0001.py", True),
        ("airflow/providers/acme/deep/models/job.py", True),
        ("airflow/models/more.py", True),
        ("airflow/providers/acme/hooks/acme.py", False),
        ("other/db.py", False),
    ],
)
def test_the_template_changes_with_what_shapes_its_tables(
    acme: Path, monkeypatch: pytest.MonkeyPatch, file: str, counts: bool
) -> None:
    monkeypatch.syspath_prepend(str(acme))
    path = acme / file
    before = tables_fingerprint.__wrapped__()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.read_text().replace("1.0.0", "1.0.1") + "\n" if path.exists() else "x = 1\n")
    assert (tables_fingerprint.__wrapped__() != before) is counts


def test_the_template_changes_with_external_managers(acme: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(acme))
    keys = {databases.template_key("sqlite", {EXTERNAL_MANAGERS: name} if name else {}) for name in ("", "a.B", "a.C")}
    assert len(keys) == 3
