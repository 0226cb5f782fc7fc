"""Kafka as a stream: one source over the lifecycle topics and the dead letters, whose records `decoder` reads."""

from pyspark.sql import DataFrame, SparkSession

from headrace.settings import Settings

from .kafka_options import kafka_options

TOPICS = ("lifecycle.received", "lifecycle.started", "lifecycle.completed", "tasks.dead")
_TASKS_A_CORE = 4


def read_topics(spark: SparkSession, settings: Settings, *, batch_a_fetch: bool = False) -> DataFrame:
    """A stream of all topics' records, from the first on; each trigger reads up to the topics' ends.

    A batch has no size limit. With one, partitions would be read up to different times, and the events of the slower
    ones would look late. Nothing is held in memory for it: a batch's records stream through to disk. UsageError for
    HEADRACE_KAFKA_SECURITY; the query raises what goes wrong while it reads. With `batch_a_fetch` each fetch
    brings one batch of a partition: at an unknown codec Java's client loses all that the same fetch brought before it.
    """
    options = kafka_options(settings) | {
        "subscribe": ",".join(settings.topic_prefix + t for t in TOPICS),
        "startingOffsets": "earliest",
        "failOnDataLoss": "true",
        "kafka.fetch.max.wait.ms": "10",
        "kafka.max.poll.records": "2000",  # for a backlog: a quarter of the polls, and each consumer keeps little
        "kafka.max.partition.fetch.bytes": "1" if batch_a_fetch else str(4 * 2**20),
        "kafka.metric.reporters": "",  # else some hundred JMX beans for each consumer, and one for each partition
        "kafka.enable.metrics.push": "false",
        "includeHeaders": "true",
    }
    records = spark.readStream.format("kafka").options(**options).load()
    if not settings.spark_master.startswith("local"):  # executors come and go: the number of cores is not known
        return records
    # One Spark task reads several partitions in turn: with a task for each, a few events cost dozens of tasks.
    return records.coalesce(_TASKS_A_CORE * spark.sparkContext.defaultParallelism)
