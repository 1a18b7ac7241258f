"""One emulator of a module's ``SERVICE`` for all of its tests; what a test makes fail works again afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.aws_emulator.support import Server, serving


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving("--services", request.module.SERVICE, "--stop-timeout", "1") as server:
        yield server


@pytest.fixture
def no_faults(server: Server) -> Iterator[None]:
    yield
    server.admin.clear_faults()
