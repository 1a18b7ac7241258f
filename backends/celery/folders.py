"""The broker that needs no server: kombu's filesystem transport."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import uuid
from collections import OrderedDict
from pathlib import Path
from typing import Any

from executor_conformance.backends.celery.base import Broker
from executor_conformance.backends.celery.messages import Publications, again, publication_of
from executor_conformance.backends.celery.relay import AWAY
from executor_conformance.harness.errors import HarnessError

KEPT = 50
"""Number of the last messages that can be published again."""


class FilesystemBroker(Broker):
    """kombu's filesystem transport: folders instead of a server; a lost worker's messages are lost.

    Publishers write into one folder and consumers read from another. A thread moves each message over once its
    writer has let go of it: kombu's consumer would otherwise now and then take a file that is still empty.
    """

    redelivers = False
    repeats = True
    url = "filesystem://"
    ways = {"submit-refused": (AWAY,)}
    unreachable = {
        "submit-refused": "With this broker a publisher writes a file itself: no connection or answer could be lost.",
        "hang": "With this broker a publisher writes a file itself, and nothing could keep it from that for long.",
    }

    def __init__(self, folder: Path) -> None:
        self.label = "kombu filesystem transport (embedded)"
        self.folder = folder
        self.published: Publications = Publications()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._copies: OrderedDict[str, tuple[str, bytes]] = OrderedDict()

    def start(self) -> None:
        """Make the folders and start moving."""
        for name in ("published", "in", "control"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._there(True)
        self._thread = threading.Thread(target=self._move_all, daemon=True, name="filesystem-broker")
        self._thread.start()

    def _there(self, there: bool) -> None:
        """Make or remove the publishers' folder; it is a link, so published messages stay."""
        link = self.folder / "out"
        if there and not link.is_symlink():
            link.symlink_to(self.folder / "published", target_is_directory=True)
        elif not there:
            link.unlink(missing_ok=True)

    def _move_all(self) -> None:
        while not self._done.wait(0.01):
            try:
                names = sorted(os.listdir(self.folder / "published"))
            except OSError:
                return
            for name in names:
                self._move(self.folder / "published" / name)

    def _move(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if path.stat().st_size:
                    content = file.read()
                    path.rename(self.folder / "in" / path.name)
                    self._note(path.name, content)
        except OSError:
            pass  # still being written: next time

    def _note(self, name: str, content: bytes) -> None:
        suffix = name.partition(".")[2]
        if publication := publication_of(content, suffix.removesuffix(".msg"), time.monotonic()):
            self.published.add(publication)
            self._copies[publication.task_id] = (suffix, content)
        while len(self._copies) > KEPT:
            self._copies.popitem(last=False)

    def calls(self) -> dict[str, int]:
        """Return the number of files that were written; folders get no other requests."""
        return {"publish": self.published.total}

    def inject(self, way: str) -> str:
        """Take the publishers' folder away; a failed attempt to write leaves no trace, so nothing counts them."""
        if way != AWAY:
            return super().inject(way)
        self._there(False)
        return "the folder that publishers write to is not there"

    def heal(self) -> None:
        """Make the publishers' folder again."""
        self._there(True)

    def queue_of(self, task_id: str) -> str | None:
        """The name of the message's file holds it."""
        return self._copies[task_id][0].removesuffix(".msg") if task_id in self._copies else None

    def repeat(self, task_id: str) -> str:
        """Write the message's file once more."""
        if task_id not in self._copies:
            raise HarnessError(f"No message of the Celery task {task_id} went through the broker's folders.")
        suffix, content = self._copies[task_id]
        fresh = self.folder / f"{uuid.uuid4()}.{suffix}"
        fresh.write_text(json.dumps(again(json.loads(content))), "utf-8")
        fresh.rename(self.folder / "in" / fresh.name)
        return f"the message of the Celery task {task_id[:8]} is in the folder once more"

    def options(self) -> dict[str, str]:
        """The folders, and how often a consumer looks."""
        return {
            "DATA_FOLDER_IN": str(self.folder / "in"),
            "DATA_FOLDER_OUT": str(self.folder / "out"),
            "CONTROL_FOLDER": str(self.folder / "control"),
            "POLLING_INTERVAL": "0.05",
        }

    def client_options(self) -> dict[str, Any]:
        """Return options that write where consumers read, past the thread that moves messages."""
        return {
            "data_folder_in": str(self.folder / "in"),
            "data_folder_out": str(self.folder / "in"),
            "control_folder": str(self.folder / "control-of-others"),
        }

    def stop(self) -> None:
        """Stop moving."""
        self.heal()
        self._done.set()
        if self._thread:
            self._thread.join(timeout=2)
