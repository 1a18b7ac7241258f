"""Workers with other settings, who asks for them, and what an environment restores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
from executor_conformance.harness.case import NotApplicable
from executor_conformance.harness.environment import Environment
from executor_conformance.harness.waits import Callback
from executor_conformance.suites.test_crash import test_claim_by_a_lost_name as claim_by_a_lost_name

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


@pytest.mark.parametrize("left", [{}, {URL: "http://usual"}])
def test_a_repair_gives_workers_their_usual_settings_before_it_looks_at_them(left: dict[str, str]) -> None:
    env = Mock(_usual=left, **{"site.recorders": {}, "backend.repair.return_value": False})
    Environment.repair(env)
    renewed = [each for each in env.mock_calls if each in (call.renew_workers({}), call.backend.repair(False))]
    assert renewed == ([call.renew_workers({})] if left else []) + [call.backend.repair(False)]


@pytest.mark.parametrize("path", ["/execution/callbacks/c1/run", "/execution/callbacks/c2/run"])
def test_a_worker_that_has_the_name_from_elsewhere_decides_nothing(path: str) -> None:
    case = Mock()
    case.env.site.env = {URL: "http://127.0.0.1:8080/execution/"}
    case.submit.return_value = Callback("c1", "p1")
    case.env.history.of.return_value = [{"path": path}]
    if "c1" in path:
        with pytest.raises(NotApplicable, match="name from elsewhere"):
            claim_by_a_lost_name(case)
    else:
        claim_by_a_lost_name(case)
    assert case.renew_workers.mock_calls == [call({URL: "http://api-server.invalid/execution/"}), call({})]
    assert case.follow_up.called == ("c1" not in path)
