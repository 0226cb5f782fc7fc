"""`make setup`: from nothing but Python 3.11–3.13 to a whole installation; done already, it takes no time.

Runs on the system's Python with the standard library alone. Everything downloaded stays in a cache outside the tree
(`HEADRACE_CACHE`, else `$XDG_CACHE_HOME/headrace` or `~/.cache/headrace`), so that a second run needs no network.
Says in a sentence what to do when something is missing, and exits with 2.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".headrace-setup"
LOCK = ROOT / "requirements.lock"
UV_LOCK = ROOT / "infra" / "requirements-uv.lock"
INPUTS = (LOCK, UV_LOCK, ROOT / "pyproject.toml", ROOT / "infra" / "local" / "artifacts.py")


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("HEADRACE_CACHE") or Path(base) / "headrace")


def main() -> int:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return fail(f"Headrace needs Python 3.11, 3.12 or 3.13, and this is {sys.version.split()[0]}: run `make PYTHON=python3.12 …`")
    state = digest()
    if STAMP.exists() and STAMP.read_text() == state:
        return 0
    try:
        uv = find_uv()
        say("python packages …")
        if not (VENV / "bin" / "python").exists():
            run([str(uv), "venv", "--quiet", "--python", sys.executable, str(VENV)])
        install(uv)
        run([str(VENV / "bin" / "python"), "-m", "infra.local.artifacts"])
    except subprocess.CalledProcessError as e:
        return fail(
            f"set-up stopped at `{Path(e.cmd[0]).name} {' '.join(map(str, e.cmd[1:4]))} …` (see above). "
            "The first run downloads packages: check the network and run `make setup` again; what has arrived is kept."
        )
    STAMP.write_text(state)
    say("set-up done")
    return 0


def digest() -> str:
    return hashlib.sha256(b"\0".join(p.read_bytes() for p in INPUTS) + str(ROOT).encode()).hexdigest()


def find_uv() -> Path:
    """uv, at the locked version, in a small environment of its own in the cache."""
    home = cache_dir() / "tools" / f"uv-{hashlib.sha256(UV_LOCK.read_bytes()).hexdigest()[:12]}-py3{sys.version_info[1]}"
    if not (home / "bin" / "uv").exists():
        say("uv …")
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        run([str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(UV_LOCK)])
    return home / "bin" / "uv"


def install(uv: Path) -> None:
    """Locked packages, then Headrace itself, editable; from the cache alone where the cache has all."""
    sync = [str(uv), "pip", "sync", "--python", str(VENV), "--require-hashes", str(LOCK)]
    if subprocess.run([*sync, "--offline", "--quiet"], env=environ(), stderr=subprocess.DEVNULL).returncode:
        run(sync)
    run([str(uv), "pip", "install", "--quiet", "--offline", "--python", str(VENV), "--no-deps", "--no-build-isolation", "-e", str(ROOT)])


def environ() -> dict[str, str]:
    found = {**os.environ, "UV_CACHE_DIR": str(cache_dir() / "uv"), "UV_HTTP_TIMEOUT": "180"}
    # uv does not read pip's settings: who has pointed pip at another index means uv too
    if index := os.environ.get("PIP_INDEX_URL"):
        found.setdefault("UV_DEFAULT_INDEX", index)
    return found


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, env=environ(), cwd=ROOT)


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def fail(text: str) -> int:
    print(f"setup: {text}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
