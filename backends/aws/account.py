"""An AWS account of the user's: what a run makes in it carries a generated name, and goes with the run."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from executor_conformance.backends.aws import preflight, probe
from executor_conformance.backends.aws.account_file import CALLABLE_TIMEOUT_S, OPTION, AccountFile, load
from executor_conformance.backends.aws.substrate import ENDED, WITHHELD, AwsSubstrate
from executor_conformance.backends.emulation import Way
from executor_conformance.harness.backend import Options, Site
from executor_conformance.harness.errors import BoundReached, ConformanceError, HarnessError, UsageError

CREDENTIALS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
    *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE"),
    *("AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_STS_REGIONAL_ENDPOINTS"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    *("AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_EC2_METADATA_DISABLED"),
)
"""Where boto3 finds the user's credentials: for the scheduler's processes, never for workers."""
OF_THE_HOST = (
    *("PATH", "HOME", "USER", "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONPYCACHEPREFIX", "TZ", "TMPDIR"),
    *("AIRFLOW__CORE__EXECUTOR", "AIRFLOW__CORE__PARALLELISM", "EXECUTOR_CONFORMANCE_FINGERPRINT_KEY"),
    *("EXECUTOR_CONFORMANCE_PRELOAD", "EXECUTOR_CONFORMANCE_SUBJECT"),
    *("AIRFLOW__SCHEDULER__", "AIRFLOW__API__", "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION"),
)
"""Variables of this host's processes, or beginnings of them, that mean nothing, or too much, to a worker."""
BUNDLE = "executor_conformance.harness.airflow_side.shipped_bundle.ShippedBundle"
CONNECT_S, READ_S, CLIENT_ATTEMPTS = 5, 10, 2
"""Of the executor's client."""
START_S = 600.0
"""A bound on the probe's start, the pull of a large image included."""
MISSING_S = 30.0
"""For so long what was just started may be unknown to the service's next answer."""


