"""The reaper's thread on a real broker: its failure is reported."""

import threading

import pytest

from headrace.settings import Settings
from tests.rigs.core import PATIENCE_S, Core, cores


def test_a_reaper_whose_thread_ends_by_an_error_says_so(
    kafka_settings: Settings, topics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: str) -> None:
        raise RuntimeError("broken")

    core, failed = Core(kafka_settings), threading.Event()
    core.reaper.on_failure = lambda _: failed.set()
    monkeypatch.setattr(core.node, "remember_member", broken)  # the intake holds the real method already
    with cores(core):
        assert failed.wait(PATIENCE_S)
        assert "broken" in (core.reaper.check() or "")
