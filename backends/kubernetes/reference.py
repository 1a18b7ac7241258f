"""The reference executor: KubernetesExecutor with callbacks, in the smallest way that keeps the contract.

It is the positive control of the Kubernetes environment and the worked example of ``docs/kubernetes.md``.
Two things carry it. The watcher tells quickly what became of a callback's pod; and a reconciliation at an interval
compares the pods that exist with the callbacks that are in flight, so that nothing is lost with a watch event, a
scheduler, or a pod. Tasks take the parent's way, without the pods of other deployments; what it raises is tried again,
and ends neither the scheduler nor its step.
"""

from __future__ import annotations

import copy
import multiprocessing
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from airflow.executors.workloads import ExecuteCallback
from airflow.models.callback import Callback, CallbackKey
from airflow.models.taskinstance import TaskInstance
from airflow.providers.cncf.kubernetes.exceptions import PodMutationHookException, PodReconciliationError
from airflow.providers.cncf.kubernetes.executors.kubernetes_executor import KubernetesExecutor
from airflow.providers.cncf.kubernetes.executors.kubernetes_executor_types import (
    POD_EXECUTOR_DONE_KEY,
    TASK_INSTANCE_ID_ANNOTATION,
    KubernetesJob,
    KubernetesResults,
    KubernetesWatch,
)
from airflow.providers.cncf.kubernetes.executors.kubernetes_executor_utils import (
    AirflowKubernetesScheduler,
    KubernetesJobWatcher,
    ResourceVersion,
    get_base_pod_from_template,
)
from airflow.providers.cncf.kubernetes.kube_client import _get_executor_kube_client
from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import annotations_to_key
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.utils.session import create_session
from airflow.utils.state import CallbackState
from kubernetes.client import V1Pod
from kubernetes.client.rest import ApiException
from sqlalchemy import select

try:
    from airflow.executors.workloads.base import WorkloadType
except ImportError:  # Airflow 3.3 declares callbacks by a flag of their own
    WorkloadType = None

CALLBACK_LABEL = "airflow-callback"
"""On each callback pod, with the callback's id. The label ``kubernetes_executor`` is not: what lists pods by it takes
each for a task's."""
WORKER = ("python", "-m", "airflow.sdk.execution_time.execute_workload")
WORKER_LABEL = "airflow-worker"
"""Whose pod it is: the id of the scheduler's job."""


class CallbackPodWatcher(KubernetesJobWatcher):
    """Tells of callback pods what the parent tells of task pods."""

    def process_status(
        self,
        pod_name: str,
        namespace: str,
        status: str,
        annotations: dict[str, str],
        resource_version: str,
        event: Any,
    ) -> None:
        """Report a callback's pod as soon as it runs or is over."""
        pod = event["object"]
        callback = (pod.metadata.labels or {}).get(CALLBACK_LABEL)
        if callback is None:
            super().process_status(pod_name, namespace, status, annotations, resource_version, event)
            return
        if event["type"] == "DELETED" and not pod.metadata.deletion_timestamp:
            return  # another scheduler has adopted it
        state, why = outcome_of(pod, gone=event["type"] == "DELETED")
        if state is not None:
            details: Any = {"pod_status": status, "pod_message": why}
            watch = KubernetesWatch(pod_name, namespace, state, {CALLBACK_LABEL: callback}, resource_version, details)
            self.watcher_queue.put(watch)


