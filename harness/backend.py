"""What a backend is: the part of an environment that differs from executor to executor.

A third party registers a subclass under the entry point group ``executor_conformance.backends``; see
``docs/backends.md``.
"""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from executor_conformance.harness.limits import LIMITS
from executor_conformance.harness.residents import Residents

if TYPE_CHECKING:
    from executor_conformance.harness.journal import Journal
    from executor_conformance.harness.processes import ProcessInfo
    from executor_conformance.harness.supervisor import ManagedProcess, Supervisor
    from executor_conformance.harness.wire import WireRecorder


def installed(distribution: str) -> bool:
    """Whether a distribution is installed; asking for its module would import Airflow into this process."""
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


OTHER_QUEUE = "conformance-other"
"""A queue beside 'default' to which the workers listen where the executor has queues."""
EMULATOR, LOCALSTACK = "emulator", "localstack"
"""What the option ``--conformance-control-plane`` takes, beside an address."""
LOCAL_WORKER = "airflow worker -- LocalExecutor"
"""How the title of a LocalExecutor's worker begins."""


def local_worker_units(processes: Mapping[int, ProcessInfo], scheduler_pid: int) -> list[int]:
    """Workers of a LocalExecutor that are not idle, and all that its workers forked, orphans included."""
    workers = {pid for pid, process in processes.items() if process.title.startswith(LOCAL_WORKER)}
    busy = []
    for pid, process in processes.items():
        if pid in workers and process.ppid == scheduler_pid:
            if "<idle>" not in process.title:
                busy.append(pid)
        elif pid in workers or process.ppid in workers:
            busy.append(pid)  # the supervised child keeps its parent's title
    return busy


@dataclass(frozen=True)
class Options:
    """What the user chose; the values of the ``--conformance-…`` options."""

    executor: str | None = None
    database: str = "sqlite"
    substrate: str = "process"
    broker: str | None = None
    kubeconfig: str | None = None
    """Of the cluster to use, where the substrate is one."""
    image: str | None = None
    """Of the workers, where they run in containers."""
    api_host: str | None = None
    """By what workers on other machines or in containers reach this host; None: it listens at loopback only."""
    aws: str | None = None
    """Path of the TOML file that names an AWS account and what to use in it."""
    control_plane: str = EMULATOR
    """Of the backend lambda: the emulator, 'localstack', or the address of a LocalStack."""
    patience_s: float = 0.0
    """As of a variant, for an executor of the user's own."""
    processes: int | None = None
    """How many processes an environment may have at once; None: as :class:`~.runaway.Budget` has it."""
    worker_start: str = "fork"
    """How Airflow's worker command begins in an emulator's container: 'fork' of an interpreter that has imported
    Airflow, or 'exec'; see ``warm_starts``."""


@dataclass(frozen=True)
class Variant:
    """A labelled form of an environment.

    ``smoke`` variants run only the cases marked as smoke; ``note`` says in one sentence what differs. A variant with an
    ``executor`` of its own makes way for the user's, where one is given.
    """

    label: str
    smoke: bool = False
    note: str = ""
    executor: str | None = None
    """Import path of the executor of this variant; None: the one that Airflow ships for the environment."""
    patience_s: float = 0.0
    """For how long nothing may move before 'stuck' is proven, where the executor has timers of its own."""
    also: tuple[str, ...] = ()
    """Test functions that a smoke variant runs beside the smoke cases: those that show what differs in it."""
    further: tuple[str, ...] = ()
    """The same for the extended level: those that show once more what another of ``also`` shows."""
    extended: bool = False
    """All of its cases are for the extended level."""
    settings: tuple[tuple[str, str], ...] = ()
    """``AIRFLOW__…`` settings of the scheduler side in this variant: names and values."""
    settle_s: float = 0.0
    """How long a callback may take to its end where that is more than usual, as with retries of the executor's."""

    def runs(self, function: str, smoke: bool) -> bool:
        """Whether this variant runs the cases of a test function."""
        return smoke or not self.smoke or function in (*self.also, *self.further)

    def leaves_to_extended(self, function: str) -> bool:
        """Whether the core level leaves out this variant's cases of a test function."""
        return self.extended or function in self.further


@dataclass(frozen=True)
class Delivery:
    """One acceptance of a workload by the control plane: a run, a pod, a message, a job."""

    id: str
    """The control plane's own name for it."""
    accepted: float
    """Seconds of ``time.monotonic()`` at which the control plane took it."""
    ended: float | None = None
    """When it ended, or when somebody withdrew it; None while it waits or runs."""


