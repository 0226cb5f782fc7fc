"""How much memory a role's many threads may set aside (glibc).

Each of librdkafka's threads would get an arena of its own, up to eight a processor, and what one of them has freed
serves no other: for its first tens of thousands of tasks a role would grow and keep what it does not use.
"""

import ctypes

_M_ARENA_MAX = -8  # malloc.h
_ARENAS = 2


def limit_malloc_arenas() -> None:
    """To be called before there are threads. Does nothing where the C library knows no such thing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)
