"""Taskiq on Kafka, one task at a time in each of two processes, results in Redis. The worker imports this module too.

Offsets are committed every 5 s whether a task has ended or not: it loses tasks in crashes. A group is set here, as
without one every process would run every task.
"""

import asyncio
import sys
from typing import Any

from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.producer.producer import DefaultPartitioner
from kafka.admin import KafkaAdminClient, NewTopic
from taskiq.exceptions import TaskiqResultTimeoutError
from taskiq_aio_kafka import AioKafkaBroker
from taskiq_redis import RedisAsyncResultBackend

from .. import work
from ..asyncio_system import AsyncioSystem
from ..bench import Bench
from ..redis_flush import flush
from ..system import Handle, NotDone, TaskFailed, module_of

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


class Sys(AsyncioSystem):
    worker_first = True
    sent_together = 500  # aiokafka batches what is under way together

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
        self.open_loop()
        self._loop.run_until_complete(broker.startup())

    async def enqueue(self, name: str, args: tuple[Any, ...]) -> Handle:
        return await TASKS[name].kiq(*args)

    async def result(self, handle: Handle, timeout_s: float, check_s: float) -> object:
        try:
            result = await handle.wait_result(check_interval=check_s, timeout=timeout_s)
        except TaskiqResultTimeoutError:
            raise NotDone from None
        if result.is_err:
            raise TaskFailed(repr(result.error))
        return result.return_value

    def close(self) -> None:
        try:
            self._loop.run_until_complete(asyncio.wait_for(broker.shutdown(), 5))
        except Exception as e:  # noqa: BLE001 - nothing is measured any more
            print(f"taskiq's client did not stop: {e}", file=sys.stderr)
