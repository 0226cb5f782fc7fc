"""Task ids. A record whose key is a UUID has that id; any other record gets an id made of its source.

The same source always gives the same id, so a record that is read twice never becomes two tasks.
"""

import uuid

_NAMESPACE = uuid.UUID("6d0bd86f-2f2f-5c57-9d0c-3f5d3a2c9a11")  # never change it: ids are derived from it


def new_id() -> str:
    """A random task id."""
    return str(uuid.uuid4())


def id_of_key(key: bytes | None) -> str | None:
    """The UUID in a record's key in canonical form; None for any other key and without one."""
    if key is None or len(key) not in {32, 36, 38, 41, 45}:
        return None
    try:
        return str(uuid.UUID(key.decode("ascii")))
    except ValueError:
        return None


def id_of_source(topic: str, partition: int, offset: int) -> str:
    """The id of a record without a usable key: UUIDv5 of topic (without prefix), partition and offset."""
    return str(uuid.uuid5(_NAMESPACE, f"{topic}/{partition}/{offset}"))


def id_of_redrive(old_id: str, count: int) -> str:
    """The id of the `count`-th redrive of a dead task, so that a repeated request makes no second task."""
    return str(uuid.uuid5(_NAMESPACE, f"redrive/{old_id}/{count}"))


def id_of_idempotency_key(holder: str, key: str) -> str:
    """The id of every submission with this Idempotency-Key, on any gateway, for a day."""
    return str(uuid.uuid5(_NAMESPACE, f"idempotency/{holder}/{key}"))


def id_of_key_reused(old_id: str) -> str:
    """The next id under the same Idempotency-Key, once the day of `old_id` is over."""
    return str(uuid.uuid5(_NAMESPACE, f"idempotency-again/{old_id}"))
