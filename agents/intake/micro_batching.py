"""How long attempts of each kind take, and so which tasks are tiny: those are claimed and run many at a time.

Told by the worker agent in the event loop, asked by the intake in its thread. A moving average, so a kind that becomes
slow leaves the chunks within a few runs, and one that becomes fast joins them.
"""

from dataclasses import dataclass, field

from agents.intake.admission import Admitted
from agents.intake.ready_queue import Pulled
from headrace.contract.ledger import MAX_LEDGER_BYTES
from headrace.contract.task import Task

TINY_S = 0.003  # a kind whose attempts take no longer on average
CHUNK_S = 0.05  # what a chunk's members take together; a `high` task waits no longer than that for its slot
CHUNK_MEMBERS = 256
CHUNK_BYTES = 256 * 1024  # of what a claim holds of its members

_MEMBER_BYTES = 256  # what a claim says of each member beside its submission
_WEIGHT = 0.2  # of the newest run in the average
_RUNS = 5  # of a kind before it can count as tiny


@dataclass(slots=True)
class _Average:
    runs: int = 0
    seconds: float = 0.0


class RunTimes:
    """Seconds by kind. One thread tells, any asks."""

    def __init__(self) -> None:
        self._averages: dict[str, _Average] = {}

    def ran(self, kind: str, seconds: float) -> None:
        """An attempt of that kind has completed."""
        average = self._averages.setdefault(kind, _Average(seconds=seconds))
        average.seconds += _WEIGHT * (seconds - average.seconds)
        average.runs += 1

    def tiny_s(self, kind: str) -> float | None:
        """What a run of a tiny kind takes; None for all others, and for kinds that are not known well enough."""
        average = self._averages.get(kind)
        if average is None or average.runs < _RUNS or average.seconds > TINY_S:
            return None
        return average.seconds


@dataclass(slots=True)
class MicroBatch:
    """What one slot is to run, one after another: a single task, or tiny ones as long as there is room."""

    limit: int = 1
    members: list[tuple[Pulled, Admitted]] = field(default_factory=list)
    seconds: float = 0.0
    size: int = 0  # bytes

    def add(self, pulled: Pulled, verdict: Admitted, seconds: float = 0.0) -> None:
        self.members.append((pulled, verdict))
        self.seconds += seconds
        self.size += _size(pulled.task)

    def has_room(self, pulled: Pulled, seconds: float) -> bool:
        """Whether one more tiny task fits."""
        return (
            len(self.members) < self.limit
            and self.seconds + seconds <= CHUNK_S
            and self.size + _size(pulled.task) <= CHUNK_BYTES
        )


def _size(task: Task) -> int:
    """What it takes in a claim: its foreign headers travel there in hexadecimal, and its ledger as it is."""
    ledger = MAX_LEDGER_BYTES if task.ledger else 0
    return _MEMBER_BYTES + len(task.raw) + ledger + sum(len(name) + 2 * len(value) for name, value in task.foreign)


class MicroBatcher:
    """What one turn of the intake gives to at most `free` slots. `waiting`: records that could be taken now."""

    def __init__(self, run_times: RunTimes, free: int, waiting: int) -> None:
        self._run_times, self._free = run_times, free
        # Shared out evenly: four tiny tasks on four free slots run at once, not one after another.
        self._limit = min(CHUNK_MEMBERS, max(1, -(-waiting // max(1, free))))
        self._open: MicroBatch | None = None
        self.made: list[MicroBatch] = []

    def take(self, pulled: Pulled, verdict: Admitted) -> bool:
        """Whether the task has found its place. In order: once one has not, none that comes after it may be asked for.

        Replays run alone: a crash is blamed on one, and what has crashed before is the likeliest to do it again.
        """
        seconds = None if pulled.is_replay else self._run_times.tiny_s(verdict.submission.name)
        if seconds is not None and self._open is not None and self._open.has_room(pulled, seconds):
            self._open.add(pulled, verdict, seconds)
            return True
        if len(self.made) >= self._free:
            return False
        chunk = MicroBatch(1 if seconds is None else self._limit)
        chunk.add(pulled, verdict, seconds or 0.0)
        self.made.append(chunk)
        self._open = None if seconds is None else chunk
        return True
