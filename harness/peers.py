"""The TCP side of the wire recorder: a listener in a thread, and whose the other end is (by /proc)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
import time
import weakref
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from aiohttp import web
from executor_conformance.harness.errors import HarnessError

T = TypeVar("T")

LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
COMMAND_SECONDS = 10.0  # a bound on what the loop does at once: listening, closing
STOP_SECONDS = 1.0
# Of the loop, from a connection's acceptance to its transport; a server closed meanwhile forgets it, still open
_TURNS_TO_ADMIT = 3
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


def _port(address: bytes) -> int:
    return int(address.rpartition(b":")[2], 16)


def _socket_inode(local_port: int, remote_port: int) -> int | None:
    local, remote = b":%04X" % local_port, b":%04X" % remote_port
    for table in _TABLES:
        try:
            with open(table, "rb") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in lines:
            if local not in line or remote not in line:
                continue
            fields = line.split()
            # inode 0: the process has closed its end, nobody owns the socket any more
            if (
                len(fields) > 9
                and _port(fields[1]) == local_port
                and _port(fields[2]) == remote_port
                and fields[9] != b"0"
            ):
                return int(fields[9])
    return None


def _start_ticks(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # the command, in parentheses, may hold spaces and parentheses of its own
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _holds_socket(pid: int, inode: int) -> bool:
    wanted = f"socket:[{inode}]"
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return False
    for name in names:
        try:
            if os.readlink(f"{directory}/{name}") == wanted:
                return True
        except OSError:
            continue
    return False


def pid_of_peer(local_port_of_client: int, server_port: int, pids: Iterable[int]) -> int | None:
    """Return the pid, out of ``pids``, that holds the client's end of a connection.

    :param local_port_of_client: the client's own port, as the server sees it in the peer's address.
    :param server_port: the port that the client connected to.
    :param pids: candidates; those that vanish meanwhile, or may not be looked at, are passed over.

    Where several candidates share the socket (a fork), the one started most recently is returned; ``None`` if
    no candidate holds it or the connection is gone. Never raises for what processes do meanwhile.
    """
    inode = _socket_inode(local_port_of_client, server_port)
    if inode is None:
        return None
    started = [(ticks, pid) for pid in set(pids) if (ticks := _start_ticks(pid)) is not None]
    for _, pid in sorted(started, reverse=True):
        if _holds_socket(pid, inode):
            return pid
    return None


def address_for(host: str | None) -> str:
    """Where to listen so that ``host`` leads here: loopback for None, the host's own address if it is of this machine.

    A name or an address that only others see as this machine (a gateway that forwards to it) takes all interfaces.
    """
    if host is None:
        return LOOPBACK
    try:
        address = str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
        with socket.socket() as probe:
            probe.bind((address, 0))
    except OSError:
        return EVERYWHERE
    return address


def reset(transport: asyncio.BaseTransport | None) -> None:
    """Close a connection as a network failure does: by RST, with nothing more sent."""
    if not isinstance(transport, asyncio.Transport):
        return
    with contextlib.suppress(OSError, AttributeError):
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Acceptor(Protocol):
    """A factory of protocols, one for each connection, that knows the open transports."""

    transports: dict[Any, asyncio.Transport]

    def __call__(self) -> asyncio.BaseProtocol:
        """Make the protocol of a new connection."""


class Listener(web.Server):
    """aiohttp's low-level server, which also knows the transports of its connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.transports: dict[Any, asyncio.Transport] = {}

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        """Note a new connection."""
        self.transports[handler] = transport
        super().connection_made(handler, transport)

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        """Forget a connection."""
        self.transports.pop(handler, None)
        super().connection_lost(handler, exc)


