"""Micro-batches: how long attempts of each kind take, which kinds are so short that one slot gets many at a time.

Times are those of the children's own clocks, the making of a process included: by the node's clock an attempt also
takes what a busy event loop adds, and tasks would seem long exactly when there are many of them.

The worker agent adds run times in the event loop; the intake reads them in its thread. The moving average drops a kind
that becomes slow, and takes in one that becomes fast, after a few runs. docs/design/0026 has the rules.
"""

from dataclasses import dataclass, field

from headrace.contract.ledger import MAX_LEDGER_BYTES
from headrace.contract.task import Task

from .admission import Admitted
from .ready_queue import Pulled

TINY_S = 0.01  # a kind is tiny if its attempts take no longer on average
MAX_BATCH_S = 0.05  # expected time of a batch's tasks together; a `high` task waits no longer for its slot
MAX_BATCH_TASKS = 256
MAX_BATCH_BYTES = 256 * 1024  # of its tasks in a claim

_MEMBER_BYTES = 256  # of each task in a claim, beside its submission
_WEIGHT = 0.2  # of the newest run in the average
_MIN_RUNS = 5  # of a kind before it can count as tiny


@dataclass(slots=True)
class _Average:
    runs: int = 0
    seconds: float = 0.0


class RunTimes:
    """The average run time of each kind. One thread adds, any thread reads."""

    def __init__(self) -> None:
        self._averages: dict[str, _Average] = {}

    def add_run(self, kind: str, seconds: float) -> None:
        """Adds a completed attempt of that kind."""
        average = self._averages.setdefault(kind, _Average(seconds=seconds))
        average.seconds += _WEIGHT * (seconds - average.seconds)
        average.runs += 1

    def tiny_s(self, kind: str) -> float | None:
        """The average run time of a tiny kind; None for any other, and for a kind with too few runs."""
        average = self._averages.get(kind)
        if average is None or average.runs < _MIN_RUNS or average.seconds > TINY_S:
            return None
        return average.seconds


@dataclass(slots=True)
class MicroBatch:
    """What one slot runs, one after another: a single task, or up to `max_tasks` tiny ones."""

    max_tasks: int = 1
    members: list[tuple[Pulled, Admitted]] = field(default_factory=list)
    seconds: float = 0.0  # expected
    size: int = 0  # bytes in a claim

    def add_task(self, pulled: Pulled, admitted: Admitted, seconds: float = 0.0) -> None:
        """`seconds`: the task's expected run time."""
        self.members.append((pulled, admitted))
        self.seconds += seconds
        self.size += _claim_size(pulled.task)

    def has_room(self, pulled: Pulled, seconds: float) -> bool:
        """Whether one more tiny task fits."""
        return (
            len(self.members) < self.max_tasks
            and self.seconds + seconds <= MAX_BATCH_S
            and self.size + _claim_size(pulled.task) <= MAX_BATCH_BYTES
        )


def _claim_size(task: Task) -> int:
    """Bytes of a task in a claim, where foreign headers are in hexadecimal."""
    ledger = MAX_LEDGER_BYTES if task.ledger else 0
    return _MEMBER_BYTES + len(task.raw) + ledger + sum(len(name) + 2 * len(value) for name, value in task.foreign)


class MicroBatcher:
    """Makes the batches of one turn of the intake, in `batches`, at most one for each of `free_slots`."""

    def __init__(self, run_times: RunTimes, free_slots: int, waiting: int) -> None:
        """`waiting`: how many records could be placed now. Four tiny tasks on four free slots run at once, not in one
        batch: tasks are shared out evenly."""
        self._run_times, self._free_slots = run_times, free_slots
        self._max_tasks = min(MAX_BATCH_TASKS, max(1, -(-waiting // max(1, free_slots))))
        self._last_tiny: MicroBatch | None = None  # may get more tasks
        self.batches: list[MicroBatch] = []

    def place_task(self, pulled: Pulled, admitted: Admitted) -> bool:
        """Whether the task has found room. After the first that has not, place no more: tasks start in their order.

        A replay runs alone: a crash is charged to the task that runs, and a task that crashed may well crash again.
        """
        seconds = None if pulled.is_replay else self._run_times.tiny_s(admitted.submission.name)
        if seconds is not None and self._last_tiny is not None and self._last_tiny.has_room(pulled, seconds):
            self._last_tiny.add_task(pulled, admitted, seconds)
            return True
        if len(self.batches) >= self._free_slots:
            return False
        batch = MicroBatch(1 if seconds is None else self._max_tasks)
        batch.add_task(pulled, admitted, seconds or 0.0)
        self.batches.append(batch)
        self._last_tiny = None if seconds is None else batch
        return True