@dataclass
class Site:
    """What an environment gives its backend."""

    folder: Path
    supervisor: Supervisor
    options: Options
    variant: Variant
    api_url: str = ""  # the Execution API through the wire recorder, up to and without '/execution/'
    env: dict[str, str] = field(default_factory=dict)  # of every process of the environment
    worker_env: dict[str, str] = field(default_factory=dict)  # what differs for workers that come by ``api_host``
    journal: Journal | None = None
    recorders: dict[str, WireRecorder] = field(default_factory=dict)
    scheduler_pid: int = 0
    residents: Residents = field(default_factory=Residents)
    """Processes that the executor keeps beside its workloads."""
    events_of: Callable[[str], list[dict[str, Any]]] = lambda key: []
    """The executor's events for a workload key, as far as the present case has seen them."""


class Backend(ABC):
    """Starts the worker side of one kind of executor and knows its processes and its faults."""

    name: ClassVar[str]
    executor: ClassVar[str]
    """Import path of the executor that Airflow ships for this environment."""
    api_apps: ClassVar[str] = "execution"
    """``--apps`` of the API server: 'execution', or 'all' where the executor has an API of its own."""
    apis: ClassVar[Mapping[str, str]] = {}
    """Further APIs to record: label to the path below the server's root."""
    variants: ClassVar[Sequence[Variant]] = ()
    carriers: ClassVar[Mapping[str, str]] = {}
    """What carries a workload with its token to the worker, and cannot do without: what it is, by where it is seen.

    ``file:PATH`` is below the environment's folder, ``table:NAME`` in the metadata database, ``environment:NAME`` a
    variable of the worker's process, and ``KIND:FIELD`` a field of what :meth:`submissions` tells, such as
    ``pod:spec.containers.args``.
    """
    victims: ClassVar[frozenset[str]] = frozenset()
    """Which processes a fault can kill: 'child', 'supervisor', 'unit' (both), 'node' (the whole worker)."""
    faults: ClassVar[Mapping[str, Sequence[str]]] = {}
    """What :meth:`inject` can do at the control plane and the data plane: fault points, each with its ways."""
    further: ClassVar[Mapping[str, Collection[str]]] = {}
    """Of :attr:`faults`, the ways that differ from another by the form of the error only: for the extended level."""
    unreachable: ClassVar[Mapping[str, str]] = {}
    """Why the environment has no means to reach a fault point that others reach, in one sentence: point to reason."""
    stands_alone: ClassVar[bool] = False
    """Whether its control plane can be started alone, by ``executor-conformance up``."""
    on_this_host: bool = True
    """Whether workers are processes of this host, whose pids and files the harness can see."""
    settle_s: float = 0.0
    """As of a variant, where everything takes longer in this environment: a container's start in a cloud."""
    patience_s: float = 0.0
    """As of a variant, where what is seen of the environment may be late."""
    gives_up_s: ClassVar[float] = 3.0
    """After how long a worker that cannot reach the API server no longer tries to report, all its retries together."""
    polls_s: ClassVar[float] = 1.0
    """After how long at most the executor, or a worker, asks the control plane again."""
    calls_per_workload: ClassVar[Mapping[str, float]] = {}
    """How often at most an executor needs an operation of the control plane for one workload; polls are not listed.

    A little above one leaves room for a call that a loaded machine has made late, and that was repeated.
    """
    worker_concurrency: ClassVar[int] = 5
    crowd: int | None = None
    """How many callbacks are sent at once; None: as many as this machine bears where each imports all of Airflow."""
    has_queues: ClassVar[bool] = False
    """Whether the executor puts workloads into queues that Airflow's configuration names."""
    callable_timeout_s: ClassVar[int] = LIMITS.callback_execution_timeout
    """``[callbacks] callback_execution_timeout``: below what a control plane waits for before it delivers again."""
    chooses: ClassVar[str] = "executor"
    """Who picks the next of several queued workloads: 'executor', or 'worker' where all of them are handed on."""

    def __init__(self, site: Site) -> None:
        self.site = site

    @classmethod
    @abstractmethod
    def missing(cls, options: Options) -> str | None:
        """What is missing for this environment to run here, in one sentence; None if nothing is."""

    @property
    @abstractmethod
    def control_plane(self) -> str:
        """What takes the request to run something, with its version: for the report."""

    @property
    @abstractmethod
    def data_plane(self) -> str:
        """What really runs it: for the report."""

    def submissions(self) -> list[tuple[str, Any]] | None:
        """What the control plane was handed for workloads, as far as it still knows it: kind, and content as of JSON.

        None: there is no control plane, or nothing tells what it was handed.
        """
        return None

    def api_host(self) -> str | None:
        """By what workers reach this host; None: at loopback. Asked first, before anything listens.

        :raises ConformanceError: it cannot be told.
        """
        return self.site.options.api_host

    def config(self) -> dict[str, str]:
        """``AIRFLOW__…`` settings that both the scheduler and the worker side need."""
        return {}

    def start(self) -> None:  # noqa: B027
        """Start the worker side; called once the API server and the database are there."""

    def wait_ready(self) -> None:  # noqa: B027
        """Return once a workload would be taken up.

        :raises HarnessError: a worker ended at its start.
        :raises BoundReached: it is not ready in time.
        """

    def stand_alone(self) -> list[str]:
        """What a user of the control plane alone should know, a line each."""
        return []

    def use_variant(self, variant: Variant) -> None:
        """Turn a running environment into another of its variants."""
        self.site.variant = variant

    @abstractmethod
    def units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Pids of the live processes that are carrying out a workload, of those in ``processes``."""

    @abstractmethod
    def nodes(self) -> list[ManagedProcess]:
        """The main processes of the workers; empty where the scheduler's process is the worker."""

    def idle_units(self, processes: Mapping[int, ProcessInfo]) -> list[int]:
        """Pids of worker processes that wait for a workload, where workers are kept ready."""
        return []

    def roots(self) -> list[int]:
        """Pids of foreign processes below which workloads run, as those of a container engine; asked often."""
        return []

    def pending(self, callback: str) -> list[str]:
        """What may still happen to the callback by itself, one sentence each: messages, timers, retries."""
        return []

    def renew_workers(self) -> bool | None:
        """From the next workload on, start workers with ``Site.env`` as it is now; ``site.env`` has just changed.

        True: the scheduler side must be started anew, for workers have theirs from it. None: it cannot be done here.
        """
        return None

    def lose_node(self) -> list[int]:
        """SIGKILL a worker and all its children, and start a new one, as a service manager would.

        Returns the pids that were killed.
        """
        raise NotImplementedError(f"the backend {self.name} has no worker apart from the scheduler")

    def inject(self, point: str, way: str, callback: str) -> str:
        """Do to the control plane or the data plane what ``way`` of a fault ``point`` says.

        A fault at the submission, the start or the observation is injected before the callback is submitted, with
        an empty ``callback``; the others befall the unit of the given callback. It lasts until :meth:`heal`, unless
        the way says otherwise. Returns one sentence on what was done, for the history.

        :raises HarnessError: the control plane did not take it.
        """
        raise NotImplementedError(f"the backend {self.name} has no fault {point} by way of {way}")

    def execute_workers(self, always: bool) -> None:  # noqa: B027
        """From now on, execute each worker's command, also where it may otherwise begin as a fork; or no longer."""

    def remember(self, callback: str) -> None:  # noqa: B027
        """Keep what it takes to deliver the callback's workload once more later; its callable is held meanwhile."""

    def queue_of(self, callback: str) -> str | None:
        """The queue in which the control plane had a callback that was remembered; None if it cannot be told."""
        return None

    def accepted(self, callback: str) -> bool:
        """Whether the control plane has the submission of this callback."""
        raise NotImplementedError(f"the control plane of the backend {self.name} cannot be asked")

    def deliveries(self, workload: str) -> list[Delivery] | None:
        """Return each acceptance of a workload by the control plane, oldest first, from the control plane's own record.

        None: the environment has no control plane, or nothing tells what it accepted.

        :param workload: id of the callback or of the task instance.
        """
        return None

    def calls(self) -> Mapping[str, int] | None:
        """Return how many requests of each operation the control plane has received so far, by operation.

        None: the environment has no control plane, or nothing counts its requests.
        """
        return None

    def plant_foreign(self) -> list[str]:
        """Put things of another deployment into the shared control plane; return one sentence for each kind.

        They look like the subject's own as far as two deployments may look alike: results, jobs, pods, messages.
        An empty list: the environment shares no control plane with other deployments.
        """
        return []

    def foreign_touched(self) -> list[str]:
        """Return one sentence for each thing of the other deployment that somebody changed or removed."""
        return []

    def remove_foreign(self) -> None:  # noqa: B027
        """Take away what :meth:`plant_foreign` has put there; harmless without it."""

    def timers(self) -> Mapping[str, float]:
        """Return the timers that this environment configures and that may hold back a workload, in seconds by name.

        No bound of the harness on a workload is shorter than any of them. The timeout of a callable is not among them:
        ``bounds.py`` adds it for every environment.
        """
        return {}

    def succeeded(self, callback: str) -> bool:
        """Whether the data plane knows that the callback's worker ended as one that has succeeded."""
        return False

    def hits(self) -> int | None:
        """To how many requests the faults in force were applied; None: it cannot be told, or none is in force."""
        return None

    def heal(self) -> None:  # noqa: B027
        """Take back every fault that :meth:`inject` left in force."""

    def lost(self) -> str:
        """What of the environment's own parts (an emulator, a broker) has ended by itself, in a sentence; or empty.

        Nothing that is seen without it is held against the executor.
        """
        return ""

    def repair(self, thorough: bool) -> bool:
        """Make the worker side whole again after a fault; True if the scheduler must be started anew.

        ``thorough``: something still did not work after the fault, so nothing of the worker side is kept.
        """
        return False

    def stop(self) -> None:  # noqa: B027
        """Release what is not a process of the supervisor (queues, databases of its own)."""
