"""Checks the statistics' numbers against the topics: `python -m benchmarks.recount [gateway] [bootstrap] [prefix]`.

Reads the lifecycle topics and the dead letters with a plain consumer, keeps the first of each event in memory, and
compares it with `/stats/…` as JSON and as CSV. It imports nothing of Headrace, so that a common fault cannot hide. Run
it when no task has run for two triggers. Prints the differences, and exits with 1 when there are any.
"""

import argparse
import csv
import io
import json
import math
import sys
import urllib.request
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition

TOPICS = ("lifecycle.received", "lifecycle.started", "lifecycle.completed", "tasks.dead")
BUCKETS = ("minute", "hour", "day", "week", "month")
COUNTS = ("received", "started", "completed", "failed", "cancelled", "tasks", "bytes")
TOLERANCE = 0.02  # relative error of percentiles from bins
ROUNDING_MS = 0.051  # they are given with one decimal
Row = dict[str, Any]


@dataclass
class Event:
    """The first record of an event."""

    task: str
    event: str
    at: datetime
    headers: dict[str, str]


@dataclass
class Recount:
    """The number of comparisons, and a text for each difference."""

    compared: int = 0
    differences: list[str] = field(default_factory=list)

    def compare(self, what: str, expected: object, found: object) -> None:
        self.compared += 1
        if expected != found:
            self.differences.append(f"{what}: {expected} in the topics, {found} in the statistics")

    def compare_roughly(self, what: str, expected: float | None, found: float | None) -> None:
        self.compared += 1
        if expected is None or found is None or abs(expected - found) > TOLERANCE * expected + ROUNDING_MS:
            self.differences.append(f"{what}: {expected} in the topics, {found} in the statistics")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recount", description="Compares with the topics.")
    parser.add_argument("gateway", nargs="?", default="http://127.0.0.1:8000", help="default: http://127.0.0.1:8000")
    parser.add_argument("bootstrap", nargs="?", default="127.0.0.1:9092", help="of Kafka; default: 127.0.0.1:9092")
    parser.add_argument("prefix", nargs="?", default="", help="of the topics; default: none")
    asked = parser.parse_args()
    found = recount(asked.gateway, list(events(asked.bootstrap, asked.prefix)))
    for difference in found.differences:
        print(difference)
    print(f"{found.compared} numbers compared, {len(found.differences)} differ")
    return 1 if found.differences else 0


def recount(gateway: str, events_read: list[Event]) -> Recount:
    """Compares the topics' events with every number of `/stats/…`."""
    found = Recount()
    _summary(found, gateway, events_read)
    for bucket in BUCKETS:
        for by in ("", "name", "node"):
            _counts(found, gateway, events_read, bucket, by)
    for bucket in BUCKETS[1:]:
        for by in ("", "name"):
            _durations(found, gateway, events_read, bucket, by)
    return found


