"""A module that reports its own import, so that a case can stop a worker there."""

from executor_conformance.suites import callables

callables.report("import", None)


def function(probe: str | None = None) -> None:
    """Report that it was entered."""
    callables.report("enter", probe)
    callables.report("return", probe)
