"""What the harness raises about itself; each message is one sentence: what is wrong, where, what to do."""


class ConformanceError(Exception):
    """Base of all errors of the harness; ``exit_code`` is what the command line ends with."""

    exit_code = 3


class UsageError(ConformanceError):
    """Bad input: an unknown backend, an executor that does not import, a broken file (exit code 2)."""

    exit_code = 2


class EnvironmentUnavailable(ConformanceError):
    """An environment cannot run here; the message names what is missing (verdict ``unavailable``)."""


class HarnessError(ConformanceError):
    """The harness or its environment broke; never counted as the subject's (verdict ``error``)."""


class SchedulerDied(HarnessError):
    """The real scheduler code raised, or its process ended; ``details`` holds what it said."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class RanAway(ConformanceError):
    """The environment exceeded its budget and was stopped; no error of the harness, which must not catch it as one."""


class BoundReached(HarnessError):
    """A wait ended at its bound, the last resort; the message says what was waited for and how long."""
