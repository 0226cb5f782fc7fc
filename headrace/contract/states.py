"""The states of a task, in one table. README draws it, and a test holds every move."""

import re
from enum import StrEnum
from typing import Self


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return not MOVES[self]


# A crashed attempt goes back from running to queued without a word to the submitter: the status view shows
# `running` on until the next attempt starts, since lifecycle.started of attempt 1 is all that is announced.
MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.COMPLETED, Status.FAILED, Status.CANCELLED}),
    Status.RUNNING: frozenset({Status.RUNNING, Status.COMPLETED, Status.FAILED, Status.CANCELLED}),
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}

TERMINAL = frozenset(s for s in Status if s.terminal)


class _Open(StrEnum):
    """Grows with later versions: a word that this one does not know is kept as it came, and travels on."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", value):
            return None
        word = str.__new__(cls, value)
        word._name_, word._value_ = value.replace("-", "_").upper(), value
        return word

    def __reduce_ex__(self, _protocol: object) -> tuple[type[Self], tuple[str]]:
        """By value: some Pythons (3.11.2) copy and pickle by a name, which a word of a later version has not here."""
        return self.__class__, (self.value,)


class Reason(_Open):
    """Why a task ended without a result: header `reason` of `tasks.dead`."""

    FAILED = "failed"
    INVALID = "invalid"
    UNKNOWN_KIND = "unknown-kind"
    TIMEOUT = "timeout"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    CRASHED = "crashed"


class Cause(_Open):
    """Why one attempt ended without a result: an entry of the ledger."""

    ERROR = "error"
    PROCESS_DEATH = "process-death"
    OUT_OF_MEMORY = "out-of-memory"
    TIMEOUT = "timeout"
    NODE_LOSS = "node-loss"
    DRAIN = "drain"
