"""Every system by name. A new one is a module here with a class `Sys(System)`, and a line in this table."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass

from ..system import System

_CRASHES = "F1 F2 G"
_WORK = "A B C K D E P H U"
_POOL = "A B C K D E H U F1 G"  # the client dies with the worker, and there are no priorities
_UNRANKED = "A B C K D E H U"


@dataclass(frozen=True, slots=True)
class Entry:
    """`module` is in this package; `rows` that it can do; `needs`: the brokers, kafka and redis.

    `ours`: it runs in Headrace's environment.
    """

    module: str
    variant: str
    rows: str
    needs: tuple[str, ...] = ()
    ours: bool = False
    about: str = ""

    def can(self, row: str) -> bool:
        return row in self.rows.split()

    def load(self) -> type[System]:
        found: type[System] = importlib.import_module(f"{__name__}.{self.module}").Sys
        return found


_REDIS, _KAFKA, _BOTH = ("redis",), ("kafka",), ("kafka", "redis")
_WEB = f"{_WORK} S"
_HEADRACE = f"{_WORK} {_CRASHES} R I"
_HEADRACE_WEB = "A B C K D E P U S"  # the worker is the native one
SYSTEMS: Mapping[str, Entry] = {
    "headrace": Entry("headrace", "native", _HEADRACE, _KAFKA, True, "records to Kafka, and their completions from it"),
    "headrace_reused": Entry("headrace", "reused", _WORK, _KAFKA, True, "headrace, kinds with reuse_process"),
    "headrace_web": Entry("headrace", "web", _HEADRACE_WEB, _KAFKA, True, "POST, one SSE stream of all tasks"),
    "celery_late": Entry("celery_peer", "late", _WORK, _REDIS, about="acks_late, prefetch multiplier 1"),
    "celery_best": Entry("celery_peer", "best", _CRASHES, _REDIS, about="celery_late tuned for crashes"),
    "celery_web": Entry("celery_web", "", _WEB, _REDIS, about="FastAPI, celery_late, result fsynced, SSE from Redis"),
    "dramatiq": Entry("dramatiq_peer", "default", _WORK, _REDIS, about="2 processes of one thread, results in Redis"),
    "dramatiq_best": Entry("dramatiq_peer", "best", _CRASHES, _REDIS, about="dramatiq tuned, and a supervisor"),
    "dramatiq_web": Entry("dramatiq_web", "", _WEB, _REDIS, about="FastAPI, dramatiq, result fsynced, SSE from Redis"),
    "taskiq_one": Entry("taskiq_peer", "", f"{_UNRANKED} {_CRASHES}", _BOTH, about="on Kafka; crashes lose tasks"),
    "rq": Entry("rq_peer", "default", _WORK, _REDIS, about="2 workers, a fork for each job"),
    "rq_best": Entry("rq_peer", "best", _CRASHES, _REDIS, about="rq with retries and short leases"),
    "arq": Entry("arq_peer", "", _UNRANKED, _REDIS, about="2 workers, one job at a time, poll delay 10 ms"),
    "ppe": Entry("process_pool", "ppe", _POOL, about="ProcessPoolExecutor(2) in the client, no queue"),
    "pebble": Entry("process_pool", "pebble", _POOL, about="pebble's ProcessPool(2) in the client, no queue"),
    "raw_fork": Entry("raw_fork", "", "A B C K", about="limit: the list halved over two forked processes"),
    "raw_kafka": Entry("raw_kafka", "", "A D", _KAFKA, about="limit: two hops through Kafka, no tasks"),
    "raw_http": Entry("raw_http", "", "S", ours=True, about="limit: an empty FastAPI handler on Headrace's server"),
}
