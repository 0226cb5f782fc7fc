"""A role of a later version: it writes a higher `version`, and headers and fields that this version does not know.

The test of rolling upgrades runs it as `python -m tests.faults.processes.next_version <role>` beside roles of this
version. It is the role itself, patched to put what a later release may add into every message.
"""

import sys
from collections.abc import Callable
from typing import Any

import orjson

from headrace.contract import journal, ledger, lifecycle, outcome, records, task
from headrace.contract.cluster import Heartbeat, KindInfo
from headrace.contract.records import Outgoing

VERSION = b"2"
LATER_HEADER = ("later", b"\xff\x00 not even text")
LATER_FIELD = {"later": {"nested": [1, 2]}}


def _later_headers(original: Callable[..., Any]) -> Callable[..., Any]:
    def headers_of(values: Any, foreign: Any = ()) -> Any:
        own = [(k, VERSION if k == "version" else v) for k, v in original(values, foreign)]
        return tuple(own) if LATER_HEADER in own else (*own, LATER_HEADER)

    return headers_of


def _later_fields(original: Callable[[Any], Outgoing]) -> Callable[[Any], Outgoing]:
    def encode(self: Any) -> Outgoing:
        made = original(self)
        value = orjson.dumps(orjson.loads(made.value or b"{}") | LATER_FIELD)
        return Outgoing(made.topic, made.key, value, made.headers, made.partition)

    return encode


def _later_ledger(original: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    def encode_ledger(entries: Any) -> bytes:
        return orjson.dumps([f | LATER_FIELD for f in orjson.loads(original(entries))])

    return encode_ledger


def become_later() -> None:
    """Patches the encoders of this process."""
    headers_of, encode_ledger = _later_headers(records.headers_of), _later_ledger(ledger.encode_ledger)
    import headrace.contract.cluster as cluster

    for module in (task, lifecycle, outcome, journal, cluster):
        module.headers_of = headers_of  # type: ignore[attr-defined]
    for module in (task, outcome, journal):
        module.encode_ledger = encode_ledger  # type: ignore[attr-defined]
    for kind in (Heartbeat, KindInfo):
        kind.encode = _later_fields(kind.encode)  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    become_later()
    from headrace.cli.main import main

    sys.exit(main())
