"""Lambda at a LocalStack in a container, whose functions are containers of a docker engine."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, ClassVar

from executor_conformance.backends.aws.account_file import AccountFile
from executor_conformance.backends.aws.account_services import FUNCTION_ENVIRONMENT, LambdaAccount
from executor_conformance.backends.aws.localstack import install
from executor_conformance.backends.aws.localstack.process import REGION, RUNTIME, handler_archive
from executor_conformance.backends.emulation import Way
from executor_conformance.harness.backend import LOCALSTACK, Options, Site, installed
from executor_conformance.harness.errors import HarnessError, UsageError
from executor_conformance.harness.pressure import Deadline

ACCOUNT = "000000000000"
FUNCTION_TIMEOUT_S = 120
SETTLE_S = 120.0
TOKEN = "LOCALSTACK_AUTH_TOKEN"
LATEST = "latest"
START_S = 300
"""A bound on the container's start, the pull of its image included."""


def image_tag() -> str:
    """The last open version; with a token, the newest."""
    return LATEST if os.environ.get(TOKEN) else install.VERSION


def container_environment(image: str) -> dict[str, str]:
    """Of LocalStack's container: functions of the runtime that is used run in ``image``."""
    env = {
        "SERVICES": "sqs,lambda,iam,sts,logs,s3",
        "LAMBDA_RUNTIME_IMAGE_MAPPING": json.dumps({RUNTIME: image}),
        "LAMBDA_RETRY_BASE_DELAY": "1",
        "DISABLE_EVENTS": "1",
    }
    if token := os.environ.get(TOKEN):
        env[TOKEN] = token
    return env


