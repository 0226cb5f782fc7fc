"""Forged and spoiled records on every topic, in one run of the whole product: none stops a role or ends a task.

A record of a task topic that is no valid task becomes a dead letter with the reason. On the other topics each role
that reads them counts undecodable records and skips them. A record forged where the protocol forbids it does not change
how a task ends. docs/security.md says what only Kafka's access control can keep out.
"""

import asyncio
import json
import os
import re
import struct
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator

import pytest
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from confluent_kafka import Producer

from headrace.contract.bounds import MAX_FOREIGN_BYTES
from headrace.contract.journal import ClaimKey, tombstone
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing, Source
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.lag import EVERY_S
from headrace.kafka.partitioner import partition_of
from headrace.kafka.sender import Sender
from headrace.kafka.topics import load_topics
from headrace.process.health import STUCK_S
from infra.local.cluster import LocalCluster
from tests.acceptance.conftest import Client, Log, headers, until
from tests.rigs.http import get

ID = "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"  # of the examples
PARTITIONS = 4
DEEP = b"[" * 5000 + b"]" * 5000
VALUES = (
    b"",
    b"\xff\xfe\x00",
    DEEP,
    b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"attempt": 1e400}',
    b"null",
    b'"x"',
    b'{"attempt": 123456789012345678901234567890, "fraction": "nan", "command": [], "name": {}, "boot": 1}',
)
NUMBERS = (
    "attempt",
    "ledger",
    "submitted-ms",
    "started-ms",
    "queued-ms",
    "duration-ms",
    "bytes",
    "outcome-offset",
    "chunk",
    "chunks",
    "generation",
    "outcome",
    "source",
    "members",
    "attempts",
)
TEXTS = (
    "name",
    "directory",
    "node",
    "boot",
    "error",
    "content-type",
    "suffix",
    "reason",
    "file",
    "sha256",
    "by",
    "for",
)
LARGE = b"x" * 3_000_000
SPOILED = (b"\xff\xfe", b"99999999999999999999", b"-1", b"9223372036854775807", DEEP, b"")


