"""What nodes announce and what they are told: heartbeats, task kinds, commands.

Workers send heartbeats and kinds, gateways send commands and notes of redrives; Undecodable for anything else. Topics
`nodes` (key: boot id) and `kinds` (key: kind name) are compacted; `tasks.control` is trimmed behind the tasks that its
commands are for, and `tasks.redriven` is kept as long as the dead letters.
"""

from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Literal

import orjson

from headrace.contract.bounds import MAX_ATTEMPTS, MAX_BOOT_CHARACTERS, MAX_TIME_MS, whole_number
from headrace.contract.exact_json import encode_json, parse_json
from headrace.contract.ids import id_of_key
from headrace.contract.records import Outgoing, Record, headers_of
from headrace.errors import Invalid, Undecodable

# Such keys on `nodes` are no boots: headrace.storage.results_root stores there which results root is in use.
RESULTS_ROOT_KEY = b"results-root/"
_MAX_SLOTS = 100_000
MAX_WAITS = 20  # in a heartbeat


@dataclass(frozen=True, slots=True)
class RunningAttempt:
    """One attempt that runs on a node. `started_ms` is a time."""

    id: str
    name: str
    attempt: int
    started_ms: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Something on a node that stands still until something else happens.

    `why` is `head` (the first record of a partition waits for room on another node, and all behind it wait too),
    `aside` (claimed tasks of a kind wait for that, and hold up nothing) or `alone` (an attempt is to run alone here).
    """

    why: str
    name: str  # of the kind
    task: str  # id of the first task that waits
    since_ms: int  # time
    text: str  # all of it in words
    source: str = ""  # topic/partition/offset of that task
    count: int = 1  # tasks

    @classmethod
    def from_json(cls, f: Any) -> "Wait":
        """From what a heartbeat holds; ValueError, KeyError or TypeError for anything else."""
        why, name, task, source = (str(f[field])[:300] for field in ("why", "name", "task", "source"))
        since_ms, count = whole_number(f["since_ms"], MAX_TIME_MS), whole_number(f["count"])
        return cls(why, name, task, since_ms, str(f["text"])[:1000], source, count)


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A node's sign of life, sent once a second. A boot whose `state` was `dead` once stays dead."""

    boot: str
    node: str
    _: KW_ONLY
    host: str
    pid: int
    slots: int
    started_ms: int
    running: tuple[RunningAttempt, ...] = ()
    kinds: tuple[str, ...] = ()
    state: Literal["alive", "draining", "dead"] = "alive"
    drained: bool = False  # of a dead boot: it ended in order, with nothing left to do
    stats_url: str = ""
    release: str = ""  # version of Headrace
    waits: tuple[Wait, ...] = ()  # at most MAX_WAITS

    def encode(self) -> Outgoing:
        return Outgoing("nodes", self.boot.encode(), orjson.dumps(asdict(self)), headers_of({}))

    @staticmethod
    def is_heartbeat(record: Record) -> bool:
        """Whether a record of `nodes` should be decoded: tombstones and the results root's record are no heartbeats."""
        return record.value is not None and not (record.key or b"").startswith(RESULTS_ROOT_KEY)

    @classmethod
    def decode(cls, record: Record) -> "Heartbeat":
        """The heartbeat of a record for which `is_heartbeat` is true; Undecodable when it is malformed."""
        record.check_size()
        try:
            f = orjson.loads(record.value or b"")
            boot = (record.key or b"").decode()
            running = tuple(
                RunningAttempt(
                    str(r["id"]),
                    str(r["name"]),
                    whole_number(r["attempt"], MAX_ATTEMPTS),
                    whole_number(r["started_ms"], MAX_TIME_MS),
                )
                for r in f["running"]
            )
            if not isinstance(f["state"], str) or not 0 < len(boot) <= MAX_BOOT_CHARACTERS or f["boot"] != boot:
                raise ValueError("state or boot")
            # A later version may know more states. Such a node is alive, but must get no tasks.
            state: Any = f["state"] if f["state"] in ("alive", "draining", "dead") else "draining"
            return cls(
                boot,
                str(f["node"]),
                host=str(f["host"]),
                pid=whole_number(f["pid"]),
                slots=whole_number(f["slots"], _MAX_SLOTS),
                started_ms=whole_number(f["started_ms"], MAX_TIME_MS),
                running=running,
                kinds=tuple(map(str, f["kinds"])),
                state=state,
                drained=state == "dead" and f.get("drained") is True,
                stats_url=str(f["stats_url"]),
                release=str(f["release"]),
                waits=tuple(Wait.from_json(w) for w in f.get("waits", [])[:MAX_WAITS]),
            )
        except (ValueError, KeyError, TypeError, OverflowError) as e:
            raise Undecodable(f"not a heartbeat: {e}", record.value) from None


