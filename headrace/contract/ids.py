"""Task ids: a valid UUID key is the id; any other record gets one from its place in the log.

The same place always gives the same id, so reading a record twice never makes two tasks.
"""

import uuid

_NAMESPACE = uuid.UUID("6d0bd86f-2f2f-5c57-9d0c-3f5d3a2c9a11")  # fixed for ever: ids are derived from it


def new_id() -> str:
    return str(uuid.uuid4())


def id_of_key(key: bytes | None) -> str | None:
    """The canonical UUID in a record's key, or None when there is no key or it is no UUID."""
    if key is None or len(key) not in {32, 36, 38, 41, 45}:
        return None
    try:
        return str(uuid.UUID(key.decode("ascii")))
    except ValueError:
        return None


def id_of_place(topic: str, partition: int, offset: int) -> str:
    """UUIDv5 of topic, partition and offset: the id of a record without a usable key."""
    return str(uuid.uuid5(_NAMESPACE, f"{topic}/{partition}/{offset}"))


def id_of_redrive(old_id: str, count: int) -> str:
    """The id of the `count`-th redrive of a dead task: repeating a redrive makes no second task."""
    return str(uuid.uuid5(_NAMESPACE, f"redrive/{old_id}/{count}"))


def id_of_idempotency_key(holder: str, key: str) -> str:
    """The id that every repeat of one submission under an Idempotency-Key gets, on any gateway, for a day."""
    return str(uuid.uuid5(_NAMESPACE, f"idempotency/{holder}/{key}"))


def id_of_key_reused(old_id: str) -> str:
    """The id under the same Idempotency-Key once its day is over: each follows from the one before it."""
    return str(uuid.uuid5(_NAMESPACE, f"idempotency-again/{old_id}"))
