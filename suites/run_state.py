"""What a pytest process knows about a conformance run, and the refusal of bad input before anything starts."""

from __future__ import annotations

import contextlib
import datetime as dt
import tempfile
import threading
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from executor_conformance.suites.interrupt import Interrupts

if TYPE_CHECKING:
    from executor_conformance.harness.errors import ConformanceError
    from executor_conformance.harness.session import EnvironmentPool, Recorder

LEAST_PROCESSES = 30
REFUSAL = "conformance_refusal"
"""Key of what a process of pytest-xdist has to say of bad input."""


class ConformanceState:
    """What a pytest process knows about the run; made only when a conformance case is collected."""

    def __init__(self, config: pytest.Config) -> None:
        from executor_conformance.harness.backend import Options
        from executor_conformance.harness.catalogue import load_catalogue
        from executor_conformance.harness.history import Clock
        from executor_conformance.harness.session import LEVELS, choose_backends, subjects_of

        option = config.option
        self.config = config
        self.catalogue = load_catalogue()
        self.options = Options(
            executor=option.conformance_executor,
            database=option.conformance_database,
            substrate=option.conformance_substrate,
            broker=option.conformance_broker,
            kubeconfig=option.conformance_kubeconfig and str(Path(option.conformance_kubeconfig).absolute()),
            image=option.conformance_image,
            api_host=option.conformance_api_host,
            aws=option.conformance_aws and str(Path(option.conformance_aws).absolute()),
            control_plane=check_control_plane(option.conformance_control_plane),
            patience_s=option.conformance_patience,
            worker_start=option.conformance_worker_start,
            processes=check_processes(option.conformance_processes),
        )
        level = option.conformance_level
        self.levels = LEVELS[: LEVELS.index(level) + 1]
        check_airflow()
        _check_database(self.options.database)
        chosen = choose_backends(option.conformance_backend)
        if self.options.executor:
            if len(chosen) != 1:
                from executor_conformance.harness.errors import UsageError

                raise UsageError("An executor of your own needs one environment; name it with --conformance-backend.")
            if not hasattr(config, "workerinput"):
                from executor_conformance.harness.scheduler import check_executor_path

                check_executor_path(self.options.executor)
        self.subjects, self.unavailable = subjects_of(chosen, self.options)
        self.clock = Clock()
        self.started = dt.datetime.now(dt.UTC)
        self.began = time.monotonic()
        self.folder = Path(option.conformance_report).absolute()
        self.expectations = self._load_expectations(option.conformance_expectations)
        self.results: list[dict[str, Any]] = []
        self.described: dict[str, dict[str, Any]] = {}
        self.run_facts: dict[str, Any] = {}
        self.interrupts = Interrupts()
        self._pool: EnvironmentPool | None = None
        self._closing: threading.Thread | None = None
        self._recorder: Recorder | None = None

    def _load_expectations(self, given: str | None) -> Any:
        from executor_conformance.harness.expectations import Expectations, load_expectations, load_for_line
        from executor_conformance.harness.session import circumstances
        from executor_conformance.harness.versions import CORE

        run = circumstances(self.options.database, self.options.broker)
        if given:
            loaded = load_expectations(Path(given), self.catalogue)
        elif self.options.executor:
            known = load_for_line(packaged_expectations(), run.versions[CORE], self.catalogue)
            return replace(known.of(run), inherited=True)
        elif not (folder := _own_expectations(self.config)):
            return Expectations()
        else:
            loaded = load_for_line(folder, run.versions[CORE], self.catalogue)
        if loaded.stands_for and loaded.path:
            there, missing = loaded.path.name, f"{loaded.stands_for.parent.name}/{loaded.stands_for.name}"
            self.say(
                f"conformance: there is no {missing} yet; {there} tells the known failures, and what it lists may pass"
            )
        return loaded.of(run)

    @property
    def pool(self) -> EnvironmentPool:
        """The environments of this process."""
        if self._pool is None:
            from executor_conformance.harness.session import EnvironmentPool
            from executor_conformance.harness.supervisor import runs_folder

            self._pool = EnvironmentPool(runs_folder(), self.clock, self.say)
        return self._pool

    @property
    def recorder(self) -> Recorder:
        """Runs cases and keeps their histories."""
        if self._recorder is None:
            from executor_conformance.harness.session import Recorder

            self._recorder = Recorder(self.catalogue, self.expectations, self.folder, self.levels)
        return self._recorder

    def say(self, text: str) -> None:
        """A line on the terminal, beside what pytest shows; also while pytest captures what is written."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        if reporter is None:
            return
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            reporter.ensure_newline()
            reporter.write_line(text)

    def begin_to_close(self) -> None:
        """Begin to stop the environments of this process; :meth:`close` waits for the end of it."""
        if self._pool is not None and self._closing is None:
            self._closing = threading.Thread(target=self._pool.close, name="close", daemon=True)
            self._closing.start()

    def close(self) -> None:
        """Stop the environments of this process."""
        self.begin_to_close()
        if self._closing is not None:
            self._closing.join()
            self._closing = self._pool = None


def _own_expectations(config: pytest.Config) -> Path | None:
    """The folder of the checkout's own expectations, if pytest runs in the checkout."""
    # pytest takes the value of an option for a path when it finds its root, so the root alone does not tell
    roots = (config.rootpath, config.invocation_params.dir)
    marks = (Path("suites", "contract.toml"), Path("expectations"))  # an installed package has the first as well
    return next((root / "expectations" for root in roots if all((root / mark).exists() for mark in marks)), None)