@pytest.fixture(scope="module")
def cluster(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    prefix = f"hostile{uuid.uuid4().hex[:6]}."
    with LocalCluster(
        tmp_path_factory.mktemp("hostile"), bootstrap=broker, prefix=prefix, partitions=PARTITIONS
    ) as product:
        yield product


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    found = Client(cluster.gateway_url)
    yield found
    found.http.close()


def spoiled(topic: str) -> Iterator[Outgoing]:
    """Records of a topic, each with one thing wrong."""
    found = load_topics()[topic]
    example, partitions = found.example, 1 if topic in ("nodes", "kinds") else PARTITIONS
    good = tuple((k, str(v).encode()) for k, v in example.get("headers", {}).items())
    value = example["value"].replace('"prime"', '"forged"').encode()  # so that no kind in use is replaced

    def key() -> bytes:
        task_id = str(uuid.uuid4())
        return example["key"].replace(ID, task_id, 1).replace("prime", "forged").encode()

    for i, v in enumerate((*VALUES, None)):
        yield Outgoing(topic, key(), v, good, i % partitions)
    keyless = (
        () if "compact" in found.config.get("cleanup.policy", "") else (None,)
    )  # the broker refuses records without a key there
    for k in (*keyless, b"", b"\xff", b"no id", b"a:b:c", os.urandom(5000)):
        yield Outgoing(topic, k, value, good)
    for name in NUMBERS:
        for text in SPOILED:
            yield Outgoing(topic, key(), value, (*(h for h in good if h[0] != name), (name, text)), -1)
    yield Outgoing(topic, key(), value, (*good, ("x", b"x" * 1_000_000)))
    yield Outgoing(topic, key(), value, (*good, *((f"h{i}", b"") for i in range(20_000))))


def forged(log: Log, victim: str) -> Iterator[Outgoing]:
    """Records that would end or restart a running task if they were believed."""
    [started] = [m for m in log.read("lifecycle.started") if m.key() == victim.encode()]
    source = Source.parse(headers(started)["source"])
    elsewhere = (partition_of(victim.encode(), PARTITIONS) + 1) % PARTITIONS
    for verdict in ("completed", "failed", "cancelled"):
        outcome = Outcome(
            victim,
            verdict,
            b'"forged"',
            attempt=1,
            boot="boot",
            node="node",
            source=source,
            submitted_ms=1,
            name="fragile",
            directory="demo",
            suffix=".json",
        )
        yield Outgoing("results", victim.encode(), outcome.value, outcome.encode().headers, elsewhere)
    yield Outgoing("results", victim.upper().encode(), b"1", outcome.encode().headers, elsewhere)
    # A tombstone of a later generation would void every claim on its source's offset, if it counted in any partition.
    for wrong in {*range(PARTITIONS)} - {source.partition}:
        late = tombstone(ClaimKey(victim, source, "boot"), 10**6, "void")
        yield Outgoing("tasks.running", late.key, None, late.headers, wrong)


def send_large(kafka: str, prefix: str) -> list[str]:
    """Sends records larger than any that could carry them on; brokers check only the compressed batch's size.

    Each topic gets them in every partition: in a header, in many headers, in the key and in the value. Returns the ids
    of those that are tasks.
    """
    producer = Producer({"bootstrap.servers": kafka, "compression.type": "gzip", "message.max.bytes": 10_000_000})
    ids = []
    for topic, found in load_topics().items():
        good = [(k, str(v).encode()) for k, v in found.example.get("headers", {}).items()]
        for partition in range(1 if topic in ("nodes", "kinds") else PARTITIONS):
            for key, value, own_headers in large(found.example["value"].replace('"prime"', '"forged"').encode(), good):
                task_id = str(uuid.uuid4())
                own = found.example["key"].replace(ID, task_id, 1).replace("prime", "forged").encode() + key
                producer.produce(prefix + topic, value, own, partition, headers=own_headers)
                if topic in ("tasks.normal", "tasks.high") and not key:
                    ids.append(task_id)
            assert producer.flush(60) == 0
    return ids


def large(value: bytes, good: list[tuple[str, bytes]]) -> Iterator[tuple[bytes, bytes, list[tuple[str, bytes]]]]:
    """(what is added to the key, value, headers), one of them too large."""
    yield b"", value, [*good, ("x", LARGE)]
    yield b"", value, [*good, *((f"h{i}", b"") for i in range(90_000))]  # librdkafka shows none of more than 100,000
    yield b"", value + LARGE.replace(b"x", b" "), good
    yield LARGE, value, good
    for name in TEXTS:  # of a task, headers of these names are dropped, and it would run
        if any(k == name for k, _ in good):
            yield b"", value, [*(h for h in good if h[0] != name), (name, LARGE)]


def hostile_tasks(log: Log) -> dict[str, str]:
    """Produces tasks that can never run to both task topics; task id -> a word of the error in its dead letter."""
    body = json.dumps({"name": "prime", "payload": {"upper_bound": 10}, "directory": "demo"}).encode()
    many = [("x", b"x" * 1_000_000)]
    wanted: dict[str, str] = {}
    for topic in ("tasks.normal", "tasks.high"):
        for value, word in ((b"\xff\xfe", "JSON"), (DEEP, "200 levels"), (b'{"name": 1e999}', ""), (b"[]", "object")):
            wanted[task_id := str(uuid.uuid4())] = word
            log.produce(value, task_id, topic)
        wanted[task_id := str(uuid.uuid4())] = str(MAX_FOREIGN_BYTES)
        log.produce(body, task_id, topic, headers=many)
    for name, text in (
        ("attempt", b"0"),
        ("attempt", b"10001"),
        ("attempt", b"\xd9\xa1"),
        ("ledger", DEEP),
        ("ledger", b'[{"attempt": 1e30}]'),
        ("submitted-ms", b"9" * 19),
    ):
        wanted[task_id := str(uuid.uuid4())] = "ledger" if name == "ledger" else name
        log.produce(body, task_id, "tasks.high", headers=[(name, text)])
    return wanted


def metrics(url: str) -> Counter[str]:
    """Sample -> value; of the labels only the topic is kept."""
    found: Counter[str] = Counter()
    for name, labels, value in re.findall(r"^(\w+)(\{.*\})? (\S+)$", get(f"{url}/metrics").text, re.M):
        topic = re.search(r'topic="([^"]+)"', labels)
        found[f"{name} {topic[1]}" if topic else name] += float(value)
    return found


async def send_unreadable_headers(bootstrap: str, topic: str, key: bytes) -> None:
    """Sends a record with a header name that is not UTF-8: kcat can send one, and a broker takes it."""
    batch = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 16)
    batch.append(0, None, key, b"value", [("NAME", b"1")])
    raw = bytes(batch.build()).replace(b"NAME", b"\xff\xfe\xff\xfe")
    raw = raw[:17] + struct.pack(">I", calc_crc32c(raw[21:])) + raw[21:]
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        client.add_topic(topic)
        await client.force_metadata_update()
        leader = client.cluster.leader_for_partition(TopicPartition(topic, 0))
        answer = await client.send(leader, ProduceRequest(None, -1, 10_000, [(topic, [(0, raw)])]))
        assert answer.topics[0][1][0][1] == 0, answer
    finally:
        await client.close()


