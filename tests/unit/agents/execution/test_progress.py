"""Progress is sent at once, then at most ten times a second, and the last report always."""

import asyncio

from agents.execution.progress import EVERY_S, ProgressRelay
from headrace.contract.progress import Progress
from headrace.contract.records import Outgoing, Record

IDS = ("0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11", "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a12")


def fractions(sent: list[Outgoing], task_id: str) -> list[float]:
    records = (Record(o.topic, 0, n, timestamp_ms=0, key=o.key, value=o.value) for n, o in enumerate(sent))
    return [p.fraction for p in map(Progress.decode, records) if p.id == task_id]


async def test_a_burst_becomes_its_first_and_its_last_report() -> None:
    sent: list[Outgoing] = []
    relay = ProgressRelay(sent.append)
    for n in range(101):
        relay.report(Progress(IDS[0], 1, n / 100))
    relay.report(Progress(IDS[1], 1, 0.5))
    assert fractions(sent, IDS[0]) == [0.0]
    assert fractions(sent, IDS[1]) == [0.5]
    await asyncio.sleep(1.5 * EVERY_S)
    assert fractions(sent, IDS[0]) == [0.0, 1.0]


async def test_a_task_that_stops_reporting_is_forgotten() -> None:
    relay = ProgressRelay(lambda _: None)
    relay.report(Progress(IDS[0], 1, 0.5))
    await asyncio.sleep(1.5 * EVERY_S)
    assert not relay._held
