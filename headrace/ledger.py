"""The ledger: what became of each attempt before this one. It travels with the record, in one header.

At most 32 KiB: beyond that the oldest texts are cut first, then the oldest entries in the middle go.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import orjson

from headrace.errors import Undecodable
from headrace.limits import MOST_ATTEMPTS, MOST_MS, whole
from headrace.states import Cause

MAX_LEDGER_BYTES = 32 * 1024
MAX_DETAIL_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that ended without a result."""

    attempt: int
    cause: Cause
    node: str
    started_ms: int  # 0 = it never started
    ended_ms: int
    detail: str = ""  # the traceback's last lines, the signal, the limit


def encode_ledger(ledger: Sequence[Failure]) -> bytes:
    """JSON, never longer than MAX_LEDGER_BYTES; the newest failure and the first one always stay."""
    entries = [replace(f, detail=f.detail[-MAX_DETAIL_CHARACTERS:]) for f in ledger]
    raw = orjson.dumps([asdict(f) for f in entries])
    index = 0
    while len(raw) > MAX_LEDGER_BYTES and index < len(entries) - 1:
        entries[index] = replace(entries[index], detail=entries[index].detail[-100:])
        raw, index = orjson.dumps([asdict(f) for f in entries]), index + 1
    while len(raw) > MAX_LEDGER_BYTES and len(entries) > 2:
        del entries[1]
        raw = orjson.dumps([asdict(f) for f in entries])
    return raw


def decode_ledger(raw: bytes) -> tuple[Failure, ...]:
    """From a header; Undecodable when it is anything else than `encode_ledger` makes."""
    try:
        if len(raw) > MAX_LEDGER_BYTES:
            raise ValueError(f"{len(raw)} bytes")
        found = orjson.loads(raw)
        if not isinstance(found, list):
            raise ValueError("no list")
        return tuple(
            Failure(
                whole(f["attempt"], MOST_ATTEMPTS),
                Cause(f["cause"]),
                str(f["node"]),
                whole(f["started_ms"], MOST_MS),
                whole(f["ended_ms"], MOST_MS),
                str(f["detail"]),
            )
            for f in found
        )
    except (ValueError, KeyError, TypeError, OverflowError) as e:
        raise Undecodable(f"not a ledger: {e}", raw) from None
