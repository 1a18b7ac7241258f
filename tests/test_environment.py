"""Workers with other settings, and what an environment restores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from executor_conformance.harness.environment import Environment

URL = "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"


class World:
    """As much of an environment as starts workers; ``anew`` is what its backend answers."""

    def __init__(self, anew: bool | None) -> None:
        self.seen: list[str] = []
        self.schedulers: list[dict[str, str]] = []
        site = SimpleNamespace(env={URL: "http://usual", "OTHER": "1"})

        def renew() -> bool | None:
            self.seen.append(site.env[URL])
            return anew

        self.env: Any = SimpleNamespace(
            site=site,
            _usual={},
            backend=SimpleNamespace(renew_workers=renew),
            start_scheduler=lambda env: self.schedulers.append(env),
        )

    def renew(self, settings: dict[str, str]) -> bool:
        return Environment.renew_workers(self.env, settings)


@pytest.mark.parametrize("anew", [False, True])
def test_workers_have_other_settings_until_they_are_renewed(anew: bool) -> None:
    world = World(anew)
    assert world.renew({URL: "http://other"})
    assert world.renew({})
    assert world.seen == ["http://other", "http://usual"]
    assert world.env.site.env == {URL: "http://usual", "OTHER": "1"}
    assert world.schedulers == ([{URL: "http://other"}, {}] if anew else [])


def test_where_workers_cannot_be_renewed_nothing_changes() -> None:
    world = World(None)
    assert not world.renew({URL: "http://other"})
    assert (world.env.site.env[URL], world.env._usual) == ("http://usual", {})
