"""What a role keeps of its memberships for the process after a crash, on a disk that is full."""

import errno
import os
from pathlib import Path

import pytest

from agents.membership.identity import NodeIdentity, Predecessor
from agents.storekeeper.main import _remember


def test_a_storekeeper_goes_on_when_its_membership_cannot_be_written(tmp_path: Path) -> None:
    _remember(tmp_path / "missing" / "storekeeper.member", "member-1")


def test_a_node_goes_on_when_its_membership_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    node = NodeIdentity("node-1", tmp_path)
    assert node.take(0.1) is None
    node.remember("early", "member-1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        node.remember("late", "member-2")
    os.close(node._lock)  # as the kernel does for a process that was killed
    again = NodeIdentity("node-1", tmp_path)
    assert again.take(0.1) == Predecessor(node.boot, {"early": "member-1"})
    again.release()