class ExistingAccount(AwsSubstrate):
    """A service in an account. Subclasses make the worker's definition, start, see and end runs."""

    service_name: ClassVar[str]
    on_this_host = False
    victims = frozenset()
    possible: ClassVar[Mapping[str, Sequence[str]]] = {}
    """As ``ways``."""
    seen_s = 1.0
    patience_s = 10.0  # answers of AWS about what has just changed may be old
    callable_timeout_s = CALLABLE_TIMEOUT_S

    def __init__(self, site: Site, ways: Mapping[str, Mapping[str, Way]], file: AccountFile | None = None) -> None:
        super().__init__(site, self.service_name)
        self.all_ways = ways
        self.ways = self.possible
        self.file = file or load(str(site.options.aws), self.service)
        self.region = self.file.region
        self.settle_s = self.file.settle_s
        self.name = f"{preflight.PREFIX}{int(time.time())}-{secrets.token_hex(3)}"
        self.resources = {}
        self.image = ""
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self._undo: list[tuple[str, Callable[[], Any]]] = []
        self._stopped = False
        self._runs: dict[str, dict[str, Any]] = {}
        self._found_at: dict[str, float] = {}
        self._ended_by_us: set[str] = set()
        self._broken: set[str] = set()
        self._trouble = ""

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """The two options, the file's content, and what a look at the account finds.

        :raises UsageError: something is not given, or not there; one sentence for each thing.
        """
        given = {OPTION: options.aws, "--conformance-api-host": options.api_host}
        if absent := [option for option, value in given.items() if not value]:
            each = [f"The substrate 'cluster' of {cls.service_name} also needs {option}." for option in absent]
            raise UsageError(" ".join(each))
        file = load(str(options.aws), cls.service_name)
        temporary = Path(tempfile.gettempdir()).resolve()
        if Path("/tmp") not in (temporary, *temporary.parents):
            raise UsageError(
                "Workers in AWS can write below /tmp only, and the run's folder must be there: unset TMPDIR."
            )
        if "PYTEST_XDIST_WORKER" in os.environ:
            return None  # the controller has looked
        return preflight.check(file, cls.service_name)

    def control_plane(self, title: str) -> str:
        """The service, and where it is."""
        return f"{title} of {self.file.place}"

    def data_plane(self, own: str) -> str:
        """The image, for the report."""
        return f"containers of the image {self.image} in the account"

    # -- asking ---------------------------------------------------------------------------------------------

    def client(self, service: str | None = None, **config: Any) -> Any:
        """boto3's client of a service; by default, the one that this is about."""
        service = service or self.service
        if self._session is None:
            self._session = preflight.session(self.file)
        if config:
            return preflight.client(self._session, self.file, service, **config)
        if service not in self._clients:
            self._clients[service] = preflight.client(self._session, self.file, service)
        return self._clients[service]

    def ask(self, what: str, call: Callable[..., Any], **arguments: Any) -> Any:
        """The answer of ``call``.

        :raises HarnessError: it was refused, or there was none.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call(**arguments)
        except (BotoCoreError, ClientError) as error:
            raise HarnessError(f"AWS does not {what}: {preflight.why_not(error)}.") from None

    def made(self, what: str, undo: Callable[[], Any]) -> None:
        """Take note of something that this run has made and that ``undo`` removes.

        :raises HarnessError: the run has been ended meanwhile, by Ctrl-C; then it is removed at once.
        """
        self._undo.append((what, undo))
        if self._stopped:
            self.stop()
            raise HarnessError(f"The run was ended while it made {what}.")

    # -- start and end --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Names that the executor's settings need."""
        if not self.resources:
            self.resources = self.make_resources()

    @abstractmethod
    def make_resources(self) -> dict[str, Any]:
        """What must be there before the settings of workers are known; as ``resources``."""

    def connection(self) -> dict[str, Any]:
        """The user's credentials, as boto3 finds them."""
        retries = {"mode": "standard", "total_max_attempts": CLIENT_ATTEMPTS}
        config = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": retries}
        extra: dict[str, Any] = {"region_name": self.region, "config_kwargs": config}
        if self.file.profile:
            extra["profile_name"] = self.file.profile
        if self.file.endpoint_url:
            extra["endpoint_url"] = self.file.endpoint_url
        return {"extra": extra}

    def timers(self) -> Mapping[str, float]:
        """Of the executor's client; what AWS may take is the file's ``settle_s``."""
        return {
            "timeout of a request": CLIENT_ATTEMPTS * (CONNECT_S + READ_S),
            "settle_s of the account": self.settle_s,
        }

    def environ(self) -> dict[str, str]:
        """The user's credentials, where they are variables."""
        return {name: os.environ[name] for name in CREDENTIALS if name in os.environ}

    def worker_settings(self) -> dict[str, str]:
        """Variables of a worker: the deployment's settings as far as they mean something in a container."""
        settings = {
            name: value for name, value in self.site.env.items() if not name.startswith((*WITHHELD, *OF_THE_HOST))
        }
        home = str(self.site.folder / "worker")
        bundles = json.loads(self.site.env["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"])
        shipped = [{**bundle, "classpath": BUNDLE} for bundle in bundles]
        return settings | {
            "AIRFLOW_HOME": f"{home}/home",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": f"{home}/logs",
            "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(shipped),
            **self.site.worker_env,
        }

    def prepare_workers(self) -> None:
        """Register the definition of the workers."""
        self.define(self.worker_settings())

    @abstractmethod
    def define(self, settings: dict[str, str], image: str = "") -> None:
        """Register what workers are made from: as the user's, with ``settings``; ``image`` in place of its own."""

    def wait_ready(self) -> None:
        """Run the probe; see :func:`probe.judge` for what it raises."""
        url = self.site.worker_env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]
        exit_code, said = self.run_probe(probe.command(url))
        probe.judge(exit_code, said, self.image, str(self.site.options.api_host))

    @abstractmethod
    def run_probe(self, command: list[str]) -> tuple[int | None, str]:
        """The exit code of a worker that runs ``command``, and the control plane's reason for its end.

        :raises BoundReached: it did not end in time.
        """

    def end_of(self, identity: str) -> tuple[int | None, str]:
        """Wait for the end of a run of our own; as :meth:`run_probe`."""
        self.know([identity])
        deadline = time.monotonic() + START_S
        while True:
            run = next(run for run in self.runs() if run["id"] == identity)
            if run["status"] in ENDED:
                self._trouble = ""
                return run["exit_code"], run["reason"]
            if time.monotonic() > deadline or self._stopped:
                self.end(identity)
                raise BoundReached(f"The probe {identity} was {run['status']} for {START_S:g} s.")
            time.sleep(0.5)

    def stop(self) -> None:
        """End all that runs, and remove what was made, the newest first; what cannot be removed becomes a warning."""
        self._stopped = True
        if not self._undo:
            return
        left = []
        try:
            self.clear()
        except ConformanceError as error:
            left.append(f"runs ({str(error).rstrip('.')})")
        while self._undo:
            what, undo = self._undo.pop()
            try:
                self.ask(f"remove {what}", undo)
            except ConformanceError as error:
                left.append(f"{what} ({str(error).rstrip('.')})")
        if left:
            warnings.warn(f"This run leaves in {self.file.place}: {'; '.join(left)}.", stacklevel=2)

    # -- seeing ---------------------------------------------------------------------------------------------

    def know(self, told: Iterable[str]) -> bool:
        """Runs are asked for by their ids too, for a list may be older than they are."""
        new = [identity for identity in told if identity not in self._found_at]
        for identity in new:
            self._found_at[identity] = time.monotonic()
        return bool(new)

    def runs(self) -> list[dict[str, Any]]:
        """As the service describes them; one that is over is not asked for again."""
        self.know(self.listed())
        open_ = [one for one in self._found_at if self._runs.get(one, {}).get("status") not in ENDED]
        described = self.described(open_) if open_ else {}
        for identity in open_:
            found = described.get(identity)
            age = time.monotonic() - self._found_at[identity]
            if found is None:
                gone = age > MISSING_S
                found = {"status": "STOPPED" if gone else "UNKNOWN", "exit_code": None, "reason": "it is not there"}
            found |= {"id": identity}
            found["next"] = "" if found["status"] in ENDED else f"{self._short(identity)} is {found['status']}"
            self._runs[identity] = found
            self._note_trouble(found, age)
        return [self._runs[identity] for identity in self._found_at if identity in self._runs]

    @abstractmethod
    def listed(self) -> list[str]:
        """Ids of the runs of this run's definition, as the service lists them."""

    @abstractmethod
    def described(self, identities: list[str]) -> dict[str, dict[str, Any]]:
        """By id: ``status``, ``exit_code``, ``reason``, ``started``, ``definition``, and ``lost``.

        The latter is set if AWS itself, and nobody's request, kept the run from its end.
        """

    @abstractmethod
    def end(self, identity: str) -> None:
        """Stop one run."""

    @staticmethod
    def _short(identity: str) -> str:
        return f"the run {identity.rpartition('/')[2]}"

    def _note_trouble(self, run: dict[str, Any], age: float) -> None:
        """What the account kept from its end is not the executor's."""
        if run["id"] in self._ended_by_us or run.get("definition") in self._broken or self._trouble:
            return
        if run["status"] in ENDED and run.get("lost"):
            self._trouble = f"AWS ended {self._short(run['id'])} by itself: {run['reason'] or 'no reason'}"
        elif run["status"] not in ENDED and not run.get("started") and age > self.settle_s:
            self._trouble = f"AWS has not started {self._short(run['id'])} for {age:.0f} s: it is {run['status']}"

    def lost(self) -> str:
        """What the account kept a run from, and who cannot be asked any more."""
        return self._trouble

    def refused(self, submission: str) -> bool | None:
        """What the executor asks of AWS cannot be seen."""
        return None

    def messages(self) -> dict[str, dict[str, Any]]:
        """None."""
        return {}

    # -- faults ---------------------------------------------------------------------------------------------

    def inject(self, way: Way, run: dict[str, Any] | None) -> None:
        """By another client's request, or by the definition, whose newest revision the executor uses."""
        if way.act == "stop" and run:
            self._ended_by_us.add(run["id"])
            self.end(run["id"])
        elif way is self.all_ways["start-impossible"]["image"]:
            image = f"{self.image.partition('@')[0].rpartition(':')[0] or self.image}:executor-conformance-none"
            self.define(self.worker_settings(), image)
            self._broken.add(self.resources["revision"])

    def heal(self) -> None:
        """A revision of the definition as it was, if the newest is another."""
        if self.resources.get("revision") in self._broken:
            self.define(self.worker_settings())

    def clear(self) -> None:
        """Stop every run that is not over."""
        for run in self.runs():
            if run["status"] not in ENDED:
                self._ended_by_us.add(run["id"])
                self.end(run["id"])
