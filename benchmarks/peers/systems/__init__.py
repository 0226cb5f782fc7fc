"""Every system by name. A new one is a module here with a class `Sys(System)`, and a line in this table."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from ..system import System


@dataclass(frozen=True, slots=True)
class Entry:
    """`module` is in this package; `needs`: the brokers, kafka and redis. `ours`: it runs in Headrace's environment."""

    module: str
    variant: str = ""
    needs: tuple[str, ...] = ()
    ours: bool = False
    about: str = ""

    def load(self) -> type[System]:
        found: type[System] = importlib.import_module(f"{__name__}.{self.module}").Sys
        return found


_REDIS, _KAFKA = ("redis",), ("kafka",)
SYSTEMS: Mapping[str, Entry] = {
    "headrace": Entry("headrace", "native", _KAFKA, True, "records to `tasks.normal`, `lifecycle.completed` read back"),
    "headrace_web": Entry("headrace", "web", _KAFKA, True, "POST, one SSE stream of all tasks"),
    "celery_late": Entry("celery_peer", "late", _REDIS, about="acks_late, prefetch multiplier 1"),
    "celery_web": Entry("celery_web", "", _REDIS, about="FastAPI, celery_late, result file with fsync, SSE from Redis"),
    "celery_best": Entry("celery_peer", "best", _REDIS, about="celery_late tuned for crashes"),
    "dramatiq": Entry("dramatiq_peer", "default", _REDIS, about="2 processes of one thread, results in Redis"),
    "dramatiq_web": Entry(
        "dramatiq_web", "", _REDIS, about="FastAPI, dramatiq, result file with fsync, SSE from Redis"
    ),
    "dramatiq_best": Entry("dramatiq_peer", "best", _REDIS, about="dramatiq tuned for crashes, with a supervisor"),
    "taskiq_one": Entry(
        "taskiq_peer", "", ("kafka", "redis"), about="on Kafka, 1 task at a time a process; loses tasks in crashes"
    ),
    "rq": Entry("rq_peer", "default", _REDIS, about="2 workers, a fork for each job"),
    "rq_best": Entry("rq_peer", "best", _REDIS, about="rq with retries and short leases"),
    "arq": Entry("arq_peer", "", _REDIS, about="2 workers, one job at a time, poll delay 10 ms"),
    "ppe": Entry("process_pool", "ppe", about="ProcessPoolExecutor(2) in the client, no queue"),
    "pebble": Entry("process_pool", "pebble", about="pebble's ProcessPool(2) in the client, no queue"),
    "raw_fork": Entry("raw_fork", about="limit: the list halved over two forked processes"),
    "raw_kafka": Entry("raw_kafka", "", _KAFKA, about="limit: two hops through Kafka, no tasks"),
    "raw_http": Entry("raw_http", about="limit: an empty FastAPI handler on Headrace's server"),
}
