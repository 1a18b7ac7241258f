"""``executor-conformance up``: an emulated control plane alone, for a user's own scheduler."""

from __future__ import annotations

import os
import shlex
import signal
import tempfile
import threading
from pathlib import Path

import click
from executor_conformance.harness.errors import EnvironmentUnavailable, UsageError


@click.command()
@click.argument("backend")
def up(backend: str) -> None:
    """Start the emulated control plane of BACKEND alone, until Ctrl-C.

    Prints the settings of a scheduler that uses it as `export` lines. Workers get the AIRFLOW variables that are set
    when it starts, so set the address of your API server (AIRFLOW__CORE__EXECUTION_API_SERVER_URL) first.
    """
    from executor_conformance.harness.backend import Options, Site
    from executor_conformance.harness.session import choose_backends
    from executor_conformance.harness.supervisor import Supervisor, runs_folder

    (chosen,) = choose_backends(backend).values() if "," not in backend else (None,)
    if chosen is None:
        raise UsageError("One control plane at a time: name one backend.")
    if not chosen.stands_alone:
        raise UsageError(f"The backend '{backend}' has no emulated control plane that could be started alone.")
    if missing := chosen.missing(Options()):
        raise EnvironmentUnavailable(f"The environment '{backend}' cannot run here: {missing}.")
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-up-{backend}-", dir=runs_folder()))
    supervisor = Supervisor(folder)
    ended = threading.Event()
    try:
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
        env = {name: value for name, value in os.environ.items() if name.startswith(("AIRFLOW", "PYTHONPATH"))}
        started = chosen(Site(folder, supervisor, Options(), chosen.variants[0], env=env))
        click.echo(f"starting {started.control_plane} …", err=True)
        settings = started.config()
        started.start()
        for name, value in sorted(settings.items()):
            click.echo(f"export {name}={shlex.quote(value)}")
        for line in started.stand_alone():
            click.echo(f"# {line}")
        click.echo("Ready. Ctrl-C ends it, with everything that it runs.", err=True)
        while not ended.wait(0.2):
            if supervisor.lost or not any(node.alive for node in started.nodes()):
                raise EnvironmentUnavailable("The control plane has ended by itself; its log is gone with its folder.")
    except KeyboardInterrupt:
        click.echo("", err=True)
    finally:
        supervisor.stop(remove=True)
