"""The ledger: bounded, and it keeps what a later version wrote."""

from dataclasses import replace

import orjson

from headrace.contract.ledger import MAX_LEDGER_BYTES, Failure, decode_ledger, encode_ledger
from headrace.contract.records import Source
from headrace.contract.states import Cause
from headrace.contract.task import Task
from tests.rigs.messages import ID, LOSS, RAW, as_read


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


def test_a_ledger_keeps_the_fields_of_a_later_version() -> None:
    raw = orjson.dumps(
        [{"attempt": 1, "cause": "quota-met", "node": "n", "started_ms": 1, "ended_ms": 2, "detail": "", "later": [1]}]
    )
    failures = decode_ledger(raw)
    assert [str(f.cause) for f in failures] == ["quota-met"]
    assert orjson.loads(encode_ledger((*failures, LOSS)))[0] == orjson.loads(raw)[0]
    task = as_read(
        Task(ID, RAW, attempt=2, source=Source("tasks.high", 0, 1), submitted_ms=1, ledger=failures).next_attempt(LOSS)
    )
    assert Task.from_record(task).ledger == (*failures, LOSS)


def test_a_ledger_of_a_later_version_stays_below_its_limit() -> None:
    failures = [replace(LOSS, attempt=i + 1, more=orjson.dumps({"later": "x" * 9000}).decode()) for i in range(9)]
    raw = encode_ledger(failures)
    assert len(raw) <= MAX_LEDGER_BYTES
    assert [f.attempt for f in decode_ledger(raw)] == list(range(1, 10))
