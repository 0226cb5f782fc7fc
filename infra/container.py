"""Services of compose.yaml as containers under runc, which is what an engine runs them under too.

A `Machine` has the image's root file system and the folder of volumes; its `container(name)` is one service, with what
compose and the image say: user, read-only root, no capabilities, tmpfs with an engine's options, volumes that take the
owner of what they cover, secrets by file, health check. Two things differ: the network is this machine's, and
what the caller replaces so that services find their broker. Used by `image_check` and its tests; Linux, as root.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from infra.image_build import buildah
from infra.local.service import Service
from infra.setup import ROOT, cache_dir

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
_ONCE_S = 180.0
_EXEC_S = 60.0  # above every health check's own patience; an engine would count the slow one as failed and ask again


class Machine:
    """Where containers of one image run. `folder` keeps volumes, secrets and logs; `replace` maps text in what
    compose says to what stands for it here (kafka:9092 -> an address); `secrets` are the files' contents."""

    def __init__(self, image: str, root: Path, config: Mapping[str, Any], folder: Path) -> None:
        self.image = image
        self.root = root
        self.config = config
        self.folder = folder
        self.replace: dict[str, str] = {}
        self.secrets: dict[str, str] = {}
        names = " ".join([*COMPOSE["services"], "localhost"])
        (folder / "hosts").write_text(f"127.0.0.1 {names}\n")

    def container(self, service: str, **environ: str) -> "Container":
        """The service, not started; `environ` goes over its own."""
        said = self._replaced(interpolated(COMPOSE, {})["services"][service])
        said["environment"] = {**said.get("environment", {}), **environ}
        return Container(service, self, said)

    def once(self, command: list[str], *, entrypoint: list[str] | None = None, **environ: str) -> str:
        """Runs one command in a container of its own until it ends; what it printed. AssertionError when it fails."""
        said = {**COMPOSE["x-role"], "command": command, "environment": environ}
        container = Container("once", self, said | ({"entrypoint": entrypoint} if entrypoint else {}))
        container.log.unlink(missing_ok=True)
        container.launch()
        container.wait(_ONCE_S)
        container.kill()
        printed = container.log.read_text()
        assert container.returncode == 0, f"{command}: {container.returncode}\n{printed}"
        return printed

    def _replaced(self, said: Any) -> Any:
        return _each_text(said, lambda text: reduce(lambda t, pair: t.replace(*pair), self.replace.items(), text))