@dataclass(frozen=True, slots=True)
class KindInfo:
    """A task kind without its code: what gateways and other nodes know about it."""

    name: str
    schema: dict[str, Any]  # JSON Schema (2020-12) of the payload
    _: KW_ONLY
    timeout_s: float  # of one attempt
    max_attempts: int
    content_type: str | None = None  # None = by the type of the returned value
    suffix: str | None = None
    memory_mb: int | None = None  # MiB of one attempt; None = the slot's
    description: str = ""
    version: str = ""  # hash of the source: it changes with the code
    # The kind checks more than its schema can say, such as a validator of the author's: a payload that passes the
    # schema may still be refused by the first attempt, which ends the task as `invalid`.
    checked_on_node: bool = False

    def encode(self) -> Outgoing:
        return Outgoing("kinds", self.name.encode(), encode_json(self.to_json()), headers_of({}))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, f: Any) -> "KindInfo":
        """From what `to_json` made; Undecodable for anything else."""
        try:
            if not isinstance(f["schema"], dict):
                raise ValueError("schema is not an object")
            memory, timeout_s = f.get("memory_mb"), float(f["timeout_s"])
            if not 0 < timeout_s < MAX_TIME_MS:  # false for infinity and NaN
                raise ValueError(f"timeout_s is {timeout_s}")
            return cls(
                str(f["name"]),
                f["schema"],
                timeout_s=timeout_s,
                max_attempts=whole_number(f["max_attempts"], MAX_ATTEMPTS, 1),
                content_type=_text_or_none(f, "content_type"),
                suffix=_text_or_none(f, "suffix"),
                memory_mb=None if memory is None else whole_number(memory),
                description=str(f.get("description", "")),
                version=str(f.get("version", "")),
                checked_on_node=f.get("checked_on_node") is not False,  # an older node's schema says less
            )
        except (ValueError, KeyError, TypeError, OverflowError, AttributeError) as e:
            raise Undecodable(f"not a kind: {e}") from None

    @classmethod
    def decode(cls, record: Record) -> "KindInfo":
        record.check_size()
        try:
            kind = cls.from_json(parse_json(record.value or b""))
        except (Undecodable, Invalid) as e:
            raise Undecodable(f"not a kind: {e.detail.removeprefix('not a kind: ')}", record.value) from None
        if kind.name.encode() != record.key:
            raise Undecodable("the key of a kind must be its name", record.value)
        return kind


@dataclass(frozen=True, slots=True)
class Cancel:
    """A command on `tasks.control`: the task must not start, and is killed if it runs."""

    id: str
    by: str = ""  # holder of the API key that asked

    def encode(self) -> Outgoing:
        return Outgoing(
            "tasks.control",
            self.id.encode(),
            orjson.dumps({"command": "cancel", "by": self.by}),
            headers_of({}),
        )

    @classmethod
    def decode(cls, record: Record) -> "Cancel | None":
        """None for a command of a later version; Undecodable for anything that is not a command."""
        record.check_size()
        task_id = id_of_key(record.key)
        try:
            found = orjson.loads(record.value or b"")
            command = str(found["command"])
            if task_id is None:
                raise ValueError("the key is not a task id")
            return cls(task_id, str(found.get("by", ""))) if command == "cancel" else None
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise Undecodable(f"not a command: {e}", record.value) from None


@dataclass(frozen=True, slots=True)
class Redriven:
    """A note on `tasks.redriven`: the dead task `redrive_of` was submitted again as the task `id`.

    The new submission has a header that says the same, for people. No reader believes it: on `tasks.normal` anybody may
    write it. Only gateways may write this note.
    """

    id: str
    redrive_of: str

    def encode(self) -> Outgoing:
        value = orjson.dumps({"command": "redriven", "as": self.id})
        return Outgoing("tasks.redriven", self.redrive_of.encode(), value, headers_of({}))

    @classmethod
    def decode(cls, record: Record) -> "Redriven | None":
        """None for another command; Undecodable for anything that is not a command."""
        record.check_size()
        old_id = id_of_key(record.key)
        try:
            found = orjson.loads(record.value or b"")
            if str(found["command"]) != "redriven":
                return None
            new_id = id_of_key(str(found["as"]).encode())
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise Undecodable(f"not a command: {e}", record.value) from None
        if old_id is None or new_id is None:
            raise Undecodable("not a redrive: both ids must be task ids", record.value)
        return cls(new_id, old_id)


def _text_or_none(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is not text")
    return value
