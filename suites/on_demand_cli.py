"""``executor-conformance sweep`` and ``sequences``: look for the failures that nobody wrote a case for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_COMMON = (
    click.option("--backend", metavar="NAME", required=True, help="The environment."),
    click.option("--executor", metavar="PATH", help="Your executor class, in the environment of --backend."),
    click.option("--report", metavar="DIR", default="conformance-report", show_default=True),
    click.option("--database", metavar="KIND", help="sqlite (default), postgres, or a postgresql:// address."),
    click.option("--substrate", type=click.Choice(("process", "docker", "cluster")), help="Default: process."),
    click.option("--broker", metavar="BROKER", help="filesystem, redis, rabbitmq, or an address."),
    click.option("--worker-start", type=click.Choice(("fork", "exec")), help="Of commands in emulated containers."),
    click.option("--patience", metavar="SECONDS", type=float, help="Stillness that proves 'stuck', for own timers."),
    click.option("--processes", metavar="N", type=int, help="Processes of an environment above which it is stopped."),
    click.option("--expectations", metavar="FILE", help="Known failures, strictly."),
)


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_COMMON):
        command = option(command)
    return command


@click.command()
@_common
@click.option("--victim", type=click.Choice(("unit", "supervisor", "child")), help="Whom to kill (default: unit).")
@click.option("--resume", is_flag=True, help="Go on with the sweep that is kept in --report.")
@click.option("--plan", is_flag=True, help="Record one callback, show the plan, and kill nobody.")
@click.pass_context
def sweep(ctx: click.Context, victim: str | None, resume: bool, plan: bool, **options: str | None) -> None:
    """Kill the worker at every boundary of one recorded callback."""
    from executor_conformance.suites.cli import carry_out

    more = {"sweep": "resume" if resume else "anew", "sweep-victim": victim}
    ctx.exit(carry_out({**options, **more}, ["-q", *(["--collect-only"] if plan else [])]))


@click.command()
@_common
@click.option("--count", "-c", type=int, default=20, show_default=True, metavar="N", help="How many to draw.")
@click.option("--seed", type=int, metavar="SEED", help="Of the draw (default: a new one, which the report names).")
@click.pass_context
def sequences(ctx: click.Context, count: int, seed: int | None, **options: str | None) -> None:
    """Run drawn mixes of callbacks and tasks with faults, and look for the shortest failing one."""
    from executor_conformance.suites.cli import carry_out

    ctx.exit(carry_out({**options, "sequences": count, "seed": seed}, ["-q"]))
