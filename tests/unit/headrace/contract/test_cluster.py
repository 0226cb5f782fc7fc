"""Heartbeats, kinds, commands and progress, also those of a later version."""

from dataclasses import replace

import orjson
import pytest

from headrace.contract.cluster import Cancel, Heartbeat, KindInfo, Redriven, RunningAttempt, Wait
from headrace.contract.progress import Progress
from headrace.contract.records import Record
from headrace.errors import Undecodable
from tests.rigs.messages import ID, as_read


def test_heartbeats_kinds_and_commands_come_back_as_they_were() -> None:
    beat = Heartbeat(
        "boot",
        "node-1",
        host="host",
        pid=42,
        slots=2,
        started_ms=1,
        running=(RunningAttempt(ID, "prime", 1, 2),),
        kinds=("prime",),
        state="draining",
        stats_url="http://x/",
        release="0.1.0",
        waits=(Wait("aside", "rare", ID, 3, "5 tasks wait", "tasks.normal/1/2", 5),),
    )
    assert Heartbeat.decode(as_read(beat.encode())) == beat
    kind = KindInfo(
        "prime",
        {"type": "object"},
        timeout_s=60.0,
        max_attempts=3,
        content_type=None,
        suffix=".json",
        memory_mb=64,
        description="Primes.",
        version="abc",
    )
    assert KindInfo.decode(as_read(kind.encode())) == kind
    assert Cancel.decode(as_read(Cancel(ID, "me").encode())) == Cancel(ID, "me")
    assert Cancel.decode(replace(as_read(Cancel(ID).encode()), value=b'{"command": "later"}')) is None
    assert Progress.decode(as_read(Progress(ID, 1, 0.5, "half").encode())) == Progress(ID, 1, 0.5, "half")


def test_fields_of_a_later_version_are_ignored() -> None:
    beat = Heartbeat("boot", "node-1", host="host", pid=42, slots=2, started_ms=1)
    later = as_read(beat.encode())
    value = orjson.dumps(orjson.loads(later.value or b"") | {"colour": "blue"})
    assert Heartbeat.decode(replace(later, value=value, headers=(("version", b"9"), ("x", b"y")))) == beat


def test_a_heartbeat_of_an_earlier_version_says_of_nothing_that_it_waits() -> None:
    beat = Heartbeat("boot", "node-1", host="host", pid=42, slots=2, started_ms=1)
    earlier = orjson.loads(as_read(beat.encode()).value or b"")
    del earlier["waits"]
    assert Heartbeat.decode(replace(as_read(beat.encode()), value=orjson.dumps(earlier))) == beat


def test_the_results_roots_record_is_no_heartbeat() -> None:
    assert not Heartbeat.is_heartbeat(Record("nodes", 0, 0, timestamp_ms=0, key=b"results-root/1", value=b"{}"))
    assert not Heartbeat.is_heartbeat(Record("nodes", 0, 0, timestamp_ms=0, key=b"boot", value=None))
    assert Heartbeat.is_heartbeat(as_read(Heartbeat("boot", "n", host="h", pid=1, slots=1, started_ms=1).encode()))


def test_a_node_in_a_state_of_a_later_version_is_alive_but_gets_no_tasks() -> None:
    beat = Heartbeat("b", "node-1", host="h", pid=1, slots=2, started_ms=3)
    later = replace(beat.encode(), value=orjson.dumps(orjson.loads(beat.encode().value or b"") | {"state": "idle"}))
    assert Heartbeat.decode(as_read(later)).state == "draining"


def test_a_note_of_a_redrive_says_both_ids_and_is_no_cancel() -> None:
    note = Redriven("1b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11", "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11")
    assert Redriven.decode(as_read(note.encode())) == note
    assert Cancel.decode(as_read(note.encode())) is None
    assert Redriven.decode(as_read(Cancel(note.id).encode())) is None
    for value in (b"", b"[]", b'{"command": "redriven"}', b'{"command": "redriven", "as": "x"}'):
        with pytest.raises(Undecodable):
            Redriven.decode(replace(as_read(note.encode()), value=value))
