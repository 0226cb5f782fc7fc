"""The states of a task, in one table. README draws it, and a test holds every move."""

from enum import StrEnum


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


class Reason(StrEnum):
    """Why a task ended without a result: header `reason` of `tasks.dead`."""

    FAILED = "failed"
    INVALID = "invalid"
    UNKNOWN_KIND = "unknown-kind"
    TIMEOUT = "timeout"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    CRASHED = "crashed"


class Cause(StrEnum):
    """Why one attempt ended without a result: an entry of the ledger."""

    ERROR = "error"
    PROCESS_DEATH = "process-death"
    OUT_OF_MEMORY = "out-of-memory"
    TIMEOUT = "timeout"
    NODE_LOSS = "node-loss"
    DRAIN = "drain"
