"""The folder in which gateways leave copies of their status views for gateways that start, and what each copy holds.

A copy is a SQLite file with a manifest beside it: whose installation it is of, its schema, its log positions, its size
and its SHA-256. The manifest is written last, so a copy without one is not finished. The folder lies below the results
root or where HEADRACE_VIEW_SNAPSHOTS says, and is readable by its owner alone. OSError when the disk is full or the
folder is gone; Damaged when a copy does not hold what was written.
"""

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson

from headrace.contract.records import Place
from headrace.storage.results_root import ResultsRoot
from headrace.storage.safe_open import open_directory_below, open_file_below
from headrace.storage.sqlite import Damaged

log = logging.getLogger(__name__)

FOLDER = ".view-snapshots"  # below the results root; no task's directory starts with a dot
_MANIFEST = ".json"
_KEPT = 2  # of an installation and schema: one may be copied while the next one comes
_KEPT_OTHERS_S = 30 * 86_400.0  # of another schema: gateways of two versions may run side by side
_UNFINISHED_S = 86_400.0
_CHUNK = 1 << 20
_MANIFEST_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a copy holds. `created_ms` is its writer's time; `positions` is how far it has read."""

    name: str
    installation: str
    schema: int
    created_ms: int
    size: int
    sha256: str
    positions: Mapping[Place, int]

    @property
    def age_s(self) -> float:
        return time.time() - self.created_ms / 1000


class SnapshotFolder:
    """`folder` "" stands for the one below the results root. Safe from any thread."""

    def __init__(self, root: ResultsRoot, folder: str = "") -> None:
        self._root, self._folder = root, folder

    def manifests(self) -> list[Manifest]:
        """Of all finished copies, the newest first. One that cannot be read is passed over and said."""
        with self._open() as folder:
            found = [m for name in os.listdir(folder) if name.endswith(_MANIFEST) and (m := _read(folder, name))]
        return sorted(found, key=lambda m: m.created_ms, reverse=True)

    def fetch(self, manifest: Manifest, to: Path) -> None:
        """Copies a snapshot to the new file `to`. Damaged when it is not what its manifest says."""
        with (
            self._open() as folder,
            open(open_file_below(folder, [], manifest.name), "rb") as source,
            open(to, "wb") as target,
        ):
            digest, size = _copy(source, target)
        if (digest, size) != (manifest.sha256, manifest.size):
            raise Damaged("its content is not what was written")

    def publish(
        self, view: Path, *, installation: str, schema: int, positions: Mapping[Place, int], created_ms: int
    ) -> Manifest:
        """Copies the file `view` into the folder, durably, and removes the copies that it makes superfluous."""
        name = f"{created_ms}-{uuid.uuid4()}.sqlite"
        with self._open() as folder:
            try:
                with open(view, "rb") as source, _new_file(folder, f"{name}.part") as target:
                    digest, size = _copy(source, target)
                os.rename(f"{name}.part", name, src_dir_fd=folder, dst_dir_fd=folder)
                manifest = Manifest(name, installation, schema, created_ms, size, digest, dict(positions))
                with _new_file(folder, f"{name}.json.part") as target:
                    target.write(_encode(manifest))
                os.rename(f"{name}.json.part", name + _MANIFEST, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except BaseException:
                for left in (f"{name}.part", f"{name}.json.part", name):
                    _remove(folder, left)
                raise
        self._remove_old(manifest)
        return manifest

    def _remove_old(self, newest: Manifest) -> None:
        own = [m for m in self.manifests() if (m.installation, m.schema) == (newest.installation, newest.schema)]
        kept = {m.name for m in own[:_KEPT]}
        gone = [m.name for m in self.manifests() if m.name not in kept and (m in own or m.age_s > _KEPT_OTHERS_S)]
        with self._open() as folder:
            for name in gone:
                _remove(folder, name + _MANIFEST)
                _remove(folder, name)
            known = {m.name for m in self.manifests()}
            for name in os.listdir(folder):
                if name.removesuffix(_MANIFEST) not in known and _age_s(folder, name) > _UNFINISHED_S:
                    _remove(folder, name)

    @contextmanager
    def _open(self) -> Iterator[int]:
        """A descriptor of the folder, which is made when missing."""
        if self._folder:
            Path(self._folder).mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            fd = open_directory_below(self._root.fd, [FOLDER], make_mode=0o700)
        try:
            yield fd
        finally:
            os.close(fd)


def _read(folder: int, name: str) -> Manifest | None:
    try:
        with open(open_file_below(folder, [], name), "rb") as f:
            raw = orjson.loads(f.read(_MANIFEST_BYTES))
        positions = {(str(t), int(p)): int(n) for t, p, n in raw["positions"]}
        return Manifest(
            name=name.removesuffix(_MANIFEST),
            installation=str(raw["installation"]),
            schema=int(raw["schema"]),
            created_ms=int(raw["created_ms"]),
            size=int(raw["size"]),
            sha256=str(raw["sha256"]),
            positions=positions,
        )
    except FileNotFoundError:
        return None  # another gateway has just removed it
    except (OSError, ValueError, KeyError, TypeError) as e:
        log.warning("The snapshot %s of a status view is passed over: its manifest cannot be read (%s)", name, e)
        return None


def _encode(manifest: Manifest) -> bytes:
    return orjson.dumps(
        {
            "installation": manifest.installation,
            "schema": manifest.schema,
            "created_ms": manifest.created_ms,
            "size": manifest.size,
            "sha256": manifest.sha256,
            "positions": [[t, p, n] for (t, p), n in manifest.positions.items()],
        }
    )


@contextmanager
def _new_file(folder: int, name: str) -> Iterator[BinaryIO]:
    """A new file for writing, which is on the disk when the block ends."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=folder), "wb") as f:
        yield f
        f.flush()
        os.fsync(f.fileno())


def _copy(source: BinaryIO, target: BinaryIO) -> tuple[str, int]:
    """Copies all that is left of `source`; returns its SHA-256 in hex and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        target.write(chunk)
    return digest.hexdigest(), size


def _remove(folder: int, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _age_s(folder: int, name: str) -> float:
    try:
        return time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0
