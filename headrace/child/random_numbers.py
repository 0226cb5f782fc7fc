"""Gives a forked process random numbers of its own. Called by the runner, before any word of the task.

`random` does that by itself at every fork. The global generators of numpy and torch do not: without this all attempts
would draw the same numbers. A generator that a module makes for itself at import is its own affair.
"""

import contextlib
import os
import sys


def needs_reseed() -> bool:
    """Whether such a library is imported."""
    return "numpy.random" in sys.modules or "torch" in sys.modules


def reseed() -> None:
    """Seeds the global generators of those libraries that are imported, from the kernel's random numbers."""
    numpy, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    with contextlib.suppress(Exception):  # half imported, or something else of that name
        if numpy is not None:
            numpy.seed(int.from_bytes(os.urandom(4)))
        if torch is not None:
            torch.manual_seed(int.from_bytes(os.urandom(8)) >> 1)
