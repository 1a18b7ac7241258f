"""``python -m executor_conformance.backends.kubernetes.emulator --folder DIR [--port 0] [--images FILE]``."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from executor_conformance.backends.kubernetes.emulator.images import read_images
from executor_conformance.harness.errors import UsageError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{message[:1].upper()}{message[1:]}; see --help.")


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="kubernetes-emulator", description="A Kubernetes API server whose pods are host processes.")
    parser.add_argument("--folder", type=Path, required=True, help="for kubeconfig, ready.json and the pods' logs")
    parser.add_argument("--port", type=int, default=0, help="of the API on 127.0.0.1; 0 (default): a free one")
    parser.add_argument("--images", type=Path, help="JSON: what a container of each image gets")
    parser.add_argument("--back-off", type=float, default=10.0, help="seconds until the first retry (default: 10)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Serve; the exit code is 0 after a signal, 2 for bad input."""
    try:
        options = _arguments(argv)
        if not 0 <= options.port <= 65535:
            raise UsageError(f"The port {options.port} is not one from 0 to 65535.")
        if not 0 < options.back_off <= 300:
            raise UsageError(f"The back-off of {options.back_off:g} s is not above 0 s and at most 300 s.")
        images = read_images(options.images) if options.images else {}
        folder = options.folder.absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"The folder {folder} can't be made: {error.strerror}.") from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"The folder {folder} can't be written to.")
        # aiohttp's import reads the system's certificate authorities; this server needs none of them
        os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull
        from executor_conformance.backends.kubernetes.emulator.server import serve

        asyncio.run(serve(folder, options.port, images, options.back_off))
    except UsageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
