"""`headrace topics grow` on a real broker: what it does, in which order, and what it and `topics apply` say."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import orjson
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from headrace.cli.main import main
from headrace.contract.records import Outgoing
from headrace.errors import UsageError
from headrace.kafka import topic_growth
from headrace.kafka.client import Kafka
from headrace.kafka.metadata import partitions_of
from headrace.kafka.partition_counts import QUEUE_TOPICS, read_partition_counts
from headrace.kafka.sender import Sender
from headrace.kafka.topic_growth import grow_topics
from headrace.kafka.topics import load_topics
from headrace.settings import Settings
from tests.rigs.core import record
from tests.rigs.topics import PARTITIONS

MANY = 2 * PARTITIONS
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    kafka_settings: Settings, topics: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs `headrace topics …`; returns exit code, stdout and stderr."""
    monkeypatch.setenv("HEADRACE_KAFKA", kafka_settings.kafka)
    monkeypatch.setenv("HEADRACE_TOPIC_PREFIX", topics)

    def call(*arguments: str | int) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["topics", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def lived(sender: Sender) -> None:
    """There has been a task."""
    sender.send_all([record()])


def counts(settings: Settings) -> dict[str, int]:
    found = read_partition_counts(Kafka(settings, "test"), 10, QUEUE_TOPICS)
    return {"results": found.home, **found.queue}


def grown(count: int) -> dict[str, int]:
    return {"results": PARTITIONS, **dict.fromkeys(QUEUE_TOPICS, count)}


def add_by_hand(settings: Settings, topic: str, count: int) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka})
    name = settings.topic_prefix + topic
    for done in admin.create_partitions([NewPartitions(name, count)]).values():
        done.result(30)
    while len(partitions_of(admin, [name], 30)[name]) < count:
        pass  # the controller has them, and the broker learns of them


@pytest.mark.usefixtures("lived")
def test_the_queue_grows_and_nothing_else(run: Run, kafka_settings: Settings) -> None:
    code, said, _ = run("grow", "--partitions", MANY, "--dry-run")
    assert (code, counts(kafka_settings)) == (0, grown(PARTITIONS))
    assert all(f"  {topic:22} would get 2 partitions more: 4" in said for topic in QUEUE_TOPICS)
    code, said, _ = run("grow", "--partitions", MANY)
    assert (code, counts(kafka_settings)) == (0, grown(MANY))
    lines = said.splitlines()
    assert lines[:-1] == [f"  {topic:22} has got 2 partitions more: 4" for topic in QUEUE_TOPICS]
    assert "restart nothing" in lines[-1]
    code, said, _ = run("grow", "--partitions", MANY)
    assert (code, said) == (0, "the queue has 4 partitions: nothing to do\n")


@pytest.mark.usefixtures("lived")
def test_for_machines_each_topic_is_a_line(run: Run, kafka_settings: Settings) -> None:
    _, said, _ = run("grow", "--partitions", MANY, "--json")
    wanted = [{"topic": topic, "had": PARTITIONS, "partitions": MANY} for topic in QUEUE_TOPICS]
    assert [orjson.loads(line) for line in said.splitlines()] == wanted
    assert run("grow", "--partitions", MANY, "--json") == (0, "", "")


@pytest.mark.parametrize(
    ("wanted", "words"), [(PARTITIONS + 1, "such as 4"), (PARTITIONS - 1, "topics never shrink"), (7, "such as 8")]
)
def test_what_cannot_be_made_is_said_and_changes_nothing(
    run: Run, kafka_settings: Settings, wanted: int, words: str
) -> None:
    code, _, error = run("grow", "--partitions", wanted)
    assert code == 2
    assert words in error
    assert counts(kafka_settings) == grown(PARTITIONS)


