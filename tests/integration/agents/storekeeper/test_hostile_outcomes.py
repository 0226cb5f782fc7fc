"""No outcome stops those behind it: outcomes that no event could carry on lie before a good one in each partition."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from headrace.contract.outcome import Outcome
from tests.rigs.storekeeper import Rig, completed, failed, id_in_partition, installation
from tests.rigs.topics import PARTITIONS

LARGE = b"x" * 3_000_000
TEXTS = ("name", "directory", "node", "boot", "error", "content-type", "suffix", "reason", "source", "attempts", "x")


@pytest.fixture
def rig(broker: str, tmp_path: Path) -> Iterator[Rig]:
    with installation(broker, tmp_path) as found:
        yield found


def send_hostile(rig: Rig, partition: int) -> None:
    """A broker checks the size of the compressed batch alone, so records of any size get into the log."""
    producer = Producer(
        {"bootstrap.servers": rig.settings.kafka, "compression.type": "gzip", "message.max.bytes": 10_000_000}
    )

    def send(outcome: Outcome, *more: tuple[str, bytes], key: bytes = b"") -> None:
        sent = outcome.encode()
        kept = [(k, v) for k, v in sent.headers if k not in {name for name, _ in more}]
        topic, own = rig.kafka.topic("results"), key or outcome.id.encode()
        producer.produce(topic, sent.value, own, partition, headers=[*kept, *more])

    for name in TEXTS:
        for outcome in (completed(id=id_in_partition(partition)), failed(id=id_in_partition(partition))):
            send(outcome, (name, LARGE))
            send(outcome, (name, LARGE[:1_900_000]))
    send(completed(LARGE, id=id_in_partition(partition)))
    send(failed(id=id_in_partition(partition)), key=LARGE)
    send(failed(id=id_in_partition(partition)), *((f"h{i}", b"") for i in range(50_000)))
    assert producer.flush(60) == 0


def test_an_outcome_that_no_event_can_carry_stops_nothing_behind_it(rig: Rig) -> None:
    good = [completed(id=id_in_partition(p)) for p in range(PARTITIONS)]
    for partition in range(PARTITIONS):
        send_hostile(rig, partition)
    rig.send(*good)
    rig.start()
    ended = {e.id: e for e in rig.events(*(o.id for o in good))}
    for outcome in good:
        assert ended[outcome.id].topic == "lifecycle.completed"
        assert rig.file(ended[outcome.id]) == outcome.value
    assert rig.metric("headrace_outcomes_undecodable_total") >= PARTITIONS * len(TEXTS)
