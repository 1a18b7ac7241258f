"""The emulator put together: moto's endpoint behind the front, the data plane, the resources, and its end."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor_conformance.backends.aws.emulator import messages, moto_seams, resources
from executor_conformance.backends.aws.emulator.admin import Admin
from executor_conformance.backends.aws.emulator.batch_service import BatchService
from executor_conformance.backends.aws.emulator.dataplane import DataPlane
from executor_conformance.backends.aws.emulator.ecs_service import EcsService
from executor_conformance.backends.aws.emulator.faults import Faults
from executor_conformance.backends.aws.emulator.foreign import Foreign
from executor_conformance.backends.aws.emulator.front import Front
from executor_conformance.backends.aws.emulator.lambda_service import LambdaService
from executor_conformance.backends.aws.emulator.runner import Image, Images, Runner
from executor_conformance.harness.errors import UsageError

_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Settings:
    """The command line; times in seconds."""

    folder: Path
    services: frozenset[str]
    images: dict[str, Image]
    port: int = 0
    runner: str = "process"
    region: str = "us-east-1"
    stop_timeout: float = 30.0
    lambda_retry_delay: float = 1.0
    lambda_timeout: int = 60
    lambda_concurrency: int = 10
    visibility_timeout: int = 30
    lambda_handler: Path | None = None


class Emulator:
    """One emulated account in one region."""

    def __init__(self, settings: Settings) -> None:
        """Start the data plane's runner, then moto.

        :raises HarnessError: the runner does not start, or moto refuses a resource.
        """
        self.settings = settings
        self.runner = _make_runner(settings)
        self._stopped = threading.Event()
        try:
            self._build()
        except BaseException:
            self.runner.close()
            raise

    def _build(self) -> None:
        settings = self.settings
        moto_seams.share_botocore_data()
        # moto is imported only now: with the services that are asked for
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        class QuietHandler(MotoRequestHandler):
            """Without a line per request on stderr."""

            def log(self, type: str, message: str, *args: Any) -> None:
                """Errors only."""
                if type == "error":
                    super().log(type, message, *args)

        app = DomainDispatcherApplication(create_backend_app)
        plane = DataPlane(self.runner, Images(settings.images), Faults(), settings.stop_timeout)
        lambdas = None
        if settings.services & {"ecs", "batch"}:
            moto_seams.import_lean()
        if "ecs" in settings.services:
            moto_seams.install_ecs(EcsService(plane), plane, settings.region)
        if "batch" in settings.services:
            moto_seams.install_batch(BatchService(plane), plane, settings.region)
        if "lambda" in settings.services:
            lambdas = LambdaService(plane, settings.lambda_retry_delay, settings.lambda_concurrency, self._bury)
            moto_seams.install_lambda(lambdas)
            messages.install_turns(plane.locks["sqs"])
        self.token = secrets.token_urlsafe(24)
        admin = Admin(plane, self.token, self._messages, lambdas, self._purge)
        front = Front(app, plane, admin, settings.region, moto_seams.ACCOUNT)
        admin.calls_since, admin.counts = front.calls.since, front.calls.counts
        admin.submissions = lambda: list(front.submissions)
        listener = _listen(settings.port)
        port = listener.getsockname()[1]
        self.server = make_server(_HOST, port, front, True, request_handler=QuietHandler, fd=listener.fileno())
        listener.close()  # the server has a duplicate
        self.url = f"http://{_HOST}:{port}"
        self.account = resources.Account(app, settings.region, self.url)
        self.foreign = admin.foreign = Foreign(plane, self.account)
        if lambdas is not None:
            lambdas.defaults = self._lambda_defaults()
        self.resources = self._make_resources()

    def _lambda_defaults(self) -> dict[str, str]:
        return {
            "AWS_REGION": self.settings.region,
            "AWS_DEFAULT_REGION": self.settings.region,
            "AWS_ACCESS_KEY_ID": "conformance",
            "AWS_SECRET_ACCESS_KEY": "conformance",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _make_resources(self) -> dict[str, Any]:
        settings, account = self.settings, self.account
        made: dict[str, Any] = {"region": settings.region, "account": moto_seams.ACCOUNT}
        role = resources.make_role(account) if settings.services & {"batch", "lambda"} else ""
        if "ecs" in settings.services:
            made["ecs"] = resources.make_ecs(account)
        if "batch" in settings.services:
            made["batch"] = resources.make_batch(account, role)
        if "lambda" in settings.services:
            root = settings.folder / "lambda-task"
            root.mkdir(exist_ok=True)
            if settings.lambda_handler is not None:
                shutil.copyfile(settings.lambda_handler, root / "app.py")
            times = (settings.lambda_timeout, settings.visibility_timeout)
            made["lambda"] = resources.make_lambda(account, role, str(root), *times)
        return made

    def _messages(self) -> dict[str, Any]:
        if "lambda" not in self.settings.services:
            return {}
        return messages.contents(self.settings.region, without=self.foreign.message_ids)

    def _purge(self) -> None:
        if "lambda" in self.settings.services:
            messages.purge(self.settings.region)

    def _bury(self, queue_arn: str, body: str, attributes: dict[str, tuple[str, str]]) -> None:
        self.account.send_message(queue_arn.rpartition(":")[2], body, attributes)

    def serve(self) -> None:
        """Serve until SIGTERM, SIGINT or the end of the parent; then kill and remove all that was started.

        Of the main thread.
        """
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._watch_parent, args=[os.getppid(), writer], daemon=True).start()
        threading.Thread(target=self.server.serve_forever, args=[0.2], daemon=True, name="server").start()
        self._announce()
        try:
            reader.recv(1)  # a signal's number, or the parent's watcher
        finally:
            self.close()

    @staticmethod
    def _watch_parent(parent: int, writer: socket.socket) -> None:
        try:
            descriptor = os.pidfd_open(parent)
        except OSError:
            descriptor = -1
        if descriptor >= 0 and os.getppid() == parent:
            import select

            select.select([descriptor], [], [])
        writer.send(b"\0")

    def _announce(self) -> None:
        ready = {
            "url": self.url,
            "admin_url": f"{self.url}/_admin",
            "admin_token": self.token,
            "pid": os.getpid(),
            "resources": self.resources,
        }
        draft = self.settings.folder / "ready.json.new"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(ready, file)
        draft.replace(self.settings.folder / "ready.json")

    def close(self) -> None:
        """End all containers and remove ready.json; bounded."""
        (self.settings.folder / "ready.json").unlink(missing_ok=True)
        self.runner.close()


def _listen(port: int) -> socket.socket:
    """A listening socket; werkzeug would end the process if the port is taken.

    :raises UsageError: it is.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((_HOST, port))
    except OSError as error:
        listener.close()
        raise UsageError(f"The emulator cannot listen on {_HOST}:{port}: {error.strerror}.") from None
    listener.listen(256)
    return listener


def _make_runner(settings: Settings) -> Runner:
    if settings.runner == "docker":
        from executor_conformance.backends.aws.emulator.docker_runner import DockerRunner

        return DockerRunner(settings.folder)
    from executor_conformance.backends.aws.emulator.process_runner import ProcessRunner

    return ProcessRunner(settings.folder)
