"""Task ids. A record whose key is a UUID has that id; any other record gets an id made of its source.

Inside Headrace an id has one form, lower case with dashes. It gets this form where it comes in: from a record's key, a
path of the HTTP API or a command line. The same source always gives the same id, so a record that is read twice never
becomes two tasks.
"""

import re
import uuid

# RFC 9562's text in either case; also without dashes, in braces (as .NET prints it) and as a URN. `uuid.UUID` takes
# much more: dashes anywhere, "0x", underscores, digits of other scripts.
_SPELLING = re.compile(
    r"(?:urn:uuid:)?(?P<brace>\{)?"
    r"([0-9a-f]{8})(?P<dash>-?)([0-9a-f]{4})(?P=dash)([0-9a-f]{4})(?P=dash)([0-9a-f]{4})(?P=dash)([0-9a-f]{12})"
    r"(?(brace)\})",
    re.ASCII | re.IGNORECASE,
)
_CANONICAL = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_MAX_LENGTH = len("urn:uuid:{}") + 36  # a key may have megabytes
_NAMESPACE = uuid.UUID("6d0bd86f-2f2f-5c57-9d0c-3f5d3a2c9a11")  # never change it: ids are derived from it


def new_id() -> str:
    """A random task id."""
    return str(uuid.uuid4())


def parse_id(text: str) -> str | None:
    """The UUID that a person or a program has spelt, in canonical form; None for any other text.

    Upper and lower case, with dashes and without, in braces or after `urn:uuid:`, are the same id.
    """
    if _CANONICAL.fullmatch(text):  # nearly every id
        return text
    found = _SPELLING.fullmatch(text)
    return "-".join(found.group(2, 4, 5, 6, 7)).lower() if found else None


def id_of_key(key: bytes | None) -> str | None:
    """The UUID in a record's key in canonical form; None for any other key and without one."""
    return parse_id(key.decode("latin-1")) if key and len(key) <= _MAX_LENGTH else None


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
