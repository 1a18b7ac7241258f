"""Create, replace, patch, delete: what the API server does to stored objects, whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from executor_conformance.backends.kubernetes.emulator import objects
from executor_conformance.backends.kubernetes.emulator.patches import apply_patch
from executor_conformance.backends.kubernetes.emulator.resources import RESOURCES
from executor_conformance.backends.kubernetes.emulator.status import (
    Obj,
    already_exists,
    bad_request,
    cause,
    conflict,
    forbidden,
    not_found,
)
from executor_conformance.backends.kubernetes.emulator.store import Change, Store
from executor_conformance.backends.kubernetes.emulator.validation import check_decodable, check_new, check_update

_EVENTS_KEPT = 1000
_NAME_ATTEMPTS = 8
_TERMINAL = ("Succeeded", "Failed")


@dataclass(frozen=True)
class DeleteOptions:
    """How to delete; ``grace`` in seconds, None for the object's own."""

    grace: int | None = None
    uid: str | None = None
    resource_version: str | None = None


def _other_uid(asked: str, found: str) -> str:
    return f"Precondition failed: UID in precondition: {asked}, UID in object meta: {found}"


class Registry:
    """The rules by which stored objects change."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._events: dict[tuple[str, ...], tuple[str, str]] = {}
        store.put("nodes", objects.new_node())
        for name in ("default", "kube-system"):
            self.create("namespaces", "", objects.new_namespace(name))
        store.listeners.append(self._finish_namespaces)

    # --- reading ---

    def get(self, resource: str, namespace: str, name: str) -> Obj:
        """The object, not to be changed.

        :raises ApiError: 404.
        """
        obj = self.store.get(resource, namespace, name)
        if obj is None:
            raise not_found(resource, name)
        return obj

    # --- writing ---

    def prepare(self, resource: str, namespace: str, body: Obj) -> Obj:
        """Decode a body for ``create``; a name is generated if asked for.

        :raises ApiError: 400.
        """
        kind = RESOURCES[resource].kind
        check_decodable(kind, body)
        metadata = body["metadata"]
        if RESOURCES[resource].namespaced:
            if metadata.setdefault("namespace", namespace) != namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
        elif metadata.pop("namespace", None):
            raise bad_request("namespace is not allowed on this type")
        if not metadata.get("name") and metadata.get("generateName"):
            for _ in range(_NAME_ATTEMPTS):
                metadata["name"] = objects.generated_name(metadata["generateName"])
                if self.store.get(resource, namespace, metadata["name"]) is None:
                    break
        return body

    def create(self, resource: str, namespace: str, body: Obj) -> Obj:
        """Store a new object.

        :raises ApiError: 400, 403 (the namespace is terminating), 404 (no such namespace), 409, 422.
        """
        obj = self.prepare(resource, namespace, body)
        metadata = obj["metadata"]
        name = metadata.get("name", "")
        if RESOURCES[resource].namespaced:
            self._check_namespace(resource, namespace, name)
        objects.new_identity(obj)
        if resource == "pods":
            objects.default_pod(obj)
        elif resource == "namespaces":
            objects.default_namespace(obj)
        check_new(RESOURCES[resource].kind, obj)
        if self.store.get(resource, namespace, name) is not None:
            raise already_exists(resource, name)
        obj = self.store.put(resource, obj)
        if resource == "namespaces":
            self.store.put("serviceaccounts", objects.new_service_account(name))
        return obj

    def _check_namespace(self, resource: str, namespace: str, name: str) -> None:
        found = self.store.get("namespaces", "", namespace)
        if found is None:
            raise not_found("namespaces", namespace)
        if found["metadata"].get("deletionTimestamp"):
            message = f"namespace {namespace} is being terminated"
            causes = [cause("NamespaceTerminating", "metadata.namespace", message)]
            text = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise forbidden(resource, name, text, causes)

    def replace(self, resource: str, namespace: str, name: str, body: Obj, subresource: str = "") -> Obj:
        """PUT: the object becomes ``body``, or with ``subresource`` "status" takes its status.

        :raises ApiError: 400, 404, 409 (resourceVersion or uid given and another), 422.
        """
        check_decodable(RESOURCES[resource].kind, body)
        body_name = body["metadata"].get("name", name)
        if body_name != name:
            raise bad_request(f"the name of the object ({body_name}) does not match the name on the URL ({name})")
        body["metadata"]["name"] = name
        return self._update(resource, namespace, name, lambda old: body, subresource)

    def patch(
        self, resource: str, namespace: str, name: str, patch: bytes, content_type: str, subresource: str = ""
    ) -> Obj:
        """PATCH, of the type that ``content_type`` says.

        :raises ApiError: 400, 404, 409, 415, 422.
        """

        def patched(old: Obj) -> Obj:
            new = apply_patch(old, patch, content_type)
            check_decodable(RESOURCES[resource].kind, new)
            return new

        return self._update(resource, namespace, name, patched, subresource)

    def change(self, resource: str, namespace: str, name: str, change: Callable[[Obj], None]) -> Obj | None:
        """Change an object in place as the system itself does, without checks; None if it is gone."""
        obj = self.store.fresh(resource, namespace, name)
        if obj is None:
            return None
        change(obj)
        return self.store.put(resource, obj)

    def _update(self, resource: str, namespace: str, name: str, change: Callable[[Obj], Obj], subresource: str) -> Obj:
        old = self.store.fresh(resource, namespace, name)
        if old is None:
            raise not_found(resource, name)
        new = change(old)
        metadata, before = new["metadata"], old["metadata"]
        given = metadata.get("resourceVersion")
        if given and given != before["resourceVersion"]:
            raise conflict(resource, name)
        if metadata.get("uid", before["uid"]) != before["uid"]:
            raise conflict(resource, name, _other_uid(metadata["uid"], before["uid"]))
        # what only the server sets
        metadata.pop("managedFields", None)
        for field in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace"):
            if field in before:
                metadata[field] = before[field]
            else:
                metadata.pop(field, None)
        for field in ("spec",) if subresource == "status" else ("status",):
            if field in before or field in old:
                new[field] = old[field]
        if resource == "pods" and not subresource:
            # a replaced pod that leaves out what was defaulted keeps it
            new["spec"] = {**{key: value for key, value in old["spec"].items() if key != "nodeName"}, **new["spec"]} | (
                {"nodeName": old["spec"]["nodeName"]} if "nodeName" in old["spec"] else {}
            )
        check_update(RESOURCES[resource].kind, old, new)
        stored = self.store.put(resource, new)
        if stored["metadata"].get("deletionTimestamp") and not stored["metadata"].get("finalizers"):
            stored = self._remove_if_done(resource, stored)
        return stored

    def _remove_if_done(self, resource: str, obj: Obj) -> Obj:
        metadata = obj["metadata"]
        if resource == "namespaces" or metadata.get("deletionGracePeriodSeconds"):
            return obj  # removed when it is empty, or by the kubelet
        return self.store.remove(resource, metadata.get("namespace", ""), metadata["name"]) or obj

    # --- deleting ---

    def delete(self, resource: str, namespace: str, name: str, options: DeleteOptions | None = None) -> Obj:
        """Delete, in two phases where a live pod has a grace period; returns the object as it then is.

        :raises ApiError: 404, 409 (a precondition does not hold), 403 (a namespace of the system).
        """
        options = options or DeleteOptions()
        obj = self.get(resource, namespace, name)
        self._check_preconditions(resource, obj, options)
        if resource == "pods":
            return self._delete_pod(obj, options)
        if resource == "namespaces":
            return self._delete_namespace(obj)
        if obj["metadata"].get("finalizers"):
            return self._mark(resource, obj, 0)
        return self.store.remove(resource, namespace, name) or obj

    def _check_preconditions(self, resource: str, obj: Obj, options: DeleteOptions) -> None:
        metadata = obj["metadata"]
        if options.uid is not None and options.uid != metadata["uid"]:
            raise conflict(resource, metadata["name"], _other_uid(options.uid, metadata["uid"]))
        if options.resource_version is not None and options.resource_version != metadata["resourceVersion"]:
            message = (
                f"Precondition failed: ResourceVersion in precondition: {options.resource_version}, ResourceVersion"
                f" in object meta: {metadata['resourceVersion']}"
            )
            raise conflict(resource, metadata["name"], message)

    def _mark(self, resource: str, obj: Obj, grace: int) -> Obj:
        metadata = obj["metadata"]

        def mark(fresh: Obj) -> None:
            fresh["metadata"]["deletionTimestamp"] = objects.after(grace)
            fresh["metadata"]["deletionGracePeriodSeconds"] = grace

        return self.change(resource, metadata.get("namespace", ""), metadata["name"], mark) or obj

    def _delete_pod(self, pod: Obj, options: DeleteOptions) -> Obj:
        metadata = pod["metadata"]
        grace = options.grace
        if grace is None:
            grace = pod["spec"].get("terminationGracePeriodSeconds", objects.DEFAULT_GRACE)
        grace = max(grace, 1) if grace < 0 else grace
        if "nodeName" not in pod["spec"] or pod["status"].get("phase") in _TERMINAL:
            grace = 0
        if metadata.get("deletionTimestamp") and grace >= metadata.get("deletionGracePeriodSeconds", 0) > 0:
            return pod  # a second deletion can only shorten the grace period
        if not (metadata.get("deletionTimestamp") and metadata.get("deletionGracePeriodSeconds") == 0):
            pod = self._mark("pods", pod, grace)
        if grace > 0 or pod["metadata"].get("finalizers"):
            return pod
        return self.store.remove("pods", metadata["namespace"], metadata["name"]) or pod

    def finish_pod(self, namespace: str, name: str, uid: str) -> None:
        """The kubelet's part of a graceful deletion: the containers have ended, the pod may go."""
        pod = self.store.get("pods", namespace, name)
        if pod is not None and pod["metadata"]["uid"] == uid:
            self._delete_pod(pod, DeleteOptions(grace=0))

    def _delete_namespace(self, namespace: Obj) -> Obj:
        name = namespace["metadata"]["name"]
        if name in ("default", "kube-system"):
            raise forbidden("namespaces", name, "this namespace may not be deleted")
        if namespace["metadata"].get("deletionTimestamp"):
            raise conflict("namespaces", name, "The system is ensuring all content is removed from this namespace.")

        def terminate(obj: Obj) -> None:
            obj["metadata"]["deletionTimestamp"] = objects.timestamp()
            obj["status"] = {"phase": "Terminating"}

        terminating = self.change("namespaces", "", name, terminate) or namespace
        for stored in self.store.objects("pods", name):
            self._delete_pod(stored.obj, DeleteOptions())
        self._remove_empty_namespace(name)
        return terminating

    def _remove_empty_namespace(self, name: str) -> None:
        namespace = self.store.get("namespaces", "", name)
        if namespace is None or not namespace["metadata"].get("deletionTimestamp"):
            return
        if self.store.objects("pods", name):
            return
        for resource in ("events", "serviceaccounts"):
            for stored in self.store.objects(resource, name):
                self.store.remove(resource, name, stored.obj["metadata"]["name"])
        self.store.remove("namespaces", "", name)

    def _finish_namespaces(self, change: Change, obj: Obj) -> None:
        if change.type == "DELETED" and change.resource == "pods":
            self._remove_empty_namespace(change.key[0])

    # --- events ---

    def record(
        self, about: Obj, type_: str, reason: str, message: str, component: str = "kubelet", field_path: str = ""
    ) -> None:
        """Write an Event, or count it again; the last 1,000 are kept (a real server keeps those of an hour)."""
        namespace = self.store.get("namespaces", "", about["metadata"].get("namespace", "default"))
        if namespace is None or namespace["metadata"].get("deletionTimestamp"):
            return
        same = (about["metadata"]["uid"], reason, message, field_path)
        if (former := self._events.get(same)) is not None and self._count_again(*former):
            return
        event = objects.new_event(about, type_, reason, message, component, field_path)
        self.store.put("events", event)
        self._events[same] = (event["metadata"]["namespace"], event["metadata"]["name"])
        while len(self._events) > _EVENTS_KEPT:
            self.store.remove("events", *self._events.pop(next(iter(self._events))))

    def _count_again(self, namespace: str, name: str) -> bool:
        def count(event: Obj) -> None:
            event["count"] = event.get("count", 1) + 1
            event["lastTimestamp"] = objects.timestamp()

        return self.change("events", namespace, name, count) is not None