class ListeningThread:
    """A loop in a thread, listening on a free port, that can refuse connections for a while.

    :param host: the name or address by which workers reach it; None: it listens at loopback only.

    A subclass gives ``_make_listener`` and may extend ``_opening``, ``_ending`` and ``_closing``, run
    in the loop; ``_busy`` is the number of its handlers that run.
    """

    def __init__(self, name: str, host: str | None = None) -> None:
        self.name = name
        self.host = host
        self.address = address_for(host)
        self.port = 0
        self._busy = 0
        self._listening = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._reservation: socket.socket | None = None
        self._listen_socket: socket.socket | None = None
        self._acceptor: asyncio.Server | None = None
        self._listener: Acceptor | None = None

    @property
    def url(self) -> str:
        """Base URL of the listener, for processes of this host."""
        return f"http://{LOOPBACK if self.address == EVERYWHERE else self.address}:{self.port}"

    @property
    def worker_url(self) -> str:
        """Base URL of the listener, for workers that reach this host by ``host``."""
        return f"http://{self.host}:{self.port}" if self.host else self.url

    def start(self) -> None:
        """Bind a free port and listen, in a new thread.

        :raises HarnessError: it runs already, or cannot listen.
        """
        if self._thread is not None:
            raise HarnessError(f"The {self.name} is already started; stop it first.")
        # not by the policy of the process: its loop need not be one whose sockets can be reached
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name=self.name, daemon=True)
        self._thread.start()
        _LIVE.add(self)
        self._command(self._open(), "start")

    def stop(self) -> None:
        """Reset all connections, held requests included, and end the thread; returns within a few seconds."""
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        with contextlib.suppress(HarnessError):
            self._command(self._close(), "stop", 2 * STOP_SECONDS)
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(loop.stop)
        thread.join(STOP_SECONDS)
        _LIVE.discard(self)
        self._thread = self._loop = None

    def refuse(self) -> None:
        """Reset all connections and refuse new ones until ``accept``; done at the return."""
        self._command(self._end_listening("refused"), "refuse connections")

    def accept(self) -> None:
        """Listen again, on the same port; done at the return."""
        self._command(self._begin_listening(), "accept connections")

    def _make_listener(self) -> Acceptor:
        raise NotImplementedError

    async def _opening(self) -> None:
        """Prepare what the handlers need."""

    def _ending(self, cause: str) -> None:
        """Learn that all connections are about to be reset."""

    async def _closing(self) -> None:
        """Give up what ``_opening`` prepared."""

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def _command(self, work: Coroutine[Any, Any, T], what: str, seconds: float = COMMAND_SECONDS) -> T:
        if self._loop is None:
            work.close()
            raise HarnessError(f"The {self.name} cannot {what}: it is not started.")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(seconds)
        except (TimeoutError, OSError) as error:
            future.cancel()
            raise HarnessError(f"The {self.name} could not {what} on port {self.port}: {error!r}.") from error

    async def _open(self) -> None:
        # Bound and never listening: it keeps the port from being given away while connections are refused.
        self._reservation = socket.socket()
        self._reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reservation.bind((self.address, 0))
        self.port = self._reservation.getsockname()[1]
        await self._opening()
        self._listener = self._make_listener()
        await self._begin_listening()

    async def _begin_listening(self) -> None:
        if self._listening or self._listener is None:
            return
        listening = socket.socket()
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self.address, self.port))
            self._acceptor = await asyncio.get_running_loop().create_server(self._listener, sock=listening)
        except OSError:
            listening.close()
            raise
        self._listen_socket = listening
        self._listening = True

    async def _end_listening(self, cause: str) -> None:
        self._listening = False
        if self._listen_socket is not None:
            asyncio.get_running_loop().remove_reader(self._listen_socket)
            for _ in range(_TURNS_TO_ADMIT):
                await asyncio.sleep(0)
            with contextlib.suppress(OSError):
                self._listen_socket.shutdown(socket.SHUT_RDWR)  # ends it also for processes that inherited it
            self._listen_socket = None
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        self._ending(cause)
        end = time.monotonic() + STOP_SECONDS
        while self._listener and (self._listener.transports or self._busy) and time.monotonic() < end:
            for transport in tuple(self._listener.transports.values()):
                reset(transport)
            await asyncio.sleep(0)

    async def _close(self) -> None:
        await self._end_listening("stopped")
        await self._closing()
        if self._reservation is not None:
            self._reservation.close()

    def _let_go(self) -> None:
        sockets: list[Any] = [self._reservation, self._listen_socket]
        if self._listener is not None:
            sockets += [each.get_extra_info("socket") for each in self._listener.transports.values()]
        nowhere = os.open(os.devnull, os.O_RDWR)
        for each in sockets:
            if each is not None and (number := each.fileno()) >= 0:
                os.dup2(nowhere, number, inheritable=False)  # the number stays taken: its owner may close it yet
        os.close(nowhere)


_LIVE: weakref.WeakSet[ListeningThread] = weakref.WeakSet()


def _let_go_after_fork() -> None:
    """Give up, in a forked child, the connections of its parent: a copy would keep a reset one open."""
    for each in tuple(_LIVE):
        with contextlib.suppress(Exception):
            each._let_go()


os.register_at_fork(after_in_child=_let_go_after_fork)
