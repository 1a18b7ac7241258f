"""Answers that a worker does not expect of the API server: what a proxy, a login page or a broken network sends."""

from __future__ import annotations

from collections.abc import Mapping

from executor_conformance.harness.rules import Answer

HTML = {"Content-Type": "text/html; charset=utf-8"}
JSON = {"Content-Type": "application/json"}
PAGE = "<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
LONG = '{"detail": "' + "x" * 400 + '"}'
DRIP_S = 8.0
"""Seconds of a slow answer: several of the worker's heartbeats, fewer than its time limit for a request."""


def page(status: int, title: str, **more: float) -> Answer:
    """Return an answer that brings a page of HTML."""
    return Answer(status, PAGE.format(title=title), HTML, drip_s=more.get("drip_s", 0.0))


UNEXPECTED: Mapping[str, Answer] = {
    "401-html": page(401, "Sign in"),
    "502-html": page(502, "Bad Gateway"),
    "301-login": Answer(301, PAGE.format(title="Moved Permanently"), {**HTML, "Location": "/login?next=%2F"}),
    "200-empty": Answer(200, None, {}),
    "200-html": page(200, "Sign in"),
    "200-truncated": Answer(200, LONG, JSON, cut_at=200),
    "200-other-json": Answer(200, '["not", "what", "was", "asked"]', JSON),
    "200-as-text": Answer(200, LONG, {"Content-Type": "text/plain"}),
    "502-slow": page(502, "Bad Gateway", drip_s=DRIP_S),
}
"""By way; each is given to every request that a rule takes."""

CORE = ("502-html", "301-login", "200-empty")
"""The ways of the core level: what a proxy says when the server is away, a login page, and a success that is none."""
