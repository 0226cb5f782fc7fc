"""Gateways start from copies of other gateways' status views, and read only the tail of the log.

A gateway whose view is whole leaves a copy now and then (`SnapshotWriter`), unless another one has just done so. A
gateway that starts takes the newest copy that saves it reading (`Snapshots.restore`, called by the projector). A copy
that is damaged, of another installation or schema, or that the log no longer goes on from is passed over and said: the
log holds everything. Nothing here stops a gateway; a full disk or a lost folder is logged and tried again.
"""

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from headrace.contract.records import Place
from headrace.process.throttled_log import log_throttled
from headrace.storage.sqlite import remove

from .database import SCHEMA_VERSION
from .event_topics import EVENT_TOPICS
from .snapshot_folder import Manifest, SnapshotFolder
from .store import StatusStore

log = logging.getLogger(__name__)

LEAST_GAIN = 100_000  # records: they are read in about the time that a copy takes
_LOOK_EVERY_S = 60.0
# Topics from which no record may be missing between a copy and the log's beginning. The task topics are trimmed behind
# what other topics tell as well, and progress is kept for a week.
_WHOLE_TOPICS = (*(topic for topic in EVENT_TOPICS if topic != "progress"), "tasks.redriven")


class Snapshots:
    """The copies in `folder`. `doing` says in words what `restore` does, for the gateway's health."""

    def __init__(self, folder: SnapshotFolder, *, every_s: float = 3600.0, least_gain: int = LEAST_GAIN) -> None:
        self._folder, self._every_s, self._least_gain = folder, every_s, least_gain
        self.doing: str | None = None

    def restore(
        self, store: StatusStore, installation: str, first: Mapping[Place, int], ends: Mapping[Place, int]
    ) -> bool:
        """Replaces the view by the newest copy that is good and saves reading; whether it did.

        `first` and `ends`: where the log's partitions begin and end now.
        """
        try:
            manifests = self._folder.manifests()
        except OSError as e:
            log.warning("The snapshots of status views cannot be read: %s", e)
            return False
        own = store.positions()
        for manifest in manifests:
            if why := _unusable(manifest, installation, first, ends):
                log.warning("The snapshot %s is passed over: %s", manifest.name, why)
            elif _gain(manifest.positions, own, first, ends) < self._least_gain:
                return False
            elif self._load(store, manifest):
                return True
        return False

    def write(
        self, store: StatusStore, read: Mapping[Place, int], stopped: Callable[[], bool] = lambda: False
    ) -> Manifest | None:
        """Leaves a copy of the view, which has read so far, if one is due.

        OSError, sqlite3.Error; InterruptedError when `stopped`.
        """
        began_ms = int(time.time() * 1000)
        same = [m for m in self._folder.manifests() if m.schema == SCHEMA_VERSION]
        if same and (0 <= same[0].age_s < self._every_s or _gain(read, same[0].positions, {}, read) < self._least_gain):
            return None
        if sum(read.values()) < self._least_gain:
            return None
        copy = _local(store, "copy")
        remove(copy)
        try:
            store.copy_to(copy, stopped)
            installation, positions = _describe(copy)
            return self._folder.publish(
                copy, installation=installation, schema=SCHEMA_VERSION, positions=positions, created_ms=began_ms
            )
        finally:
            remove(copy)

    def _load(self, store: StatusStore, manifest: Manifest) -> bool:
        copy = _local(store, "fetched")
        remove(copy)
        self.doing = f"copies a snapshot of {manifest.size / 1e6:,.0f} MB, {manifest.age_s / 60:.0f} min old"
        try:
            self._folder.fetch(manifest, copy)
            store.load(copy)
        except (OSError, sqlite3.Error) as e:
            log.warning("The snapshot %s is passed over: %s", manifest.name, e)
            return False
        finally:
            self.doing = None
            remove(copy)
        log.info("the status view starts from the snapshot %s", manifest.name)
        return True


class SnapshotWriter:
    """The thread that leaves copies of the view. `read` gives its positions; None while it is not whole."""

    def __init__(
        self, store: StatusStore, snapshots: Snapshots, read: Callable[[], Mapping[Place, int] | None]
    ) -> None:
        self._store, self._snapshots, self._read = store, snapshots, read
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="view-snapshots", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _run(self) -> None:
        # Not all gateways at once: the first one's copy is enough.
        while not self._closing.wait(_LOOK_EVERY_S * random.uniform(0.5, 1.5)):
            if (read := self._read()) is not None:
                self._write(read)

    def _write(self, read: Mapping[Place, int]) -> None:
        try:
            if (manifest := self._snapshots.write(self._store, read, self._closing.is_set)) is not None:
                log.info("left the snapshot %s of the status view, %d bytes", manifest.name, manifest.size)
        except InterruptedError:
            pass
        except (OSError, sqlite3.Error) as e:
            log_throttled("view snapshot", "no snapshot of the status view could be written, and it is retried: %s", e)


def _unusable(
    manifest: Manifest, installation: str, first: Mapping[Place, int], ends: Mapping[Place, int]
) -> str | None:
    if manifest.installation != installation:
        return "it is of another installation"
    if manifest.schema != SCHEMA_VERSION:
        return f"it has schema {manifest.schema}, and this gateway {SCHEMA_VERSION}"
    for place, at in manifest.positions.items():
        if at > ends.get(place, -1):
            return f"{place[0]}/{place[1]} ends before it: the topic was made anew"
    for place, at in first.items():
        if place[0] in _WHOLE_TOPICS and manifest.positions.get(place, 0) < at:
            return f"{place[0]}/{place[1]} no longer holds the records after it"
    return None


def _gain(
    positions: Mapping[Place, int], own: Mapping[Place, int], first: Mapping[Place, int], ends: Mapping[Place, int]
) -> int:
    """How many records need not be read when a view starts at `positions` and not at `own`."""
    return sum(positions.get(p, 0) - max(own.get(p, 0), first.get(p, 0)) for p in ends if p in positions)


def _describe(copy: Path) -> tuple[str, dict[Place, int]]:
    """The installation and the positions of a copied view."""
    connection = sqlite3.connect(f"file:{copy}?mode=ro", uri=True)
    try:
        identity = connection.execute("SELECT value FROM meta WHERE key = 'identity'").fetchone()
        found = connection.execute("SELECT topic, partition, next FROM positions")
        return identity[0] if identity else "", {(t, p): n for t, p, n in found}
    finally:
        connection.close()


def _local(store: StatusStore, what: str) -> Path:
    """A file beside the view's, on the disk that has room for it."""
    return store.path.with_suffix(f".{what}")
