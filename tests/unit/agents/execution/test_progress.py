"""Progress is sent at once, then at most ten times a second, and the last report always; while Kafka is away, none."""

import asyncio
from concurrent.futures import Future

from agents.execution.progress import EVERY_S, MOST_ATTEMPTS, ProgressRelay
from headrace.contract.progress import Progress
from headrace.contract.records import Outgoing, Record
from headrace.errors import Refused
from headrace.kafka.sender import Sent

IDS = ("0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11", "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a12")


class Away:
    """Kafka, as far as a relay sees it: it acknowledges what is sent only once it is `back`."""

    def __init__(self, back: bool) -> None:
        self.sent: list[Outgoing] = []
        self._answers: list[Sent] = []
        self._is_back = back

    def send(self, record: Outgoing) -> Sent:
        answer: Sent = Future()
        self.sent.append(record)
        self._answers.append(answer)
        if self._is_back:
            answer.set_result(("progress", 0, len(self.sent)))
        return answer

    def come_back(self) -> None:
        self._is_back = True
        for answer in self._answers:
            answer.set_result(("progress", 0, 0))


def fractions(sent: list[Outgoing], task_id: str) -> list[float]:
    records = (Record(o.topic, 0, n, timestamp_ms=0, key=o.key, value=o.value) for n, o in enumerate(sent))
    return [p.fraction for p in map(Progress.decode, records) if p.id == task_id]


async def test_a_burst_becomes_its_first_and_its_last_report() -> None:
    kafka = Away(back=True)
    sent, relay = kafka.sent, ProgressRelay(kafka.send)
    for n in range(101):
        relay.report(Progress(IDS[0], 1, n / 100))
    relay.report(Progress(IDS[1], 1, 0.5))
    assert fractions(sent, IDS[0]) == [0.0]
    assert fractions(sent, IDS[1]) == [0.5]
    await asyncio.sleep(1.5 * EVERY_S)
    assert fractions(sent, IDS[0]) == [0.0, 1.0]


async def test_a_task_that_stops_reporting_is_forgotten() -> None:
    relay = ProgressRelay(Away(back=True).send)
    relay.report(Progress(IDS[0], 1, 0.5))
    await asyncio.sleep(1.5 * EVERY_S)
    assert not relay._reports


async def test_while_kafka_is_away_an_attempt_has_one_report_on_its_way_and_the_newest_waits() -> None:
    kafka = Away(back=False)
    relay = ProgressRelay(kafka.send)
    for n in range(1000):
        relay.report(Progress(IDS[0], 1, n / 1000))
        relay.report(Progress(IDS[0], 2, n / 2000))
        if n % 100 == 0:
            await asyncio.sleep(1.2 * EVERY_S)
    assert fractions(kafka.sent, IDS[0]) == [0.0, 0.0]
    kafka.come_back()
    await asyncio.sleep(1.5 * EVERY_S)
    assert sorted(fractions(kafka.sent, IDS[0])) == [0.0, 0.0, 0.4995, 0.999]
    await asyncio.sleep(1.5 * EVERY_S)
    assert not relay._reports


async def test_the_number_of_attempts_that_wait_for_kafka_is_bounded() -> None:
    kafka = Away(back=False)
    relay = ProgressRelay(kafka.send)
    for n in range(2 * MOST_ATTEMPTS):
        relay.report(Progress(IDS[0], n, 0.5))
    assert len(kafka.sent) == MOST_ATTEMPTS


async def test_progress_that_kafka_refuses_is_dropped() -> None:
    refused: Sent = Future()
    refused.set_exception(Refused("no right"))
    relay = ProgressRelay(lambda _: refused)
    relay.report(Progress(IDS[0], 1, 0.5))
    await asyncio.sleep(1.5 * EVERY_S)
    assert not relay._reports
