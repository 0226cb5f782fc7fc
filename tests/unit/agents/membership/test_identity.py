"""A node's lock file, on a disk that is full."""

import errno
import os
from pathlib import Path

import pytest

from agents.membership.identity import NodeIdentity, Predecessor


def test_a_node_goes_on_when_its_membership_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    node = NodeIdentity("node-1", tmp_path)
    assert node.take_lock(0.1) is None
    node.remember_member("early", "member-1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        node.remember_member("late", "member-2")
    os.close(node._lock)  # as the kernel does for a process that was killed
    again = NodeIdentity("node-1", tmp_path)
    assert again.take_lock(0.1) == Predecessor(node.boot, {"early": "member-1"})
    again.release_lock()
