"""Limits glibc's malloc arenas, so that a role with many threads does not keep memory that it does not use.

By default glibc has up to eight arenas a CPU, and librdkafka's threads use all of them. Memory that is freed in one
arena serves no other: a role would grow during its first tens of thousands of tasks.
"""

import ctypes

_M_ARENA_MAX = -8  # malloc.h
_ARENAS = 2


def limit_malloc_arenas() -> None:
    """Call it before any thread starts. Does nothing with a C library that has no mallopt."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
