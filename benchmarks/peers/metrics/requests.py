"""Row R: the requests that Kafka gets for one lone task, from all roles and the client, by its own request log.

The broker is one of this row's own, as writing the log slows it down. The requests of an idle installation, its long
polls most of all, are counted first and subtracted.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from infra.local.kafka import EmbeddedKafka
from infra.local.process import free_port

from ..bench import Bench
from ..system import System
from ..systems import SYSTEMS

_IDLE_S, _BETWEEN_S, _TASKS, _WARM_UP = 10.0, 0.5, 20, 50
_MARK = "Completed request:"
_APPENDER = '<File name="requests" fileName="{file}"><PatternLayout pattern="%m%n"/></File>'
_LOGGER = '<Logger name="kafka.request.logger" level="DEBUG" additivity="false"><AppenderRef ref="requests"/></Logger>'


class LoggedKafka(EmbeddedKafka):
    """A broker that logs every request."""

    @property
    def requests(self) -> Path:
        return self.folder / "requests.log"

    def prepare(self) -> None:
        super().prepare()
        config = self.folder / "log4j2.xml"
        text = config.read_text()
        for section, more in (("Appenders", _APPENDER.format(file=self.requests)), ("Loggers", _LOGGER)):
            text = text.replace(f"<{section}>", f"<{section}>{more}")
        config.write_text(text)


def measure(bench: Bench) -> dict[str, float | str]:
    """Requests of a task beyond those of an idle installation: all of them, and by kind."""
    kafka = LoggedKafka(bench.folder / "kafka", f"127.0.0.1:{free_port()}")
    kafka.start()
    try:
        system = SYSTEMS["headrace"].load()(replace(bench, kafka=kafka.bootstrap, brokers={}))
        system.open()
        system.start_worker()
        try:
            system.wait_all(system.submit_many("noop", [(i,) for i in range(_WARM_UP)]), 90)
            time.sleep(_BETWEEN_S)
            idle, idle_s = _requests(kafka.requests, lambda: time.sleep(_IDLE_S))
            busy, busy_s = _requests(kafka.requests, lambda: _lone_tasks(system))
        finally:
            system.stop()
    finally:
        kafka.kill()
    net = {kind: (count - idle[kind] / idle_s * busy_s) / _TASKS for kind, count in busy.items()}
    return {
        "R_requests": sum(net.values()),
        "R_with_polls": busy.total() / _TASKS,
        **{f"R_{kind}": count for kind, count in net.items()},
    }


def _lone_tasks(system: System) -> None:
    for i in range(_TASKS):
        system.wait(system.submit("noop", i), 30)
        time.sleep(_BETWEEN_S)  # what follows a task's end belongs to it


def _requests(log: Path, work: Callable[[], None]) -> tuple[Counter[str], float]:
    """(requests by kind, seconds) while `work` runs."""
    place, begun = log.stat().st_size, time.monotonic()
    work()
    took_s = time.monotonic() - begun
    with log.open("rb") as file:
        file.seek(place)
        lines = file.read().decode(errors="replace").splitlines()
    return Counter(kind for line in lines if (kind := request_kind(line))), took_s


def request_kind(line: str) -> str:
    """The kind of request that a line of the log tells of, such as PRODUCE; empty for another line."""
    _, mark, text = line.partition(_MARK)
    return str(json.loads(text)["requestHeader"]["requestApiKeyName"]) if mark else ""
