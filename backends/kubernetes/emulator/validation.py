"""What kube-apiserver refuses: bodies it can't decode (400), objects that break a rule (422)."""

from __future__ import annotations

import re
from typing import Any

from executor_conformance.backends.kubernetes.emulator.objects import all_containers
from executor_conformance.backends.kubernetes.emulator.status import Obj, bad_request, cause, invalid

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_ENV_NAME = re.compile(r"[ -<>-~]+")
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start"
    " and end with an alphanumeric character (e.g. 'example.com', regex used for validation is"
    r" '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end"
    " with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start"
    " and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for"
    " validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_RESTART_POLICIES = ("Always", "OnFailure", "Never")
_MUTABLE = ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations")
_IMMUTABLE_RULE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_ANNOTATION_BYTES = 256 << 10


def _typed(kind: str, value: Any, type_: type, path: str) -> None:
    if value is not None and (not isinstance(value, type_) or (type_ is int and isinstance(value, bool))):
        raise bad_request(
            f'{kind} in version "v1" cannot be handled as a {kind}: json: cannot unmarshal'
            f" {_json_type(value)} into Go struct field {path} of type {_GO_TYPES[type_]}"
        )


_GO_TYPES = {str: "string", int: "int64", list: "array", dict: "object", bool: "bool"}


def _json_type(value: Any) -> str:
    for type_, name in ((bool, "bool"), (str, "string"), (list, "array"), (dict, "object")):
        if isinstance(value, type_):
            return name
    return "number"


def check_decodable(kind: str, obj: Any) -> None:
    """Whether a body can be the kind of object that the path asks for.

    :raises ApiError: 400, as the decoder of the API server does.
    """
    if not isinstance(obj, dict):
        raise bad_request("couldn't get version/kind; json parse error: the body is not an object")
    sent = (obj.get("apiVersion", "v1"), obj.get("kind", kind))
    if sent != ("v1", kind):
        raise bad_request(f'{sent[1]} in version "{sent[0]}" cannot be handled as a {kind}')
    obj["kind"], obj["apiVersion"] = kind, "v1"
    metadata = obj.setdefault("metadata", {})
    _typed(kind, metadata, dict, f"{kind}.metadata")
    if metadata is None:
        metadata = obj["metadata"] = {}
    for name in ("name", "namespace", "generateName", "uid", "resourceVersion"):
        _typed(kind, metadata.get(name), str, f"ObjectMeta.metadata.{name}")
    for name in ("labels", "annotations"):
        mapping = metadata.get(name)
        _typed(kind, mapping, dict, f"ObjectMeta.metadata.{name}")
        for value in (mapping or {}).values():
            _typed(kind, value, str, f"ObjectMeta.metadata.{name}")
        if mapping is not None:  # null is the empty string in Go
            metadata[name] = {key: value or "" for key, value in mapping.items()}
    _typed(kind, metadata.get("finalizers"), list, "ObjectMeta.metadata.finalizers")
    if kind == "Pod":
        _check_pod_decodable(obj)


def _check_pod_decodable(pod: Obj) -> None:
    spec = pod.get("spec")
    _typed("Pod", spec, dict, "Pod.spec")
    if spec is None:
        spec = pod["spec"] = {}
    for name in ("containers", "initContainers", "volumes", "tolerations"):
        _typed("Pod", spec.get(name), list, f"PodSpec.spec.{name}")
    for name in ("activeDeadlineSeconds", "terminationGracePeriodSeconds"):
        _typed("Pod", spec.get(name), int, f"PodSpec.spec.{name}")
    for container in all_containers(spec):
        _typed("Pod", container, dict, "PodSpec.spec.containers")
        for name in ("name", "image", "workingDir"):
            _typed("Pod", container.get(name), str, f"Container.spec.containers.{name}")
        for name in ("command", "args"):
            _typed("Pod", container.get(name), list, f"Container.spec.containers.{name}")
            for value in container.get(name) or []:
                _typed("Pod", value, str, f"Container.spec.containers.{name}")
        _typed("Pod", container.get("env"), list, "Container.spec.containers.env")
        for variable in container.get("env") or []:
            _typed("Pod", variable, dict, "Container.spec.containers.env")
            for name in ("name", "value"):
                _typed("Pod", variable.get(name), str, f"EnvVar.spec.containers.env.{name}")


def _invalid(field: str, value: Any, rule: str) -> Obj:
    return cause("FieldValueInvalid", field, f'Invalid value: "{value}": {rule}')


def _required(field: str, detail: str = "") -> Obj:
    return cause("FieldValueRequired", field, f"Required value: {detail}" if detail else "Required value")


