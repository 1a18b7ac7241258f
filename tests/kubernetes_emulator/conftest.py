"""One emulator for all tests of a module; what a test leaves in it is removed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.kubernetes_emulator.support import Server, serving


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("k8s")) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    yield running
    running.forget()


@pytest.fixture
def core(server: Server) -> Any:
    return server.core()
