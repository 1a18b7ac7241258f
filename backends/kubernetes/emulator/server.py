"""The emulator as a whole: listeners, files, and the end on a signal or with the parent's death."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import ssl
from pathlib import Path
from typing import Any

from aiohttp import web
from executor_conformance.backends.kubernetes.emulator.access import Access
from executor_conformance.backends.kubernetes.emulator.admin import Admin
from executor_conformance.backends.kubernetes.emulator.api import Api
from executor_conformance.backends.kubernetes.emulator.calls import Calls
from executor_conformance.backends.kubernetes.emulator.credentials import (
    server_context,
    write_kubeconfig,
    write_private,
)
from executor_conformance.backends.kubernetes.emulator.faults import Faults
from executor_conformance.backends.kubernetes.emulator.images import Image
from executor_conformance.backends.kubernetes.emulator.kubelet import Kubelet
from executor_conformance.backends.kubernetes.emulator.processes import Processes
from executor_conformance.backends.kubernetes.emulator.registry import Registry
from executor_conformance.backends.kubernetes.emulator.store import Store
from executor_conformance.backends.kubernetes.emulator.worker import Node
from executor_conformance.harness.errors import UsageError

HOST = "127.0.0.1"
READY_FILE = "ready.json"
_IDLE_SECONDS = 3600.0
_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def _listen(handler: Any, port: int, context: ssl.SSLContext | None) -> tuple[web.ServerRunner, int]:
    server = web.Server(handler, handler_cancellation=True, access_log=None, keepalive_timeout=_IDLE_SECONDS)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, HOST, port, ssl_context=context, backlog=1024)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise UsageError(f"The port {port} of {HOST} can't be listened on: {os.strerror(error.errno or 0)}.") from None
    return runner, runner.addresses[0][1]


def _watch_parent(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> int | None:
    """Set ``ended`` at the parent's death; returns the descriptor to close, if the kernel has one."""
    try:
        descriptor = os.pidfd_open(os.getppid())
    except OSError:
        return None
    loop.add_reader(descriptor, ended.set)
    return descriptor


async def serve(folder: Path, port: int, images: dict[str, Image], back_off: float) -> None:
    """Serve until SIGTERM, SIGINT, SIGHUP or the parent's death; then nothing that was started is left.

    Writes ``kubeconfig``, ``ca.pem`` and, last, ``ready.json`` into ``folder``; logs of containers go below it.

    :raises UsageError: the port is taken.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in _ENDINGS:
        loop.add_signal_handler(number, ended.set)
    parent = _watch_parent(loop, ended)
    processes = Processes(folder)
    token, admin_token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    store = Store()
    registry, faults, access, calls = Registry(store), Faults(), Access(), Calls()
    kubelet = Kubelet(Node(registry, faults, processes, images, folder / "pod-logs", back_off))
    api = Api(registry, access, faults, calls, token, kubelet.log_of)
    admin = Admin(registry, kubelet, faults, access, calls, admin_token)
    runners = []
    try:
        context, ca = server_context(folder / "ca.pem")
        runner, api_port = await _listen(api.handle, port, context)
        runners.append(runner)
        runner, admin_port = await _listen(admin.handle, 0, None)
        runners.append(runner)
        url = f"https://{HOST}:{api_port}"
        write_kubeconfig(folder / "kubeconfig", url, ca, token)
        ready = {
            "url": url,
            "admin_url": f"http://{HOST}:{admin_port}",
            "admin_token": admin_token,
            "kubeconfig": str(folder / "kubeconfig"),
            "ca": str(folder / "ca.pem"),
            "pid": os.getpid(),
        }
        write_private(folder / READY_FILE, json.dumps(ready).encode() + b"\n")
        await ended.wait()
    finally:
        await kubelet.stop()
        with contextlib.suppress(OSError):
            (folder / READY_FILE).unlink()
        for runner in runners:
            await runner.cleanup()
        if parent is not None:
            loop.remove_reader(parent)
            os.close(parent)
