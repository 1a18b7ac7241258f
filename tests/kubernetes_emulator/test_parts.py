from __future__ import annotations

import datetime
from typing import Any

import pytest
from executor_conformance.backends.kubernetes.emulator.environment import expand
from executor_conformance.backends.kubernetes.emulator.faults import BadRule, Faults
from executor_conformance.backends.kubernetes.emulator.images import BadImages, normalized, parse_images
from executor_conformance.backends.kubernetes.emulator.objects import timestamp
from executor_conformance.backends.kubernetes.emulator.patches import merge, strategic_merge
from executor_conformance.backends.kubernetes.emulator.protobuf import decode
from executor_conformance.backends.kubernetes.emulator.selectors import field_selector, label_selector
from executor_conformance.backends.kubernetes.emulator.status import ApiError
from executor_conformance.backends.kubernetes.emulator.store import Store
from executor_conformance.backends.kubernetes.emulator.table import age


@pytest.mark.parametrize(
    ("selector", "labels", "selected"),
    [
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "c"}, False),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a in (b, c)", {"a": "c"}, True),
        ("a in (b,c),d", {"a": "c"}, False),
        ("a notin (b,c)", {}, True),
        ("a notin (b,c)", {"a": "b"}, False),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("x.io/a=b,!z", {"x.io/a": "b"}, True),
        (
            "airflow-worker=7,airflow_executor_done!=True",
            {"airflow-worker": "7", "airflow_executor_done": "True"},
            False,
        ),
        ("a=", {"a": ""}, True),
    ],
)
def test_label_selectors(selector: str, labels: dict[str, str], selected: bool) -> None:
    predicate = label_selector(selector)
    assert predicate is not None
    assert predicate(labels) is selected


@pytest.mark.parametrize("selector", ["a=b=c", "a in b", "=", "a in (b", "-a"])
def test_malformed_label_selectors(selector: str) -> None:
    with pytest.raises(ApiError) as error:
        label_selector(selector)
    assert error.value.code == 400


def test_field_selectors() -> None:
    known = frozenset({"status.phase", "spec.nodeName"})
    predicate = field_selector("status.phase!=Succeeded,spec.nodeName=", known)
    assert predicate is not None
    assert predicate({"status.phase": "Running"})
    assert not predicate({"status.phase": "Succeeded"})
    assert field_selector("", known) is None
    with pytest.raises(ApiError, match=r"field label not supported: spec\.x"):
        field_selector("spec.x=1", known)


def test_merge_patch_is_rfc_7386() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": None}, "d": [2]}) == {"a": {"c": 2}, "d": [2]}


POD: dict[str, Any] = {
    "metadata": {"labels": {"a": "1"}, "finalizers": ["x"]},
    "spec": {
        "containers": [{"name": "a", "image": "i", "env": [{"name": "E", "value": "1"}]}, {"name": "b", "args": ["x"]}],
        "tolerations": [{"key": "k"}],
    },
}


@pytest.mark.parametrize(
    ("patch", "path", "expected"),
    [
        ({"metadata": {"labels": {"b": "2"}}}, ("metadata", "labels"), {"a": "1", "b": "2"}),
        ({"metadata": {"labels": {"a": None}}}, ("metadata", "labels"), {}),
        ({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}, ("metadata", "labels"), {"c": "3"}),
        ({"metadata": {"finalizers": ["y"]}}, ("metadata", "finalizers"), ["x", "y"]),
        ({"metadata": {"$deleteFromPrimitiveList/finalizers": ["x"]}}, ("metadata", "finalizers"), []),
        ({"spec": {"tolerations": []}}, ("spec", "tolerations"), []),
        (
            {"spec": {"containers": [{"name": "b", "image": "j"}]}},
            ("spec", "containers", 1),
            {"name": "b", "args": ["x"], "image": "j"},
        ),
        (
            {
                "spec": {
                    "containers": [{"name": "a", "env": [{"name": "F", "value": "2"}, {"name": "E", "value": "0"}]}]
                }
            },
            ("spec", "containers", 0, "env"),
            [{"name": "E", "value": "0"}, {"name": "F", "value": "2"}],
        ),
        ({"spec": {"containers": [{"$patch": "delete", "name": "a"}]}}, ("spec", "containers", 0, "name"), "b"),
        (
            {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "a"}]}},
            ("spec", "containers", 0, "name"),
            "b",
        ),
    ],
)
def test_strategic_merge(patch: dict[str, Any], path: tuple[Any, ...], expected: Any) -> None:
    value: Any = strategic_merge(POD, patch)
    for part in path:
        value = value[part]
    assert value == expected
    assert POD["metadata"]["labels"] == {"a": "1"}  # the original is left as it is


