"""The storekeeper's consumer on a real broker: commits that the group refuses are sent again."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, TopicPartition

from agents.storekeeper.agent import Storekeeper
from agents.storekeeper.arbiter import Arbiter
from agents.storekeeper.batch_buffer import MOST_RECORDS, BatchBuffer
from agents.storekeeper.consumer import OutcomeConsumer
from agents.storekeeper.index_catchup import IndexCatchup
from agents.storekeeper.metrics import Metrics
from agents.storekeeper.result_store import ResultStore
from agents.storekeeper.retry_until import RetryUntilStopped
from agents.storekeeper.terminal_index import TerminalIndex
from headrace.contract.records import Outgoing
from headrace.kafka.client import Kafka
from headrace.kafka.groups import STOREKEEPER_GROUP
from headrace.kafka.reading import committed_offsets
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from headrace.storage.results_root import open_directory
from tests.rigs.groups import MadeAnew
from tests.rigs.storekeeper import wait_for

PLACE = ("results", 0)


@pytest.fixture
def kafka(kafka_settings: Settings, topics: str) -> Kafka:
    return Kafka(kafka_settings, "outcomes-test")


@pytest.fixture
def buffer() -> BatchBuffer:
    return BatchBuffer()


@pytest.fixture
def committing() -> list[str]:
    return []


def idle_consumer(kafka: Kafka, buffer: BatchBuffer) -> OutcomeConsumer:
    """One that commits nothing."""
    return OutcomeConsumer(
        kafka, buffer, on_records=lambda: None, safe_offsets=lambda: (-1, {}), on_member=lambda _: None
    )


@pytest.fixture
def consumer(kafka: Kafka, buffer: BatchBuffer, committing: list[str]) -> Iterator[OutcomeConsumer]:
    """One that counts the first record of the first partition as done as soon as it is a member."""
    generation = -1

    def safe() -> tuple[int, dict[int, int]]:
        nonlocal generation
        if (batch := buffer.take_batch()) is not None:
            generation = batch.generation
            buffer.finish_batch()
        return generation, {0: 1}

    found = OutcomeConsumer(
        kafka, buffer, on_records=lambda: None, safe_offsets=safe, on_member=lambda _: None, failpoint=committing.append
    )
    found.start()
    yield found
    found.close()


def test_a_refused_commit_is_sent_again_though_nothing_has_moved(
    kafka: Kafka, sender: Sender, consumer: OutcomeConsumer, committing: list[str]
) -> None:
    sender.send_all([Outgoing("results", b"key", b"", (), 0)], 10)
    asking = kafka.consumer(STOREKEEPER_GROUP)
    wait_for(lambda: committed_offsets(kafka, asking, [PLACE])[PLACE] == 1, "the commit")
    asking.close()
    assert committing == ["commit"]
    consumer._on_commit(KafkaError(KafkaError.REQUEST_TIMED_OUT), [TopicPartition(kafka.topic("results"), 0, 1)])
    wait_for(lambda: committing == ["commit"] * 2, "the commit sent again")


def test_partitions_that_were_paused_when_revoked_are_read_when_they_come_back(
    kafka: Kafka, sender: Sender, buffer: BatchBuffer
) -> None:
    count = MOST_RECORDS + 100
    ours = idle_consumer(kafka, buffer)
    theirs = idle_consumer(kafka, BatchBuffer())
    ours.start()
    try:
        wait_for(lambda: len(ours.partitions) > 1, "all partitions")
        everything = ours.partitions
        sender.send_all([Outgoing("results", b"key", b"", (), 0)] * count, 30)
        wait_for(lambda: ours._paused, "a full buffer")
        theirs.start()
        wait_for(lambda: bool(theirs.partitions), "the other's partitions")
        theirs.close()
        wait_for(lambda: ours.partitions == everything, "all partitions again")
        seen: set[int] = set()

        def all_seen() -> bool:
            if (batch := buffer.take_batch()) is not None:
                seen.update(r.offset for r in batch.records)
                buffer.finish_batch()
            return len(seen) == count

        wait_for(all_seen, f"{count} records, not {len(seen)}")
    finally:
        ours.close()


def test_a_storekeeper_whose_consumer_ends_by_an_error_ends_with_it(kafka: Kafka, tmp_path: Path) -> None:
    def broken(_: str) -> None:
        raise RuntimeError("broken")

    root, index, retry = (
        open_directory(tmp_path / "results"),
        TerminalIndex(tmp_path / "index.sqlite"),
        RetryUntilStopped(),
    )
    arbiter = Arbiter(kafka, ResultStore(root), index, Metrics(), retry)

    async def run() -> None:
        storekeeper = Storekeeper(kafka, arbiter, IndexCatchup(kafka, index), retry, on_member=broken)
        try:
            await asyncio.wait_for(storekeeper.run(), 60)
        finally:
            await storekeeper.close()

    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(run())
    index.close()
    root.close()


def test_an_assignment_by_a_group_made_anew_is_another_generation(kafka: Kafka, buffer: BatchBuffer) -> None:
    """Kafka's generations begin again: what was done in an earlier one of that number must not count for this one."""
    begun: list[int] = []
    anew = MadeAnew(kafka, STOREKEEPER_GROUP, lambda: found._consumer)
    found = OutcomeConsumer(
        kafka,
        buffer,
        on_records=lambda: None,
        safe_offsets=lambda: (-1, {}),
        on_member=anew.on_member,
        on_generation=lambda generation, _: begun.append(generation),
    )
    found.start()
    try:
        assert anew.again.wait(60)
        assert anew.generations == [1, 1]
        first, over, second = begun
        assert (over, first == second) == (-1, False)
    finally:
        found.close()
