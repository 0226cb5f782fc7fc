"""Lifecycle records as the other roles would send them, and a recount of the topics without the job's code."""

import random
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import cache

import pymysql
from confluent_kafka import Consumer, Message, TopicPartition
from dbutils.pooled_db import PooledDB

from headrace.contract.lifecycle import received_event, started_event
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing, Source
from headrace.contract.states import Reason
from headrace.contract.task import Task
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from headrace.storage.mysql import Database

KINDS = ("prime", "compression", "conversion")
TOPICS = {
    "lifecycle.received": "received",
    "lifecycle.started": "started",
    "lifecycle.completed": "completed",
    "tasks.dead": "dead",
}
Counts = dict[tuple[str, str, str, str], int]  # (minute, event, kind, node) -> distinct events


class Sends:
    """Sends records and waits until the broker has acknowledged all."""

    def __init__(self, settings: Settings) -> None:
        self._sender = Sender(Kafka(settings, "test"), **{"linger.ms": 20})

    def __call__(self, records: Iterable[Outgoing]) -> None:
        self._sender.send_all(records, 60)

    def close(self) -> None:
        self._sender.close()


def stories(count: int, seed: int = 0, attempts: bool = True) -> list[list[Outgoing]]:
    """All records of `count` tasks: most completed, some failed or cancelled, some started twice."""
    chance, now = random.Random(seed), int(time.time() * 1000)
    found = []
    for i in range(count):
        task_id, name = str(uuid.UUID(int=chance.getrandbits(128), version=4)), chance.choice(KINDS)
        source, node = Source("tasks.normal", i % 4, i // 4), f"node-{chance.randint(1, 2)}"
        tries = 2 if attempts and chance.random() < 0.1 else 1
        story = [received_event(Task(task_id, b"{}", attempt=1, source=source, submitted_ms=now), name, "demo", "http")]
        for attempt in range(1, tries + 1):
            story.append(
                started_event(
                    Task(task_id, b"{}", attempt=attempt, source=source, submitted_ms=now), name, "demo", node, "boot"
                )
            )
        begun, lot = now + chance.randint(0, 2000), chance.random()
        reason = Reason.CANCELLED if lot < 0.03 else Reason.TIMEOUT if lot < 0.1 else None
        outcome = Outcome(
            id=task_id,
            outcome="completed" if reason is None else "failed",
            value=b"{}",
            attempt=tries,
            boot="boot",
            node=node,
            source=source,
            submitted_ms=now,
            name=name,
            directory="demo",
            reason=reason,
            started_ms=begun,
            ended_ms=begun + chance.randint(0, 5000),
            offset=i,
        )
        story.append(
            outcome.dead_letter() if reason else outcome.completed_event("f", chance.randint(0, 999), "ab" * 32)
        )
        found.append(story)
    return found


def flat(stories: Sequence[Sequence[Outgoing]]) -> list[Outgoing]:
    return [record for story in stories for record in story]


def recount(bootstrap: str, prefix: str) -> Counts:
    """Reads all lifecycle topics with a plain consumer and counts the first of each event."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "recount", "enable.partition.eof": True})
    metadata = {t: consumer.list_topics(prefix + t, timeout=20).topics[prefix + t] for t in TOPICS}
    places = [TopicPartition(prefix + t, p, 0) for t in TOPICS for p in metadata[t].partitions]
    consumer.assign(places)
    open_partitions, seen, counts = len(places), set(), Counter[tuple[str, str, str, str]]()
    while open_partitions:
        for message in consumer.consume(1000, 0.1):
            if message.error() is not None:
                open_partitions -= 1
                continue
            key, row = _event(message, prefix)
            if key not in seen:
                seen.add(key)
                counts[row] += 1
    consumer.close()
    return dict(counts)


def _event(message: Message, prefix: str) -> tuple[tuple[str, ...], tuple[str, str, str, str]]:
    event = TOPICS[(message.topic() or "").removeprefix(prefix)]
    headers = {k: v.decode() for k, v in message.headers() or [] if isinstance(v, bytes)}
    if event == "dead":
        event = "cancelled" if headers["reason"] == "cancelled" else "failed"
    minute = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    key = (event, (message.key() or b"").decode(), headers["attempt"] if event == "started" else "")
    return key, (minute, event, headers["name"], headers.get("node", ""))


def tables(database: Database) -> Counts:
    """The same counts from the statistics' tables; empty while there are no tables."""
    try:
        found = rows(database, "SELECT bucket, event, name, node, SUM(count) FROM counts_minute GROUP BY 1, 2, 3, 4")
    except pymysql.ProgrammingError:
        return {}
    return {(b.strftime("%Y-%m-%d %H:%M"), event, name, node): int(n) for b, event, name, node, n in found}


def rows(database: Database, sql: str) -> list[tuple]:  # type: ignore[type-arg]
    with closing(_pool(database).connection()) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


@cache
def _pool(database: Database) -> PooledDB:
    """Cached for tests that poll: each new connection reads the machine's certificates, which takes 40 ms."""
    return database.pool(1)


def wait_until_counted(database: Database, expected: Counts, timeout_s: float = 240.0) -> None:
    """Waits until the tables have the expected counts; AssertionError with the difference after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (found := tables(database)) != expected:
        if time.monotonic() > deadline:
            difference = {
                k: (expected.get(k, 0), found.get(k, 0)) for k in {*expected, *found} if expected.get(k) != found.get(k)
            }
            raise AssertionError(
                f"not counted in {timeout_s:.0f} s; (expected, found): {dict(list(difference.items())[:10])}"
            )
        time.sleep(0.2)