def test_strategic_merge_needs_merge_keys() -> None:
    with pytest.raises(ApiError, match="merge key: name"):
        strategic_merge(POD, {"spec": {"containers": [{"image": "x"}]}})


def test_expansion() -> None:
    assert expand("$(A) $(B) $$(A) $A $", {"A": "1"}) == "1 $(B) $(A) $A $"


@pytest.mark.parametrize(("seconds", "text"), [(5, "5s"), (125, "2m5s"), (700, "11m"), (4000, "66m"), (200000, "2d")])
def test_age(seconds: int, text: str) -> None:
    assert age(timestamp(datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds))) == text


def test_images() -> None:
    assert parse_images({"a:1": {"env": {"X": "1"}}, "b": {}})["b:latest"].working_dir == "/"
    assert normalized("host:5000/a") == "host:5000/a:latest"
    for wrong in ([], {"a": 1}, {"a": {"env": {"X": 1}}}, {"a": {"working_dir": "x"}}, {"a": {"cmd": []}}):
        with pytest.raises(BadImages):
            parse_images(wrong)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ([], "an object"),
        ({"verb": "create"}, "'action'"),
        ({"verb": "make", "action": {"type": "close"}}, "'make'"),
        ({"verb": "create", "action": {"type": "never"}}, "'never'"),
        ({"point": "pull", "action": {"type": "close"}}, "'close'"),
        ({"point": "pull", "action": {"type": "StartError"}}, "needs the point 'start'"),
        ({"point": "start", "verb": "get", "action": {"type": "never"}}, "not both"),
        ({"verb": "create", "action": {"type": "status"}}, "'code'"),
        ({"verb": "create", "action": {"type": "delay"}}, "'seconds'"),
        ({"verb": "create", "action": {"type": "watch-drop"}}, "needs the verb 'watch'"),
        ({"verb": "watch", "selector": "a", "action": {"type": "close"}}, "no single object"),
        ({"verb": "create", "name": "(", "action": {"type": "close"}}, "no regular expression"),
        ({"verb": "create", "selector": "(", "action": {"type": "close"}}, "no label selector"),
        ({"verb": "create", "times": -1, "action": {"type": "close"}}, "'times'"),
        ({"verb": "create", "color": 1, "action": {"type": "close"}}, "'color'"),
        ({"verb": "create", "action": {"type": "close", "code": 1}}, "'code'"),
    ],
)
def test_rules_that_mean_nothing(rule: Any, text: str) -> None:
    with pytest.raises(BadRule, match=text):
        Faults().add(rule)


def test_rules_count() -> None:
    faults = Faults()
    fault = faults.add({"verb": "create", "skip": 1, "times": 1, "name": "^a", "action": {"type": "close"}})
    hits = [faults.for_request("create", "pods", name, dict) for name in ("b", "a1", "a2", "a3")]
    assert hits == [None, None, fault, None]
    assert (fault.hits, fault.spent) == (1, True)


def test_protobuf_bodies() -> None:
    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    def body(kind: bytes, raw: bytes) -> bytes:
        return b"k8s\0" + field(1, field(1, b"v1") + field(2, kind)) + field(2, raw)

    label = field(11, field(1, b"a") + field(2, b"b"))
    namespace = decode(body(b"Namespace", field(1, field(1, b"team") + label) + field(2, b"")))
    assert namespace == {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team", "labels": {"a": "b"}}}
    options = decode(body(b"DeleteOptions", bytes([1 << 3, 5]) + field(2, field(1, b"uid"))))
    assert (options["gracePeriodSeconds"], options["preconditions"]) == (5, {"uid": "uid"})
    truncated = body(b"Namespace", b"\x0a\x09")
    for wrong, code in ((b"x", 400), (b"k8s\0\xff", 400), (truncated, 400), (body(b"Pod", b""), 415)):
        with pytest.raises(ApiError) as error:
            decode(wrong)
        assert error.value.code == code


def test_versions_of_the_past() -> None:
    store = Store()

    def put(name: str, value: str) -> None:
        store.put(
            "configmaps", {"kind": "ConfigMap", "metadata": {"name": name, "namespace": "n"}, "data": {"v": value}}
        )

    put("a", "1")
    put("b", "1")
    before = store.revision
    put("a", "2")
    store.remove("configmaps", "n", "b")
    put("c", "1")
    then = store.versions_at("configmaps", "n", before)
    assert [(key[1], b'"v":"1"' in version.data) for key, version in then] == [("a", True), ("b", True)]
    assert [change.type for change in store.changes("configmaps", before)] == ["MODIFIED", "DELETED", "ADDED"]
    put("c", "1")
    assert len(store.changes("configmaps", before)) == 3  # nothing changed, so nothing happened
