"""Named places in the protocol at which a fault test may step in: to end the process there, to hold it, or to count.

Every role hands one such function to its parts. Outside of fault tests it is `no_failpoint`.
"""

from collections.abc import Callable

Failpoint = Callable[[str], None]  # called with the place's name, in whichever thread comes by


def no_failpoint(_place: str) -> None:
    """Does nothing."""
