"""Lists and the options of watches: selectors, resourceVersion, limit and continue."""

from __future__ import annotations

import base64
import json
from typing import Any

from executor_conformance.backends.kubernetes.emulator.logs import is_true
from executor_conformance.backends.kubernetes.emulator.resources import RESOURCES
from executor_conformance.backends.kubernetes.emulator.routes import Route
from executor_conformance.backends.kubernetes.emulator.selectors import field_selector, field_terms, label_selector
from executor_conformance.backends.kubernetes.emulator.status import (
    Obj,
    bad_request,
    continue_expired,
    too_large_version,
)
from executor_conformance.backends.kubernetes.emulator.store import Store, Stored
from executor_conformance.backends.kubernetes.emulator.views import View
from executor_conformance.backends.kubernetes.emulator.watches import Selection, WatchOptions


def selection_of(route: Route, query: dict[str, str]) -> Selection:
    """What a list, a watch or a deletecollection selects.

    :raises ApiError: 400, a selector is malformed.
    """
    resource = RESOURCES[route.resource]
    fields = query.get("fieldSelector")
    return Selection(
        resource=route.resource,
        namespace=route.namespace if resource.namespaced else None,
        name=next((value for field, op, value in field_terms(fields) if (field, op) == ("metadata.name", "=")), ""),
        labels=label_selector(query.get("labelSelector")),
        fields=field_selector(fields, resource.fields),
    )


def select(store: Store, selection: Selection) -> list[Stored]:
    """The selected objects as they are now."""
    found = store.objects(selection.resource, selection.namespace)
    return [stored for stored in found if selection.has(stored.version)]


def _number(query: dict[str, str], name: str) -> int | None:
    text = query.get(name)
    if not text:
        return None
    try:
        value = int(text)
    except ValueError:
        raise bad_request(f'{name}: Invalid value: "{text}": strconv.ParseUint: invalid syntax') from None
    if value < 0:
        raise bad_request(f"{name}: Invalid value: {value}: must not be negative")
    return value


def watch_options(query: dict[str, str]) -> WatchOptions:
    """The options of a watch.

    :raises ApiError: 400.
    """
    timeout = _number(query, "timeoutSeconds")
    bookmarks = is_true(query, "allowWatchBookmarks")
    initial: bool | None = None
    if "sendInitialEvents" in query:
        initial = is_true(query, "sendInitialEvents")
        if initial and (not bookmarks or query.get("resourceVersionMatch") != "NotOlderThan"):
            raise bad_request("sendInitialEvents needs allowWatchBookmarks and resourceVersionMatch=NotOlderThan")
    return WatchOptions(_number(query, "resourceVersion"), timeout or WatchOptions.any_timeout(), bookmarks, initial)


def answer(store: Store, route: Route, query: dict[str, str], view: View) -> bytes:
    """The body of a list.

    :raises ApiError: 400, 410 (continued after a compaction), 504 (a version that does not exist yet).
    """
    selection = selection_of(route, query)
    limit = _number(query, "limit")
    if query.get("continue"):
        revision, start = _read_token(query["continue"])
        if revision < store.compacted:
            raise continue_expired()
        versions = store.versions_at(route.resource, selection.namespace, revision)
        found = [(key, version) for key, version in versions if selection.has(version) and list(key) > start]
    else:
        revision, asked = store.revision, _number(query, "resourceVersion")
        if asked is not None and asked > revision:
            raise too_large_version(asked, revision)
        if query.get("resourceVersionMatch") == "Exact" and asked:
            if asked < store.compacted:
                raise continue_expired()
            revision = asked
        if revision == store.revision:
            stored = store.objects(route.resource, selection.namespace)
            versions = [
                ((s.obj["metadata"].get("namespace", ""), s.obj["metadata"]["name"]), s.version) for s in stored
            ]
        else:
            versions = store.versions_at(route.resource, selection.namespace, revision)
        found = [(key, version) for key, version in versions if selection.has(version)]
    metadata: Obj = {"resourceVersion": str(revision)}
    if limit and len(found) > limit:
        metadata["continue"] = _token(revision, list(found[limit - 1][0]))
        if selection.labels is None and selection.fields is None:
            metadata["remainingItemCount"] = len(found) - limit
        found = found[:limit]
    return view.many([version for _, version in found], metadata)


def _token(revision: int, last: list[str]) -> str:
    return base64.urlsafe_b64encode(
        json.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": last}).encode()
    ).decode()


def _read_token(text: str) -> tuple[int, list[str]]:
    try:
        token: Any = json.loads(base64.urlsafe_b64decode(text.encode()))
        revision, start = int(token["rv"]), [str(part) for part in token["start"]]
    except (ValueError, KeyError, TypeError):
        raise bad_request("continue key is not valid") from None
    return revision, start
