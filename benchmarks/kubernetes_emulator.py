"""What the Kubernetes emulator can do: ``python benchmarks/kubernetes_emulator.py``, on a quiet machine.

ready: from the start of its process until ``ready.json`` is there.
pods: 100 pods whose container is `true`, created by eight threads at once and watched by a process of its own, as
  KubernetesJobWatcher is one; counted are those seen as Succeeded, until the last of them. A lost one is an error.
  Answers are read as JSON and not made into the client's models, which costs the client more than the server its work.
cpu: what the emulator itself used for that, in ms per pod.
memory: resident set of the emulator after that, with 200 pods in it.
callback: from submit to the terminal row, against the life of the pod's own process, the bare worker,
  whose command is executed here, and not a fork.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection

import psutil
from emulation import BOUND_S, callback, conclude, cpu_s, emulator, environment
from executor_conformance.harness.errors import HarnessError
from executor_conformance.harness.session import choose_backends
from figures import Figures, scratch_folder

MODULE = "executor_conformance.backends.kubernetes.emulator"

PODS = 100


def look(kubeconfig: str, batch: str, report: Connection) -> None:
    """Watch until all pods of the batch have succeeded; reports that it watches, and the moment of the last end."""
    from kubernetes import client, config

    api = client.CoreV1Api(config.new_client_from_config(kubeconfig))
    answer = api.list_namespaced_pod(
        "default", label_selector=f"batch={batch}", watch=True, timeout_seconds=int(BOUND_S), _preload_content=False
    )
    report.send(time.monotonic())
    done: set[str] = set()
    for line in lines_of(answer.stream(amt=None, decode_content=False)):
        pod = json.loads(line)["object"]
        if pod["status"].get("phase") == "Succeeded":
            done.add(pod["metadata"]["name"])
        if len(done) == PODS:
            report.send(time.monotonic())
            return


def lines_of(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The whole lines of a stream."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def run_pods(kubeconfig: str, batch: str) -> float:
    """Pods per second, from the first creation to the last end that a watcher saw."""
    from kubernetes import client, config

    reader, writer = Pipe(duplex=False)
    watcher = Process(target=look, args=(kubeconfig, batch, writer), daemon=True)
    watcher.start()
    if not reader.poll(BOUND_S):
        raise HarnessError("The watcher did not begin to watch.")
    reader.recv()
    creator = client.CoreV1Api(config.new_client_from_config(kubeconfig))

    def create(number: int) -> None:
        spec = {"restartPolicy": "Never", "containers": [{"name": "base", "image": "true:1"}]}
        metadata = {"name": f"{batch}-{number}", "labels": {"batch": batch}}
        creator.create_namespaced_pod("default", {"metadata": metadata, "spec": spec}, _preload_content=False).read()

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, range(PODS)))
    if not reader.poll(BOUND_S):
        raise HarnessError(f"Not all of {PODS} pods were seen to succeed.")
    ended: float = reader.recv()
    watcher.join(BOUND_S)
    return PODS / (ended - began)


def main() -> int:
    """Measure and print; 0 if all targets were met, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callbacks", type=int, default=8)
    options = parser.parse_args()
    figures = Figures()
    with scratch_folder() as folder:
        starts = []
        image = {"env": {"PATH": os.environ["PATH"]}, "entrypoint": ["true"]}
        for number in range(4):
            with emulator(MODULE, folder / f"e{number}", {"true:1": image}) as (taken, ready):
                starts.append(taken)
                if number == 3:
                    process = psutil.Process(ready["pid"])
                    before = cpu_s(process)
                    rates = [run_pods(ready["kubeconfig"], batch) for batch in ("first", "second")]
                    used = (cpu_s(process) - before) / (2 * PODS) * 1000
                    memory = process.memory_info().rss / 1e6
        figures.add("emulator: from its start to ready", starts[1:], "s", 1)
        figures.add("pods created, run and watched", rates, "/s", 100, least=True)
        figures.add("cpu of the emulator per pod", [used], "ms", 10)
        figures.add("memory of the emulator, 200 pods", [memory], "MB", 100)
        backend = choose_backends("kubernetes")["kubernetes"]
        with environment(backend, backend.variants[-1], folder / "environment") as env:
            env.backend.execute_workers(True)
            ratios = [callback(env) for _ in range(1 + options.callbacks)][1:]
            figures.add("callback: submit to terminal row / bare worker", ratios, "x", 1.2)
    return conclude(figures, __doc__)


if __name__ == "__main__":
    sys.exit(main())
