"""LocalStack's own virtual environment, made on demand in the cache folder: never in the one that runs the suite."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

from executor_conformance.harness.errors import EnvironmentUnavailable
from filelock import FileLock, Timeout

VERSION = "4.14.0"
"""The last one whose distribution and image need no token."""
INSTALL_S = 600
"""A bound; without a load, ten seconds."""


def requirements() -> Path:
    """The pinned distributions: without pins, today's newest ones do not work with it."""
    return Path(str(resources.files("executor_conformance.backends.aws.localstack") / "requirements.txt"))


def folder() -> Path:
    """Where the virtual environment is or will be: another one for other pins or another Python."""
    from executor_conformance.harness.database import cache_folder

    pins = hashlib.sha256(requirements().read_bytes()).hexdigest()[:8]
    return cache_folder() / "localstack" / f"{VERSION}-{sys.version_info.major}.{sys.version_info.minor}-{pins}"


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
    if uv := shutil.which("uv"):
        _run([uv, "venv", "--quiet", "--no-config", "--python", sys.executable, str(home)])
        _run([uv, "pip", "install", "--quiet", "--no-deps", "--python", str(python), "-r", str(requirements())])
    else:
        _run([sys.executable, "-m", "venv", str(home)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r", str(requirements())])
    (home / "complete").touch()


def _run(argv: list[str]) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    what = f"LocalStack {VERSION} cannot be installed"
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=INSTALL_S, check=False, env=env, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentUnavailable(f"{what}: '{' '.join(argv[:3])}' did not end within {INSTALL_S} s") from None
    except OSError as error:
        raise EnvironmentUnavailable(f"{what}: '{argv[0]}' cannot be run ({error.strerror})") from None
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        telling = next((line for line in said if "error" in line.lower() or "No solution" in line), "no message")
        raise EnvironmentUnavailable(f"{what}: {telling[:300].rstrip('.')}")