def _metadata_causes(metadata: Obj, kind: str) -> list[Obj]:
    causes = []
    name = metadata.get("name", "")
    if not name:
        causes.append(_required("metadata.name", "name or generateName is required"))
    elif kind == "Namespace" and (len(name) > 63 or not _DNS_LABEL.fullmatch(name)):
        causes.append(_invalid("metadata.name", name, _LABEL_RULE))
    elif len(name) > 253:
        causes.append(_invalid("metadata.name", name, "must be no more than 253 characters"))
    elif not _SUBDOMAIN.fullmatch(name):
        causes.append(_invalid("metadata.name", name, _SUBDOMAIN_RULE))
    for field in ("labels", "annotations"):
        for key in metadata.get(field) or {}:
            prefix, _, bare = key.rpartition("/")
            if not _QUALIFIED.fullmatch(bare) or len(bare) > 63 or (prefix and not _SUBDOMAIN.fullmatch(prefix)):
                rule = "name part must consist of alphanumeric characters, '-', '_' or '.', at most 63 of them"
                causes.append(_invalid(f"metadata.{field}", key, rule))
    for value in (metadata.get("labels") or {}).values():
        if len(value) > 63:
            causes.append(_invalid("metadata.labels", value, "must be no more than 63 characters"))
        elif not _LABEL_VALUE.fullmatch(value):
            causes.append(_invalid("metadata.labels", value, _VALUE_RULE))
    annotations = metadata.get("annotations") or {}
    if sum(len(key) + len(value.encode()) for key, value in annotations.items()) > _ANNOTATION_BYTES:
        rule = f"Too long: may not be more than {_ANNOTATION_BYTES} bytes"
        causes.append(cause("FieldValueTooLong", "metadata.annotations", rule))
    return causes


def _container_causes(spec: Obj) -> list[Obj]:
    causes = []
    names: set[str] = set()
    for group in ("initContainers", "containers"):
        for number, container in enumerate(spec.get(group) or []):
            path = f"spec.{group}[{number}]"
            name = container.get("name")
            if not name:
                causes.append(_required(f"{path}.name"))
            elif len(name) > 63 or not _DNS_LABEL.fullmatch(name):
                causes.append(_invalid(f"{path}.name", name, _LABEL_RULE))
            elif name in names:
                causes.append(cause("FieldValueDuplicate", f"{path}.name", f'Duplicate value: "{name}"'))
            names.add(name or "")
            if not (container.get("image") or "").strip():
                causes.append(_required(f"{path}.image"))
            for index, variable in enumerate(container.get("env") or []):
                causes += _variable_causes(variable, f"{path}.env[{index}]")
    return causes


def _variable_causes(variable: Obj, path: str) -> list[Obj]:
    name = variable.get("name")
    if not name:
        return [_required(f"{path}.name")]
    if not _ENV_NAME.fullmatch(name):
        rule = "a valid environment variable name must consist only of printable ASCII characters other than '='"
        return [_invalid(f"{path}.name", name, rule)]
    source = variable.get("valueFrom")
    if source is not None and variable.get("value"):
        return [_invalid(f"{path}.valueFrom", "", "may not be specified when `value` is not empty")]
    if source is not None and len(source) != 1:
        return [_invalid(f"{path}.valueFrom", "", "must specify one of: `fieldRef`, `resourceFieldRef`, ...")]
    return []


def check_new(kind: str, obj: Obj) -> None:
    """Whether a new, defaulted object keeps the rules.

    :raises ApiError: 422 with one cause per broken rule.
    """
    causes = _metadata_causes(obj["metadata"], kind)
    if kind == "Pod":
        spec = obj["spec"]
        if not spec.get("containers"):
            causes.append(_required("spec.containers"))
        causes += _container_causes(spec)
        if spec["restartPolicy"] not in _RESTART_POLICIES:
            supported = ", ".join(f'"{policy}"' for policy in _RESTART_POLICIES)
            message = f'Unsupported value: "{spec["restartPolicy"]}": supported values: {supported}'
            causes.append(cause("FieldValueNotSupported", "spec.restartPolicy", message))
        deadline = spec.get("activeDeadlineSeconds")
        if deadline is not None and deadline < 1:
            rule = "must be between 1 and 2147483647, inclusive"
            causes.append(_invalid("spec.activeDeadlineSeconds", deadline, rule))
    if causes:
        raise invalid(kind, obj["metadata"].get("name", ""), causes)


def check_update(kind: str, old: Obj, new: Obj) -> None:
    """Whether ``old`` may become ``new``.

    :raises ApiError: 422 for what is immutable or breaks a rule.
    """
    name = old["metadata"]["name"]
    causes = _metadata_causes(new["metadata"], kind)
    for field in ("name", "namespace", "uid", "creationTimestamp"):
        if new["metadata"].get(field) != old["metadata"].get(field):
            causes.append(_invalid(f"metadata.{field}", new["metadata"].get(field, ""), "field is immutable"))
    if old["metadata"].get("deletionTimestamp"):
        added = set(new["metadata"].get("finalizers") or []) - set(old["metadata"].get("finalizers") or [])
        if added:
            rule = "no new finalizers can be added if the object is being deleted"
            causes.append(cause("FieldValueForbidden", "metadata.finalizers", f"Forbidden: {rule}"))
    if kind == "Pod" and _fixed(old["spec"]) != _fixed(new.get("spec") or {}):
        causes.append(cause("FieldValueForbidden", "spec", f"Forbidden: {_IMMUTABLE_RULE}"))
    if causes:
        raise invalid(kind, name, causes)


def _fixed(spec: Obj) -> Obj:
    fixed = {name: value for name, value in spec.items() if name not in _MUTABLE}
    for group in ("containers", "initContainers"):
        fixed[group] = [
            {name: value for name, value in container.items() if name != "image"} for container in spec.get(group) or []
        ]
    return fixed
