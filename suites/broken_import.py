"""A module whose import raises; the callable in it is never reached."""

raise RuntimeError("this module raises when it is imported, on purpose")


def function() -> None:
    """Never defined."""
