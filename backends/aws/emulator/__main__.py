"""The emulator's command; see ``--help``."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import NoReturn

from executor_conformance.backends.aws.emulator.runner import load_images
from executor_conformance.harness.errors import ConformanceError, UsageError

_SERVICES = ("ecs", "batch", "lambda")
_HANDLER = "aws/executors/aws_lambda/docker/app.py"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence, exit code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="executor_conformance.backends.aws.emulator",
        description="An AWS (ECS, Batch, Lambda, SQS) on a loopback port that carries out what it is asked to run.",
    )
    parser.add_argument("--folder", required=True, type=Path, help="where ready.json, logs and private files go")
    parser.add_argument("--services", default=",".join(_SERVICES), help="of ecs, batch, lambda (with sqs)")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--images", type=Path, help="JSON: image name to env, working_dir, entrypoint")
    parser.add_argument("--runner", choices=("process", "docker"), default="process")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--stop-timeout", type=float, default=30.0, help="seconds from SIGTERM to SIGKILL")
    parser.add_argument("--lambda-retry-delay", type=float, default=1.0, help="seconds; the second retry waits twice")
    parser.add_argument("--lambda-timeout", type=int, default=60, help="seconds; of the function 'conformance'")
    parser.add_argument("--lambda-concurrency", type=int, default=10, help="invocations at once; the rest is queued")
    parser.add_argument("--visibility-timeout", type=int, default=30, help="seconds; of messages that were received")
    parser.add_argument("--lambda-handler", type=Path, help="a Python file; default: the amazon provider's own")
    return parser


def provider_handler() -> Path | None:
    """The provider's handler, found without importing anything of Airflow's."""
    # a dotted name would import its parents; 'airflow' alone does not, and 'airflow.providers' may be split
    spec = importlib.util.find_spec("airflow")
    roots = list(spec.submodule_search_locations or []) if spec else []
    for root in [*roots, *(f"{entry}/airflow" for entry in sys.path if entry)]:
        file = Path(root) / "providers/amazon" / _HANDLER
        if file.is_file():
            return file
    return None


def _settings(arguments: argparse.Namespace) -> object:
    services = frozenset(part.strip() for part in arguments.services.split(",") if part.strip())
    if not services or services - set(_SERVICES):
        raise UsageError(f"--services takes one or more of {', '.join(_SERVICES)}, not '{arguments.services}'.")
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"There is no port {arguments.port}.")
    if not 1 <= arguments.lambda_timeout <= 900:
        raise UsageError("--lambda-timeout is a number of seconds from 1 to 900.")
    if not 0 <= arguments.visibility_timeout <= 43200:
        raise UsageError("--visibility-timeout is a number of seconds from 0 to 43200.")
    if arguments.lambda_retry_delay < 0 or arguments.stop_timeout < 0 or arguments.lambda_concurrency < 1:
        raise UsageError("Delays are not negative, and at least one invocation is carried out at once.")
    handler = arguments.lambda_handler
    if handler is not None and not handler.is_file():
        raise UsageError(f"The handler {handler} is not a file.")
    if handler is None and "lambda" in services:
        handler = provider_handler()
    images = load_images(arguments.images) if arguments.images else {}
    try:
        arguments.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {arguments.folder} cannot be made: {error.strerror}.") from None
    from executor_conformance.backends.aws.emulator.server import Settings

    return Settings(
        folder=arguments.folder.resolve(),
        services=services,
        images=images,
        port=arguments.port,
        runner=arguments.runner,
        region=arguments.region,
        stop_timeout=arguments.stop_timeout,
        lambda_retry_delay=arguments.lambda_retry_delay,
        lambda_timeout=arguments.lambda_timeout,
        lambda_concurrency=arguments.lambda_concurrency,
        visibility_timeout=arguments.visibility_timeout,
        lambda_handler=handler,
    )


def main() -> int:
    """Run the command; the exit code."""
    try:
        settings = _settings(_parser().parse_args())
        from executor_conformance.backends.aws.emulator.server import Emulator, Settings

        assert isinstance(settings, Settings)
        Emulator(settings).serve()
    except ConformanceError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
