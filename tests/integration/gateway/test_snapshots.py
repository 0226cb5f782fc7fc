"""A gateway starts from another one's copy of the view and reads the tail alone; a copy that is of no use is passed
over, and the log is read instead."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from gateway.metrics import Metrics
from gateway.view.projector import Projector
from gateway.view.snapshot_folder import FOLDER, SnapshotFolder
from gateway.view.snapshots import Snapshots
from gateway.view.store import StatusStore, TaskFilter
from headrace.contract.ids import new_id
from headrace.kafka.client import Kafka
from headrace.settings import Settings
from headrace.storage.results_root import ResultsRoot, open_directory
from tests.rigs.gateway import OtherRoles

PATIENCE_S = 60.0
ALL = TaskFilter()


class View:
    """A status view over Kafka that has read it to its end."""

    def __init__(self, settings: Settings, name: str, snapshots: Snapshots) -> None:
        self.store, self.metrics = StatusStore(settings.data / f"{name}.sqlite"), Metrics()
        self.projector = Projector(Kafka(settings, name), self.store, self.metrics, lambda _: None, snapshots)
        self.projector.start()
        assert self.projector.wait_caught_up(PATIENCE_S)
        assert self.projector.check() is None

    @property
    def read(self) -> int:
        """How many records it has read from Kafka."""
        return int(sum(s.value for m in self.metrics.folded.collect() for s in m.samples if s.name.endswith("_total")))

    def ids(self) -> set[bytes]:
        return {t.id for t in self.store.list_tasks(ALL, None, 1000)}

    def close(self) -> None:
        self.projector.close()
        self.store.close()


@pytest.fixture
def roles(kafka_settings: Settings, topics: str) -> Iterator[OtherRoles]:
    found = OtherRoles(kafka_settings)
    yield found
    found.close()


@pytest.fixture
def root(kafka_settings: Settings) -> Iterator[ResultsRoot]:
    found = open_directory(kafka_settings.results_root)
    yield found
    found.close()


def snapshots_in(root: ResultsRoot) -> Snapshots:
    return Snapshots(SnapshotFolder(root), every_s=0.001, least_gain=5)


@contextmanager
def view(settings: Settings, name: str, root: ResultsRoot) -> Iterator[View]:
    found = View(settings, name, snapshots_in(root))
    try:
        yield found
    finally:
        found.close()


def leave_copy(settings: Settings, root: ResultsRoot, name: str) -> Path:
    """The file of a copy that a gateway of that name leaves."""
    with view(settings, name, root) as writer:
        read = writer.projector.whole_positions()
        assert read is not None
        manifest = snapshots_in(root).write(writer.store, read)
        assert manifest is not None
    return settings.results_root / FOLDER / manifest.name


def test_a_new_gateway_starts_from_the_newest_copy_and_reads_only_what_came_after(
    kafka_settings: Settings, roles: OtherRoles, root: ResultsRoot
) -> None:
    for _ in range(10):
        roles.run(new_id())
    copy = leave_copy(kafka_settings, root, "first")
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    assert copy.stat().st_mode & 0o777 == 0o600
    later = [new_id() for _ in range(3)]
    for task_id in later:
        roles.run(task_id)
    with view(kafka_settings, "first", root) as old, view(kafka_settings, "second", root) as new:
        assert new.read == 3 * len(later), "the rest came with the copy"
        assert new.store.list_tasks(ALL, None, 1000) == old.store.list_tasks(ALL, None, 1000)
        assert len(new.ids()) == 13
        assert len(new.store.events_after(0)) == 3 * 13
        roles.run(extra := new_id())
        assert new.projector.wait_caught_up(PATIENCE_S)
        assert bytes.fromhex(extra.replace("-", "")) in new.ids()
    with view(kafka_settings, "second", root) as again:
        assert again.read == 0, "its own file is newer than the copy"
    assert not list(kafka_settings.data.glob("*.fetched*")) + list(kafka_settings.data.glob("*.copy*"))


def flip_a_byte(copy: Path) -> None:
    with open(copy, "r+b") as f:
        f.seek(copy.stat().st_size // 2)
        byte = f.read(1)
        f.seek(-1, 1)
        f.write(bytes([byte[0] ^ 1]))


def cut(copy: Path) -> None:
    with open(copy, "r+b") as f:
        f.truncate(copy.stat().st_size // 2)


def spoil_manifest(copy: Path) -> None:
    manifest = copy.with_name(copy.name + ".json")
    manifest.write_bytes(manifest.read_bytes()[:50])


def change_manifest(**changes: object) -> Callable[[Path], None]:
    def change(copy: Path) -> None:
        manifest = copy.with_name(copy.name + ".json")
        manifest.write_bytes(orjson.dumps(orjson.loads(manifest.read_bytes()) | changes))

    return change


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (flip_a_byte, "its content is not what was written"),
        (cut, "its content is not what was written"),
        (spoil_manifest, "its manifest cannot be read"),
        (change_manifest(installation="another x."), "it is of another installation"),
        (change_manifest(schema=0), "it has schema 0"),
        (change_manifest(positions=[["lifecycle.received", 0, 10**9]]), "ends before it: the topic was made anew"),
    ],
)
def test_a_copy_that_is_of_no_use_is_passed_over_and_said(
    kafka_settings: Settings,
    roles: OtherRoles,
    root: ResultsRoot,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], None],
    why: str,
) -> None:
    for _ in range(5):
        roles.run(new_id())
    leave_copy(kafka_settings, root, "first")
    roles.run(new_id())
    roles.run(new_id())
    spoil(leave_copy(kafka_settings, root, "first"))
    with caplog.at_level(logging.WARNING), view(kafka_settings, "second", root) as new:
        assert len(new.ids()) == 7
        assert new.read == 6, "from the older copy on"
    assert any("is passed over" in m and why in m for m in caplog.messages), caplog.messages


def test_a_copy_that_the_log_does_not_go_on_from_is_passed_over(
    kafka_settings: Settings, roles: OtherRoles, root: ResultsRoot, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        roles.run(new_id())
    leave_copy(kafka_settings, root, "first")
    for _ in range(20):
        roles.run(new_id())
    name = Kafka(kafka_settings, "trimmer").topic("lifecycle.completed")
    admin = AdminClient({"bootstrap.servers": kafka_settings.kafka})
    partitions = admin.list_topics(name, timeout=30).topics[name].partitions
    for future in admin.delete_records([TopicPartition(name, p, -1) for p in partitions]).values():
        future.result(30)
    with caplog.at_level(logging.WARNING), view(kafka_settings, "second", root) as new:
        assert new.read == 2 * 25
    assert any("no longer holds the records after it" in m for m in caplog.messages)


def test_a_copy_is_left_when_it_is_due_and_two_are_kept(
    kafka_settings: Settings, roles: OtherRoles, root: ResultsRoot
) -> None:
    seldom = Snapshots(SnapshotFolder(root), every_s=3600.0, least_gain=5)
    for _ in range(3):
        for _ in range(2):
            roles.run(new_id())
        copy = leave_copy(kafka_settings, root, "first")
    with view(kafka_settings, "first", root) as writer:
        read = writer.projector.whole_positions() or {}
        assert snapshots_in(root).write(writer.store, read) is None, "nothing has come since"
        roles.run(new_id())
        roles.run(new_id())
        assert writer.projector.wait_caught_up(PATIENCE_S)
        read = writer.projector.whole_positions() or {}
        assert seldom.write(writer.store, read) is None, "another gateway left one a moment ago"
        with pytest.raises(InterruptedError):
            snapshots_in(root).write(writer.store, read, lambda: True)
    manifests = SnapshotFolder(root).manifests()
    assert manifests[0].name == copy.name
    assert sorted(p.name for p in copy.parent.iterdir()) == sorted(
        name for m in manifests for name in (m.name, f"{m.name}.json")
    )
    assert len(manifests) == 2
