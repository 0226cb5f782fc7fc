"""The small rules that everything rests on: ids, places, states, ledger, partitions, health, schemas."""

from pathlib import Path

import pytest

from headrace.contract.cluster import KindInfo
from headrace.contract.ids import id_of_idempotency_key, id_of_key, id_of_redrive, id_of_source, new_id
from headrace.contract.ledger import MAX_LEDGER_BYTES, Failure, decode_ledger, encode_ledger
from headrace.contract.payload_check import PayloadCheck
from headrace.contract.records import Record, Source
from headrace.contract.states import MOVES, TERMINAL, Cause, Status
from headrace.errors import Undecodable, UsageError
from headrace.kafka.client import Throttle, load_security
from headrace.kafka.partitioner import partition_of
from headrace.process.health import Health, StallDetector, Watchdog

ID = "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"


@pytest.mark.parametrize(
    "key", [None, b"", b"x", b"\xff" * 36, b"0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a1g", "٠".encode() * 16]
)
def test_a_key_that_is_no_uuid_is_no_id(key: bytes | None) -> None:
    assert id_of_key(key) is None


def test_derived_ids_are_the_same_for_ever() -> None:
    # Written down once: a release that changed them would run tasks twice.
    assert id_of_source("tasks.normal", 3, 17) == "a573d318-20eb-56f3-ab61-1e8b22454f05"
    assert id_of_redrive(ID, 1) == "dcab5323-18a0-515e-886a-c5bad554221a"
    assert id_of_idempotency_key("a", "k") == "c3ad8a5f-43b0-51e1-b20d-b4b6b0215db5"


def test_different_things_have_different_ids() -> None:
    places = [id_of_source("t", p, o) for p in range(3) for o in range(3)]
    others = [
        id_of_redrive(ID, 1),
        id_of_redrive(ID, 2),
        id_of_idempotency_key("a", "k"),
        id_of_idempotency_key("b", "k"),
    ]
    assert len({*places, *others, new_id(), new_id()}) == 15


def test_a_place_in_the_log_reads_back() -> None:
    assert Source.parse("some.topic/3/17") == Source("some.topic", 3, 17)
    for text in ("", "a", "a/b/c", "a/1"):
        with pytest.raises(Undecodable):
            Source.parse(text)


@pytest.mark.parametrize(
    "text", [b"-1", b"+1", b" 1", b"1_0", b"1.0", b"9223372036854775808", "١".encode(), b"", b"\xff"]
)
def test_a_header_that_is_no_whole_number_is_undecodable(text: bytes) -> None:
    with pytest.raises(Undecodable):
        Record("t", 0, 0, timestamp_ms=0, key=None, value=None, headers=(("n", text),)).number("n")


def test_the_last_header_of_a_name_counts() -> None:
    assert (
        Record(
            "t", 0, 0, timestamp_ms=0, key=None, value=None, headers=(("n", b"1"), ("n", b"9223372036854775807"))
        ).number("n")
        == 2**63 - 1
    )


@pytest.mark.parametrize("before", Status)
@pytest.mark.parametrize("after", Status)
def test_every_move_between_states_is_allowed_or_forbidden_as_the_readme_draws_it(
    before: Status, after: Status
) -> None:
    drawn = {("queued", "running"), ("running", "running")} | {
        (s, t) for s in ("queued", "running") for t in ("completed", "failed", "cancelled")
    }
    assert (after in MOVES[before]) is ((before, after) in drawn)
    assert before.terminal is (before in TERMINAL) is (not MOVES[before])


def test_a_ledger_keeps_its_first_and_newest_entries_within_its_limit() -> None:
    failures = [
        Failure(n, Cause.ERROR, node="node", started_ms=n, ended_ms=n + 1, detail="trace " * 1000)
        for n in range(1, 200)
    ]
    raw = encode_ledger(failures)
    assert len(raw) <= MAX_LEDGER_BYTES
    kept = decode_ledger(raw)
    assert (kept[0].attempt, kept[-1].attempt) == (1, 199)
    assert kept[-1].detail.endswith("trace ")
    assert decode_ledger(encode_ledger(failures[:2]))[1].attempt == 2


@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_ids_lie_where_javas_client_puts_them(key: bytes, murmur2: int) -> None:
    # The values of Kafka's own test of its murmur2.
    for partitions in (1, 4, 16, 97):
        assert partition_of(key, partitions) == (murmur2 & 0x7FFFFFFF) % partitions


def test_a_heart_that_has_stopped_is_told_with_how_long() -> None:
    now = [0.0]
    watchdog = Watchdog("the loop", 8.0, lambda: now[0])
    assert "has not begun" in (watchdog.check() or "")
    watchdog.beat()
    now[0] = 8.0
    assert watchdog.check() is None
    now[0] = 12.0
    assert watchdog.check() == "the loop has been silent for 12 s"


def test_standing_still_matters_only_while_there_is_lag() -> None:
    now = [0.0]
    stall_detector = StallDetector("the group", 8.0, lambda: now[0])
    stall_detector.update(5, 0)
    now[0] = 100.0
    assert stall_detector.check() is None
    stall_detector.update(5, 3)
    now[0] = 109.0
    stall_detector.update(5, 4)
    assert stall_detector.check() == "the group has stood still for 109 s with 4 records to go"
    stall_detector.update(6, 3)
    assert stall_detector.check() is None


def test_health_names_each_part_that_cannot_work() -> None:
    health = Health()
    health.add_check("disk", lambda: None)
    assert health.reasons() == []
    health.add_check("Kafka", lambda: "away")
    assert health.reasons() == ["Kafka: away"]


def test_a_flood_of_one_kind_is_a_line_a_minute_with_its_count() -> None:
    now = [0.0]
    throttle = Throttle(60.0, lambda: now[0])
    assert [throttle.passes("a") for _ in range(3)] == [0, None, None]
    assert throttle.passes("b") == 0
    now[0] = 60.0
    assert throttle.passes("a") == 2


def test_security_options_are_read_from_their_file(tmp_path: Path) -> None:
    file = tmp_path / "security"
    file.write_text("# comment\n\nsecurity.protocol = SASL_SSL\nsasl.password=a=b\n")
    assert load_security(str(file)) == {"security.protocol": "SASL_SSL", "sasl.password": "a=b"}
    assert load_security("") == {}
    file.write_text("nonsense\n")
    with pytest.raises(UsageError, match="line 1"):
        load_security(str(file))
    with pytest.raises(UsageError, match="cannot read"):
        load_security(str(tmp_path / "none"))


def test_a_payload_is_held_against_its_kinds_schema_with_pointers() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "a/b": {"type": "string"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    check = PayloadCheck(KindInfo("k", schema, timeout_s=1.0, max_attempts=1))
    assert check.problems({"n": 1}) == []
    assert {p.pointer for p in check.problems({"n": "x", "a/b": 5})} == {"/payload/n", "/payload/a~1b"}
    assert check.problems({})[0].pointer == "/payload"


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "https://elsewhere.example/schema"}])
def test_a_schema_that_is_none_or_lies_elsewhere_is_refused(schema: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        PayloadCheck(KindInfo("k", schema, timeout_s=1.0, max_attempts=1))
