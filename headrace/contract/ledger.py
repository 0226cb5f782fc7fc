"""The ledger: the failed attempts of a task. It travels with the task's records, in one header.

It has at most 32 KiB. When it is larger, the oldest details are cut first; then entries are dropped, the oldest but one
first. Undecodable for a header that is not a ledger.
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
    """One attempt that ended without a result. Times are in ms."""

    attempt: int
    cause: Cause
    _: KW_ONLY
    node: str
    started_ms: int  # 0 = never started
    ended_ms: int
    detail: str = ""  # the traceback's last lines, the signal, the limit
    more: str = ""  # fields of a later version, as JSON; kept when the ledger is encoded again


_KNOWN = frozenset(f.name for f in fields(Failure)) - {"more"}


def encode_ledger(ledger: Sequence[Failure]) -> bytes:
    """JSON of at most MAX_LEDGER_BYTES. The first and the newest failure always stay."""
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
    """From a header; Undecodable for anything that no version of `encode_ledger` writes."""
    try:
        if len(raw) > MAX_LEDGER_BYTES:
            raise ValueError(f"{len(raw)} bytes")
        found = orjson.loads(raw)
        if not isinstance(found, list):
            raise ValueError("not a list")
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
