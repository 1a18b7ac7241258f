"""What holds for all of the project's own tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare ``pytest -m conformance`` the imports of modules of which it would deselect every test."""
    return True if config.option.markexpr == "conformance" else None


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pytest that a test starts is no worker of the pytest-xdist that runs the test."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)
