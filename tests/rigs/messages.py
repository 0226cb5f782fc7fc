"""Parts of messages that tests of the contract share."""

from headrace.contract.ledger import Failure
from headrace.contract.records import Outgoing, Record
from headrace.contract.states import Cause

ID = "0b1ff0a4-3f0b-4a86-9a3a-5d3c3f7f0a11"
RAW = b'{"name": "prime", "payload": {"upper_bound": 10}, "directory": "demo"}'
TRACE = (("traceparent", b"00-1-2-01"), ("traceparent", b"again"))
LOSS = Failure(1, Cause.NODE_LOSS, node="node-1", started_ms=5, ended_ms=9, detail="silent")


def as_read(out: Outgoing, topic: str = "", partition: int = 0, offset: int = 7, at_ms: int = 1000) -> Record:
    """What the log gives back for what was sent."""
    return Record(
        topic or out.topic, partition, offset, timestamp_ms=at_ms, key=out.key, value=out.value, headers=out.headers
    )