@pytest.mark.timeout(300)  # it starts every role
def test_no_record_stops_a_role_and_no_forged_outcome_counts(cluster: LocalCluster, client: Client) -> None:
    log = Log(cluster.settings.kafka, cluster.settings.topic_prefix)
    sender = Sender(Kafka(cluster.settings, "hostile"))
    before = cluster.pids()
    victim = client.submit("fragile", {"attempts": 0, "seconds": 3})
    ended = client.submit()
    assert client.wait(ended)["status"] == "completed"
    until(lambda: client.task(victim)["status"] == "running", "the victim runs")

    sender.send_all(forged(log, victim), 30)
    dead = Task(ended, b"{}", attempt=1, source=Source("tasks.normal", 0, 0), submitted_ms=1)
    late = Outcome(
        ended, "failed", b"{}", attempt=1, boot="boot", node="node", source=dead.source, submitted_ms=1, offset=5
    )
    sender.send_all([late.encode(), late.dead_letter()], 30)
    wanted = hostile_tasks(log)
    for topic in load_topics():
        sender.send_all(spoiled(topic), 60)
    for topic in load_topics():
        key = str(uuid.uuid4())
        asyncio.run(
            send_unreadable_headers(cluster.settings.kafka, cluster.settings.topic_prefix + topic, key.encode())
        )
        if topic in ("tasks.normal", "tasks.high"):
            wanted[key] = "not UTF-8"
    sender.close()

    wanted |= dict.fromkeys(send_large(cluster.settings.kafka, cluster.settings.topic_prefix), "at most")

    good = [client.submit(directory=f"good/{i}") for i in range(12)]
    native = str(uuid.uuid4())
    body = {"name": "prime", "payload": {"upper_bound": 10}, "directory": "native"}
    log.produce(json.dumps(body).encode(), native, partition=(partition_of(native.encode(), PARTITIONS) + 1) % 4)
    for task_id in (*good, victim, native):
        assert client.wait(task_id)["status"] == "completed", client.task(task_id)
    assert client.http.get(f"/tasks/{victim}/result").json() == {"attempt": 1, "went_wrong_before": 0}
    assert client.task(ended)["status"] == "completed"
    until(lambda: letters(log, wanted).keys() == wanted.keys(), "every hostile task is dead")
    for task_id, letter in letters(log, wanted).items():
        assert letter["reason"] == "invalid", letter
        assert wanted[task_id] in letter["error"], letter
    settings = cluster.settings
    roles = [f"http://{at}" for at in (settings.http, settings.storekeeper_http, settings.stats_http)]
    for url in roles:
        until(lambda url=url: not unready(url), f"{url} is ready", why=lambda url=url: unready(url))  # type: ignore[misc]
    # One of those records is half a result, which holds a commit back for a day: the role must not count as stuck.
    deadline = time.monotonic() + EVERY_S + STUCK_S + 1
    while time.monotonic() < deadline:
        assert [unready(url) for url in roles] == [""] * len(roles)
        time.sleep(0.5)
    for path in ("/tasks?limit=1000", "/dead?limit=1000", "/nodes", "/kinds"):
        assert client.http.get(path).status_code == 200, path
    until(lambda: counted(*roles), "undecodable records are counted")
    assert cluster.pids() == before, "no role has died"


def letters(log: Log, wanted: Collection[str]) -> dict[str, dict[str, str]]:
    """Headers of those dead letters, by task id. Other dead letters' headers may be undecodable."""
    ours = [m for m in log.read("tasks.dead") if (m.key() or b"").decode("latin-1") in wanted]
    return {m.key().decode(): headers(m) for m in ours}


def unready(url: str) -> str:
    """Why the role is not ready; empty when it is."""
    answer = get(f"{url}/readyz")
    return "" if answer.status_code == 200 else answer.text


def counted(gateway: str, storekeeper: str, worker: str) -> bool:
    """Whether every role's metrics count undecodable records of each topic that it reads."""
    views, arbiter, node = metrics(gateway), metrics(storekeeper), metrics(worker)
    viewed = (
        "tasks.normal",
        "tasks.high",
        "tasks.dead",
        "progress",
        "lifecycle.received",
        "lifecycle.started",
        "lifecycle.completed",
    )
    read = ("tasks.running", "tasks.control", "nodes")
    return (
        all(views[f"headrace_view_undecodable_total {topic}"] > 1 for topic in viewed)
        and views["headrace_view_two_terminals_total"] == 1  # reported, and the first one stands
        and all(node[f"headrace_worker_undecodable_total {topic}"] > 5 for topic in read)
        and arbiter["headrace_outcomes_undecodable_total"] > 20
        and arbiter["headrace_outcomes_passed_over_total"] >= 1
    )