class LocalStackContainer(LambdaAccount):
    """One at an address, or one that is started with testcontainers. As an account, whose function is of an archive."""

    service_name: ClassVar[str] = "lambda"
    patience_s = 3.0
    retries_s: ClassVar[float] = 3.0  # one second, then two

    def __init__(self, site: Site, ways: Mapping[str, Mapping[str, Way]]) -> None:
        address = "" if site.options.control_plane == LOCALSTACK else site.options.control_plane
        self._given = address
        file = AccountFile("", ACCOUNT, REGION, {"function_name": ""}, endpoint_url=address, settle_s=SETTLE_S)
        super().__init__(site, ways, file)
        self.image = site.options.image or ""
        self._container: Any = None
        self._version = ""

    @classmethod
    def missing(cls, options: Options) -> str | None:
        """An address that answers, or docker and testcontainers; an API host, and an image for the container."""
        if not options.api_host:
            raise UsageError("Functions of LocalStack in a container need --conformance-api-host to reach this host.")
        if options.control_plane != LOCALSTACK:
            try:
                health(options.control_plane)
            except (OSError, ValueError) as error:
                reason = getattr(error, "reason", None) or error
                return f"no LocalStack answers at {options.control_plane} ({reason})"
            return None
        from executor_conformance.backends.celery.brokers import has_docker

        if options.substrate != "docker":
            return f"LocalStack runs as a process or in docker, not on the substrate '{options.substrate}'"
        if not has_docker():
            return "no docker engine answers, and LocalStack's functions are containers there"
        if not installed("testcontainers"):
            return "the distribution testcontainers is not installed; install it, or give LocalStack's address"
        if not options.image:
            raise UsageError("LocalStack in docker needs --conformance-image, in which its functions run.")
        return None

    def control_plane(self, title: str) -> str:
        """LocalStack of the version that it tells."""
        return f"{title} of LocalStack {self._version or image_tag()} at {self.file.endpoint_url or 'a container'}"

    def data_plane(self, own: str) -> str:
        """The image, if it is known."""
        return f"containers of {f'the image {self.image}' if self.image else 'its Lambda image'} at its docker engine"

    def environ(self) -> dict[str, str]:
        """Nothing of the user's account."""
        return {"AWS_EC2_METADATA_DISABLED": "true"}

    def connection(self) -> dict[str, Any]:
        """With LocalStack's address, and no credentials of the user's."""
        return {**super().connection(), "login": "test", "password": "test"}

    def client(self, service: str | None = None, **config: Any) -> Any:
        """As of an account, with no credentials of the user's."""
        if self._session is None:
            import boto3

            self._session = boto3.Session("test", "test", region_name=REGION)
        return super().client(service, **config)

    def start(self) -> None:
        """Start the container, if no address was given."""
        if self.resources:
            return
        if not self._given and self._container is None:
            self._start_container()
        try:
            self._version = str(health(str(self.file.endpoint_url)).get("version", ""))
        except (OSError, ValueError) as error:
            raise HarnessError(f"LocalStack does not answer at {self.file.endpoint_url}: {error}.") from None
        super().start()

    def _start_container(self) -> None:
        from testcontainers.core.container import DockerContainer

        container = DockerContainer(f"localstack/localstack:{image_tag()}").with_exposed_ports(4566)
        for name, value in container_environment(self.image).items():
            container = container.with_env(name, value)
        container = container.with_volume_mapping("/var/run/docker.sock", "/var/run/docker.sock", "rw")
        try:
            container.start()
            self._container = container
            url = f"http://{container.get_container_host_ip()}:{container.get_exposed_port(4566)}"
        except Exception as error:
            raise HarnessError(f"LocalStack's container could not be started: {str(error)[:300]}") from None
        self.file = AccountFile("", ACCOUNT, REGION, {"function_name": ""}, endpoint_url=url, settle_s=SETTLE_S)
        deadline = Deadline(START_S)
        while True:
            try:
                health(url)
                return
            except (OSError, ValueError):
                if deadline.over() or self._stopped:
                    raise HarnessError(f"LocalStack's container did not answer within {deadline}.") from None
                time.sleep(0.2)

    def define(self, settings: dict[str, str], image: str = "") -> None:
        """Create the function from an archive with the provider's own handler: the open version has no images."""
        functions, iam, sqs = self.client(), self.client("iam"), self.client("sqs")
        trust = json.dumps({"Version": "2012-10-17", "Statement": []})
        role = self.ask("make a role", iam.create_role, RoleName=self.name, AssumeRolePolicyDocument=trust)
        self.made(f"the role {self.name}", lambda: iam.delete_role(RoleName=self.name))
        dead_letters = {"QueueUrl": self.resources["dead_letter_queue_url"], "AttributeNames": ["QueueArn"]}
        arn = self.ask("show a queue", sqs.get_queue_attributes, **dead_letters)["Attributes"]["QueueArn"]
        own = settings | {"QUEUE_URL": self.resources["queue_url"]}
        size = sum(len(name.encode()) + len(value.encode()) for name, value in own.items())
        if size > FUNCTION_ENVIRONMENT:
            raise HarnessError(f"The settings of workers are {size} bytes, and Lambda allows {FUNCTION_ENVIRONMENT}.")
        self._timeout = float(FUNCTION_TIMEOUT_S)
        self.settle_s = 3 * self._timeout + 60
        self.ask(
            "create a function",
            functions.create_function,
            FunctionName=self.name,
            Role=role["Role"]["Arn"],
            Runtime=RUNTIME,
            Handler="app.lambda_handler",
            Code={"ZipFile": handler_archive()},
            Environment={"Variables": own},
            DeadLetterConfig={"TargetArn": arn},
            Timeout=FUNCTION_TIMEOUT_S,
            MemorySize=1024,
        )
        self.made(f"the function {self.name}", lambda: functions.delete_function(FunctionName=self.name))
        self._wait_active()

    def stop(self) -> None:
        """Remove what was made, and the container, if it was started here."""
        try:
            super().stop()
        finally:
            if self._container is not None:
                container, self._container = self._container, None
                container.stop()


def health(url: str) -> dict[str, Any]:
    """What LocalStack says of itself.

    :raises OSError: it does not answer.
    :raises ValueError: something else does.
    """
    with urllib.request.urlopen(f"{url}/_localstack/health", timeout=10) as answer:
        found = json.loads(answer.read())
    if not isinstance(found, dict) or "lambda" not in found.get("services", {}):
        raise ValueError("it has no service 'lambda'")
    return found
