"""Every bound of the harness, in one typed table; all values are seconds unless the name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Last resorts: a wait normally ends on an event or on quiescence, well before its bound.

    Bounds on starts, imports, commands and the ends of processes are those of a quiet machine, and up to three times as
    long under pressure (``pressure.Deadline``). So is that on a step of the scheduler: on a machine without CPU left a
    step that takes long is nobody's failure. Waits for callbacks (``settle``, ``crowd``) go by what moves instead, see
    ``rest.py``. ``stop_grace`` is longer only where a killed process is waited for: what does not end by SIGTERM is
    killed, and Ctrl-C must not wait for it.
    """

    api_server_start: float = 120.0  # imports of all apps take 8 s on a quiet machine
    scheduler_start: float = 120.0
    worker_start: float = 120.0
    template_migration: float = 180.0
    settle: float = 30.0  # a callback that neither ends nor comes to rest
    beyond_a_timer: float = 10.0  # what follows a timer of the environment: an event, a poll, a scheduler step, the row
    start_of_callable: float = 30.0
    wire_event: float = 30.0
    # heartbeat() and event processing of one loop step: [scheduler] scheduler_health_check_threshold, after which
    # the other components take a scheduler for dead
    scheduler_step: float = 30.0
    supervisor_answer: float = 5.0  # RUN-10: the supervisor answers its child at once or never
    crowd: float = 180.0  # many callbacks at once, of which none moves; three times as long for all of them
    plain_scheduler: float = 60.0  # from the start of `airflow scheduler` to the end of a callback
    fault_hit: float = 5.0  # until an executor that polls has made the request that a fault is for
    # of heartbeat() while the remote side answers: within [scheduler] scheduler_heartbeat_sec (5 s by default) the loop
    # has its other work to do as well
    executor_call: float = 4.0
    second_delivery: float = 5.0  # nothing comes of a second delivery if for so long nothing of it is seen
    clearly_later: float = 0.2  # from a row's end to what a case lets happen after it; far above the clocks' difference
    command: float = 60.0  # a command of Airflow's that ends by itself
    stop_grace: float = 3.0  # SIGTERM to SIGKILL
    quiet_window: float = 1.2  # nothing may move for this long before 'stuck' is proven; above a heartbeat of 1 s
    quiet_steps: int = 5  # scheduler steps within the quiet window
    pump_interval: float = 0.02  # between two scheduler steps while something is awaited and things happen
    pump_interval_idle: float = 0.1  # the same while nothing has happened for a while
    pump_interval_most: float = 0.3  # the same where a step itself takes long
    pump_times_step: float = 2.0  # a pause is at least so many steps long, so that the CPU is left to the workers
    # [callbacks] callback_execution_timeout: several workers start while a callable holds its slot, also on a busy
    # machine; below ``settle``, for nothing moves until then
    callback_execution_timeout: int = 24
    effect_hold: float = 60.0  # a held callable gives up after this


LIMITS = Limits()
KILL_S = 5.0
"""Seconds between SIGTERM and SIGKILL of a callable that has run past ``[callbacks] callback_execution_timeout``."""
API_TIMEOUT_S = 30
"""``[workers] execution_api_timeout``: a request that a case holds must not time out meanwhile."""
