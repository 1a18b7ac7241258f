"""What holds for all of the project's own tests."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Spare ``pytest -m conformance`` the imports of modules of which it would deselect every test."""
    return True if config.option.markexpr == "conformance" else None
