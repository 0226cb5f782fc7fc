"""Java, the downloaded artifacts, and the class archives made from them: what the first start of `up` needs.

The last step of `make setup` (`python -m infra.local.prepare`, which exits with 2 when a download fails), and the first
step of the first `up` of an installation from a wheel. `up` itself fetches what is missing later, for example after the
cache was cleared.
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
from headrace.errors import HeadraceError
from headrace.installation import missing_packages
from headrace.kafka.topics import apply_topics
from headrace.settings import Settings

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
        prepare(kafka=True, database=True, statistics=True)
    except HeadraceError as e:
        print(f"setup: {e}", file=sys.stderr)
        return 2
    return 0


def prepare_once(settings: Settings) -> None:
    """Prepares what an `up` with these settings needs, at the first one of an installation; UsageError as `prepare`.

    A wheel has no setup step of its own. Must be called in the main thread: a stop signal ends the downloads too.
    """
    stamp = _stamp()
    if stamp.exists():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    prepare(
        kafka=not settings.kafka,
        database=not settings.database,
        statistics=not missing_packages("analytics"),
    )


def prepare(*, kafka: bool, database: bool, statistics: bool) -> None:
    """Downloads what is missing and trains the class archives, each once.

    UsageError when Kafka cannot be downloaded; what only the statistics need may be missing, and is reported.
    """
    wanted = [*(("kafka", "kafka-logging") if kafka else ()), *(("mariadb",) if database else ())]
    wanted += ["spark-kafka"] if statistics else []
    if any(not ARTIFACTS[name].folder.is_dir() for name in wanted):
        print("setup: the first start downloads what it needs, once; this takes some minutes", flush=True)
    if kafka:
        artifact("kafka")
        artifact("kafka-logging")
        train_class_archive()
    try:
        for name in wanted:
            artifact(name)
        forget_downloads()
        if statistics and kafka:
            train_spark()
        if database:
            server_home()
    except HeadraceError as e:
        print(f"setup: {e}", file=sys.stderr, flush=True)
        return  # the rest works without it, and the next start tries again
    with contextlib.suppress(OSError):  # a cache that this user may only read
        _stamp().touch()


def _stamp() -> Path:
    """Exists once this installation, as it is now, was prepared."""
    parts = (sys.prefix, __version__, LOCK.read_text())
    return cache_dir() / f"prepared-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


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
