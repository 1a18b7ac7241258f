"""Who may do what: everything, except what the admin API denies; and the reviews that tell a client so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from executor_conformance.backends.kubernetes.emulator.objects import USER
from executor_conformance.backends.kubernetes.emulator.resources import AUTHORIZATION, RESOURCES, REVIEWS, SUBRESOURCES
from executor_conformance.backends.kubernetes.emulator.status import Obj, bad_request, forbidden


class BadAccess(ValueError):
    """A list of denials that means nothing; the message is one sentence."""


@dataclass(frozen=True)
class Denial:
    """A verb on a resource ("pods", "pods/log", "*") that is refused, in one namespace or (None) in all."""

    verb: str
    resource: str
    namespace: str | None

    def covers(self, verb: str, resource: str, namespace: str) -> bool:
        """Whether it refuses this."""
        return (
            self.verb in ("*", verb)
            and self.resource in ("*", resource)
            and (self.namespace is None or self.namespace == namespace)
        )


class Access:
    """The denials in force."""

    def __init__(self) -> None:
        self.denials: list[Denial] = []

    def set(self, body: Any) -> None:
        """Take the denials from ``{"deny": [{"verb", "resource", "namespace"}]}``.

        :raises BadAccess: it is of another shape.
        """
        entries = body.get("deny") if isinstance(body, dict) else None
        if not isinstance(entries, list):
            raise BadAccess("access is an object with a list 'deny'")
        denials = []
        for entry in entries:
            known = isinstance(entry, dict) and not entry.keys() - {"verb", "resource", "namespace"}
            if not known or not all(isinstance(entry.get(name), str) for name in ("verb", "resource")):
                raise BadAccess("an entry of 'deny' has the strings 'verb' and 'resource', and 'namespace' or null")
            if not isinstance(entry.get("namespace"), str | None):
                raise BadAccess("the 'namespace' of an entry of 'deny' is a string or null")
            denials.append(Denial(entry["verb"], entry["resource"], entry.get("namespace")))
        self.denials = denials

    def document(self) -> Obj:
        """As the admin API shows it."""
        return {"deny": [vars(denial) for denial in self.denials]}

    def allows(self, verb: str, resource: str, namespace: str) -> bool:
        """Whether the verb is allowed."""
        return not any(denial.covers(verb, resource, namespace) for denial in self.denials)

    def check(self, verb: str, resource: str, namespace: str, name: str, group: str = "") -> None:
        """Let an allowed request pass.

        :raises ApiError: 403, in the words of RBAC.
        """
        if self.denials and not self.allows(verb, resource, namespace):
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            text = f'User "{USER}" cannot {verb} resource "{resource}" in API group "{group}" {where}'
            parent = resource.partition("/")[0]
            raise forbidden(parent, name, text)

    def review(self, resource: str, body: Mapping[str, Any]) -> Obj:
        """The answer to a SelfSubjectAccessReview or a SelfSubjectRulesReview.

        :raises ApiError: 400, it has no spec.
        """
        spec = body.get("spec")
        if not isinstance(spec, dict):
            raise bad_request(f"{REVIEWS[resource]} has no spec")
        status = self._rules(spec) if resource == "selfsubjectrulesreviews" else self._decision(spec)
        head = {"kind": REVIEWS[resource], "apiVersion": f"{AUTHORIZATION}/v1", "metadata": {"creationTimestamp": None}}
        return {**head, "spec": spec, "status": status}

    def _decision(self, spec: Obj) -> Obj:
        asked = spec.get("resourceAttributes")
        if not isinstance(asked, dict):
            return {"allowed": True, "reason": "paths outside of resources are open to every user"}
        resource = asked.get("resource", "")
        if asked.get("subresource"):
            resource += f"/{asked['subresource']}"
        if self.allows(asked.get("verb", ""), resource, asked.get("namespace", "")):
            return {"allowed": True, "reason": f'RBAC: allowed by ClusterRoleBinding "{USER}"'}
        return {"allowed": False, "reason": "denied by the emulator's access rules"}

    def _rules(self, spec: Obj) -> Obj:
        namespace = spec.get("namespace", "")
        rules = []
        if not self.denials:
            rules.append({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})
        else:
            served = {name: resource.verbs for name, resource in RESOURCES.items()}
            served |= {f"{parent}/{name}": verbs for (parent, name), verbs in SUBRESOURCES.items()}
            for name, verbs in served.items():
                if allowed := [verb for verb in verbs if self.allows(verb, name, namespace)]:
                    rules.append({"verbs": allowed, "apiGroups": [""], "resources": [name]})
        others = [{"verbs": ["*"], "nonResourceURLs": ["*"]}]
        return {"resourceRules": rules, "nonResourceRules": others, "incomplete": False}
