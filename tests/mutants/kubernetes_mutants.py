"""KubernetesCallbackExecutor with one defect each; the class name is the defect."""

from __future__ import annotations

from typing import Any

from executor_conformance.backends.kubernetes import reference
from executor_conformance.backends.kubernetes.reference import KubernetesCallbackExecutor


class _WatchAlone(KubernetesCallbackExecutor):
    """Nothing but the watch tells what became of a pod."""

    def _reconcile(self) -> None:
        pass


class LosesWhatTheWatchDoesNotTell(_WatchAlone):
    """A pod that ends while no watch works is never heard of again."""


class ForgetsThePodsOfAKilledScheduler(KubernetesCallbackExecutor):
    """A new scheduler leaves the pods of the old one alone."""

    def _adopt(self, key: Any, name: str) -> bool:
        return False


class SaysNothingOfADeletedPendingPod(_WatchAlone):
    """As the released executor does with a task's pod that never started."""

    def _change_state(self, results: Any, **kwargs: Any) -> None:
        if "deleted while it was Pending" not in str(results.failure_details):
            super()._change_state(results, **kwargs)


class RepeatsARefusedDeletionForEver(KubernetesCallbackExecutor):
    """The deletion comes first, and what it raises puts the result back into the queue that sync() empties."""

    def _change_state(self, results: Any, **kwargs: Any) -> None:
        if getattr(results.state, "value", results.state) != "running":
            self.kube_scheduler.delete_pod(pod_name=results.pod_name, namespace=results.namespace)
        super()._change_state(results, **kwargs)


class DeletesEachPodTwice(KubernetesCallbackExecutor):
    """ROUTE-11: once when it hears of the end, and once more when it takes note of it."""

    def _change_state(self, results: Any, **kwargs: Any) -> None:
        super()._change_state(results, **kwargs)
        if getattr(results.state, "value", results.state) != "running":
            self.kube_scheduler.delete_pod(pod_name=results.pod_name, namespace=results.namespace)


class WaitsForEverForAnAnswer(KubernetesCallbackExecutor):
    """Its requests have no time limit, as in the default configuration."""

    def start(self) -> None:
        """Start without a limit."""
        super().start()
        self.kube_config.kube_client_request_args = {}


class SaysNotWhatDied(KubernetesCallbackExecutor):
    """CRASH-7: an event without a cause."""

    def _conclude(self, key: Any, state: Any, why: str | None = None, keep_pod: bool = False) -> None:
        super()._conclude(key, state, None, keep_pod)


class AdoptsWhatAnyoneHasCompleted(KubernetesCallbackExecutor):
    """ROUTE-10: completed pods of another deployment are taken over and deleted, as by the released executor."""

    def _list_pods(self, query_kwargs: Any) -> Any:
        return reference.KubernetesExecutor._list_pods(self, query_kwargs)


class TakesEachPodForItsOwn(KubernetesCallbackExecutor):
    """ROUTE-10: callbacks' pods of another deployment are taken over as well."""

    def _is_ours(self, pod: Any) -> bool:
        return True


class _PodsWithoutTaskAnnotations(reference.CallbackPodScheduler):
    def _build_pod_request(self, next_job: Any) -> Any:
        pod = super()._build_pod_request(next_job)
        if reference.CALLBACK_LABEL in pod.metadata.labels:
            pod.metadata.annotations = {}
        return pod


class KillsTheWatcherWithEachCallbackPod(_WatchAlone):
    """Callback pods carry the worker label and no task's annotations, so the watcher dies of each."""

    def start(self) -> None:
        """Start with the scheduler of pods that leaves them out."""
        usual = reference.CallbackPodScheduler
        reference.CallbackPodScheduler = _PodsWithoutTaskAnnotations
        try:
            super().start()
        finally:
            reference.CallbackPodScheduler = usual


class DeclaresWithoutDoing(reference.KubernetesExecutor):
    """The flag is set and nothing else is done: the workload is queued, and raises when its turn comes."""

    if reference.WorkloadType:
        supported_workload_types = KubernetesCallbackExecutor.supported_workload_types
    else:
        supports_callbacks = True
