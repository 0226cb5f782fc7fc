"""`make setup`: from nothing but Python 3.11 to 3.13 to a whole installation; done already, it takes no time.

Runs on the system's Python with the standard library alone. Everything downloaded stays in a cache outside the tree
(`HEADRACE_CACHE`, else `$XDG_CACHE_HOME/headrace` or `~/.cache/headrace`), so that a second run needs no network.
Says in a sentence what to do when something is missing, and exits with 2.
"""

import configparser
import hashlib
import importlib.util
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".headrace-setup"
LOCK = ROOT / "requirements.lock"
UV_LOCK = ROOT / "infra" / "requirements-uv.lock"
INPUTS = (
    LOCK,
    UV_LOCK,
    ROOT / "infra" / "requirements-jre.lock",
    ROOT / "pyproject.toml",
    ROOT / "infra" / "local" / "artifacts.py",
    ROOT / "infra" / "local" / "artifacts.lock",
)


class SetupError(Exception):
    """A sentence that says what is missing and what to do."""


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HEADRACE_CACHE") or Path(base) / "headrace").expanduser().absolute()


def main() -> int:
    try:
        check_python()
        state = digest()
        if STAMP.exists() and STAMP.read_text() == state:
            compile_ours()
            return 0
        set_up()
        compile_ours()
    except SetupError as e:
        print(f"setup: {e}", file=sys.stderr, flush=True)
        return 2
    except subprocess.CalledProcessError as e:
        print(
            f"setup: stopped at `{' '.join(map(str, e.cmd))[:100]}` (see above). {_NETWORK}",
            file=sys.stderr,
            flush=True,
        )
        return 2
    STAMP.write_text(state)
    say("done")
    return 0


def check_python() -> None:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise SetupError(
            f"Headrace needs Python 3.11, 3.12 or 3.13, and this is {sys.version.split()[0]}: "
            "install one of them, or name it, as in `make setup PYTHON=python3.12`"
        )


def digest() -> str:
    """Of everything that decides what is installed, and of where: an editable installation names its tree."""
    return hashlib.sha256(b"\0".join(p.read_bytes() for p in INPUTS) + str(ROOT).encode()).hexdigest()


def set_up() -> None:
    uv = find_uv()
    python = VENV / "bin" / "python"
    if not python.exists():  # also when it points at a Python that has gone
        run([str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)])
    say("Python packages")
    # Compiled once here, as our own: where Python may not write bytecode, every role would else compile it all.
    sync = [str(uv), "pip", "sync", "--python", str(VENV), "--compile-bytecode", "--require-hashes", str(LOCK)]
    if subprocess.run([*sync, "--offline", "--quiet"], env=environ(), stderr=subprocess.DEVNULL).returncode:
        say("downloading them; the first time this takes some minutes")
        run(sync)
    run(
        [
            str(uv),
            "pip",
            "install",
            "--quiet",
            "--offline",
            "--python",
            str(VENV),
            "--no-deps",
            "--no-build-isolation",
            "-e",
            str(ROOT),
        ]
    )
    run([str(python), "-m", "infra.local.prepare"])


def compile_ours() -> None:
    """What has changed since: where Python may not write bytecode, every process would else compile it all anew.

    Speed is all that it is for, so a failure is nobody's business.
    """
    packages = [str(p.parent) for p in sorted(ROOT.glob("*/__init__.py"))]
    subprocess.run([str(VENV / "bin" / "python"), "-m", "compileall", "-qq", *packages])


def find_uv() -> Path:
    """The locked uv, a single program in the cache; fetched with pip, by its hash, when it is not there yet."""
    home = cache_dir() / "tools" / f"uv-{hashlib.sha256(UV_LOCK.read_bytes()).hexdigest()[:12]}"
    uv = home / "uv"
    if uv.exists():
        return uv
    say("uv, which installs the rest")
    home.mkdir(parents=True, exist_ok=True)
    have_ensurepip()
    with tempfile.TemporaryDirectory(dir=home) as name:
        venv.create(name, with_pip=True)
        pip = [f"{name}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        run([*pip, "--require-hashes", "-r", str(UV_LOCK)])
        os.replace(f"{name}/bin/uv", uv)
    return uv


def have_ensurepip() -> None:
    """What `venv` takes pip from: Debian and Ubuntu ship it apart from Python, and root can fetch it in one command."""
    if importlib.util.find_spec("ensurepip") is not None:
        return
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if can_apt():
        say(f"{package}, which this system keeps apart from Python")
        apt_install(package)
        importlib.invalidate_caches()
        if importlib.util.find_spec("ensurepip") is not None:
            return
    raise SetupError(
        f"this Python cannot make environments: install its venv module (Debian and Ubuntu: apt install {package})"
    )


def can_apt() -> bool:
    """Whether a system package is one command away: Debian and Ubuntu, as root."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(package: str) -> bool:
    """Installs a system package; False when it did not arrive."""
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return not any(
        subprocess.run(["apt-get", *arguments], env=environ, stdin=subprocess.DEVNULL).returncode
        for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", package])
    )


def environ() -> dict[str, str]:
    """Ours, with uv's cache in our own, and pip's index and certificates: uv does not read pip's settings."""
    found = {**os.environ, "UV_CACHE_DIR": str(cache_dir() / "uv"), "UV_LINK_MODE": "copy"}
    found.setdefault("UV_HTTP_TIMEOUT", "180")
    if not found.get("UV_DEFAULT_INDEX") and (index := found.get("PIP_INDEX_URL") or pip_config("global.index-url")):
        found["UV_DEFAULT_INDEX"] = index
    if not found.get("SSL_CERT_FILE"):
        if certificates := found.get("PIP_CERT") or pip_config("global.cert"):
            found["SSL_CERT_FILE"] = certificates
        elif ssl.get_default_verify_paths().cafile:  # as pip does, and as a network with a CA of its own needs
            found.setdefault("UV_SYSTEM_CERTS", "true")
    return found


def pip_config(name: str) -> str:
    """What someone has set in pip's configuration files, or nothing; read here, since a system may lack pip itself."""
    section, _, option = name.partition(".")
    home = Path.home()
    places = (
        Path("/etc/xdg/pip/pip.conf"),
        Path("/etc/pip.conf"),
        home / ".pip" / "pip.conf",
        Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf",
        Path(os.environ.get("PIP_CONFIG_FILE") or os.devnull),
    )
    found = configparser.RawConfigParser()
    try:
        found.read(places)  # the later ones win
    except (configparser.Error, UnicodeDecodeError) as e:
        raise SetupError(f"pip's configuration cannot be read: {e}") from None
    return found.get(section, option, fallback="")


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, env=environ(), cwd=ROOT)


def say(text: str) -> None:
    print(f"setup: {text}", flush=True)


_NETWORK = "The first run downloads packages: check the network, then run `make setup` again; what has arrived is kept."


if __name__ == "__main__":
    sys.exit(main())
