"""FastAPI in front of Celery with late acknowledgements. The service and the worker import this module too."""

from typing import Any

import redis

from .. import work
from ..bench import Bench
from ..system import module_of
from ..web_app import create_app, finish
from ..web_system import WebSystem
from .celery_peer import PRIORITY, worker_command
from .celery_peer import app as celery

_BENCH = Bench.from_environ()
_redis = redis.Redis.from_url(_BENCH.redis)


def _run(name: str, payload: dict[str, Any], task_id: str) -> None:
    finish(_BENCH, _redis, task_id, work.FUNCTIONS[name](**payload))


run = celery.task(name="run", ignore_result=True)(_run)


def _send(name: str, payload: dict[str, Any], task_id: str, priority: str) -> None:
    run.apply_async((name, payload, task_id), priority=PRIORITY[priority])


app = create_app(_BENCH, _send)


class Sys(WebSystem):
    file = __file__

    def commands(self) -> list[list[str]]:
        return [worker_command(f"{module_of(__file__)}:celery")]
