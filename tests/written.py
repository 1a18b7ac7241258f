"""Histories written by hand, for the tests of the checks."""

from __future__ import annotations

from typing import Any

from executor_conformance.harness.catalogue import load_catalogue
from executor_conformance.harness.checker import check
from executor_conformance.harness.codec import digest
from executor_conformance.harness.history import FORMAT, FORMAT_VERSION, Event, StoredHistory
from executor_conformance.harness.verdicts import Decision

EXECUTOR = "airflow.executors.local_executor.LocalExecutor"
CALLABLES = "executor_conformance.suites.callables"
SCHEDULER, WORKER, CHILD = 100, 200, 300


class Written:
    """A history in the making; each call adds what its name says, a tenth of a second later."""

    def __init__(self, edition: str = "claim", executor: str = EXECUTOR, **header: Any) -> None:
        self.edition, self.executor = edition, executor
        self.offers = load_catalogue().edition(edition)
        self.t, self.seq = 0.0, 0
        self.events: list[Event] = []
        known = {"edition": edition, "executor": executor, "scheduler_pid": SCHEDULER, "parallelism": 3}
        self.add("header", format=FORMAT, version=FORMAT_VERSION, **{**known, **header})

    def add(self, kind: str, t: float | None = None, **fields: Any) -> Written:
        """Any event."""
        self.t = round(self.t + 0.1, 3) if t is None else t
        self.events.append({"t": self.t, "kind": kind, **fields})
        return self

    def _next(self) -> int:
        self.seq += 1
        return self.seq

    # -- callbacks and what becomes of them ---------------------------------------------------------------

    def callback(
        self, id: str = "c1", expect: str = "success", *, role: str = "subject", path: str = "hold", **more: Any
    ) -> Written:
        """A callback that was handed to its executor: submitted, workload, row QUEUED."""
        kwargs = more.pop("kwargs", {})
        handed = more.pop("handed", more.get("executor") or self.executor)
        path = path if not path or "." in path else f"{CALLABLES}.{path}"
        fields: dict[str, Any] = {
            "executor": None,
            "probe": f"p-{id}",
            "path": path,
            "kwargs": kwargs,
            "digest": digest(kwargs),
        }
        self.add("submitted", callback=id, expect=expect, role=role, **{**fields, **more})
        return self.workload(id, executor=handed).row(id, "queued") if handed else self

    def workload(self, id: str = "c1", *, token: dict[str, Any] | None = None, **more: Any) -> Written:
        """What core handed to ``queue_workload``."""
        claims = {"sub": id, "scope": self.offers.queued_scope, "iat": 1000, "exp": 1600, "aud": "urn:airflow"}
        token = {"claims": {**claims, **(token or {})}, "fingerprint": f"queued-{id}"}
        fields: dict[str, Any] = {
            "executor": self.executor,
            "key_type": "CallbackKey",
            "log_path": "log",
            "token": token,
        }
        return self.add("workload", key=id, **{**fields, **more})

    def row(self, id: str, *states: str | None, output: str | None = None, t: float | None = None) -> Written:
        """Transitions of the row."""
        for new in states:
            old = next((e["new"] for e in reversed(self.events) if e["kind"] == "row" and e["callback"] == id), None)
            self.add("row", t, seq=self._next(), callback=id, old=old, new=new, output=output)
        return self

    def event(self, key: str, *states: Any, key_type: str = "CallbackKey", **more: Any) -> Written:
        """Events of the executor."""
        fields: dict[str, Any] = {"executor": self.executor, "state_type": "CallbackState", "info": None, **more}
        for state in states:
            self.add("event", key=key, key_type=key_type, state=state, **fields)
        return self

    def effect(self, id: str | None, *whats: str, pid: int = CHILD, ppid: int = WORKER, **more: Any) -> Written:
        """Reports of the callable."""
        probe = more.pop("probe", f"p-{id}" if id else None)
        t, data = more.pop("t", None), more.pop("data", {})
        for what in whats:
            self.add("effect", t, what=what, probe=probe, pid=pid, ppid=ppid, data=data)
        return self

    def within(self, space: str) -> Written:
        """What was just added came from another PID namespace."""
        self.events[-1]["space"] = space
        return self

    def request(
        self, id: str, path: str, status: int | None = 200, *, pid: int = WORKER, by: str = "server", **token: Any
    ) -> Written:
        """A request of the worker and, unless ``status`` is None, its answer; ``token`` are claims."""
        refreshed = token.pop("refreshed", None)
        fingerprint = token.pop("fingerprint", f"execution-{id}")
        claims = token.pop("claims", {"sub": id, "scope": "execution", **token})
        sent = {"claims": claims, "fingerprint": fingerprint} if claims else None
        fields = {"seq": self._next(), "api": "execution", "method": "PATCH", "path": path, "route": path}
        self.add("wire", phase="request", pid=pid, token=sent, **fields)
        if status is not None:
            answer = {"status": status, "by": by, "refreshed": refreshed}
            self.add("wire", phase="response", pid=pid, token=sent, **answer, **fields)
        return self

    def wire_claim(self, id: str = "c1", status: int | None = 204, **more: Any) -> Written:
        """The worker's claim, with the queued token, answered with an execution token."""
        queued = {"scope": self.offers.queued_scope, "fingerprint": f"queued-{id}"}
        answer = {"claims": {"sub": id, "scope": "execution"}, "fingerprint": f"execution-{id}"}
        more.setdefault("refreshed", answer if status == 204 else None)
        return self.request(id, f"/execution/callbacks/{id}/run", status, **{**queued, **more})

    # -- the rest of the world ----------------------------------------------------------------------------

    def slots(self, *running: str, queued: tuple[str, ...] = (), **more: Any) -> Written:
        """What the executor counts."""
        name = more.pop("executor", self.executor)
        count = {"running": list(running), "queued": list(queued), "occupied": len(running) + len(queued)}
        return self.add("slots", executors={name: {**count, "parallelism": 3, **more}})

    def _wait(self, kind: str, ids: tuple[str, ...], **more: Any) -> Written:
        rows = [e for e in self.events if e["kind"] == "row"]
        states = {id: next((e["new"] for e in reversed(rows) if e["callback"] == id), None) for id in ids}
        slots: dict[str, Any] = next((e["executors"] for e in reversed(self.events) if e["kind"] == "slots"), {})
        keys = {key for executor in slots.values() for key in executor["running"] + executor["queued"]}
        proof = {"alive": [], "quiet_s": 1.0, "quiet_steps": 9, "holding_slots": [id for id in ids if id in keys]}
        return self.add(kind, states=states, **{**proof, **more})

    def rest(self, *ids: str, **more: Any) -> Written:
        """Everything about these callbacks has come to rest in its present state."""
        return self._wait("rest", ids or ("c1",), **more)

    def bound(self, *ids: str, **more: Any) -> Written:
        """It has not, and the harness gave up."""
        busy = {"alive": ["unit 300: hold"], "quiet_steps": 0, "waiting_for": "rest", "limit_s": 30.0}
        return self._wait("bound", ids or ("c1",), **{**busy, **more})

    def fault(self, name: str = "during", **fields: Any) -> Written:
        """An injected fault."""
        return self.add("fault", name=name, **fields)

    def note(self, what: str, **fields: Any) -> Written:
        """A note of the case."""
        return self.add("note", what=what, **fields)

    def inspection(self, name: str, data: dict[str, Any]) -> Written:
        """What the inspection of the executor's class found."""
        return self.add("inspection", name=name, data=data)

    def task(self, id: str, *states: str, dag: str = "conformance_task_succeeds", name: str = "succeeds") -> Written:
        """A run of a Dag with one task."""
        self.note("dag run", dag_id=dag, run_id=f"run-{id}", task_instances={name: id}, callbacks=[])
        for state in states:
            self.add("task_row", table="task_instance", id=id, old=None, new=state)
        return self

    # -- whole stories ------------------------------------------------------------------------------------

    def started(self, id: str = "c1", *, pid: int = CHILD, ppid: int = WORKER, data: Any = None) -> Written:
        """It is claimed, RUNNING, counted and entered."""
        self.slots(id)
        if self.offers.has_claim:
            self.wire_claim(id, pid=ppid)
        return self.event(id, "running").row(id, "running").effect(id, "enter", pid=pid, ppid=ppid, data=data or {})

    def ended(self, id: str = "c1", state: str = "success", *, output: str | None = None) -> Written:
        """Its event, its free slot, its row, and rest."""
        return self.event(id, state).slots().row(id, state, output=output).rest(id)

    def succeeded(self, id: str = "c1", **more: Any) -> Written:
        """A callback that went as it should, after ``callback``."""
        return self.started(id, **more).effect(id, "return", pid=more.get("pid", CHILD)).ended(id)

    def failed(self, id: str = "c1", output: str | None = "ValueError: on purpose") -> Written:
        """A callable that raised, and was reported so."""
        return self.started(id).ended(id, "failed", output=output)

    def followed(self, *, task: bool = True) -> Written:
        """The next callback and the next task, as they should go."""
        self.callback("next", role="follow-up").succeeded("next", pid=CHILD + 1)
        return self.task("ti-next", "scheduled", "queued", "running", "success") if task else self

    # -- deciding -----------------------------------------------------------------------------------------

    def stored(self) -> StoredHistory:
        """The history as the checker takes it."""
        return StoredHistory(list(self.events))

    def decide(self, clause: str) -> Decision:
        """The decision of one clause."""
        decisions = check(self.stored(), [clause], load_catalogue())
        return next(decision for decision in decisions if decision.clause == clause)


def history(edition: str = "claim", executor: str = EXECUTOR, **header: Any) -> Written:
    """An empty history."""
    return Written(edition, executor, **header)


def assert_decides(written: Written, clause: str, verdict: str, reason: str) -> None:
    """The verdict, and a telling part of the reason or the evidence."""
    decision = written.decide(clause)
    told = " | ".join((decision.reason, *decision.evidence))
    assert decision.verdict == verdict, f"{decision.verdict}: {told}"
    assert reason in told, told
