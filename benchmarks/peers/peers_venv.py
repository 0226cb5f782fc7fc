"""The virtual environment of the peers: what `requirements.lock` beside this file lists, apart from Headrace's own.

It stays in the cache (`infra.setup.cache_dir`), named after the lock, so that a second run needs no network.
CalledProcessError when the packages can be neither found in uv's cache nor downloaded.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from infra.setup import cache_dir, environ, find_uv

LOCK = Path(__file__).with_name("requirements.lock")


def peers_python() -> Path:
    """The Python of the environment, which is made when it is missing."""
    digest = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = cache_dir() / f"peers-{digest}"
    python, complete = home / "bin" / "python", home / "complete"
    if not complete.exists():
        print(f"installing Headrace's peers into {home}", flush=True)
        uv = str(find_uv())
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)])
        sync = [
            uv,
            "pip",
            "sync",
            "--quiet",
            "--python",
            str(home),
            "--compile-bytecode",
            "--require-hashes",
            str(LOCK),
        ]
        if subprocess.run([*sync, "--offline"], env=environ(), stderr=subprocess.DEVNULL).returncode:
            _run(sync)
        complete.touch()
    return python


def _run(command: list[str]) -> None:
    subprocess.run(command, env=environ(), check=True)
