"""FastAPI in front of Dramatiq. The service and the worker import this module too."""

from typing import Any

import dramatiq
import redis

from .. import work
from ..bench import Bench
from ..system import module_of
from ..web_app import create_app, finish
from ..web_system import WebSystem
from . import dramatiq_peer
from .dramatiq_peer import worker_command

_BENCH = Bench.from_environ()
_redis = redis.Redis.from_url(_BENCH.redis)
broker = dramatiq_peer.broker


def _run(name: str, payload: dict[str, Any], task_id: str) -> None:
    finish(_BENCH, _redis, task_id, work.FUNCTIONS[name](**payload))


run = dramatiq.actor(_run, actor_name="run")
run_high = dramatiq.actor(_run, actor_name="run_high", queue_name="high")


def _send(name: str, payload: dict[str, Any], task_id: str, priority: str) -> None:
    (run_high if priority == "high" else run).send(name, payload, task_id)


app = create_app(_BENCH, _send)


class Sys(WebSystem):
    file = __file__

    def commands(self) -> list[list[str]]:
        return [worker_command(module_of(__file__))]
