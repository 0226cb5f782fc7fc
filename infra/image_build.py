"""The image without a container engine: `python -m infra.image_build` (Debian, as root).

debootstrap makes the base, buildah runs the Dockerfile over it in a chroot. All of it stays in the cache outside the
tree: what has not changed is not built again, and a second run needs no network. Names the image at the end.
`… tools` installs the tools where that is one command. UsageError says what is missing, or which step went wrong.
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
from infra.setup import ROOT, cache_dir, environ

TOOLS = ("debootstrap", "buildah", "runc")
_SUITE = "bookworm"
_CERTIFICATES = Path("/usr/local/share/ca-certificates")  # what an administrator has added to the machine's trust
_MOST_BYTES = 12 * 10**9  # one build is 4 GB; above this the next one starts from nothing, but for its downloads


def missing_tools() -> str:
    """Why no image can be built and run here, in words, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "building and running the image takes root on Linux"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"{', '.join(missing)} not installed (Debian: apt install {' '.join(missing)})" if missing else ""


def build() -> str:
    """The image of this tree, built if it is not there; its name in our store (see `buildah`)."""
    if why := missing_tools():
        raise UsageError(f"the image cannot be built here: {why}")
    with _store():
        name = f"localhost/headrace:{_key()}"
        if not _has(name):
            begun = time.monotonic()
            base = _base()
            _bound()
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
    """An image from the Dockerfile in `folder`, where `headrace` is that image."""
    with _store():
        buildah("tag", image, "localhost/headrace:latest")
        buildah("bud", "--isolation=chroot", "--format=docker", "--tag=localhost/headrace-own", str(folder))
    return "localhost/headrace-own"


def buildah(*arguments: str) -> str:
    """Runs buildah on our own store and returns what it prints; UsageError with its last words when it fails."""
    home = cache_dir() / "image"
    place = ["--storage-driver=overlay", f"--root={home / 'root'}", f"--runroot={home / 'run'}"]
    # Its cache mounts, in which packages are kept between builds, lie in its temporary directory.
    found = {**os.environ, "TMPDIR": str(home / "tmp")}
    out, err = home / f"{arguments[0]}.out", home / f"{arguments[0]}.log"
    with out.open("w") as out_file, err.open("w") as err_file:
        done = subprocess.run(["buildah", *place, *arguments], cwd=ROOT, env=found, stdout=out_file, stderr=err_file)
    printed = out.read_text()
    if done.returncode:
        tail = "\n".join((printed + err.read_text()).splitlines()[-20:])
        raise UsageError(f"buildah {arguments[0]} failed (all of it: {out} and {err.name}):\n{tail}")
    return printed.strip()


@contextmanager
def _store() -> Iterator[None]:
    """Our store, held against another build; what a boot before this one had mounted is forgotten."""
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
    """Of every file that goes into the image, by the list that the build itself keeps to, and of the base's."""
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    tops = [ROOT / line[1:] for line in ignore if line.startswith("!")]
    out = [ROOT / line for line in ignore if line[:1] not in ("!", "#", "*", "")]
    files = [ROOT / "Dockerfile", ROOT / ".dockerignore"]
    files += [p for top in tops for p in sorted(top.rglob("*") if top.is_dir() else [top]) if p.is_file()]
    digest = hashlib.sha256(_base_key().encode())
    for path in files:
        if "__pycache__" not in path.parts and not any(path.is_relative_to(o) for o in out):
            digest.update(f"\0{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _base_key() -> str:
    return hashlib.sha256(b"\0".join([_SUITE.encode(), *(p.read_bytes() for p in _certificates())])).hexdigest()[:12]


def _certificates() -> list[Path]:
    return sorted(_CERTIFICATES.glob("*.crt"))


def _has(name: str) -> bool:
    return bool(buildah("images", "--quiet", "--filter", f"reference={name}"))


def _base() -> str:
    """A minimal Debian that trusts what this machine trusts, as an image."""
    name = f"localhost/headrace-base:{_base_key()}"
    if _has(name):
        return name
    print(f"image: a base of Debian {_SUITE}", flush=True)
    with tempfile.TemporaryDirectory(dir=cache_dir() / "image" / "tmp") as folder:
        root = Path(folder) / "root"
        bootstrap = ["debootstrap", "--variant=minbase", "--include=ca-certificates", _SUITE, str(root)]
        done = subprocess.run(bootstrap, capture_output=True, text=True)
        if done.returncode:
            tail = "\n".join(done.stdout.splitlines()[-5:])
            raise UsageError(f"debootstrap made no base: check the network, then try again.\n{tail}")
        shutil.rmtree(root / "var" / "cache" / "apt", ignore_errors=True)
        for certificate in _certificates():
            shutil.copy(certificate, root / _CERTIFICATES.relative_to("/"))
        subprocess.run(["chroot", root, "update-ca-certificates"], check=True, capture_output=True)
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, str(root), "/")
        buildah("commit", "--quiet", "--rm", container, name)
    return name


def _bound() -> None:
    """Old layers go, all at once, when they have become many: an engine would ask a person to prune."""
    used = subprocess.run(["du", "-s", "-B1", cache_dir() / "image" / "root"], capture_output=True, text=True).stdout
    if int(used.split()[0]) > _MOST_BYTES:
        for image in buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines():
            if image.startswith("localhost/headrace:"):
                buildah("rmi", image)
        buildah("rmi", "--prune")


@contextmanager
def _pip_configuration() -> Iterator[list[str]]:
    """This machine's package index for the build, if it has one of its own; a secret, so that no layer keeps it."""
    index = environ().get("UV_DEFAULT_INDEX")
    if not index:
        yield []
        return
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"[global]\nindex-url = {index}\n")
        file.flush()
        yield [f"--secret=id=pip,src={file.name}"]


def install_tools() -> None:
    """What is missing, with apt where we may use it."""
    if not missing_tools() or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *TOOLS]):
        if subprocess.run(["apt-get", *arguments], env=quiet, stdin=subprocess.DEVNULL).returncode:
            raise UsageError("the tools that build the image could not be installed: check the network")


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
