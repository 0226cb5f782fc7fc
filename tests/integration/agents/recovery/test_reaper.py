"""The reaper's thread on a real broker: it says that it has failed, and how much of the journal is still to read."""

import threading
from pathlib import Path

import pytest

from agents.recovery.journal_state import JournalState
from headrace.contract.records import Outgoing, Record
from headrace.settings import Settings
from tests.rigs.core import PATIENCE_S, Core, cores, other
from tests.rigs.storekeeper import wait_for

IN_A_TURN = 1000  # at most; the reaper learns after its first turn where the journal ends


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


def test_a_reaper_says_what_of_the_journal_it_has_to_read_and_stays_ready_when_partitions_move(
    kafka_settings: Settings, topics: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, apply = threading.Event(), JournalState.apply_record

    def slow(state: JournalState, record: Record) -> None:
        if record.offset > IN_A_TURN + 100:
            assert go_on.wait(PATIENCE_S)
        apply(state, record)

    monkeypatch.setattr(JournalState, "apply_record", slow)
    first, second = Core(kafka_settings), Core(other(kafka_settings, tmp_path / "second"), "node-2")
    assert first.reaper.check() is not None
    forged = [Outgoing("tasks.running", f"{i}".encode(), b"x", partition=0) for i in range(IN_A_TURN + 500)]
    first.sender.send_all(forged, PATIENCE_S)
    with cores(first):
        says = "takes over tasks.running/0, tasks.running/1: reads the log: "
        try:
            wait_for(lambda: says in (first.reaper.check() or ""), "how far it has come")
        finally:
            go_on.set()
        wait_for(lambda: first.reaper.check() is None, "the journal has been read")
        said = set[str | None]()

        def second_is_ready() -> bool:
            said.add(first.reaper.check())
            return second.reaper.check() is None

        with cores(second):
            wait_for(second_is_ready, "the second has its share of the journal")
            wait_for(lambda: not first.reaper._taking_over.is_under_way, "the first has read the rest anew")
        assert not [words for words in said if words and ("takes over" in words or "its group" in words)]
