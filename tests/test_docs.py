"""The documentation: generated pages are up to date, links lead somewhere, and what it names exists."""

from __future__ import annotations

import importlib.util
import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from executor_conformance.harness.backend import Backend, Options
from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.expectations import load_expectations
from executor_conformance.suites.cli import main, suite_cases

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", ["contract", "mutants"])
def test_generated_page_is_up_to_date(page: str) -> None:
    spec = importlib.util.spec_from_file_location(f"make_{page}", ROOT / "docs" / f"make_{page}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    catalogue = load_catalogue()
    fresh = module.render(catalogue, suite_cases(catalogue))
    assert (ROOT / "docs" / f"{page}.md").read_text("utf-8") == fresh, f"run: python docs/make_{page}.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """Links within the project lead to a file that is there."""
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    inner = [link for link in links if "://" not in link]
    assert [link for link in inner if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_and_commands_exist(page: Path) -> None:
    """Every ``--conformance-…`` option, subcommand and clause that a page names is there."""
    text = page.read_text("utf-8")
    modules = ("plugin.py", "on_demand.py", "searching.py")
    plugin = "".join((ROOT / "suites" / name).read_text("utf-8") for name in modules)
    options = set(re.findall(r"--conformance-[a-z]+(?:-[a-z]+)*", text))
    assert [option for option in options if f'"{option}"' not in plugin] == []
    commands = set(re.findall(r"(?m)(?:^|`)executor-conformance ([a-z]+)", text))
    assert commands <= set(main.commands)
    catalogue = load_catalogue()
    groups = "|".join(group.id for group in catalogue.groups)
    clauses = set(re.findall(rf"\b(?:{groups})-\d+", text))
    assert clauses <= {clause.id for clause in catalogue.clauses}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_expectations_in_the_pages_can_be_read(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    path = tmp_path / "expectations.toml"
    for block in (block for block in blocks if "[[expected]]" in block):
        path.write_text(block)
        assert load_expectations(path, load_catalogue()).entries


def test_extras_in_the_pages_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for page in PAGES:
        for names in re.findall(r"conformance\[([a-z,]+)\]", page.read_text("utf-8")):
            assert set(names.split(",")) <= set(extras), page.name


def test_the_example_backend_is_whole() -> None:
    """The class in the page on backends imports and implements all that a backend must."""
    page = (ROOT / "docs" / "backends.md").read_text("utf-8")
    code = page.split("```python\n", 1)[1].split("```", 1)[0]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "docs/backends.md", "exec"), names)
    example = names["AcmeBackend"]
    assert issubclass(example, Backend)
    assert not example.__abstractmethods__
    assert "acme" in str(example.missing(Options()))


def test_the_page_on_backends_names_every_member() -> None:
    page = (ROOT / "docs" / "backends.md").read_text("utf-8")
    members = [name for name in (*vars(Backend), *Backend.__annotations__) if not name.startswith("_")]
    assert [name for name in members if f"`{name}" not in page] == []


def test_the_page_on_backends_gives_the_parameters_that_each_method_has() -> None:
    page = (ROOT / "docs" / "backends.md").read_text("utf-8")
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(page.split("```python\n", 1)[1].split("```", 1)[0], "docs/backends.md", "exec"), names)
    table = re.findall(r"`(\w+)\(([\w, ]*)\)`", page.split("```", 1)[0])
    assert len(table) > 10
    for name, parameters in table:
        expected = [
            parameter for parameter in inspect.signature(getattr(Backend, name)).parameters if parameter != "self"
        ]
        assert re.findall(r"\w+", parameters) == [parameter for parameter in expected if parameter != "cls"], name
    for name, method in vars(names["AcmeBackend"]).items():
        if inspect.isfunction(method) and not name.startswith("_") and hasattr(Backend, name):
            assert list(inspect.signature(method).parameters) == list(
                inspect.signature(getattr(Backend, name)).parameters
            ), name
