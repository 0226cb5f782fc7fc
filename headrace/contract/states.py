"""The states of a task and every allowed move, in one table. The README draws it; a test checks every pair."""

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


# After a crashed attempt the task waits again, but listeners do not hear of it: only the first attempt is announced, so
# the status view shows `running` until the task ends.
MOVES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.COMPLETED, Status.FAILED, Status.CANCELLED}),
    Status.RUNNING: frozenset({Status.RUNNING, Status.COMPLETED, Status.FAILED, Status.CANCELLED}),
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}

TERMINAL = frozenset(s for s in Status if s.terminal)


class _Open(StrEnum):
    """An enum that later versions extend: an unknown member is kept, so that it can be encoded again."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", value):
            return None
        member = str.__new__(cls, value)
        member._name_, member._value_ = value.replace("-", "_").upper(), value
        return member

    def __reduce_ex__(self, _protocol: object) -> tuple[type[Self], tuple[str]]:
        """By value: some Pythons (3.11.2) copy and pickle by name, and an unknown member has no name here."""
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
