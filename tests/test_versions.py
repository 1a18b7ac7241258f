"""Versions: which of them a specifier admits, and what the versions of a run are called."""

from __future__ import annotations

import pytest
from executor_conformance.harness.versions import Bounds, line_of, read_bounds, versions_of


@pytest.mark.parametrize(
    ("specifier", "version", "admitted"),
    [
        ("<3.4.1", "3.4.0b2", True),
        ("<3.4.1", "3.4.0", True),
        ("<3.4.1", "3.4.1", False),
        # what is below its release is below it in a specifier too, which PEP 440 by itself denies
        ("<3.4.0", "3.4.0b2", True),
        (">=3.4.0", "3.4.0b2", False),
        (">3.4.0b1", "3.4.0b2", True),
        (">3.4.0", "3.4.0.post1", True),
        ("<=3.4.0", "3.4.0rc1", True),
        ("==3.4.*", "3.4.0b2", True),
        ("~=3.4.0b1", "3.4.0b2", True),
        ("~=3.4.0b1", "3.5.0b1", False),
        ("!=5.1.1", "5.1.1rc1", True),
        ("<5.1.1rc1", "5.1.1rc1", False),
        ("<5.1.1rc1", "5.1.1", False),
        (">=3.4.0b1,<3.4.1", "3.4.0b2", True),
        (">=3.4.0b1,<3.4.1", "3.3.9", False),
        ("<9", "", False),
        ("<9", "no version", False),
        # a merged report may name several, and what excuses has to be about each
        ("<5.1.1", "5.0.0, 5.1.0", True),
        ("<5.1.1", "5.1.0, 5.1.1", False),
    ],
)
def test_pre_releases_compare_as_they_are_ordered(specifier: str, version: str, admitted: bool) -> None:
    assert Bounds((("edge3", specifier),)).admit({"edge3": version}) is admitted


def test_each_bound_has_to_admit_its_version() -> None:
    bounds = Bounds((("core", "<3.5"), ("edge3", "<5.1.1")))
    assert bounds.admit({"core": "3.4.0", "edge3": "5.1.0"})
    assert not bounds.admit({"core": "3.4.0", "edge3": "5.1.1"})
    assert not bounds.admit({"core": "3.4.0"})  # the provider is not installed
    assert Bounds().admit({})


def test_the_versions_of_a_run_have_short_names() -> None:
    distributions = {
        "apache-airflow-providers-cncf-kubernetes": "10.25.0",
        "apache-airflow-providers-celery": "3.26.0",
        "apache-airflow-providers-docker": "4.0",
        "apache-airflow-task-sdk": "1.4.0b2",
        "celery": "5.6.0",
        "kombu": "5.6.0",
    }
    found = versions_of("3.4.0b2", distributions)
    named = {"core": "<3.5", "task-sdk": "<2", "celery": "<4", "apache-airflow-providers-docker": "<5"}
    assert read_bounds("It", named).admit(found)
    assert found["celery"] == "3.26.0"
    assert found["cncf-kubernetes"] == "10.25.0"
    assert "celery" not in versions_of("3.4.0", {"celery": "5.6.0"})  # the library is not the provider
    assert versions_of("", {}) == {}


@pytest.mark.parametrize(
    ("version", "line"),
    [("3.4.0b2", "3.4"), ("3.4.1", "3.4"), ("3.10.0", "3.10"), ("3.5.dev0", "3.5"), ("3.4b1", "3.4"), ("x", "x")],
)
def test_the_line_of_a_version(version: str, line: str) -> None:
    assert line_of(version) == line
