"""LocalStack's own virtual environment, made on demand in the cache folder: never in the one that runs the suite."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

from executor_conformance.backends.commands import CommandFailed, run
from executor_conformance.harness.errors import EnvironmentUnavailable
from filelock import FileLock, Timeout

VERSION = "4.14.0"
"""The last one whose distribution and image need no token."""
PYTHON = "EXECUTOR_CONFORMANCE_LOCALSTACK_PYTHON"
"""Names the interpreter."""
LEAST, BELOW = (3, 12), (3, 14)
"""Its distribution says 3.10, but its SQS is written in the syntax of 3.12."""
WANTED = "3.13"
INSTALL_S = 1800
"""A bound for a slow network or a machine with much else to do; else it takes seconds."""


def requirements() -> Path:
    """The pinned distributions: without pins, today's newest ones do not work with it."""
    return Path(str(resources.files("executor_conformance.backends.aws.localstack") / "requirements.txt"))


def folder() -> Path:
    """Where the virtual environment is or will be: another one for other pins."""
    from executor_conformance.harness.database import cache_folder

    pins = hashlib.sha256(requirements().read_bytes()).hexdigest()[:8]
    return cache_folder() / "localstack" / f"{VERSION}-{pins}"


def interpreter() -> str:
    """A Python that LocalStack runs on: of the variable PYTHON, this one, one on the PATH or of pyenv; else empty."""
    if named := os.environ.get(PYTHON):
        return named
    if LEAST <= sys.version_info[:2] < BELOW:
        return sys.executable
    names = [f"python3.{minor}" for minor in range(BELOW[1] - 1, LEAST[1] - 1, -1)]
    found = [on_path for name in names if (on_path := shutil.which(name))]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found += [str(path) for name in names for path in sorted(pyenv.glob(f"versions/*/bin/{name}"))]
    return next((python for python in found if _works(python)), "")


def _works(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", ""], capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False  # as pyenv has for versions that are not chosen


def ensure() -> Path:
    """The interpreter of LocalStack's virtual environment, which is made first if it is not there.

    :raises EnvironmentUnavailable: it cannot be made; the message has the last line of what was said.
    """
    home = folder()
    python = home / "bin" / "python"
    if (home / "complete").exists() and python.exists():
        return python
    home.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{home}.lock", timeout=INSTALL_S):
            if not (home / "complete").exists():
                _make(home, python)
    except Timeout:
        raise EnvironmentUnavailable(
            f"another run has been installing LocalStack {VERSION} in {home} for {INSTALL_S} s"
        ) from None
    return python


def _make(home: Path, python: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    uv, base = shutil.which("uv"), interpreter()
    if not uv and not base:
        raise EnvironmentUnavailable(
            f"LocalStack {VERSION} needs Python 3.12 or 3.13, and neither is on the PATH (uv would fetch one); "
            f"name one with the variable {PYTHON}"
        )
    if uv:
        try:
            _run([uv, "venv", "--quiet", "--python", base or WANTED, str(home)])
        except EnvironmentUnavailable as error:
            more = "" if base else f"; it needs Python 3.12 or 3.13, name one with the variable {PYTHON}"
            raise EnvironmentUnavailable(f"{error}{more}") from None
        _run([uv, "pip", "install", "--quiet", "--no-deps", "--python", str(python), "-r", str(requirements())])
    else:
        _run([base, "-m", "venv", str(home)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(requirements())])
    (home / "complete").touch()


def _run(argv: list[str]) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    what = f"LocalStack {VERSION} cannot be installed"
    try:
        run(argv, INSTALL_S, env=env)
    except CommandFailed as error:
        telling = next((line for line in error.said if "error" in line.lower() or "No solution" in line), str(error))
        raise EnvironmentUnavailable(f"{what}: {telling[:300].rstrip('.')}") from None