class CallbackPodScheduler(AirflowKubernetesScheduler):
    """Builds callback pods, and starts the watcher that knows them."""

    def _make_kube_watcher(self, namespace: str) -> KubernetesJobWatcher:
        config = copy.copy(self.kube_config)
        # A watch stays open for long: the time limit of requests would have it begin again and again
        limits = config.kube_client_request_args or {}
        config.kube_client_request_args = {name: limits[name] for name in limits if name != "_request_timeout"}
        watcher = CallbackPodWatcher(
            watcher_queue=self.watcher_queue,
            namespace=namespace,
            resource_version=ResourceVersion().resource_version.get(namespace, "0"),
            scheduler_job_id=self.scheduler_job_id,
            kube_config=config,
            supports_task_instance_uuid=self.supports_task_instance_uuid,
            team_name=self.team_name,
        )
        watcher.start()
        return watcher

    def _build_pod_request(self, next_job: KubernetesJob) -> V1Pod:
        workload = next_job.command[0]
        if not isinstance(workload, ExecuteCallback):
            return super()._build_pod_request(next_job)
        callback = workload.callback.id
        pod = PodGenerator.construct_pod(
            namespace=self.namespace,
            scheduler_job_id=self.scheduler_job_id,
            pod_id=pod_name_of(callback),  # the same in each attempt: a repeated creation is a conflict
            # The parent's watcher wants a task's annotations of every pod with its label, and dies without them
            dag_id="callback",
            task_id=callback,
            run_id=None,
            try_number=1,
            map_index=-1,
            date=None,
            kube_image=self.kube_config.kube_image,
            args=[*WORKER, "--json-string", workload.model_dump_json()],
            pod_override_object=None,
            base_worker_pod=get_base_pod_from_template(None, self.kube_config),
            with_mutation_hook=True,
        )
        pod.metadata.labels.pop("kubernetes_executor", None)
        pod.metadata.labels[CALLBACK_LABEL] = callback
        # The end of the log becomes the container's termination message, and so the callback's output
        pod.spec.containers[0].termination_message_policy = "FallbackToLogsOnError"
        return pod

    def run_pod_async(self, pod: V1Pod, **kwargs: Any) -> Any:
        """Create the pod; a callback's that is there already was created by an attempt whose answer was lost.

        The parent's way logs a pod that was refused, whole and with the token in it.
        """
        if CALLBACK_LABEL not in pod.metadata.labels:
            return super().run_pod_async(pod, **kwargs)
        try:
            return self.kube_client.create_namespaced_pod(body=pod, namespace=pod.metadata.namespace, **kwargs)
        except ApiException as error:
            if error.status == 409 and "AlreadyExists" in str(error.body):
                return None
            raise

    def process_watcher_task(self, task: KubernetesWatch) -> None:
        """Pass on what the watcher says of a callback under the callback's own key."""
        if callback := task.annotations.get(CALLBACK_LABEL):
            self.result_queue.put(KubernetesResults(CallbackKey(callback), *task[2:3], *task[:2], *task[4:]))
        else:
            super().process_watcher_task(task)


