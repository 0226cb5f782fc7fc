"""The ledger: what became of each attempt before this one. It travels with the record, in one header.

At most 32 KiB: beyond that the oldest texts are cut first, then the oldest entries in the middle go.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace

import orjson

from headrace.contract.bounds import MAX_ATTEMPTS, MAX_TIME_MS, whole_number
from headrace.contract.states import Cause
from headrace.errors import Undecodable

MAX_LEDGER_BYTES = 32 * 1024
MAX_DETAIL_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that ended without a result."""

    attempt: int
    cause: Cause
    _: KW_ONLY
    node: str
    started_ms: int  # 0 = it never started
    ended_ms: int
    detail: str = ""  # the traceback's last lines, the signal, the limit
    more: str = ""  # fields that a later version has written, as JSON: they travel on


_KNOWN = frozenset(f.name for f in fields(Failure)) - {"more"}


def encode_ledger(ledger: Sequence[Failure]) -> bytes:
    """JSON, never longer than MAX_LEDGER_BYTES; the newest failure and the first one always stay."""
    entries = [replace(f, detail=f.detail[-MAX_DETAIL_CHARACTERS:]) for f in ledger]
    raw = _encode(entries)
    index = 0
    while len(raw) > MAX_LEDGER_BYTES and index < len(entries):
        newest = index == len(entries) - 1
        detail = entries[index].detail if newest else entries[index].detail[-100:]
        entries[index] = replace(entries[index], detail=detail, more="")
        raw, index = _encode(entries), index + 1
    while len(raw) > MAX_LEDGER_BYTES and len(entries) > 2:
        del entries[1]
        raw = _encode(entries)
    return raw


def _encode(entries: Sequence[Failure]) -> bytes:
    found = [asdict(f) for f in entries]
    return orjson.dumps([orjson.loads(f.pop("more") or "{}") | f for f in found])


def decode_ledger(raw: bytes) -> tuple[Failure, ...]:
    """From a header; Undecodable when it is nothing that `encode_ledger` makes, in this version or a later one."""
    try:
        if len(raw) > MAX_LEDGER_BYTES:
            raise ValueError(f"{len(raw)} bytes")
        found = orjson.loads(raw)
        if not isinstance(found, list):
            raise ValueError("no list")
        return tuple(
            Failure(
                whole_number(f["attempt"], MAX_ATTEMPTS),
                Cause(f["cause"]),
                node=str(f["node"]),
                started_ms=whole_number(f["started_ms"], MAX_TIME_MS),
                ended_ms=whole_number(f["ended_ms"], MAX_TIME_MS),
                detail=str(f["detail"]),
                more=_more(f),
            )
            for f in found
        )
    except (ValueError, KeyError, TypeError, OverflowError) as e:
        raise Undecodable(f"not a ledger: {e}", raw) from None


def _more(f: dict[str, object]) -> str:
    unknown = {k: v for k, v in f.items() if k not in _KNOWN}
    return orjson.dumps(unknown).decode() if unknown else ""
