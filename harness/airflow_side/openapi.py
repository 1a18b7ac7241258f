"""The running core's own description of its Execution API, asked of the app itself.

The API server builds the same app from the same code. Over a socket it cannot be had on Airflow 3.3 and 3.4: the app
changes the body of its answer and not the length that it has announced, which the HTTP server refuses to send.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from executor_conformance.harness.openapi import operations, tells_state

PATH = "/openapi.json"


def describe() -> dict[str, Any]:
    """The OpenAPI document of the newest version of the Execution API.

    :raises RuntimeError: the app does not answer with one.
    """
    from airflow.api_fastapi.execution_api.app import create_task_execution_api_app
    from airflow.api_fastapi.execution_api.versions import bundle

    version = str(bundle.versions[0].value)
    status, body = asyncio.run(_get(create_task_execution_api_app(), PATH, f"version={version}"))
    if status != 200:
        raise RuntimeError(f"the app of the Execution API answers {PATH} with {status}")
    document: dict[str, Any] = json.loads(body)
    return document


def state_apis() -> dict[str, Any]:
    """The operations of the core API by which a callback's state can be read, as the documents that it ships say.

    What the web pages use is among them; it is left out of the description that the server gives of itself.
    """
    import yaml
    from airflow.api_fastapi import core_api

    folder = Path(core_api.__path__[0]) / "openapi"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
    documents = {path.name: yaml.load(path.read_text("utf-8"), loader) for path in sorted(folder.glob("*.y*ml"))}
    found = [one for document in documents.values() for one in operations(document) if tells_state(one)]
    return {"documents": list(documents), "routes": sorted({(one.method, one.path) for one in found})}


async def _get(app: Any, path: str, query: str) -> tuple[int, bytes]:
    """One GET request of an ASGI app, without a server: its status and its body."""
    status, body = 0, b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
    }
    await app(scope, receive, send)
    return status, body