class KubernetesCallbackExecutor(KubernetesExecutor):
    """KubernetesExecutor that runs each ExecuteCallback in a pod of its own.

    ``[kubernetes_executor] callback_reconcile_interval`` (seconds, default 10) is how often pods and callbacks are
    compared. A callback whose pod has not started within ``callback_launch_timeout`` (seconds, default ``[scheduler]
    task_queued_timeout``) fails.
    """

    if WorkloadType:
        supported_workload_types = KubernetesExecutor.supported_workload_types | {WorkloadType.EXECUTE_CALLBACK}
    else:
        supports_callbacks = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reconcile_interval = float(
            self.conf.get("kubernetes_executor", "callback_reconcile_interval", fallback="10")
        )
        self.launch_timeout = float(
            self.conf.get("kubernetes_executor", "callback_launch_timeout", fallback="")
            or self.conf.get("scheduler", "task_queued_timeout", fallback="600")
        )
        self._reconciled = 0.0
        self._submitted: dict[CallbackKey, float] = {}
        self._refused: list[KubernetesResults] = []
        self._over: dict[CallbackKey, bool] = {}

    def start(self) -> None:
        """Start as the parent does, with the scheduler of pods that knows callbacks."""
        self._manager = multiprocessing.Manager()
        self.task_queue = self._manager.JoinableQueue()
        self.result_queue = self._manager.JoinableQueue()
        self.scheduler_job_id = str(self.job_id)
        self.kube_client = _get_executor_kube_client(team_name=self.team_name)
        self.kube_scheduler = CallbackPodScheduler(
            kube_config=self.kube_config,
            result_queue=self.result_queue,
            kube_client=self.kube_client,
            scheduler_job_id=self.scheduler_job_id,
            team_name=self.team_name,
            supports_task_instance_uuid=self.supports_task_instance_uuid,
        )

    # -- submission -----------------------------------------------------------------------------------------

    def _process_workloads(self, workloads: Sequence[Any]) -> None:
        super()._process_workloads([w for w in workloads if not isinstance(w, ExecuteCallback)])
        assert self.task_queue is not None
        for workload in workloads:
            if not isinstance(workload, ExecuteCallback):
                continue
            key = workload.callback.key
            self._queue_of_callbacks().pop(key, None)
            self.running.add(key)
            self._submitted[key] = time.monotonic()
            self.event_buffer[key] = (CallbackState.QUEUED, self.scheduler_job_id)
            self.task_queue.put(KubernetesJob(key, [workload], None, None))

    def _queue_of_callbacks(self) -> dict[Any, Any]:
        return self.executor_queues[WorkloadType.EXECUTE_CALLBACK] if WorkloadType else self.queued_callbacks

    def _should_create_pod_for_job(self, task: KubernetesJob) -> bool:
        if isinstance(task.key, CallbackKey):
            return task.key in self.running  # it may have been given up meanwhile
        return super()._should_create_pod_for_job(task)

    def fail(self, key: Any, info: Any = None, **kwargs: Any) -> None:
        """Fail a workload; the parent's, whose pod could not be created, knows the states of tasks only."""
        if isinstance(key, CallbackKey):
            self._conclude(key, CallbackState.FAILED, f"The pod could not be created: {_reason_of(info)}")
        else:
            super().fail(key, info, **kwargs)

    # -- observation ----------------------------------------------------------------------------------------

    def _change_state(self, results: KubernetesResults, **kwargs: Any) -> None:
        if isinstance(results.key, CallbackKey):
            details = results.failure_details or {}
            keep = details.get("pod_status") == "Failed"
            self._conclude(results.key, CallbackState(results.state), details.get("pod_message"), keep_pod=keep)
            return
        try:
            super()._change_state(results, **kwargs)
        except Exception as error:
            # The parent would put it back into the queue that it is emptying, and never come to its end
            self.log.warning("The pod %s could not be dealt with: %s", results.pod_name, _reason_of(error))
            self._refused.append(results)

    def _conclude(self, key: CallbackKey, state: CallbackState, why: str | None = None, keep_pod: bool = False) -> None:
        """Put the event of a callback in flight into the buffer; what comes later of the same callback is void."""
        if key not in self.running:
            return
        if state == CallbackState.RUNNING:
            if self._submitted.pop(key, None) is not None:
                self.event_buffer[key] = (state, None)
            return
        self.running.discard(key)
        self._submitted.pop(key, None)
        self.task_publish_retries.pop(key, None)
        self.event_buffer[key] = (state, why)
        self._over[key] = keep_pod

    def _clean_up(self, key: CallbackKey, keep_pod: bool) -> None:
        """Delete a pod whose callback is over, or mark it as done; what is refused now, the next comparison repeats."""
        assert self.kube_scheduler is not None
        name, namespace = pod_name_of(key.id), self.kube_config.kube_namespace
        keep = keep_pod and not self.kube_config.delete_worker_pods_on_failure
        try:
            if keep or not self.kube_config.delete_worker_pods:
                self.kube_scheduler.patch_pod_executor_done(pod_name=name, namespace=namespace)
            else:
                self.kube_scheduler.delete_pod(pod_name=name, namespace=namespace)
        except Exception as error:
            self.log.warning("The pod %s could not be cleaned up: %s", name, _reason_of(error))

    def _list_pods(self, query_kwargs: Any) -> list[V1Pod]:
        """As the parent, without the pods of other deployments: their task instances are not in this database.

        The parent tells them by the id of a scheduler's job alone, and adopts the completed pods of all others.
        """
        return [pod for pod in super()._list_pods(query_kwargs) if self._is_ours(pod)]

    def _is_ours(self, pod: V1Pod) -> bool:
        """True if the metadata database has the workload of a pod, so that it is not another deployment's."""
        annotations = pod.metadata.annotations or {}
        # No scoped session: it may be the scheduler's own, in the middle of a transaction
        with create_session(scoped=False) as session:
            if callback := (pod.metadata.labels or {}).get(CALLBACK_LABEL):
                query = select(Callback.id).where(Callback.id == UUID(callback))
            elif identity := annotations.get(TASK_INSTANCE_ID_ANNOTATION):
                query = select(TaskInstance.id).where(TaskInstance.id == UUID(identity))
            else:
                wanted = TaskInstance.filter_for_tis([annotations_to_key(annotations)])
                query = select(TaskInstance.id).where(wanted)
            return session.scalar(query.limit(1)) is not None

    def _adopt_completed_pods(self, kube_client: Any) -> None:
        """As the parent, whose failure would end the scheduler; it tries again after its interval."""
        try:
            super()._adopt_completed_pods(kube_client)
        except Exception as error:
            self.log.warning("Completed pods could not be adopted: %s", _reason_of(error))

    def sync(self) -> None:
        """As the parent, with what was refused at the last time; and compare pods with callbacks at an interval."""
        assert self.result_queue is not None
        # Not sooner: until core has committed the event, the pod is all that a next scheduler could tell the end from
        over, self._over = self._over, {}
        for key, keep_pod in over.items():
            self._clean_up(key, keep_pod)
        while self._refused:
            self.result_queue.put(self._refused.pop())
        super().sync()
        if time.monotonic() - self._reconciled >= self.reconcile_interval:
            self._reconciled = time.monotonic()
            try:
                self._reconcile()
            except Exception as error:
                self.log.warning("Callback pods could not be compared: %s", _reason_of(error))

    def _reconcile(self) -> None:
        assert self.kube_client is not None
        selector = f"{CALLBACK_LABEL},{POD_EXECUTOR_DONE_KEY}!=True"
        pods = self.kube_client.list_namespaced_pod(
            self.kube_config.kube_namespace, label_selector=selector, **self.kube_config.kube_client_request_args
        ).items
        alive = {str(job) for job in self._alive_other_scheduler_job_ids()}
        seen: set[CallbackKey] = set()
        for pod in pods:
            key = CallbackKey(pod.metadata.labels[CALLBACK_LABEL])
            owner = pod.metadata.labels.get(WORKER_LABEL)
            seen.add(key)
            mine = owner == self.scheduler_job_id
            if not mine and (owner in alive or not self._is_ours(pod) or not self._adopt(key, pod.metadata.name)):
                continue
            state, why = outcome_of(pod)
            failed = pod.status.phase == "Failed"
            if key in self._over:
                continue
            if key not in self.running:
                self._clean_up(key, keep_pod=failed)
            elif state is not None:
                self._conclude(key, state, why, keep_pod=failed)
            elif self._waited(key) > self.launch_timeout:
                self._conclude(key, CallbackState.FAILED, f"Its pod did not start within {self.launch_timeout:g} s")
        for key in [key for key in self.running if isinstance(key, CallbackKey) and key not in seen]:
            if key not in self._submitted:
                self._conclude(key, CallbackState.FAILED, "Its pod is gone")
            elif self._waited(key) > self.launch_timeout:
                self._conclude(key, CallbackState.FAILED, f"No pod of it started within {self.launch_timeout:g} s")

    def _waited(self, key: CallbackKey) -> float:
        return time.monotonic() - self._submitted.get(key, time.monotonic())

    def _adopt(self, key: CallbackKey, name: str) -> bool:
        """Take over a pod of a scheduler that is no longer alive: from now on this one's watcher sees it."""
        assert self.kube_client is not None
        body = {"metadata": {"labels": {WORKER_LABEL: self.scheduler_job_id}}}
        try:
            self.kube_client.patch_namespaced_pod(name, self.kube_config.kube_namespace, body)
        except ApiException as error:
            self.log.warning("The pod %s could not be adopted: %s", name, _reason_of(error))
            return False
        self.running.add(key)
        self._submitted[key] = time.monotonic()
        return True


