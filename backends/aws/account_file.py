"""The file that names an AWS account, a region, and what of it a run may use (``--conformance-aws``)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executor_conformance.harness.errors import UsageError

OPTION = "--conformance-aws"
SETTLE_S = 300.0
"""A container of Fargate or Batch may take minutes to start, and Lambda tries again after one and two minutes."""
CALLABLE_TIMEOUT_S = 150
"""Containers start one after the other in up to a minute, while a callable that started first holds its slot."""
LEAST_SETTLE_S = CALLABLE_TIMEOUT_S + 60
"""No callable is given up on before its timeout; its container needs a start and an end."""
NEEDED: dict[str, dict[str, str]] = {
    "ecs": {
        "cluster": "the cluster",
        "task_definition": "the task definition that worker tasks are made from",
        "container_name": "the container of the task definition that is the worker",
    },
    "batch": {
        "job_queue": "the job queue",
        "job_definition": "the job definition that worker jobs are made from",
    },
    "lambda": {"function_name": "the function that the worker function is made from"},
}
"""By service: what a file must name in the section of that name, each with what it is."""
OPTIONAL: dict[str, dict[str, type]] = {
    "ecs": {
        "image": str,
        "launch_type": str,
        "capacity_provider_strategy": list,
        "platform_version": str,
        "subnets": list,
        "security_groups": list,
        "assign_public_ip": bool,
    },
    "batch": {"image": str},
    "lambda": {"image": str},
}
_TOP: dict[str, Any] = {
    "account": str,
    "region": str,
    "profile": str,
    "endpoint_url": str,
    "settle_s": (int, float),
}


@dataclass(frozen=True)
class AccountFile:
    """What a file says; ``settings`` is its section of the service."""

    path: str
    account: str
    region: str
    settings: dict[str, Any] = field(default_factory=dict)
    profile: str | None = None
    """Of the AWS configuration; None: the credentials that boto3 finds by itself."""
    endpoint_url: str | None = None
    """Of what stands in for AWS; None: AWS."""
    settle_s: float = SETTLE_S

    @property
    def place(self) -> str:
        """Where it is, for messages and the report."""
        at = f" at the endpoint {self.endpoint_url}" if self.endpoint_url else ""
        return f"the account {self.account}, {self.region}{at}"


def load(path: str, service: str) -> AccountFile:
    """The file at ``path``, for a run of ``service`` ('ecs', 'batch' or 'lambda').

    :raises UsageError: it cannot be read or lacks something; one sentence for each thing.
    """
    try:
        data = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"The file {path} cannot be read ({error.strerror}); correct {OPTION}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"The file {path} of {OPTION} is not TOML: {str(error).rstrip('.')}.") from None
    if wrong := problems(data, service, path):
        raise UsageError(" ".join(wrong))
    top = {name: data[name] for name in _TOP if name in data}
    return AccountFile(path=path, settings=data[service], **top)


def problems(data: dict[str, Any], service: str, path: str) -> list[str]:
    """What is missing or wrong in ``data`` for a run of ``service``, a sentence each."""
    found = [*_missing(data, service, path), *_strange(data, path)]
    section = data.get(service)
    if isinstance(section, dict):
        known = {**dict.fromkeys(NEEDED[service], str), **OPTIONAL[service]}
        for name, value in section.items():
            if name not in known:
                found.append(f"The file {path} has the unknown entry '{name}' in [{service}].")
            elif not isinstance(value, known[name]):
                found.append(f"The file {path} gives {name} in [{service}] as no {_words(known[name])}.")
        if "launch_type" in section and "capacity_provider_strategy" in section:
            found.append(f"The file {path} gives both launch_type and capacity_provider_strategy in [{service}].")
    elif section is not None:
        found.append(f"The file {path} has {service} as a value; make it a section [{service}].")
    return found


def _missing(data: dict[str, Any], service: str, path: str) -> list[str]:
    found = []
    if not data.get("account"):
        found.append(f'The file {path} does not name the account (account = "123456789012").')
    if not data.get("region"):
        found.append(f'The file {path} does not name the region (region = "eu-central-1").')
    section = data.get(service)
    given = section if isinstance(section, dict) else {}
    for name, what in NEEDED[service].items():
        if not given.get(name):
            found.append(f"The file {path} does not name {what} ({name} in [{service}]).")
    return found


def _strange(data: dict[str, Any], path: str) -> list[str]:
    found = []
    for name, value in data.items():
        if name in NEEDED:
            continue
        if name not in _TOP:
            found.append(f"The file {path} has the unknown entry '{name}'.")
        elif not isinstance(value, _TOP[name]) or isinstance(value, bool):
            kind = "number" if name == "settle_s" else "text in quotes"
            found.append(f"The file {path} gives {name} as no {kind}.")
        elif name == "account" and value and not (value.isascii() and value.isdigit() and len(value) == 12):
            found.append(f"The file {path} gives the account '{value}', which is no number of twelve digits.")
        elif name == "settle_s" and value < LEAST_SETTLE_S:
            found.append(f"The file {path} gives settle_s as {value}; it is at least {LEAST_SETTLE_S} seconds.")
    return found


def _words(kind: type) -> str:
    return {str: "text in quotes", list: "list", bool: "true or false"}[kind]
