"""Tell an executor's code from core's, as the process that has loaded the executor sees it."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

_PROVIDERS = "airflow.providers."
_OF_THIS_PROJECT = "executor_conformance."


def declares_callbacks(executor: Any) -> bool:
    """Return what an executor declares, read the way the running core reads it: from the instance."""
    import warnings

    from airflow.executors.base_executor import BaseExecutor

    if hasattr(BaseExecutor, "supported_workload_types"):
        return any(getattr(kind, "value", kind) == "ExecuteCallback" for kind in executor.supported_workload_types)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(getattr(executor, "supports_callbacks", False))


def origin_of(executor: Any) -> dict[str, Any]:
    """Return ``bases``, ``sources``, ``tables`` and ``declares_callbacks`` of an executor; see ``harness.deaths``."""
    classes = own_classes(type(executor))
    packages = {package for cls in classes if (package := package_of(cls.__module__))}
    return {
        "bases": [f"{cls.__module__}.{cls.__qualname__}" for cls in classes],
        "sources": sorted({path for cls in classes for path in _sources(cls)}),
        "tables": _tables(packages),
        "declares_callbacks": declares_callbacks(executor),
    }


def own_classes(cls: type) -> list[type]:
    """Return the executor's own classes: its method resolution order up to BaseExecutor."""
    from airflow.executors.base_executor import BaseExecutor

    return [each for each in cls.__mro__ if issubclass(each, BaseExecutor) and each is not BaseExecutor]


def package_of(module: str) -> str:
    """Return the package that is the executor's as a whole; '' where it is one module of core, or lies alone."""
    if module.startswith(_PROVIDERS):
        # The folders of providers have one part or two; a provider is where its module get_provider_info lies
        parts = module.split(".")
        for length in (3, 4):
            name = ".".join(parts[:length])
            if f"{name}.get_provider_info" in sys.modules or _has_info(name):
                return name
        return ".".join(parts[:3])
    if module.startswith(("airflow.", _OF_THIS_PROJECT)):
        return ""
    return module.partition(".")[0] if "." in module else ""


def _has_info(package: str) -> bool:
    folder = _folder(package)
    return bool(folder) and (Path(folder) / "get_provider_info.py").exists()


def _folder(package: str) -> str:
    module = sys.modules.get(package)
    paths = list(getattr(module, "__path__", []))
    return paths[0] if paths else ""


def _sources(cls: type) -> list[str]:
    found = [folder] if (folder := _folder(package_of(cls.__module__))) else []
    try:
        return [*found, inspect.getfile(cls)]
    except (TypeError, OSError):  # a class that was made without a file
        return found


def _tables(packages: set[str]) -> list[str]:
    from airflow.models.base import Base

    found = set()
    for mapper in Base.registry.mappers:
        if any(mapper.class_.__module__.startswith(f"{package}.") for package in packages):
            found.add(str(mapper.local_table.name))  # type: ignore[union-attr]
    return sorted(found)
