"""A class archive for Spark's JVM, trained once: later runs start, and count, in a fraction of the time.

Spark's class path has hundreds of jars. Finding and verifying some 10,000 classes in them is most of the cost of a
start, and a backlog is first counted by code that Java has no profile of. `train` runs the real query once over a
broker and lets the JVM write an archive at its exit: the classes and, from Java 25 on, the profiles of their methods
(AOT cache). Without an archive, or with one for another Java or other jars, everything works, but slower.
"""

import hashlib
import os
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from headrace.installation import module_name

from ..setup import cache_dir
from .artifacts import artifact
from .java import SPARK_JAVA, java_version, spark_java_home
from .process import run_tied

_LONGEST_S = 300.0  # of a training run


def class_archive() -> Path:
    """Path of the archive for this environment's Spark and Java; in the environment, so that both go together.

    Where Python is the system's own, in the cache.
    """
    home, release = spark_java_home(), spark_java_home() / "release"
    parts = (str(home), release.read_text() if release.exists() else "", version("pyspark"), connector())
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    folder = cache_dir() if sys.prefix == sys.base_prefix else Path(sys.prefix)
    return folder / f"headrace-spark-{digest[:12]}.archive"


def options() -> list[str]:
    """The JVM options that use the archive; empty while there is none."""
    if not class_archive().exists():
        return []
    if _keeps_profiles():  # JDK-8364929: Java 25 mixes up stored adapters, notices it and warns on stdout
        return [f"-XX:AOTCache={class_archive()}", "-XX:+UnlockDiagnosticVMOptions", "-XX:-AOTAdapterCaching"]
    return [f"-XX:SharedArchiveFile={class_archive()}"]


def environ() -> dict[str, str]:
    """The environment variables for a process that starts Spark's driver: Java, class path, archive."""
    inherited = os.environ.get("SPARK_SUBMIT_OPTS", "")
    return _java() | {"SPARK_SUBMIT_OPTS": " ".join((*options(), inherited)).strip()}


def connector() -> str:
    """The jars of Spark's Kafka connector, in HEADRACE_SPARK_JARS' form."""
    return ",".join(sorted(str(p) for p in artifact("spark-kafka").glob("*.jar")))


def train(bootstrap: str) -> None:
    """Makes the archive with a broker that has the topics. CalledProcessError or TimeoutExpired when that fails."""
    archive = class_archive()
    for older in archive.parent.glob("headrace-spark-*"):
        older.unlink()
    for left in archive.parent.glob(".train-*"):  # of a training that was killed
        if time.time() - left.stat().st_mtime > 2 * _LONGEST_S:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".train-") as name:
        made = Path(name) / "archive"
        option = "AOTCacheOutput" if _keeps_profiles() else "ArchiveClassesAtExit"
        own = _java() | {"SPARK_SUBMIT_OPTS": f"-XX:{option}={made}"}
        command = [sys.executable, "-P", "-m", module_name("spark_analytics.training"), bootstrap, connector(), name]
        run_tied(command, timeout_s=_LONGEST_S, env={**os.environ, **own}).check_returncode()
        if made.exists():
            made.replace(archive)


def _java() -> dict[str, str]:
    """Adds the connector to the class path: the archive holds only classes from the JVM's initial class path."""
    return {"JAVA_HOME": str(spark_java_home()), "SPARK_DIST_CLASSPATH": connector().replace(",", os.pathsep)}


def _keeps_profiles() -> bool:
    return (java_version(spark_java_home() / "bin" / "java") or 0) >= SPARK_JAVA
