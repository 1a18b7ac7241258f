"""The server's certificate and the kubeconfig that trusts it."""

from __future__ import annotations

import base64
import json
import os
import ssl
from pathlib import Path

import trustme

CONTEXT = "conformance"


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, at once as a whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)


def server_context(ca_path: Path) -> tuple[ssl.SSLContext, bytes]:
    """A context with a certificate for the loopback addresses, and its authority's certificate (PEM).

    The latter is written to ``ca_path`` too.
    """
    authority = trustme.CA(organization_name="executor conformance, Kubernetes emulator")
    certificate = authority.issue_cert("127.0.0.1", "localhost", "::1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    pem = authority.cert_pem.bytes()
    write_private(ca_path, pem)
    return context, pem


def write_kubeconfig(path: Path, server: str, ca: bytes, token: str) -> None:
    """A kubeconfig (in JSON, which is YAML) with one context, whose namespace is 'default'."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": [
            {
                "name": CONTEXT,
                "cluster": {"server": server, "certificate-authority-data": base64.b64encode(ca).decode()},
            }
        ],
        "users": [{"name": CONTEXT, "user": {"token": token}}],
        "contexts": [
            {"name": CONTEXT, "context": {"cluster": CONTEXT, "user": CONTEXT, "namespace": "default"}},
        ],
        "current-context": CONTEXT,
    }
    write_private(path, json.dumps(config, indent=2).encode() + b"\n")