def packaged_expectations() -> Path:
    """Return the folder of the known failures of released executors, which the package brings."""
    return Path(str(resources.files("executor_conformance.expectations")))


def check_airflow() -> None:
    """Refuse to run without Airflow, or with one that is too old.

    :raises UsageError: so it is.
    """
    from importlib.metadata import PackageNotFoundError, version

    from executor_conformance.harness.errors import UsageError
    from packaging.version import Version

    try:
        found = version("apache-airflow-core")
    except PackageNotFoundError:
        raise UsageError(
            "Airflow is not installed in this environment; install apache-airflow 3.3 or later beside this package."
        ) from None
    if Version(found).release < (3, 3):
        raise UsageError(f"Airflow {found} is too old: callbacks on executors need Airflow 3.3 or later.")


def _check_database(kind: str) -> None:
    from executor_conformance.harness.errors import UsageError

    if kind not in ("sqlite", "postgres") and not kind.startswith(("postgresql://", "postgresql+", "postgres://")):
        raise UsageError(f"The database '{kind}' is unknown; give 'sqlite', 'postgres', or a postgresql:// address.")


def check_control_plane(value: str) -> str:
    """The value of ``--conformance-control-plane``.

    :raises UsageError: it is neither a name nor an address.
    """
    from executor_conformance.harness.backend import EMULATOR, LOCALSTACK
    from executor_conformance.harness.errors import UsageError

    if value not in (EMULATOR, LOCALSTACK) and not value.startswith(("http://", "https://")):
        raise UsageError(
            f"The control plane '{value}' is unknown; give '{EMULATOR}', '{LOCALSTACK}', or a LocalStack's address "
            "(http://…)."
        )
    return value.rstrip("/")


def check_processes(value: int | None) -> int | None:
    """The value of ``--conformance-processes``.

    :raises UsageError: no environment could live with so few.
    """
    from executor_conformance.harness.errors import UsageError

    if value is not None and value < LEAST_PROCESSES:
        raise UsageError(f"--conformance-processes is {value}; an environment needs {LEAST_PROCESSES} or more.")
    return value


def check_folder(folder: Path) -> None:
    """Refuse a report folder that cannot be written to.

    :raises UsageError: it cannot.
    """
    from executor_conformance.harness.errors import UsageError

    try:
        (folder / "histories").mkdir(parents=True, exist_ok=True)
        # a name of its own: the processes of pytest-xdist try at the same time
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"The report folder {folder} is not writable ({error.strerror}); name another with --conformance-report."
        ) from None


def refuse(config: pytest.Config, error: ConformanceError) -> NoReturn:
    """End the run because of bad input."""
    said = f"conformance: {error}"
    if hasattr(config, "workeroutput"):  # of pytest-xdist, whose controller otherwise learns the exit code only
        config.workeroutput[REFUSAL] = said
    pytest.exit(said, returncode=error.exit_code)
