"""Failpoints: named steps of the protocol at which a fault test may end the process, hold it, or count.

Every role hands one such function to its parts. Outside of fault tests it is `no_failpoint`.
"""

from collections.abc import Callable

Failpoint = Callable[[str], None]  # called with the step's name, in the thread that takes the step


def no_failpoint(_step: str) -> None:
    """Does nothing."""