def pod_name_of(callback: str) -> str:
    """The name of a callback's pod: at most one pod per callback can exist."""
    return f"airflow-callback-{callback}"


def outcome_of(pod: V1Pod, gone: bool = False) -> tuple[CallbackState | None, str | None]:
    """What a pod's status says of its callback, and in which words; None while it says nothing yet.

    :param gone: the pod has been deleted.
    """
    phase = pod.status.phase
    if phase == "Succeeded":
        return CallbackState.SUCCESS, None
    statuses = [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]
    if phase == "Failed":
        why = [pod.status.reason, pod.status.message]
        for status in statuses:
            if (ended := status.state.terminated) and ended.exit_code != 0:
                why += [f"container {status.name}: {ended.reason}, exit code {ended.exit_code}", ended.message]
        return CallbackState.FAILED, "Its pod failed: " + ("; ".join(str(part) for part in why if part) or "no reason")
    if gone:
        return CallbackState.FAILED, f"Its pod was deleted while it was {phase}"
    waiting = [status.state.waiting for status in statuses if status.state and status.state.waiting]
    fatal = ("CreateContainerConfigError", "ErrImagePull", "CreateContainerError", "ImageInspectError")
    for wait in waiting:
        if wait.reason in fatal:
            return CallbackState.FAILED, f"Its pod cannot start: {wait.reason}: {wait.message or 'no message'}"
    return (CallbackState.RUNNING, None) if phase == "Running" else (None, None)


def _reason_of(error: Any) -> str:
    """Status and reason of an API error, without the body: it may quote the pod, and with it the token."""
    if isinstance(error, ApiException):
        return f"{error.status} {error.reason}"
    if isinstance(error, PodReconciliationError | PodMutationHookException):
        return type(error).__name__
    return f"{type(error).__name__}: {error}"[:300]
