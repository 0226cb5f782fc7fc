"""The storekeeper's member file, on a disk that is full."""

from pathlib import Path

from agents.storekeeper.main import _remember_member


def test_a_storekeeper_goes_on_when_its_membership_cannot_be_written(tmp_path: Path) -> None:
    _remember_member(tmp_path / "missing" / "storekeeper.member", "member-1")
