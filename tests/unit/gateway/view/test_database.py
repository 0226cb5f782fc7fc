"""The status view's file: kept from one gateway to the next, and rebuilt when it cannot be used."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.view.store import StatusStore
from headrace.errors import UsageError


def filled(path: Path) -> None:
    store = StatusStore(path)
    assert store.adopt_cluster("cluster p."), "it belonged to no cluster before"
    store.apply([], [], [], {("tasks.normal", 0): 7})
    store.close()


def test_positions_are_kept_and_forgotten_with_another_cluster(tmp_path: Path) -> None:
    path = tmp_path / "status.sqlite"
    filled(path)
    store = StatusStore(path)
    assert store.adopt_cluster("cluster p.")
    assert store.positions() == {("tasks.normal", 0): 7}
    assert not store.adopt_cluster("cluster q.")
    assert store.positions() == {}
    store.close()


def test_a_file_of_another_version_or_of_no_database_is_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "status.sqlite"
    filled(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE meta SET value = '0' WHERE key = 'schema'")
    store = StatusStore(path)
    assert store.positions() == {}
    store.close()
    path.write_bytes(b"this is no database" * 1000)
    filled(path)


def test_two_gateways_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "status.sqlite"
    store = StatusStore(path)
    with pytest.raises(UsageError, match=r"another gateway uses .*status\.lock"):
        StatusStore(path)
    store.close()
    StatusStore(path).close()