def test_without_topics_it_says_how_to_make_them(
    kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADRACE_KAFKA", kafka_settings.kafka)
    monkeypatch.setenv("HEADRACE_TOPIC_PREFIX", kafka_settings.topic_prefix)
    assert main(["topics", "grow", "--partitions", "4"]) == 2
    assert "run `headrace topics apply` first" in capsys.readouterr().err


@pytest.mark.usefixtures("lived")
@pytest.mark.parametrize("done", [("tasks.running",), ("tasks.running", "tasks.high")])
def test_a_growth_that_was_cut_short_is_said_and_finished_by_the_same_call(
    run: Run, kafka_settings: Settings, done: Sequence[str]
) -> None:
    for topic in done:
        add_by_hand(kafka_settings, topic, MANY)
    for command in ("diff", "apply"):
        code, said, _ = run(command, "--partitions", PARTITIONS)
        assert code == 1
        for topic in set(QUEUE_TOPICS) - set(done):
            words = f"! {topic:22} has 2 partitions, others of the queue 4: a growth was cut short"
            assert f"{words}: run `headrace topics grow --partitions 4` again" in said
    assert run("grow", "--partitions", MANY)[0] == 0
    assert counts(kafka_settings) == grown(MANY)


@pytest.mark.usefixtures("lived")
def test_the_journal_is_there_before_a_task_can_come(kafka_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[set[str]] = []

    class Stopped(Exception):
        pass

    def add(admin: AdminClient, wanted: dict[str, int]) -> None:
        asked.append({name.removeprefix(kafka_settings.topic_prefix) for name in wanted})
        if len(asked) == 2:
            raise Stopped  # as if killed there
        add_partitions(admin, wanted)

    add_partitions: Callable[..., Any] = topic_growth.add_partitions
    monkeypatch.setattr(topic_growth, "add_partitions", add)
    admin = AdminClient({"bootstrap.servers": kafka_settings.kafka})
    with pytest.raises(Stopped):
        grow_topics(admin, kafka_settings.topic_prefix, MANY)
    assert asked == [{"tasks.running"}, {"tasks.high", "tasks.normal"}]
    assert counts(kafka_settings) == grown(PARTITIONS) | {"tasks.running": MANY}
    monkeypatch.undo()
    assert [g.topic for g in grow_topics(admin, kafka_settings.topic_prefix, MANY)] == ["tasks.high", "tasks.normal"]


@pytest.mark.usefixtures("lived")
@pytest.mark.usefixtures("topics")
def test_two_commands_at_once_do_it_once(kafka_settings: Settings) -> None:
    admins = [AdminClient({"bootstrap.servers": kafka_settings.kafka}) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        grown_by = [pool.submit(grow_topics, a, kafka_settings.topic_prefix, MANY) for a in admins]
        assert all(g.result(60) is not None for g in grown_by)
    assert counts(kafka_settings) == grown(MANY)


@pytest.mark.usefixtures("lived")
def test_apply_takes_a_grown_queue_for_right_and_says_what_grows(run: Run, kafka_settings: Settings) -> None:
    code, said, _ = run("apply", "--partitions", MANY)
    assert code == 1
    for topic in (t for t in load_topics().values() if t.is_keyed):
        words = "run `headrace topics grow --partitions 4`" if topic.grows else "keeps its 2 for ever"
        assert [line for line in said.splitlines() if line.startswith(f"! {topic.name} ") and words in line], topic
    assert counts(kafka_settings) == grown(PARTITIONS)
    assert run("grow", "--partitions", MANY)[0] == 0
    for command in ("diff", "apply"):
        assert run(command, "--partitions", PARTITIONS) == (0, "the cluster matches topics.yaml\n", "")


def test_before_the_first_task_apply_gives_all_topics_their_partitions(run: Run, kafka_settings: Settings) -> None:
    assert run("apply", "--partitions", MANY)[0] == 0
    assert counts(kafka_settings) == dict.fromkeys(["results", *QUEUE_TOPICS], MANY)


def test_a_queue_that_was_grown_by_hand_can_be_mended(run: Run, kafka_settings: Settings) -> None:
    add_by_hand(kafka_settings, "tasks.normal", 3)
    assert run("grow", "--partitions", 3)[0] == 0
    assert counts(kafka_settings) == grown(3)
    assert "never shrinks" in run("diff", "--partitions", PARTITIONS)[1]


def test_a_record_for_a_new_partition_is_sent_although_the_client_does_not_know_it(
    kafka_settings: Settings, sender: Sender
) -> None:
    """librdkafka asks at its own times; a claim in a new partition must not wait for them, nor look refused."""
    slow = Sender(Kafka(kafka_settings, "slow"), **{"topic.metadata.refresh.interval.ms": 600_000})
    here, there = (Outgoing("tasks.running", b"key", b"", (), p) for p in (0, MANY - 1))
    try:
        slow.send_all([here], 30)
        grow_topics(AdminClient({"bootstrap.servers": kafka_settings.kafka}), kafka_settings.topic_prefix, MANY)
        assert slow.send_all([there, replace(there, key=b"another")], 30) == [
            ("tasks.running", MANY - 1, 0),
            ("tasks.running", MANY - 1, 1),
        ]
        assert slow.check() is None
        nowhere = slow.send(Outgoing("tasks.running", b"lost", b"", (), 100))
        with pytest.raises(Exception, match="topics"):
            nowhere.result(30)
        assert "unknown partition" in (slow.check() or "").lower()
        assert slow.send_all([replace(here, key=b"lost")], 30)  # what failed holds nothing back
    finally:
        assert slow.close() == 0


def test_the_growth_is_refused_while_other_topics_differ(kafka_settings: Settings, topics: str) -> None:
    add_by_hand(kafka_settings, "results", 3)
    with pytest.raises(UsageError, match="topics diff"):
        grow_topics(AdminClient({"bootstrap.servers": kafka_settings.kafka}), topics, MANY)
