"""Taskiq on Kafka, one task at a time in each of two processes, results in Redis. The worker imports this module too.

Offsets are committed every 5 s whether a task has ended or not: it loses tasks in crashes. A group is set here, as
without one every process would run every task.
"""

import asyncio
import sys
from collections.abc import Iterable
from typing import Any

from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.producer.producer import DefaultPartitioner
from kafka.admin import KafkaAdminClient, NewTopic
from taskiq.exceptions import TaskiqResultTimeoutError
from taskiq_aio_kafka import AioKafkaBroker
from taskiq_redis import RedisAsyncResultBackend

from .. import work
from ..bench import Bench
from ..redis_flush import flush
from ..system import Handle, NotDone, System, TaskFailed, module_of

_LONE_CHECK_S, _MANY_CHECK_S = 0.002, 0.01  # the library's own is 0.2 s
_SENT_TOGETHER, _AWAITED_TOGETHER = 500, 16
_BENCH = Bench.from_environ()
_TOPIC = NewTopic(name=_BENCH.namespace, num_partitions=2, replication_factor=1)

broker = AioKafkaBroker(
    bootstrap_servers=_BENCH.kafka,
    kafka_topic=_TOPIC,
    result_backend=RedisAsyncResultBackend(_BENCH.redis, keep_results=True),
    delete_topic_on_shutdown=False,
)
# taskiq-aio-kafka 1.0.0 hands kafka-python's partitioner and assignor to aiokafka, which fails with them.
broker.configure_producer(acks="all", partitioner=DefaultPartitioner())
broker.configure_consumer(
    partition_assignment_strategy=(RoundRobinPartitionAssignor,),
    group_id=_BENCH.namespace,
    auto_offset_reset="earliest",
)
TASKS = {name: broker.task(task_name=name)(f) for name, f in work.FUNCTIONS.items()}


class Sys(System):
    worker_first = True

    def commands(self) -> list[list[str]]:
        worker = [sys.executable, "-m", "taskiq", "worker", f"{module_of(__file__)}:broker", "--workers", "2"]
        return [[*worker, "--log-level", "WARNING", "--max-async-tasks", "2", "--max-threadpool-threads", "1"]]

    def start_worker(self) -> None:
        if self._starts == 0:  # before two processes compete to make the topic
            admin = KafkaAdminClient(bootstrap_servers=self.bench.kafka)
            admin.create_topics([_TOPIC])
            admin.close()
        super().start_worker()

    def open(self) -> None:
        flush(self.bench.redis)
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(broker.startup())

    def submit(self, name: str, *args: Any, priority: str = "normal") -> Handle:
        return self._loop.run_until_complete(TASKS[name].kiq(*args))

    def submit_many(self, name: str, calls: Iterable[tuple[Any, ...]], priority: str = "normal") -> Any:
        async def send() -> list[Handle]:
            made, every = list[Handle](), list(calls)
            for first in range(0, len(every), _SENT_TOGETHER):  # aiokafka batches what is under way together
                some = every[first : first + _SENT_TOGETHER]
                made += await asyncio.gather(*[TASKS[name].kiq(*call) for call in some])
            return made

        return self._loop.run_until_complete(send())

    def wait(self, handle: Handle, timeout_s: float = 60.0) -> object:
        return self._loop.run_until_complete(_result(handle, timeout_s, _LONE_CHECK_S))

    def wait_all(self, handles: Any, timeout_s: float = 300.0) -> None:
        async def wait() -> None:
            for first in range(0, len(handles), _AWAITED_TOGETHER):
                some = handles[first : first + _AWAITED_TOGETHER]
                await asyncio.gather(*[_result(h, timeout_s, _MANY_CHECK_S) for h in some])

        self._loop.run_until_complete(wait())

    def close(self) -> None:
        try:
            self._loop.run_until_complete(asyncio.wait_for(broker.shutdown(), 5))
        except Exception as e:  # noqa: BLE001 - nothing is measured any more
            print(f"taskiq's client did not stop: {e}", file=sys.stderr)


async def _result(handle: Handle, timeout_s: float, check_s: float) -> object:
    try:
        result = await handle.wait_result(check_interval=check_s, timeout=timeout_s)
    except TaskiqResultTimeoutError:
        raise NotDone from None
    if result.is_err:
        raise TaskFailed(repr(result.error))
    return result.return_value
