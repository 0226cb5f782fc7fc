"""The last step of `make setup`: Java, the downloaded artifacts, and the class archives made from them.

`python -m infra.local.prepare`; exits with 2 and a message when a download fails. `up` itself fetches what is missing
later, for example after the cache was cleared.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from headrace.errors import HeadraceError
from headrace.kafka.topics import apply_topics

from . import spark_archive
from .artifacts import ARTIFACTS, artifact, forget_downloads
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
