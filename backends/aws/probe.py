"""The probe: shows, before the first case, that workers start in the account and have what they need.

It runs where workers run, and what it finds is its exit code: that much every service reports.
"""

from __future__ import annotations

import importlib.metadata
import json

from executor_conformance.backends.kubernetes.probe import callables_digest
from executor_conformance.harness.errors import ConformanceError, HarnessError, UsageError

NO_AIRFLOW, OTHER_AIRFLOW, NO_CALLABLES, OTHER_CALLABLES, NO_API, NO_EFFECTS, NO_FOLDER = range(71, 78)
SCRIPT = """
import hashlib, importlib.metadata, importlib.util, json, os, socket, sys, urllib.parse, urllib.request
want = json.loads(sys.argv[1])
try:
    airflow = importlib.metadata.version("apache-airflow-core")
except importlib.metadata.PackageNotFoundError:
    sys.exit(71)
if airflow != want["airflow"]:
    sys.exit(72)
try:
    spec = importlib.util.find_spec("executor_conformance.suites.callables")
    callables = hashlib.sha256(open(spec.origin, "rb").read()).hexdigest()
except Exception:
    sys.exit(73)
if callables != want["callables"]:
    sys.exit(74)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    opener.open(want["api"], timeout=5).close()
except Exception:
    sys.exit(75)
effects = urllib.parse.urlsplit(os.environ["EXECUTOR_CONFORMANCE_EFFECTS_URL"])
try:
    socket.create_connection((effects.hostname, effects.port), timeout=5).close()
except Exception:
    sys.exit(76)
try:
    os.makedirs(os.environ["AIRFLOW_HOME"], exist_ok=True)
except OSError:
    sys.exit(77)
"""


def command(api_url: str) -> list[str]:
    """What the probe runs; ``api_url`` is the Execution API as workers reach it, with a slash at its end."""
    want = {"airflow": _airflow(), "callables": callables_digest(), "api": f"{api_url}health"}
    return ["python", "-c", SCRIPT, json.dumps(want)]


def _airflow() -> str:
    return importlib.metadata.version("apache-airflow-core")


def judge(exit_code: int | None, said: str, image: str, host: str) -> None:
    """Whether an ended probe found all that workers need.

    :param exit_code: None if its container was not started.
    :param said: the control plane's reason for its end, if it has one.
    :param image: in what it ran, for messages.
    :param host: by what workers reach this host.
    :raises UsageError: the image lacks something, or this host cannot be reached by ``host``.
    :raises HarnessError: the probe was not carried out.
    """
    if exit_code == 0:
        return
    words = {
        NO_AIRFLOW: f"The image {image} has no Airflow beside its python.",
        OTHER_AIRFLOW: f"The image {image} has another Airflow than this installation, which has {_airflow()}.",
        NO_CALLABLES: f"The image {image} lacks the suite's callables; install airflow-executor-conformance in it.",
        OTHER_CALLABLES: f"The image {image} has another version of airflow-executor-conformance than this "
        "installation; install the same in it.",
        NO_API: f"Workers do not reach the Execution API at {host}; correct --conformance-api-host.",
        NO_EFFECTS: f"Workers reach the Execution API at {host} and not the server to which callables report; open "
        "all ports of this host to them.",
        NO_FOLDER: f"Workers of the image {image} cannot write below /tmp.",
    }
    found: ConformanceError
    if exit_code in words:
        found = UsageError(words[exit_code])
    elif exit_code in (126, 127):
        found = UsageError(f"The image {image} cannot run python (exit code {exit_code}).")
    else:
        code = "it was not started" if exit_code is None else f"exit code {exit_code}"
        more = f"; {said.splitlines()[0][:300].rstrip('.')}" if said else ""
        found = HarnessError(f"The probe with the image {image} was not carried out ({code}{more}).")
    raise found