class Container(Service):
    """One container; ready when its health check says so. `kill` ends all in it at once, as a lost machine would."""

    def __init__(self, name: str, machine: Machine, said: Mapping[str, Any]) -> None:
        super().__init__(name, machine.folder / "logs" / f"{name}.log")
        self._machine = machine
        self._said = said
        self._bundle = machine.folder / "bundles" / name
        self._id = f"headrace-{os.getpid()}-{machine.folder.name}-{name}"

    def prepare(self) -> None:
        self._bundle.mkdir(parents=True, exist_ok=True)
        (self._bundle / "config.json").write_text(json.dumps(self._spec()))

    def command(self) -> list[str]:
        return [*_runc(), "run", "--bundle", str(self._bundle), self._id]

    def ready(self) -> bool:
        said = self._said.get("healthcheck", {})
        if said.get("disable"):
            return self.alive
        check = said.get("test") or self._machine.config["Healthcheck"]["Test"]
        return self.execute(check[1:]).returncode == 0

    def execute(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """A command in the running container, as `docker exec`."""
        run = [*_runc(), "exec", self._id, *command]
        return subprocess.run(run, capture_output=True, text=True, timeout=_EXEC_S)

    def kill(self) -> None:
        subprocess.run([*_runc(), "kill", self._id, "KILL"], capture_output=True)
        if not self.wait(30):
            super().kill()
        subprocess.run([*_runc(), "delete", "--force", self._id], capture_output=True)

    def _spec(self) -> dict[str, Any]:
        said, config = self._said, self._machine.config
        user, _, group = config["User"].partition(":")
        entrypoint = said.get("entrypoint") or config["Entrypoint"]
        environ = dict(pair.split("=", 1) for pair in config["Env"]) | said["environment"]
        none: list[str] = []
        return {
            "ociVersion": "1.0.2",
            "hostname": self.name,
            "root": {"path": str(self._machine.root), "readonly": said["read_only"]},
            "process": {
                "args": [*entrypoint, *said.get("command", [])],
                "env": [f"{k}={v}" for k, v in environ.items()],
                "cwd": config["WorkingDir"],
                "user": {"uid": int(user), "gid": int(group)},
                "noNewPrivileges": "no-new-privileges:true" in said["security_opt"],
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), none),
            },
            "mounts": [*_SYSTEM, *self._mounts()],
            # No network namespace: loopback is this machine's.
            "linux": {"namespaces": [{"type": t} for t in ("pid", "mount", "ipc", "uts")]},
        }

    def _mounts(self) -> Iterator[dict[str, Any]]:
        yield _bind(self._machine.folder / "hosts", "/etc/hosts", read_only=True)
        for tmpfs in self._said.get("tmpfs", []):
            where, _, options = tmpfs.partition(":")
            options = ["noexec", "nosuid", "nodev", "mode=1777", *filter(None, options.split(","))]
            yield {"destination": where, "type": "tmpfs", "source": "tmpfs", "options": options}
        for volume in self._said.get("volumes", []):
            name, where, *mode = volume.split(":")
            yield _bind(self._volume(name, where), where, read_only=mode == ["ro"])
        for secret in self._said.get("secrets", []):
            file = self._machine.folder / "secrets" / secret
            file.parent.mkdir(exist_ok=True)
            file.write_text(self._machine.secrets[secret])
            yield _bind(file, f"/run/secrets/{secret}", read_only=True)

    def _volume(self, name: str, where: str) -> Path:
        """A new volume takes the owner of what it covers in the image; root's when there is nothing."""
        folder = self._machine.folder / "volumes" / name
        covered = self._machine.root / where.lstrip("/")
        if not folder.exists():
            folder.mkdir(parents=True)
            if covered.exists():
                os.chown(folder, covered.stat().st_uid, covered.stat().st_gid)
        return folder


def interpolated(said: Any, variables: Mapping[str, str]) -> Any:
    """Compose's `${NAME:-default}` put in the place of it, in every text."""
    return _each_text(said, lambda text: _VARIABLE.sub(lambda m: variables.get(m[1]) or m[2], text))


def _each_text(said: Any, change: Callable[[str], str]) -> Any:
    if isinstance(said, Mapping):
        return {key: _each_text(value, change) for key, value in said.items()}
    if isinstance(said, list):
        return [_each_text(value, change) for value in said]
    return change(said) if isinstance(said, str) else said


@contextmanager
def machine(image: str, folder: Path) -> Iterator[Machine]:
    """The image, mounted for as long as this lasts. All containers of the machine are to have ended by then."""
    _end_left_over()
    work = buildah("from", "--pull-never", image)
    try:
        inspected = json.loads(buildah("inspect", "--type=image", image))
        yield Machine(image, Path(buildah("mount", work)), inspected["Docker"]["config"], folder)
    finally:
        buildah("rm", work)


def _runc() -> list[str]:
    return ["runc", "--root", str(cache_dir() / "image" / "runc")]


def _end_left_over() -> None:
    """Ends containers of a process that died before it could."""
    for state in (cache_dir() / "image" / "runc").glob("headrace-*"):
        if not Path(f"/proc/{state.name.split('-')[1]}").exists():
            subprocess.run([*_runc(), "delete", "--force", state.name], capture_output=True)
            shutil.rmtree(state, ignore_errors=True)


def _bind(source: Path, where: str, *, read_only: bool) -> dict[str, Any]:
    options = ["bind", "ro"] if read_only else ["bind"]
    return {"destination": where, "type": "bind", "source": str(source), "options": options}


# What an engine mounts into every container.
_SYSTEM: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
    {
        "destination": "/dev/shm",  # noqa: S108 - a mount point
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    },
    {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro"]},
]
