"""`make setup`: a whole installation from Python 3.11 to 3.13 alone; does nothing when it is up to date.

Runs on the system's Python with only the standard library. Downloads stay in a cache outside the tree
(`HEADRACE_CACHE`, else `$XDG_CACHE_HOME/headrace` or `~/.cache/headrace`), so that a second run needs no network. When
something is missing, it prints what to do and exits with 2.
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
UV_LOCK = Path(__file__).with_name("requirements-uv.lock")
INPUTS = (
    LOCK,
    UV_LOCK,
    ROOT / "infra" / "requirements-jre.lock",
    ROOT / "pyproject.toml",
    ROOT / "infra" / "local" / "artifacts.py",
    ROOT / "infra" / "local" / "artifacts.lock",
)


class SetupError(Exception):
    """The message says what is missing and what to do."""


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
            f"setup: this command failed: `{' '.join(map(str, e.cmd))[:100]}` (see above). {_NETWORK}",
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
            "install one of them, or name an installed one, as in `make setup PYTHON=python3.12`"
        )


def digest() -> str:
    """Of all files that decide what is installed, and of the tree's path, which an editable installation contains."""
    return hashlib.sha256(b"\0".join(p.read_bytes() for p in INPUTS) + str(ROOT).encode()).hexdigest()


def set_up() -> None:
    uv = find_uv()
    python = VENV / "bin" / "python"
    if not python.exists():  # or a link to a Python that no longer exists
        run([str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(VENV)])
    say("installing Python packages")
    # Compiled here once: with PYTHONDONTWRITEBYTECODE every role would otherwise compile all of it at start.
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
    """Compiles changed modules of the tree, for environments in which Python may not write bytecode.

    It only saves time, so a failure is ignored.
    """
    packages = [str(p.parent) for p in sorted(ROOT.glob("*/__init__.py"))]
    subprocess.run([str(VENV / "bin" / "python"), "-m", "compileall", "-qq", *packages])


def find_uv() -> Path:
    """The locked uv, a single program in the cache; pip fetches it by its hash when it is missing."""
    home = cache_dir() / "tools" / f"uv-{hashlib.sha256(UV_LOCK.read_bytes()).hexdigest()[:12]}"
    uv = home / "uv"
    if uv.exists():
        return uv
    say("installing uv, which installs the rest")
    home.mkdir(parents=True, exist_ok=True)
    have_ensurepip()
    with tempfile.TemporaryDirectory(dir=home) as name:
        venv.create(name, with_pip=True)
        pip = [f"{name}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        run([*pip, "--require-hashes", "-r", str(UV_LOCK)])
        os.replace(f"{name}/bin/uv", uv)
    return uv


def have_ensurepip() -> None:
    """Installs ensurepip, from which `venv` takes pip, where Debian or Ubuntu package it apart from Python.

    SetupError when it is missing and cannot be installed.
    """
    if importlib.util.find_spec("ensurepip") is not None:
        return
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if can_apt():
        say(f"installing {package}, which this system packages apart from Python")
        apt_install(package)
        importlib.invalidate_caches()
        if importlib.util.find_spec("ensurepip") is not None:
            return
    raise SetupError(
        "this Python cannot create virtual environments: install its venv module "
        f"(Debian and Ubuntu: apt install {package})"
    )


def can_apt() -> bool:
    """Whether apt can install system packages: Debian and Ubuntu, as root."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(package: str) -> bool:
    """Installs a system package; False when that failed."""
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return not any(
        subprocess.run(["apt-get", *arguments], env=environ, stdin=subprocess.DEVNULL).returncode
        for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", package])
    )


def environ() -> dict[str, str]:
    """Our environment for uv: its cache inside ours, and pip's index and certificates, as uv ignores pip's settings."""
    found = {**os.environ, "UV_CACHE_DIR": str(cache_dir() / "uv"), "UV_LINK_MODE": "copy"}
    found.setdefault("UV_HTTP_TIMEOUT", "180")
    if not found.get("UV_DEFAULT_INDEX") and (index := found.get("PIP_INDEX_URL") or pip_config("global.index-url")):
        found["UV_DEFAULT_INDEX"] = index
    if not found.get("SSL_CERT_FILE"):
        if certificates := found.get("PIP_CERT") or pip_config("global.cert"):
            found["SSL_CERT_FILE"] = certificates
        elif ssl.get_default_verify_paths().cafile:  # as pip does; networks with a CA of their own need it
            found.setdefault("UV_SYSTEM_CERTS", "true")
    return found


def pip_config(name: str) -> str:
    """A setting from pip's configuration files, or an empty text; read here because pip itself may be missing."""
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


_NETWORK = (
    "The first run downloads packages: check the network, then run `make setup` again; finished downloads are kept."
)


if __name__ == "__main__":
    sys.exit(main())
