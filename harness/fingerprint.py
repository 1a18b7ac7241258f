"""A fingerprint of all that shapes the tables of a migrated database in this Python environment."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

_GROUP = "apache_airflow_provider"  # the entry points by which Airflow finds providers, also those of others
_AIRFLOW = ("models", "migrations", "providers/**/models", "providers/**/migrations")


@functools.cache
def tables_fingerprint(managers: str = "") -> str:
    """Return a few digits that change with the versions, models and migrations of Airflow and of its providers.

    A checkout keeps its version while its tables change, so the sources count too.

    :param managers: the value of ``[database] external_db_managers``.
    """
    digest = hashlib.sha256(managers.encode())
    tops = {name.strip().partition(".")[0] for name in managers.split(",") if name.strip()}
    versions: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower()
        provided = [point for point in distribution.entry_points if point.group == _GROUP]
        tops |= {point.value.partition(":")[0].partition(".")[0] for point in provided}
        if provided or name.startswith(("sqlalchemy", "alembic")):
            versions.setdefault(name, distribution.version)
    digest.update(repr(sorted(versions.items())).encode())
    for root, path in _sources(tops - {"airflow"}):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _sources(tops: set[str]) -> Iterator[tuple[Path, Path]]:
    """Yield the models and migrations of Airflow, and whole packages of others, each file with its root."""
    for root in _folders("airflow"):
        folders = {folder for pattern in _AIRFLOW for folder in root.glob(pattern) if folder.is_dir()}
        files = {path for folder in folders for path in folder.rglob("*")}
        yield from ((root, path) for path in sorted(files) if path.is_file() and path.suffix != ".pyc")
    for top in sorted(tops):
        for root in _folders(top):
            yield from ((root, path) for path in sorted(root.rglob("*.py")))


def _folders(package: str) -> list[Path]:
    """Return the folders of a top-level package, of which nothing is imported."""
    spec = importlib.util.find_spec(package)
    found = list(spec.submodule_search_locations or ()) if spec else []
    # Airflow extends its path over all of sys.path as it is imported: providers of a checkout are beside its core
    found += [str(Path(entry, package)) for entry in sys.path]
    return [folder for folder in dict.fromkeys(Path(each).resolve() for each in found) if folder.is_dir()]
