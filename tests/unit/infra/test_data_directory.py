"""A directory is for one `up` at a time, and never for an older release than its own."""

import json
from pathlib import Path

import pytest

from headrace.errors import UsageError
from infra.local.data_directory import LAYOUT, DataDirectory


def test_a_second_one_is_refused_until_the_first_has_closed(tmp_path: Path) -> None:
    first, second = DataDirectory(tmp_path), DataDirectory(tmp_path)
    first.open()
    with pytest.raises(UsageError, match=r"in use by another `headrace up` \(process \d+\).*HEADRACE_DATA"):
        second.open()
    first.close()
    second.open()
    second.close()


def test_a_directory_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "version.json").write_text(json.dumps({"layout": LAYOUT + 1}))
    data = DataDirectory(tmp_path)
    with pytest.raises(UsageError, match="newer Headrace"):
        data.open()
    assert json.loads((tmp_path / "version.json").read_text()) == {"layout": LAYOUT + 1}


def test_a_damaged_version_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "version.json").write_text("{")
    with pytest.raises(UsageError, match=r"version\.json is damaged"):
        DataDirectory(tmp_path).open()


def test_an_unwritable_directory_is_reported_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/data cannot be written \(not a directory\).*--data"):
        DataDirectory(tmp_path / "file" / "data").open()


def test_the_running_processes_are_listed_and_the_list_removed(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    data.write_running({"gateway": 7})
    assert json.loads((tmp_path / "run.json").read_text())["roles"] == {"gateway": 7}
    data.forget_running()
    data.forget_running()
    assert not (tmp_path / "run.json").exists()


def test_addresses_are_kept_for_the_next_up(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    assert data.read_moved() == {}
    data.write_moved({"http": "127.0.0.1:8001"})
    assert data.read_moved() == {"http": "127.0.0.1:8001"}
    for damaged in ("", "[]", '{"http": 1}', '{"http": "nowhere"}'):
        (tmp_path / "addresses.json").write_text(damaged)
        assert data.read_moved() == {}
