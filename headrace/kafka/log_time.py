"""What time it is for those who forget by time: by the log's clock and by our own, whichever is earlier.

The timestamps of records are the brokers' clocks, and "older than a day" compares them with the clock of this machine.
Where one of the two is a day ahead, everything would be forgotten at once. With the earlier of both, a wrong clock
only makes things be remembered for longer. Used by the storekeeper's index and the intake's window of repeats.
Retryable when Kafka does not answer.
"""

import time
from collections.abc import Callable, Iterable

from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from headrace.contract.records import Place
from headrace.kafka.client import Kafka
from headrace.kafka.reading import list_offsets


def newest_ms(kafka: Kafka, places: Iterable[Place]) -> dict[Place, int]:
    """The latest timestamp of all records of each place, without the places that hold none; Retryable."""
    found = list_offsets(kafka, kafka.admin(), places, OffsetSpec.max_timestamp())  # type: ignore[no-untyped-call]
    return {place: at.timestamp for place, at in found.items() if at.timestamp >= 0}


def earlier_now_ms(kafka: Kafka, places: Iterable[Place], clock: Callable[[], float] = time.time) -> int:
    """Our own time, or that of the newest record of these places if it is earlier; Unix time; Retryable."""
    return min([int(clock() * 1000), max(newest_ms(kafka, places).values(), default=2**63)])
