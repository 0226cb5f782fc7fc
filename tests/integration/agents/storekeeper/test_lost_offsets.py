"""Outcomes never expire unread. A storekeeper that finds some gone stops and says so; what is settled is trimmed."""

import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from agents.storekeeper.trimmer import ResultsTrimmer
from headrace.contract.records import Place
from headrace.kafka.groups import STOREKEEPER_GROUP
from headrace.kafka.reading import first_offsets
from headrace.kafka.topics import apply_topics, diff_topics
from headrace.kafka.trimming import delete_records
from tests.rigs.storekeeper import Rig, completed, id_in_partition, in_chunks, installation, terminate, wait_for
from tests.rigs.topics import PARTITIONS

PLACES = [("results", p) for p in range(PARTITIONS)]


@pytest.fixture
def rig(broker: str, tmp_path: Path) -> Iterator[Rig]:
    with installation(broker, tmp_path) as found:
        yield found


def commit(rig: Rig, offsets: Mapping[Place, int]) -> None:
    """Commits for the group, which must have no member."""
    consumer = rig.kafka.consumer(STOREKEEPER_GROUP)
    at = [TopicPartition(rig.kafka.topic(t), p, offset) for (t, p), offset in offsets.items()]
    consumer.commit(offsets=at, asynchronous=False)
    consumer.close()


def send(rig: Rig, partition: int, count: int) -> list[str]:
    outcomes = [completed(id=id_in_partition(partition)) for _ in range(count)]
    rig.send(*outcomes)
    return [o.id for o in outcomes]


def log_starts(rig: Rig) -> list[int]:
    found = first_offsets(rig.kafka, rig.kafka.admin(), PLACES)
    return [found[place] for place in PLACES]


def test_a_storekeeper_stops_when_outcomes_went_unread_and_goes_on_once_told(
    rig: Rig, capfd: pytest.CaptureFixture[str]
) -> None:
    commit(rig, {PLACES[0]: 1})
    send(rig, 0, 3)
    delete_records(rig.kafka, rig.kafka.admin(), {PLACES[0]: 2})
    assert rig.start().wait(60) == 2
    told = capfd.readouterr().err
    assert f"{rig.kafka.topic('results')}, partition 0: the offsets 1 to 1 were deleted before it has read them" in told
    assert "--reset-offsets --to-earliest" in told
    commit(rig, {PLACES[0]: 2})
    [last] = send(rig, 0, 1)
    process = rig.start()
    assert last in {e.id for e in rig.events(last)}
    assert terminate(process) == 0


def test_a_group_without_offsets_never_starts_over_behind_what_was_deleted(
    rig: Rig, capfd: pytest.CaptureFixture[str]
) -> None:
    send(rig, 1, 2)
    delete_records(rig.kafka, rig.kafka.admin(), {PLACES[1]: 1})
    assert rig.start().wait(60) == 2
    assert "the log begins at 1" in capfd.readouterr().err


def test_outcomes_that_vanish_while_a_storekeeper_is_frozen_end_it(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    [known] = send(rig, 1, 1)
    process = rig.start()
    rig.events(known)
    wait_for(lambda: rig.committed(1) == 1, "the commit")
    process.send_signal(signal.SIGSTOP)
    send(rig, 1, 1)  # may answer the fetch that it had sent before
    send(rig, 1, 2)
    delete_records(rig.kafka, rig.kafka.admin(), {PLACES[1]: 3})
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 2
    assert re.search("the offsets [12] to 2 were deleted before it has read them", capfd.readouterr().err)


def test_only_settled_outcomes_are_trimmed(rig: Rig) -> None:
    for partition in range(PARTITIONS):
        send(rig, partition, 3)
    commit(rig, {PLACES[0]: 2})
    trimmed: list[int] = []
    kept = ResultsTrimmer(rig.kafka, 3600.0, lambda: PLACES, trimmed.append)
    kept.trim()
    kept.close()
    assert log_starts(rig) == [0, 0], "they are young"
    trimmer = ResultsTrimmer(rig.kafka, -3600.0, lambda: PLACES, trimmed.append)
    trimmer.trim()
    assert log_starts(rig) == [2, 0], "a partition without an offset keeps all"
    trimmer.trim()
    trimmer.close()
    assert trimmed == [2]


def test_a_result_that_is_not_whole_keeps_its_chunks_in_the_log(rig: Rig) -> None:
    big = completed(b"x" * 1_200_000, id=id_in_partition(0))
    first, *others = in_chunks(big)
    [before] = send(rig, 0, 1)
    rig.send(first)
    [after] = send(rig, 0, 1)
    process = rig.start()
    rig.events(before, after)
    wait_for(lambda: rig.committed(0) == 1, "the commit before the first chunk")
    trimmer = ResultsTrimmer(rig.kafka, -3600.0, lambda: PLACES)
    trimmer.trim()
    trimmer.close()
    assert log_starts(rig)[0] == 1
    assert terminate(process) == 0
    rig.send(*others)
    rig.start()
    [event] = [e for e in rig.events(big.id) if e.id == big.id]
    assert rig.file(event) == big.value


def test_an_installation_with_the_retention_of_older_versions_gets_rid_of_it(rig: Rig) -> None:
    admin, prefix = rig.kafka.admin(), rig.settings.topic_prefix
    entry = ConfigEntry("retention.ms", "604800000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, f"{prefix}results", incremental_configs=[entry])
    [done] = admin.incremental_alter_configs([resource]).values()
    done.result(30)
    while not (changes := diff_topics(admin, prefix, PARTITIONS)):
        pass  # the broker answers before it shows the new value
    [change] = changes
    assert (change.topic, change.action) == ("results", "configure")
    apply_topics(admin, prefix, PARTITIONS)
    assert diff_topics(admin, prefix, PARTITIONS) == []
