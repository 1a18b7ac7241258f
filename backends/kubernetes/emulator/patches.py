"""The three patch types: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and strategic merge patch.

The merge keys are those of the Kubernetes API reference (``x-kubernetes-patch-merge-key``) for pods and metadata;
a list that is not named here is atomic: a patch replaces it.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonpatch
from executor_conformance.backends.kubernetes.emulator.status import (
    ApiError,
    Obj,
    bad_request,
    unsupported_media_type,
)

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH)

_CONTAINER_LISTS = {
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
}
_MERGE_KEYS: dict[str, str] = {
    "metadata.ownerReferences": "uid",
    "spec.volumes": "name",
    "spec.imagePullSecrets": "name",
    "spec.hostAliases": "ip",
    "spec.topologySpreadConstraints": "topologyKey",
    "spec.schedulingGates": "name",
    "status.conditions": "type",
    "status.podIPs": "ip",
    "status.hostIPs": "ip",
}
for _list in ("containers", "initContainers", "ephemeralContainers"):
    _MERGE_KEYS[f"spec.{_list}"] = "name"
    _MERGE_KEYS |= {f"spec.{_list}.{name}": key for name, key in _CONTAINER_LISTS.items()}
_MERGED_PRIMITIVES = frozenset({"metadata.finalizers"})


def apply_patch(obj: Obj, patch: bytes, content_type: str) -> Obj:
    """A new object: ``obj`` with the patch applied.

    :raises ApiError: 400 for a malformed patch, 422 for a JSON patch that does not apply, 415 for another type.
    """
    if content_type not in TYPES:
        raise unsupported_media_type(content_type, list(TYPES))
    try:
        body = json.loads(patch)
    except ValueError as error:
        raise bad_request(f"error decoding patch: {error}") from None
    if content_type == JSON_PATCH:
        if not isinstance(body, list):
            raise bad_request("error decoding patch: a JSON patch is a list of operations")
        return _json_patch(obj, body)
    if not isinstance(body, dict):
        raise bad_request("error decoding patch: the patch must be an object")
    if content_type == MERGE_PATCH:
        return merge(obj, body)
    return strategic_merge(obj, body)


def _json_patch(obj: Obj, operations: list[Any]) -> Obj:
    try:
        changed = jsonpatch.apply_patch(obj, operations)
    except jsonpatch.InvalidJsonPatch as error:
        raise bad_request(f"error decoding patch: {error}") from None
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, KeyError) as error:
        raise ApiError(
            422, "Invalid", f"the server rejected our request due to an error in our request: {error}"
        ) from None
    if not isinstance(changed, dict):
        raise bad_request("the patch does not leave an object")
    return changed


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


def strategic_merge(target: Any, patch: Obj, path: str = "") -> Obj:
    """The strategic merge of an object at ``path`` (dotted, list indexes left out).

    :raises ApiError: 400, a directive or an element of a merged list is malformed.
    """
    directive = patch.get("$patch")
    if directive not in (None, "replace", "delete", "merge"):
        raise bad_request(f"unknown $patch directive: {directive}")
    content = {name: value for name, value in patch.items() if not name.startswith("$")}
    if directive == "replace":
        return copy.deepcopy(content)
    if directive == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) else {}
    if (kept := patch.get("$retainKeys")) is not None:
        result = {name: value for name, value in result.items() if name in kept}
    for name, listed in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            field = name.partition("/")[2]
            result[field] = [value for value in result.get(field) or [] if value not in listed]
    for name, value in content.items():
        below = f"{path}.{name}" if path else name
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            result[name] = strategic_merge(result.get(name), value, below)
        elif isinstance(value, list) and below in _MERGE_KEYS:
            result[name] = _merge_lists(result.get(name) or [], value, _MERGE_KEYS[below], below)
        elif isinstance(value, list) and below in _MERGED_PRIMITIVES:
            result[name] = list(dict.fromkeys([*(result.get(name) or []), *value]))
        else:
            result[name] = copy.deepcopy(value)
    for name, order in patch.items():
        field = name.partition("/")[2]
        if name.startswith("$setElementOrder/") and isinstance(result.get(field), list):
            result[field] = _in_order(result[field], order, _MERGE_KEYS.get(f"{path}.{field}" if path else field))
    return result


def _merge_lists(target: list[Any], patch: list[Any], key: str, path: str) -> list[Any]:
    if any(isinstance(item, dict) and item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if "$patch" not in item]
    result = list(target)
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        place = next((n for n, other in enumerate(result) if other.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(strategic_merge({}, item, path))
        else:
            result[place] = strategic_merge(result[place], item, path)
    return result


def _in_order(items: list[Any], order: Any, key: str | None) -> list[Any]:
    if not isinstance(order, list):
        return items
    wanted = [entry.get(key) if key and isinstance(entry, dict) else entry for entry in order]
    identity = [item.get(key) if key and isinstance(item, dict) else item for item in items]
    ranks = [wanted.index(name) if name in wanted else len(wanted) for name in identity]
    return [item for _, _, item in sorted(zip(ranks, range(len(items)), items, strict=True), key=lambda e: e[:2])]
