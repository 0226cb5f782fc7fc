"""Ids for `WHERE id IN (?, …)`, in few lengths: used by the stores that keep what they know in SQLite.

A connection keeps its last 128 statements, and each length makes another one, of tens of kB where it is long: asking
for as many ids as there happen to be took 13 MB.
"""

from collections.abc import Iterator, Sequence

_LENGTHS = (1, 8, 64, 500)


def in_few_lengths(ids: Sequence[bytes]) -> Iterator[list[bytes]]:
    """All ids, up to 500 at a time, each part filled up to one of a few lengths by repeating its last id."""
    for at in range(0, len(ids), _LENGTHS[-1]):
        part = list(ids[at : at + _LENGTHS[-1]])
        length = next(n for n in _LENGTHS if n >= len(part))
        yield part + part[-1:] * (length - len(part))
