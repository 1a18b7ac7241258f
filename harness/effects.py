"""Where callables report their effects, over HTTP; a reported effect can be held."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from executor_conformance.harness.errors import BoundReached
from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.peers import EVERYWHERE, LOOPBACK, address_for
from executor_conformance.harness.space import pid_space


@dataclass
class Breakpoint:
    """Stops the callable with ``probe`` at the report ``what`` until it is released."""

    probe: str | None
    what: str
    hit: dict[str, Any] | None = None
    _hit: threading.Event = field(default_factory=threading.Event)
    _go: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout: float = LIMITS.start_of_callable) -> dict[str, Any]:
        """The report that was stopped: ``what``, ``probe``, ``pid``, ``ppid``, ``data``.

        :raises BoundReached: the callable did not come by within ``timeout`` seconds.
        """
        if not self._hit.wait(timeout):
            raise BoundReached(f"The callable {self.probe} did not reach '{self.what}' within {timeout:g} s.")
        assert self.hit is not None
        return self.hit

    @property
    def reached(self) -> bool:
        """Whether the callable has come by."""
        return self._hit.is_set()

    def release(self) -> None:
        """Let the callable go on."""
        self._go.set()


class EffectsServer:
    """Records what callables report and holds them at breakpoints.

    ``sink`` has the signature of :meth:`History.append`. A report from another PID namespace than the harness's own
    becomes an event with a ``space``: its pids are no pids of this host.

    :param host: by what workers reach this host; None: they are processes of it, and it listens at loopback only.
    :param hold_s: after how many seconds a callable that nobody lets go is let go all the same.
    """

    def __init__(self, sink: Callable[..., Any], host: str | None = None, hold_s: float = LIMITS.effect_hold) -> None:
        self.sink = sink
        self.host = host
        self.hold_s = hold_s
        self._address = address_for(host)
        self._space = pid_space()
        self.breakpoints: list[Breakpoint] = []
        self.reports = 0
        self._secret = secrets.token_urlsafe(12)
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """Where callables of this host report; it holds a secret, so that no other run's is taken for ours."""
        return self._url(LOOPBACK if self._address == EVERYWHERE else self._address)

    @property
    def worker_url(self) -> str:
        """Where callables of workers report that reach this host by ``host``."""
        return self._url(self.host) if self.host else self.url

    def _url(self, host: str) -> str:
        assert self._server is not None
        return f"http://{host}:{self._server.server_address[1]}/{self._secret}"

    def start(self) -> None:
        """Listen on a free port."""
        effects = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path.strip("/") != effects._secret:
                    self.send_error(404)
                    return
                effects._take(json.loads(body))
                answer = b'{"go": true}'
                try:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                except OSError:
                    pass  # a callable that was killed while it was held

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((self._address, 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def _take(self, report: dict[str, Any]) -> None:
        elsewhere = {"space": report["space"]} if report.get("space") not in (None, self._space) else {}
        self.sink(
            "effect", **{name: report.get(name) for name in ("what", "probe", "pid", "ppid", "data")}, **elsewhere
        )
        self.reports += 1
        for point in self.breakpoints:
            # a report without a name comes from a callable whose kwargs were lost; it is still to be stopped
            meant = report.get("probe") is None or point.probe in (report.get("probe"), None)
            if meant and point.what == report.get("what") and (point.probe == report.get("probe") or not point.reached):
                point.hit = report
                point._hit.set()
                point._go.wait(self.hold_s)
                return

    def stop_at(self, probe: str | None, what: str) -> Breakpoint:
        """Hold the callable ``probe`` when it reports ``what``."""
        point = Breakpoint(probe, what)
        self.breakpoints.append(point)
        return point

    def clear(self) -> None:
        """Let every held callable go on, and hold none from now on."""
        points, self.breakpoints = self.breakpoints, []
        for point in points:
            point.release()

    def stop(self) -> None:
        """Stop listening."""
        self.clear()
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
