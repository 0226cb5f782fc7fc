"""Services of compose.yaml as containers under runc, the runtime that engines use too.

A `Machine` has the image's root file system and the folder of volumes; its `container(name)` is one service as compose
and the image describe it: user, read-only root, no capabilities, tmpfs with an engine's options, volumes that take the
owner of the directory they cover, secrets as files, health check. Two things differ: the containers share this
machine's network, and the caller replaces addresses so that services find their broker. Used by `infra.image.check` and
its tests; Linux, as root.
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

from ..local.service import Service
from ..setup import ROOT, cache_dir
from .build import buildah

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
_ONCE_S = 180.0
_EXEC_S = 60.0  # above every health check's own timeout; an engine would count a slow check as failed and repeat it


class Machine:
    """Where containers of one image run. `folder` keeps volumes, secrets and logs; `replace` maps text in compose.yaml
    to its replacement here (kafka:9092 -> an address); `secrets` are the files' contents, by name."""

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
        """The service, not started; `environ` overrides its own variables."""
        described = self._replaced(interpolated(COMPOSE, {})["services"][service])
        described["environment"] = {**described.get("environment", {}), **environ}
        return Container(service, self, described)

    def once(self, command: list[str], *, entrypoint: list[str] | None = None, **environ: str) -> str:
        """Runs a command in a container of its own until it ends; returns its output. AssertionError when it fails."""
        described = {**COMPOSE["x-role"], "command": command, "environment": environ}
        container = Container("once", self, described | ({"entrypoint": entrypoint} if entrypoint else {}))
        container.log.unlink(missing_ok=True)
        container.launch()
        container.wait(_ONCE_S)
        container.kill()
        printed = container.log.read_text()
        assert container.returncode == 0, f"{command}: {container.returncode}\n{printed}"
        return printed

    def _replaced(self, value: Any) -> Any:
        return _each_text(value, lambda text: reduce(lambda t, pair: t.replace(*pair), self.replace.items(), text))


class Container(Service):
    """One container; ready when its health check passes. `kill` ends all of it at once, as a lost machine would."""

    def __init__(self, name: str, machine: Machine, service: Mapping[str, Any]) -> None:
        super().__init__(name, machine.folder / "logs" / f"{name}.log")
        self._machine = machine
        self._service = service
        self._bundle = machine.folder / "bundles" / name
        self._id = f"headrace-{os.getpid()}-{machine.folder.name}-{name}"

    def prepare(self) -> None:
        self._bundle.mkdir(parents=True, exist_ok=True)
        (self._bundle / "config.json").write_text(json.dumps(self._spec()))

    def command(self) -> list[str]:
        return [*_runc(), "run", "--bundle", str(self._bundle), self._id]

    def ready(self) -> bool:
        health = self._service.get("healthcheck", {})
        if health.get("disable"):
            return self.alive
        check = health.get("test") or self._machine.config["Healthcheck"]["Test"]
        return self.execute(check[1:]).returncode == 0

    def execute(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Runs a command in the running container, as `docker exec` does."""
        run = [*_runc(), "exec", self._id, *command]
        return subprocess.run(run, capture_output=True, text=True, timeout=_EXEC_S)

    def kill(self) -> None:
        subprocess.run([*_runc(), "kill", self._id, "KILL"], capture_output=True)
        if not self.wait(30):
            super().kill()
        subprocess.run([*_runc(), "delete", "--force", self._id], capture_output=True)

    def _spec(self) -> dict[str, Any]:
        service, config = self._service, self._machine.config
        user, _, group = config["User"].partition(":")
        entrypoint = service.get("entrypoint") or config["Entrypoint"]
        environ = dict(pair.split("=", 1) for pair in config["Env"]) | service["environment"]
        none: list[str] = []
        return {
            "ociVersion": "1.0.2",
            "hostname": self.name,
            "root": {"path": str(self._machine.root), "readonly": service["read_only"]},
            "process": {
                "args": [*entrypoint, *service.get("command", [])],
                "env": [f"{k}={v}" for k, v in environ.items()],
                "cwd": config["WorkingDir"],
                "user": {"uid": int(user), "gid": int(group)},
                "noNewPrivileges": "no-new-privileges:true" in service["security_opt"],
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), none),
            },
            "mounts": [*_SYSTEM, *self._mounts()],
            # no network namespace: containers share this machine's loopback
            "linux": {"namespaces": [{"type": t} for t in ("pid", "mount", "ipc", "uts")]},
        }

    def _mounts(self) -> Iterator[dict[str, Any]]:
        yield _bind(self._machine.folder / "hosts", "/etc/hosts", read_only=True)
        for tmpfs in self._service.get("tmpfs", []):
            where, _, options = tmpfs.partition(":")
            options = ["noexec", "nosuid", "nodev", "mode=1777", *filter(None, options.split(","))]
            yield {"destination": where, "type": "tmpfs", "source": "tmpfs", "options": options}
        for volume in self._service.get("volumes", []):
            name, where, *mode = volume.split(":")
            yield _bind(self._volume(name, where), where, read_only=mode == ["ro"])
        for secret in self._service.get("secrets", []):
            file = self._machine.folder / "secrets" / secret
            file.parent.mkdir(exist_ok=True)
            file.write_text(self._machine.secrets[secret])
            yield _bind(file, f"/run/secrets/{secret}", read_only=True)

    def _volume(self, name: str, where: str) -> Path:
        """A new volume takes the owner of the directory that it covers in the image; root if there is none."""
        folder = self._machine.folder / "volumes" / name
        covered = self._machine.root / where.lstrip("/")
        if not folder.exists():
            folder.mkdir(parents=True)
            if covered.exists():
                os.chown(folder, covered.stat().st_uid, covered.stat().st_gid)
        return folder


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """Replaces compose's `${NAME:-default}` in every text."""
    return _each_text(value, lambda text: _VARIABLE.sub(lambda m: variables.get(m[1]) or m[2], text))


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _each_text(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_each_text(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


@contextmanager
def machine(image: str, folder: Path) -> Iterator[Machine]:
    """Mounts the image for the duration of the block. All containers of the machine must have ended at its end."""
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
    """Ends containers of a process that was killed before it could end them."""
    for state in (cache_dir() / "image" / "runc").glob("headrace-*"):
        if not Path(f"/proc/{state.name.split('-')[1]}").exists():
            subprocess.run([*_runc(), "delete", "--force", state.name], capture_output=True)
            shutil.rmtree(state, ignore_errors=True)


def _bind(source: Path, where: str, *, read_only: bool) -> dict[str, Any]:
    options = ["bind", "ro"] if read_only else ["bind"]
    return {"destination": where, "type": "bind", "source": str(source), "options": options}


# An engine mounts these into every container.
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
