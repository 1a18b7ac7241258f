"""Versions: of Airflow and its providers in a run, and the bounds between which an entry of a list holds."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from executor_conformance.harness.errors import UsageError
from packaging.specifiers import InvalidSpecifier, Specifier, SpecifierSet
from packaging.version import InvalidVersion, Version

CORE = "core"
_PROVIDER = "apache-airflow-providers-"
_OTHERS = {"apache-airflow-core": CORE, "apache-airflow-task-sdk": "task-sdk"}
NAMES = (CORE, "task-sdk", "amazon", "celery", "cncf-kubernetes", "edge3")
"""The short names that bounds may use: Airflow's parts, and the providers that bring executors."""
EXAMPLE = 'versions = { core = ">=3.4.0b1,<3.4.1", edge3 = "<5.1.1" }'


FILESYSTEM = "filesystem"
BROKERS = (FILESYSTEM, "redis", "rabbitmq")
"""Kinds of brokers that an expectation may be about."""
_SCHEMES = {"rediss": "redis", "amqp": "rabbitmq", "amqps": "rabbitmq", "pyamqp": "rabbitmq"}


def broker_kind(broker: str | None) -> str:
    """Return the one of :data:`BROKERS` that an option names, by name or by the scheme of an address."""
    name = (broker or FILESYSTEM).partition("://")[0].lower()
    return _SCHEMES.get(name, name)


@dataclass(frozen=True)
class Circumstances:
    """What an expectation may depend on in a run.

    ``database`` is named as in an option or in a report ('PostgreSQL 15.18'), ``versions`` are by the names of
    :func:`versions_of`.
    """

    database: str
    versions: Mapping[str, str]
    broker: str = FILESYSTEM
    """The kind of Celery's broker: one of :data:`BROKERS`, or the scheme of its address."""


@dataclass(frozen=True)
class Bounds:
    """PEP 440 specifiers by name; without any, every version is within them."""

    specifiers: tuple[tuple[str, str], ...] = ()

    def admit(self, versions: Mapping[str, str]) -> bool:
        """Tell if all versions are within; one that is not installed, or is no version, is not."""
        return all(_admits(SpecifierSet(text), versions.get(name, "")) for name, text in self.specifiers)

    def __bool__(self) -> bool:
        return bool(self.specifiers)

    def __str__(self) -> str:
        return ", ".join(f"{name} {text}" for name, text in self.specifiers)


UNBOUNDED = Bounds()


def read_bounds(where: str, value: object) -> Bounds:
    """Read the table ``versions`` of an entry.

    :param where: what names the entry in a message.
    :raises UsageError: it is no table or an empty one, or has an unknown name or a bad specifier.
    """
    if not isinstance(value, dict) or not value:
        raise UsageError(f"{where} has 'versions' that are no table, or an empty one; write {EXAMPLE}.")
    for name, text in value.items():
        if name not in NAMES and not (name.startswith(_PROVIDER) and name != _PROVIDER):
            near = difflib.get_close_matches(name.removeprefix(_PROVIDER).replace(".", "-"), NAMES, n=1)
            every = f"give one of {', '.join(NAMES)}, or the whole name of a provider, {_PROVIDER}…"
            hint = f"did you mean {near[0]}?" if near else every
            raise UsageError(f"{where} bounds the versions of {name!r}, which is unknown; {hint}")
        if not isinstance(text, str) or not _is_valid(text):
            raise UsageError(
                f"{where} has the specifier {text!r} for {name}, which is not valid; write one as in {EXAMPLE}."
            )
    return Bounds(tuple(value.items()))


def versions_of(airflow: str, distributions: Mapping[str, str]) -> dict[str, str]:
    """Return versions by the names that bounds use.

    :param airflow: the version of Airflow's core, or empty.
    :param distributions: versions of providers and libraries by the names of their distributions, as a report has them.
    """
    found = {CORE: airflow} if airflow else {}
    for name, version in distributions.items():
        if name.startswith(_PROVIDER):
            found |= {name: version, name.removeprefix(_PROVIDER): version}
        elif name in _OTHERS:
            found.setdefault(_OTHERS[name], version)
    return found  # without libraries: 'celery' is the provider


def line_of(version: str) -> str:
    """Return the line of a version, '3.4' for '3.4.0b2'; the version itself if it is none."""
    try:
        return ".".join(map(str, Version(version).release[:2]))
    except InvalidVersion:
        return version


def _is_valid(text: str) -> bool:
    try:
        return bool(SpecifierSet(text))
    except InvalidSpecifier:
        return False


def _admits(specifiers: SpecifierSet, version: str) -> bool:
    # a merged report may have several versions of a provider, side by side
    try:
        several = [Version(each) for each in version.split(", ")]
    except InvalidVersion:
        return False
    return all(_is_within(specifier, each) for specifier in specifiers for each in several)


def _is_within(specifier: Specifier, version: Version) -> bool:
    # PEP 440 leaves 3.4.0b2 out of both '<3.4.0' and '>=3.4.0'; here a pre-release is below its release
    if specifier.operator == "<":
        return version < Version(specifier.version)
    if specifier.operator == ">":
        return version > Version(specifier.version)
    return specifier.contains(version, prereleases=True)
