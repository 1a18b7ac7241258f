"""pods/log: what containers wrote to their standard output and error."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from executor_conformance.backends.kubernetes.emulator.objects import moment_of
from executor_conformance.backends.kubernetes.emulator.status import Obj, bad_request

_CHUNK = 1 << 16
_POLL_SECONDS = 0.05

TERMINATION_MESSAGE_BYTES = 2048
TERMINATION_MESSAGE_LINES = 80


@dataclass(frozen=True)
class LogOptions:
    """``since`` is the moment before which lines are left out; ``tail`` counts lines, ``limit`` bytes."""

    follow: bool = False
    timestamps: bool = False
    tail: int | None = None
    limit: int | None = None
    since: datetime.datetime | None = None


def _number(query: dict[str, str], name: str, least: int) -> int | None:
    text = query.get(name)
    if text is None or text == "":
        return None
    try:
        value = int(text)
    except ValueError:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None
    if value < least:
        raise bad_request(f"{name}: Invalid value: {value}: must be greater than or equal to {least}")
    return value


def is_true(query: dict[str, str], name: str) -> bool:
    """A boolean of the query, as Kubernetes reads it: present and not one of 'false' and '0'."""
    return name in query and query[name].lower() not in ("false", "0")


def options_of(query: dict[str, str]) -> LogOptions:
    """The options of a request for a log.

    :raises ApiError: 400.
    """
    seconds, since = _number(query, "sinceSeconds", 1), None
    if seconds is not None:
        since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    elif text := query.get("sinceTime"):
        try:
            since = moment_of(text)
        except ValueError:
            raise bad_request(f"sinceTime: Invalid value: {text}") from None
    return LogOptions(
        follow=is_true(query, "follow"),
        timestamps=is_true(query, "timestamps"),
        tail=_number(query, "tailLines", 0),
        limit=_number(query, "limitBytes", 1),
        since=since,
    )


def container_name(pod: Obj, asked: str) -> str:
    """The container whose log is asked for.

    :raises ApiError: 400, there is none of that name, or no name where there are several.
    """
    name = pod["metadata"]["name"]
    names = [container["name"] for container in pod["spec"]["containers"]]
    init = [container["name"] for container in pod["spec"].get("initContainers") or []]
    if asked:
        if asked not in names + init:
            raise bad_request(f"container {asked} is not valid for pod {name}")
        return asked
    if len(names) == 1:
        return names[0]
    text = f"a container name must be specified for pod {name}, choose one of: [{' '.join(names)}]"
    raise bad_request(f"{text} or one of the init containers: [{' '.join(init)}]" if init else text)


def _stamped(lines: list[bytes], moment: float) -> bytes:
    stamp = datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z ").encode()
    return b"".join(stamp + line for line in lines)


async def read_log(path: Path, options: LogOptions, is_live: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The log's bytes, with ``follow`` until the container has ended.

    Containers write into the file themselves, so that the time of a single line is not known: a line has the time
    of the last write before it was read, and ``since`` leaves out a log that was last written before.
    """
    left = options.limit
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except FileNotFoundError:
            return
        if options.since is not None and os.fstat(file.fileno()).st_mtime < options.since.timestamp():
            file.seek(0, os.SEEK_END)
        elif options.tail is not None:
            file.seek(_tail_offset(path, options.tail))
        rest = b""
        while True:
            ended = not is_live()  # before the read: what is written until the end is read
            data = file.read(_CHUNK)
            if options.timestamps:
                lines = (rest + data).splitlines(keepends=True)
                rest = b"" if not lines or lines[-1].endswith(b"\n") or (ended and not data) else lines.pop()
                output = _stamped(lines, os.fstat(file.fileno()).st_mtime)
            else:
                output = data
            if left is not None:
                output, left = output[:left], left - len(output[:left])
            if output:
                yield output
            if left == 0:
                return
            if not data:
                if ended or not options.follow:
                    if rest:
                        yield _stamped([rest], os.fstat(file.fileno()).st_mtime)
                    return
                await asyncio.sleep(_POLL_SECONDS)


def log_tail(path: Path) -> str:
    """The end of a log as a termination message: at most 80 lines and 2048 bytes, as a kubelet takes it."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TERMINATION_MESSAGE_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-TERMINATION_MESSAGE_LINES:])


def _tail_offset(path: Path, lines: int) -> int:
    """Where the last ``lines`` lines begin."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if lines == 0:
            return size
        block, position, found = b"", size, 0
        while position > 0:
            step = min(_CHUNK, position)
            position -= step
            file.seek(position)
            block = file.read(step)
            end = len(block)
            if position + step == size and block.endswith(b"\n"):
                end -= 1
            while (place := block.rfind(b"\n", 0, end)) >= 0:
                found += 1
                if found == lines:
                    return position + place + 1
                end = place
        return 0
