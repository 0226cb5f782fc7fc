"""What a running attempt reports on `progress`: sent by the worker, read by the gateway and `headrace why`."""

from dataclasses import dataclass

import orjson

from headrace.contract.bounds import MAX_ATTEMPTS, whole_number
from headrace.contract.ids import id_of_key
from headrace.contract.records import Outgoing, Record
from headrace.errors import Undecodable

MAX_MESSAGE_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Progress:
    """A running attempt's report: `fraction` from 0 to 1, and a message for people."""

    id: str
    attempt: int
    fraction: float
    message: str = ""

    def encode(self) -> Outgoing:
        value = {"attempt": self.attempt, "fraction": self.fraction, "message": self.message}
        return Outgoing("progress", self.id.encode(), orjson.dumps(value))

    @classmethod
    def decode(cls, record: Record) -> "Progress":
        """The report with its fraction clamped and its message cut; Undecodable for anything else."""
        record.check_size()
        task_id = id_of_key(record.key)
        try:
            found = orjson.loads(record.value or b"")
            if task_id is None:
                raise ValueError("the key is not a task id")
            return cls(
                task_id,
                whole_number(found["attempt"], MAX_ATTEMPTS),
                min(1.0, max(0.0, float(found["fraction"]))),
                str(found.get("message", ""))[:MAX_MESSAGE_CHARACTERS],
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as e:
            raise Undecodable(f"not a progress report: {e}", record.value) from None