def events(bootstrap: str, prefix: str) -> Iterator[Event]:
    """Yields the first of each event, up to the present ends of the topics."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "recount",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    metadata = consumer.list_topics(timeout=20).topics
    places = [TopicPartition(prefix + t, p, 0) for t in TOPICS for p in metadata[prefix + t].partitions]
    consumer.assign(places)
    left, seen = len(places), set()
    while left:
        for message in consumer.consume(1000, 1.0):
            if message.error() is not None:
                left -= 1
                continue
            event = _event(message)
            key = event.task, event.event, event.headers.get("attempt") if event.event == "started" else None
            if key not in seen:
                seen.add(key)
                yield event
    consumer.close()


def _event(message: Message) -> Event:
    headers = {k: v.decode() for k, v in message.headers() or [] if isinstance(v, bytes)}
    event = (message.topic() or "").rpartition(".")[2]
    if event == "dead":
        event = "cancelled" if headers["reason"] == "cancelled" else "failed"
    task = str(uuid.UUID((message.key() or b"").decode()))
    return Event(task, event, datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC), headers)


def _summary(found: Recount, gateway: str, events_read: list[Event]) -> None:
    summary = _get(gateway, "summary")
    n = Counter(e.event for e in events_read)
    for event in ("received", "started", "completed", "failed", "cancelled"):
        found.compare(f"summary {event}", n[event], summary[event])
    found.compare("summary pending", n["received"] - n["completed"] - n["failed"] - n["cancelled"], summary["pending"])
    found.compare("summary bytes", sum(_bytes(e) for e in events_read), summary["bytes"])
    started = len({e.task for e in events_read if e.event == "started"})
    found.compare("average starts", round(n["started"] / started, 4) if started else None, summary["average_starts"])
    found.compare("summary late", 0, summary["late"])
    found.compare("summary undecodable", 0, summary["undecodable"])


def _counts(found: Recount, gateway: str, events_read: list[Event], bucket: str, by: str) -> None:
    expected: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    first = {}
    for e in sorted(events_read, key=lambda e: int(e.headers.get("attempt", "0"))):
        row = expected[_start(bucket, e.at), e.headers.get(by, "")]
        row[e.event] += 1
        row["bytes"] += _bytes(e)
        if e.event == "started" and first.setdefault(e.task, e) is e:
            row["tasks"] += 1
    for path in ("counts", "completed"):
        shown = COUNTS if path == "counts" else ("completed",)
        items = _get(gateway, path, bucket=bucket, by=by, limit="10000")["items"]
        rows = {(r["bucket"], r.get(by, "")): tuple(r[c] for c in shown) for r in items}
        wanted = {k: tuple(n[c] for c in shown) for k, n in expected.items() if path == "counts" or n["completed"]}
        for key in {*wanted, *rows}:
            found.compare(f"{path} {bucket} {by} {key} {shown}", wanted.get(key), rows.get(key))
        table = list(
            csv.DictReader(io.StringIO(_text(gateway, path, bucket=bucket, by=by, limit="10000", format="csv")))
        )
        found.compare(f"{path} {bucket} {by} as CSV", [_cells(r) for r in items], table)


def _durations(found: Recount, gateway: str, events_read: list[Event], bucket: str, by: str) -> None:
    waits: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for e in events_read:
        if e.event == "completed":
            waits[_start(bucket, e.at), e.headers.get(by, "")].append(e)
    items = _get(gateway, "durations", bucket=bucket, by=by, limit="10000")["items"]
    found.compare(f"durations {bucket} {by}", sorted(waits), sorted((r["bucket"], r.get(by, "")) for r in items))
    for r in items:
        of = waits[r["bucket"], r.get(by, "")]
        found.compare(f"durations {bucket} {by} completed", len(of), r["completed"])
        for measure in ("queued", "duration"):
            ms = sorted(int(e.headers[f"{measure}-ms"]) for e in of)
            for percent in (50, 90, 99):
                exact = ms[max(1, math.ceil(len(ms) * percent / 100)) - 1] if ms else None
                column = f"{measure}_ms_p{percent}"
                found.compare_roughly(f"durations {bucket} {by} {r['bucket']} {column}", exact, r[column])


def _bytes(e: Event) -> int:
    return int(e.headers["bytes"]) if e.event == "completed" else 0


def _cells(row: Row) -> dict[str, str]:
    return {k: "" if v is None else str(v) for k, v in row.items()}


def _start(bucket: str, at: datetime) -> str:
    """RFC 3339 of the start of the bucket; weeks are ISO weeks."""
    day = at.date()
    if bucket == "week":
        day -= timedelta(days=day.isoweekday() - 1)
    elif bucket == "month":
        day = day.replace(day=1)
    time = {"minute": f"{at:%H:%M}", "hour": f"{at:%H}:00"}.get(bucket, "00:00")
    return f"{day:%Y-%m-%d}T{time}:00Z"


def _get(gateway: str, path: str, **query: str) -> Any:
    return json.loads(_text(gateway, path, **query))


def _text(gateway: str, path: str, **query: str) -> str:
    sent = "&".join(f"{k}={v}" for k, v in query.items() if v)
    with urllib.request.urlopen(f"{gateway}/stats/{path}?{sent}", timeout=20) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    sys.exit(main())
