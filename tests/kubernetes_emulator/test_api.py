from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.kubernetes_emulator.support import Server, pod, wait_for

kubernetes = pytest.importorskip("kubernetes", reason="the official Kubernetes client is not installed")
ApiException = kubernetes.client.ApiException


def status_of(error: Any) -> dict[str, Any]:
    body = json.loads(error.value.body)
    assert (body["kind"], body["apiVersion"], body["status"]) == ("Status", "v1", "Failure")
    assert body["code"] == error.value.status
    return body


def raw(server: Server, path: str, token: str | None = None, accept: str = "", method: str = "GET") -> tuple[int, Any]:
    context = ssl.create_default_context(cafile=server.control.ready["ca"])
    if token is None:
        token = json.loads(server.kubeconfig.read_text())["users"][0]["user"]["token"]
    headers = {"Authorization": f"Bearer {token}", **({"Accept": accept} if accept else {})}
    request = urllib.request.Request(server.control.url + path, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, context=context, timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_only_the_token_opens(server: Server) -> None:
    for token in ("", "wrong"):
        code, body = raw(server, "/api/v1/namespaces/default/pods", token)
        assert (code, body["kind"], body["reason"]) == (401, "Status", "Unauthorized")
    assert (server.kubeconfig.stat().st_mode & 0o777) == 0o600


def test_discovery(server: Server) -> None:
    assert kubernetes.client.VersionApi(server.api_client()).get_code().major == "1"
    names = [entry.name for entry in server.core().get_api_resources().resources]
    assert {"pods", "pods/log", "pods/status", "namespaces", "events"} <= set(names)
    assert raw(server, "/apis/apps/v1")[0] == 404
    assert raw(server, "/api/v1/namespaces/default/services")[1]["reason"] == "NotFound"
    assert raw(server, "/api/v1/namespaces/default/pods/x/exec")[0] == 404
    assert raw(server, "/api/v1/nodes", method="DELETE")[1]["reason"] == "MethodNotAllowed"


def test_what_a_new_pod_gets(server: Server, core: Any) -> None:
    server.control.add_fault(point="schedule", action={"type": "never"})
    made = core.create_namespaced_pod("default", pod("new", metadata={"labels": {"a": "b"}}))
    assert made.metadata.uid
    assert made.metadata.resource_version
    assert made.metadata.creation_timestamp
    assert (made.status.phase, made.status.qos_class) == ("Pending", "BestEffort")
    assert (made.spec.termination_grace_period_seconds, made.spec.dns_policy) == (30, "ClusterFirst")
    assert (made.spec.service_account_name, made.spec.node_name) == ("default", None)
    assert made.spec.containers[0].image_pull_policy == "IfNotPresent"
    found = wait_for(lambda: core.read_namespaced_pod("new", "default").status.conditions, "a condition")
    assert [(c.type, c.status, c.reason) for c in found] == [("PodScheduled", "False", "Unschedulable")]


def test_generated_names(core: Any) -> None:
    body = pod("x")
    body["metadata"] = {"generateName": "gen-"}
    names = {core.create_namespaced_pod("default", body).metadata.name for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("gen-") and len(name) == 9 for name in names)


def test_errors_of_create(core: Any) -> None:
    core.create_namespaced_pod("default", pod("twice"))
    with pytest.raises(ApiException) as error:
        core.create_namespaced_pod("default", pod("twice"))
    body = status_of(error)
    assert (body["code"], body["reason"], body["message"]) == (409, "AlreadyExists", 'pods "twice" already exists')
    assert body["details"] == {"name": "twice", "kind": "pods"}
    with pytest.raises(ApiException) as error:
        core.create_namespaced_pod("nowhere", pod("x"))
    assert status_of(error)["message"] == 'namespaces "nowhere" not found'
    with pytest.raises(ApiException) as error:
        core.create_namespaced_pod("default", pod("x", metadata={"namespace": "other"}))
    assert status_of(error)["code"] == 400
    with pytest.raises(ApiException) as error:
        core.create_namespaced_pod("default", {**pod("x"), "kind": "Service"})
    assert status_of(error)["reason"] == "BadRequest"
    with pytest.raises(ApiException) as error:
        core.create_namespaced_pod("default", pod("x", metadata={"labels": {"a": 1}}))
    assert "cannot unmarshal number" in status_of(error)["message"]


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        (pod("No_Name"), "metadata.name", "FieldValueInvalid"),
        (pod("x", metadata={"labels": {"a": "not valid!"}}), "metadata.labels", "FieldValueInvalid"),
        (pod("x", metadata={"labels": {"a": "y" * 64}}), "metadata.labels", "FieldValueInvalid"),
        (pod("x", containers=[]), "spec.containers", "FieldValueRequired"),
        (pod("x", container={"image": ""}), "spec.containers[0].image", "FieldValueRequired"),
        (pod("x", restartPolicy="Sometimes"), "spec.restartPolicy", "FieldValueNotSupported"),
        (pod("x", activeDeadlineSeconds=0), "spec.activeDeadlineSeconds", "FieldValueInvalid"),
    ],
)
def test_invalid_pods(core: Any, body: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(ApiException) as error:
        core.create_namespaced_pod("default", body)
    status = status_of(error)
    assert (status["code"], status["reason"], status["details"]["kind"]) == (422, "Invalid", "Pod")
    assert [(cause["field"], cause["reason"]) for cause in status["details"]["causes"]] == [(field, reason)]


def test_lists_and_selectors(core: Any, server: Server) -> None:
    for name, labels in (("a", {"w": "1"}), ("b", {"w": "1", "done": "True"}), ("c", {"w": "2"})):
        core.create_namespaced_pod("default", pod(name, metadata={"labels": labels}))
    for name in "abc":
        server.phase(name, "Succeeded")

    def names(**selectors: str) -> list[str]:
        return [item.metadata.name for item in core.list_namespaced_pod("default", **selectors).items]

    assert names(label_selector="w=1,done!=True") == ["a"]
    assert names(label_selector="w in (1,2),!done") == ["a", "c"]
    assert names(label_selector="w notin (1)", field_selector="status.phase=Succeeded") == ["c"]
    assert names(field_selector="metadata.name!=a,spec.nodeName=conformance-node") == ["b", "c"]
    assert names(field_selector="status.phase!=Succeeded") == []
    assert len(core.list_pod_for_all_namespaces().items) == 3
    assert core.list_namespaced_pod("nowhere").items == []
    for wrong in ({"label_selector": "a b"}, {"field_selector": "spec.volumes=1"}):
        with pytest.raises(ApiException) as error:
            names(**wrong)
        assert status_of(error)["code"] == 400


def test_pages_are_of_one_moment(core: Any, server: Server) -> None:
    server.control.add_fault(point="schedule", action={"type": "never"})
    for name in "abc":
        core.create_namespaced_pod("default", pod(name))
    first = core.list_namespaced_pod("default", limit=2)
    assert (len(first.items), first.metadata.remaining_item_count) == (2, 1)
    core.create_namespaced_pod("default", pod("d"))
    core.delete_namespaced_pod("c", "default", grace_period_seconds=0)
    token = first.metadata._continue
    rest = core.list_namespaced_pod("default", limit=2, _continue=token)
    assert [item.metadata.name for item in rest.items] == ["c"]
    assert rest.metadata._continue is None
    assert rest.metadata.resource_version == first.metadata.resource_version
    server.control.compact()
    with pytest.raises(ApiException) as error:
        core.list_namespaced_pod("default", limit=2, _continue=token)
    assert (error.value.status, status_of(error)["reason"]) == (410, "Expired")


def test_a_list_of_the_future(core: Any) -> None:
    with pytest.raises(ApiException) as error:
        core.list_namespaced_pod("default", resource_version="999999999")
    assert error.value.status == 504


def test_partial_metadata_as_the_provider_asks(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p", metadata={"labels": {"w": "1"}}))
    server.phase("p", "Succeeded")
    client = kubernetes.dynamic.DynamicClient(server.api_client())
    resource = client.resources.get(api_version="v1", kind="Pod")
    found = resource.get(
        namespace="default",
        label_selector="w=1",
        field_selector="status.phase=Succeeded",
        header_params={"Accept": "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"},
    )
    assert (found.kind, len(found.items)) == ("PartialObjectMetadataList", 1)
    assert found.items[0].metadata.labels.w == "1"
    assert "spec" not in found.items[0].to_dict()


def test_table_and_refused_forms(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p"))
    server.phase("p", "Succeeded")
    path = "/api/v1/namespaces/default/pods"
    code, table = raw(server, path, accept="application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
    assert (code, table["kind"], table["rows"][0]["cells"][:4]) == (200, "Table", ["p", "0/1", "Completed", "0"])
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    code, listed = raw(server, path)
    assert (listed["kind"], "kind" in listed["items"][0]) == ("PodList", False)
    assert raw(server, path, accept="application/vnd.kubernetes.protobuf")[1]["reason"] == "NotAcceptable"


@pytest.mark.parametrize(
    ("content_type", "patch"),
    [
        ("application/strategic-merge-patch+json", {"metadata": {"labels": {"done": "True"}}}),
        ("application/merge-patch+json", {"metadata": {"labels": {"done": "True"}}}),
        ("application/json-patch+json", [{"op": "add", "path": "/metadata/labels/done", "value": "True"}]),
    ],
)
def test_patch_types(server: Server, core: Any, content_type: str, patch: Any) -> None:
    before = core.create_namespaced_pod("default", pod("p", "sleep 60", metadata={"labels": {"w": "1"}}))
    server.phase("p", "Running")
    client = server.api_client()
    client.select_header_content_type = lambda *_, **__: content_type
    changed = kubernetes.client.CoreV1Api(client).patch_namespaced_pod("p", "default", patch)
    assert changed.metadata.labels == {"w": "1", "done": "True"}
    assert (changed.metadata.uid, changed.status.phase) == (before.metadata.uid, "Running")
    again = kubernetes.client.CoreV1Api(client).patch_namespaced_pod("p", "default", patch)
    assert again.metadata.resource_version == changed.metadata.resource_version  # nothing to change, no new version


def test_errors_of_patch(server: Server, core: Any) -> None:
    core.create_namespaced_pod("default", pod("p", "sleep 60"))
    server.phase("p", "Running")

    def refused(patch: Any, name: str = "p") -> dict[str, Any]:
        with pytest.raises(ApiException) as error:
            core.patch_namespaced_pod(name, "default", patch)
        return status_of(error)

    assert refused({}, "none")["reason"] == "NotFound"
    assert refused({"metadata": {"resourceVersion": "1"}})["reason"] == "Conflict"
    assert "pod updates may not change fields" in refused({"spec": {"restartPolicy": "Always"}})["message"]
    assert refused({"metadata": {"labels": {"a": "b c"}}})["code"] == 422
    assert refused([{"op": "remove", "path": "/metadata/labels/none"}])["code"] in (400, 422)
    client = server.api_client()
    client.select_header_content_type = lambda *_, **__: "application/apply-patch+yaml"
    with pytest.raises(ApiException) as error:
        kubernetes.client.CoreV1Api(client).patch_namespaced_pod("p", "default", {})
    assert status_of(error)["code"] == 415


def test_status_is_changed_through_its_own_path(server: Server, core: Any) -> None:
    server.control.add_fault(point="schedule", action={"type": "never"})
    core.create_namespaced_pod("default", pod("p"))
    patch = {
        "status": {"conditions": [{"type": "Mine", "status": "True"}], "reason": "Told"},
        "spec": {"nodeName": "x"},
    }
    assert core.patch_namespaced_pod("p", "default", {"status": {"reason": "Told"}}).status.reason is None
    changed = core.patch_namespaced_pod_status("p", "default", patch)
    assert (changed.status.reason, changed.spec.node_name) == ("Told", None)
    assert {condition.type for condition in changed.status.conditions} == {"Mine", "PodScheduled"}
    assert core.read_namespaced_pod_status("p", "default").status.reason == "Told"


def test_replace(server: Server, core: Any) -> None:
    server.control.add_fault(point="schedule", action={"type": "never"})
    core.create_namespaced_pod("default", pod("p"))
    wait_for(lambda: core.read_namespaced_pod("p", "default").status.conditions, "a condition")
    found = core.read_namespaced_pod("p", "default")
    found.metadata.labels = {"x": "y"}
    replaced = core.replace_namespaced_pod("p", "default", found)
    assert replaced.metadata.labels == {"x": "y"}
    with pytest.raises(ApiException) as error:
        core.replace_namespaced_pod("p", "default", found)  # its version is the former one
    assert status_of(error)["reason"] == "Conflict"
    assert "the object has been modified" in status_of(error)["message"]


def test_preconditions_and_finalizers(server: Server, core: Any) -> None:
    made = core.create_namespaced_pod("default", pod("p", metadata={"finalizers": ["test/hold"]}))
    server.phase("p", "Succeeded")
    other = kubernetes.client.V1DeleteOptions(preconditions={"uid": "other"})
    with pytest.raises(ApiException) as error:
        core.delete_namespaced_pod("p", "default", body=other)
    assert status_of(error)["reason"] == "Conflict"
    mine = kubernetes.client.V1DeleteOptions(preconditions={"uid": made.metadata.uid}, propagation_policy="Background")
    assert core.delete_namespaced_pod("p", "default", body=mine).metadata.deletion_timestamp
    assert core.read_namespaced_pod("p", "default").metadata.finalizers == ["test/hold"]
    core.patch_namespaced_pod("p", "default", {"metadata": {"finalizers": None}})
    with pytest.raises(ApiException) as error:
        core.read_namespaced_pod("p", "default")
    assert error.value.status == 404


def test_delete_collection(server: Server, core: Any) -> None:
    for name, label in (("a", "1"), ("b", "1"), ("c", "2")):
        core.create_namespaced_pod("default", pod(name, metadata={"labels": {"w": label}}))
        server.phase(name, "Succeeded")
    core.delete_collection_namespaced_pod("default", label_selector="w=1")
    assert [item.metadata.name for item in core.list_namespaced_pod("default").items] == ["c"]


def test_namespaces(server: Server, core: Any) -> None:
    core.create_namespace({"metadata": {"name": "team"}})
    assert core.read_namespaced_service_account("default", "team").metadata.name == "default"
    core.create_namespaced_pod("team", pod("p", "trap 'exit 0' TERM; while :; do sleep 0.05; done"))
    server.phase("p", "Running")
    core.delete_namespace("team")
    if "team" in [item.metadata.name for item in core.list_namespace().items]:
        with pytest.raises(ApiException) as error:
            core.create_namespaced_pod("team", pod("q"))
        assert error.value.status in (403, 404)
    wait_for(lambda: "team" not in [item.metadata.name for item in core.list_namespace().items], "team is gone")
    server.gone("p")
    with pytest.raises(ApiException) as error:
        core.delete_namespace("default")
    assert status_of(error)["reason"] == "Forbidden"


def test_other_resources(server: Server, core: Any) -> None:
    (node,) = core.list_node().items
    assert {c.type: c.status for c in node.status.conditions}["Ready"] == "True"
    assert core.list_namespaced_config_map("default").items == core.list_namespaced_secret("default").items == []
    assert [account.metadata.name for account in core.list_namespaced_service_account("default").items] == ["default"]


def test_events_of_a_pod(server: Server, core: Any) -> None:
    made = core.create_namespaced_pod("default", pod("p"))
    server.phase("p", "Succeeded")
    selector = f"involvedObject.uid={made.metadata.uid},involvedObject.kind=Pod"
    reasons = [event.reason for event in core.list_namespaced_event("default", field_selector=selector).items]
    assert reasons == ["Scheduled", "Pulled", "Created", "Started"]


def test_access(server: Server, core: Any) -> None:
    def review(verb: str, resource: str, namespace: str = "default", sub: str | None = None) -> bool:
        asked = {"verb": verb, "resource": resource, "namespace": namespace, "subresource": sub}
        api = kubernetes.client.AuthorizationV1Api(server.api_client())
        answer = api.create_self_subject_access_review({"spec": {"resourceAttributes": asked}})
        return bool(answer.status.allowed)

    assert review("create", "pods")
    server.control.set_access(
        [
            {"verb": "create", "resource": "pods", "namespace": "default"},
            {"verb": "get", "resource": "pods/log", "namespace": None},
        ]
    )
    assert not review("create", "pods")
    assert review("create", "pods", "kube-system")
    assert not review("get", "pods", sub="log")
    with pytest.raises(ApiException) as error:
        core.create_namespaced_pod("default", pod("p"))
    body = status_of(error)
    assert (body["code"], body["reason"]) == (403, "Forbidden")
    assert 'cannot create resource "pods" in API group "" in the namespace "default"' in body["message"]
    api = kubernetes.client.AuthorizationV1Api(server.api_client())
    rules = api.create_self_subject_rules_review({"spec": {"namespace": "default"}}).status.resource_rules
    allowed = {rule.resources[0]: rule.verbs for rule in rules}
    assert "create" not in allowed["pods"]
    assert "list" in allowed["pods"]


def test_calls_are_recorded_without_secrets(server: Server, core: Any) -> None:
    before = max((call["n"] for call in server.control.calls()), default=0)
    core.create_namespaced_pod("default", pod("p", "echo secret-argument"))
    core.list_namespaced_pod("default", label_selector="a=b")
    with pytest.raises(ApiException):
        core.read_namespaced_pod("none", "default")
    calls = server.control.calls(before)
    assert [(call["verb"], call["resource"], call["name"], call["status"]) for call in calls] == [
        ("create", "pods", "p", 201),
        ("list", "pods", "", 200),
        ("get", "pods", "none", 404),
    ]
    assert calls[1]["query"] == {"labelSelector": "a=b"}
    assert calls[0]["at"] <= calls[1]["at"]
    token = json.loads(server.kubeconfig.read_text())["users"][0]["user"]["token"]
    assert token not in json.dumps(calls)
    assert "secret-argument" not in json.dumps(calls)
