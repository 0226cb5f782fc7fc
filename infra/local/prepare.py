"""Java, the downloaded artifacts, and the class archives made from them: what the first start of `up` needs.

The last step of `make setup`: `python -m infra.local.prepare`, which exits with 2 and a message when a download fails.
An installation from a wheel has no setup: there `up` calls `prepare_kafka` and `prepare_statistics`. It also fetches
what is missing later, for example after the cache was cleared.
"""

import contextlib
import hashlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace import __version__
from headrace.errors import HeadraceError, UsageError
from headrace.installation import missing_packages
from headrace.kafka.topics import apply_topics

from ..setup import cache_dir
from . import spark_archive
from .artifacts import ARTIFACTS, LOCK, artifact, forget_downloads
from .database import server_home
from .java import fetch_spark_java
from .kafka import EmbeddedKafka, class_archive
from .process import free_port
from .warmup import warm_up


def main() -> int:
    try:
        for name in ARTIFACTS:
            artifact(name)
        forget_downloads()
        train_class_archive()
        train_spark()
    except HeadraceError as e:
        print(f"setup: {e}", file=sys.stderr)
        return 2
    try:
        server_home()
    except HeadraceError as e:
        print(f"setup: {e}", file=sys.stderr)  # the rest works without it
    return 0


def prepare_kafka() -> None:
    """Before `up` starts its broker: downloads Kafka, once, and trains its class archive.

    UsageError when the download fails or its tool is missing. Must be called in the main thread: SIGTERM ends a
    download as Ctrl-C does.
    """
    if _is_prepared("kafka"):
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if not ARTIFACTS["kafka"].folder.is_dir():
        if missing_packages("analytics"):
            raise UsageError(
                "the embedded Kafka is downloaded with a tool that comes with Spark: "
                "pip install 'headrace[analytics]', or give a Kafka of your own in HEADRACE_KAFKA"
            )
        print("setup: the first start downloads what it needs, once", flush=True)
    artifact("kafka")
    artifact("kafka-logging")
    train_class_archive()
    _set_prepared("kafka")


def prepare_statistics() -> None:
    """Before `up` starts the statistics, and beside all else: the same for Spark. UsageError when a download fails."""
    if _is_prepared("statistics"):
        return
    artifact("spark-kafka")
    if ARTIFACTS["kafka"].folder.is_dir():  # the training's broker; an `up` on another Kafka need not download one
        train_spark()
    forget_downloads()
    _set_prepared("statistics")


def _is_prepared(what: str) -> bool:
    return _stamp(what).exists()


def _set_prepared(what: str) -> None:
    """A training that failed is not tried again at every start."""
    with contextlib.suppress(OSError):  # a cache that this user may only read
        _stamp(what).touch()


def _stamp(what: str) -> Path:
    """Its existence says that this installation, as it is now, was prepared."""
    parts = (sys.prefix, __version__, LOCK.read_text())
    return cache_dir() / f"prepared-{what}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def train_class_archive() -> None:
    """Runs a broker once and keeps its loaded classes, which halves every later start. A failure only costs speed."""
    archive = class_archive()
    if archive.exists():
        return
    print("setup: training Kafka's class archive, so that later starts are fast", flush=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".train-") as name:
        made = Path(name) / "archive"
        kafka = EmbeddedKafka(Path(name), f"127.0.0.1:{free_port()}", jvm_options=(f"-XX:ArchiveClassesAtExit={made}",))
        try:
            kafka.start()
            apply_topics(AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0}), partitions=1)
            warm_up(kafka.bootstrap, round_trips=50)
            kafka.stop(60)
        except (HeadraceError, KafkaException) as e:
            print(f"setup: the training failed and was skipped ({e})", file=sys.stderr)
        finally:
            kafka.kill()
        if made.exists():
            made.replace(archive)


def train_spark() -> None:
    """The same for the statistics' Spark, over a broker of its own; Java 25 also keeps method profiles."""
    if not fetch_spark_java():
        print("setup: Java 25 could not be downloaded: Spark runs on this machine's Java, and starts more slowly")
    if spark_archive.class_archive().exists():
        return
    print("setup: training Spark's class archive, so that later starts are fast", flush=True)
    with tempfile.TemporaryDirectory(prefix="headrace-train-") as name:
        kafka = EmbeddedKafka(Path(name), f"127.0.0.1:{free_port()}")
        try:
            kafka.start()
            apply_topics(AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0}), partitions=4)
            spark_archive.train(kafka.bootstrap)
        except (HeadraceError, KafkaException, subprocess.SubprocessError, OSError) as e:
            print(f"setup: the training failed and was skipped ({e})", file=sys.stderr)
        finally:
            kafka.kill()


if __name__ == "__main__":
    sys.exit(main())
