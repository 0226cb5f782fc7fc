"""The image without a container engine: `python -m infra.image.build` (Debian, as root).

debootstrap makes the base image, and buildah runs the Dockerfile over it in a chroot. Everything stays in the cache
outside the tree: unchanged layers are not built again, and a second run needs no network. Prints the image's name at
the end. `… tools` installs the tools where apt can do it. UsageError names the missing tool or the step that failed.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.errors import HeadraceError, UsageError

from ..setup import ROOT, cache_dir, environ

TOOLS = ("debootstrap", "buildah", "runc")
_SUITE = "bookworm"
_CERTIFICATES = Path("/usr/local/share/ca-certificates")  # added by the machine's administrator
_MOST_BYTES = 12 * 10**9  # one build is 4 GB; above this the next one starts over, and only downloads are kept


def missing_tools() -> str:
    """The reason why no image can be built and run here, or an empty text."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "building and running the image needs root on Linux"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"{', '.join(missing)} not installed (Debian: apt install {' '.join(missing)})" if missing else ""


def build() -> str:
    """Builds the image of this tree unless it exists; returns its name in our store (see `buildah`)."""
    if why := missing_tools():
        raise UsageError(f"the image cannot be built here: {why}")
    with _store():
        name = f"localhost/headrace:{_key()}"
        if not _has(name):
            begun = time.monotonic()
            base = _base()
            _prune()
            print(f"image: building {name}; the first time this takes some minutes", flush=True)
            with _pip_configuration() as secret:
                buildah(
                    "bud",
                    "--layers",
                    "--isolation=chroot",
                    "--format=docker",
                    *secret,
                    f"--build-arg=BASE={base}",
                    f"--tag={name}",
                    ".",
                )
            print(f"image: built in {time.monotonic() - begun:.0f} s", flush=True)
        return name


def build_on(image: str, folder: Path) -> str:
    """Builds an image from the Dockerfile in `folder`, in which the name `headrace` stands for `image`."""
    with _store():
        buildah("tag", image, "localhost/headrace:latest")
        buildah("bud", "--isolation=chroot", "--format=docker", "--tag=localhost/headrace-own", str(folder))
    return "localhost/headrace-own"


def buildah(*arguments: str) -> str:
    """Runs buildah on our own store and returns its output; UsageError with the last lines when it fails."""
    home = cache_dir() / "image"
    place = ["--storage-driver=overlay", f"--root={home / 'root'}", f"--runroot={home / 'run'}"]
    # buildah keeps its cache mounts, and so the downloaded packages, in the temporary directory.
    variables = {**os.environ, "TMPDIR": str(home / "tmp")}
    out, err = home / f"{arguments[0]}.out", home / f"{arguments[0]}.log"
    with out.open("w") as out_file, err.open("w") as err_file:
        done = subprocess.run(
            ["buildah", *place, *arguments], cwd=ROOT, env=variables, stdout=out_file, stderr=err_file
        )
    printed = out.read_text()
    if done.returncode:
        tail = "\n".join((printed + err.read_text()).splitlines()[-20:])
        raise UsageError(f"buildah {arguments[0]} failed (full output: {out} and {err.name}):\n{tail}")
    return printed.strip()


@contextmanager
def _store() -> Iterator[None]:
    """Locks our store against other builds; forgets the mounts of an earlier boot of this machine."""
    home = cache_dir() / "image"
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.seek(0)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        if held.read() != boot:
            shutil.rmtree(home / "run", ignore_errors=True)
            held.truncate(0)
            held.write(boot)
            held.flush()
        yield


def _key() -> str:
    """A digest of the base and of every file that .dockerignore lets into the image."""
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    tops = [ROOT / line[1:] for line in ignore if line.startswith("!")]
    excluded = [ROOT / line for line in ignore if line[:1] not in ("!", "#", "*", "")]
    files = [ROOT / "Dockerfile", ROOT / ".dockerignore"]
    files += [p for top in tops for p in sorted(top.rglob("*") if top.is_dir() else [top]) if p.is_file()]
    digest = hashlib.sha256(_base_key().encode())
    for path in files:
        if "__pycache__" not in path.parts and not any(path.is_relative_to(o) for o in excluded):
            digest.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _base_key() -> str:
    return hashlib.sha256(b"\0".join([_SUITE.encode(), *(p.read_bytes() for p in _certificates())])).hexdigest()[:12]


def _certificates() -> list[Path]:
    return sorted(_CERTIFICATES.glob("*.crt"))


def _has(name: str) -> bool:
    return bool(buildah("images", "--quiet", "--filter", f"reference={name}"))


def _base() -> str:
    """The name of an image with a minimal Debian that trusts the CAs of this machine; made when it is missing."""
    name = f"localhost/headrace-base:{_base_key()}"
    if _has(name):
        return name
    print(f"image: making a base image with Debian {_SUITE}", flush=True)
    with tempfile.TemporaryDirectory(dir=cache_dir() / "image" / "tmp") as folder:
        root = Path(folder) / "root"
        bootstrap = ["debootstrap", "--variant=minbase", "--include=ca-certificates", _SUITE, str(root)]
        done = subprocess.run(bootstrap, capture_output=True, text=True)
        if done.returncode:
            tail = "\n".join(done.stdout.splitlines()[-5:])
            raise UsageError(f"debootstrap failed: check the network, then try again.\n{tail}")
        shutil.rmtree(root / "var" / "cache" / "apt", ignore_errors=True)
        for certificate in _certificates():
            shutil.copy(certificate, root / _CERTIFICATES.relative_to("/"))
        subprocess.run(["chroot", root, "update-ca-certificates"], check=True, capture_output=True)
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, str(root), "/")
        buildah("commit", "--quiet", "--rm", container, name)
    return name


def _prune() -> None:
    """Removes all old layers once they take more than `_MOST_BYTES`."""
    used = subprocess.run(["du", "-s", "-B1", cache_dir() / "image" / "root"], capture_output=True, text=True).stdout
    if int(used.split()[0]) > _MOST_BYTES:
        for image in buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
            if image.startswith("localhost/headrace:"):
                buildah("rmi", image)
        buildah("rmi", "--prune")


@contextmanager
def _pip_configuration() -> Iterator[list[str]]:
    """Buildah options with this machine's package index, if it has one; as a secret, so that no layer keeps it."""
    index = environ().get("UV_DEFAULT_INDEX")
    if not index:
        yield []
        return
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"[global]\nindex-url = {index}\n")
        file.flush()
        yield [f"--secret=id=pip,src={file.name}"]


def install_tools() -> None:
    """Installs missing tools with apt, where root and apt are available."""
    if not missing_tools() or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *TOOLS]):
        if subprocess.run(["apt-get", *arguments], env=quiet, stdin=subprocess.DEVNULL).returncode:
            raise UsageError("the tools for building the image could not be installed: check the network")


def main(arguments: list[str]) -> int:
    try:
        if arguments == ["tools"]:
            install_tools()
        else:
            print(f"image: {build()}", flush=True)
    except HeadraceError as e:
        print(f"image: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
