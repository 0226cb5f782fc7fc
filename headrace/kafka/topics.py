"""Loads and checks `topics.yaml`, compares a cluster with it, and makes the cluster match.

Used by `headrace topics`, by `up` and by tests. UsageError when the file is invalid or the cluster refuses a change.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # its __init__ does not list what it imports
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from headrace.errors import UsageError
from headrace.kafka.metadata import partitions_of

_ADMIN_TIMEOUT_S = 30.0
_LEADER_RETRY_S = 0.02
_LEARNED_S = 5.0  # within which brokers know of another command's partitions
_NO_LEADER_YET = frozenset(
    {
        "NOT_LEADER_FOR_PARTITION",
        "LEADER_NOT_AVAILABLE",
        "UNKNOWN_TOPIC_OR_PART",
        "_NOENT",  # librdkafka knows of no leader
        "_UNKNOWN_PARTITION",
    }
)


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of the contract. `config` holds Kafka's own names and values as text."""

    name: str
    description: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    key: str
    value: str
    headers: str
    partitions: int
    config: Mapping[str, str]
    example: Mapping[str, Any] = field(hash=False)
    trimmers: tuple[str, ...] = ()  # the roles that delete records
    grows: bool = False  # whether `headrace topics grow` adds partitions to it

    @property
    def is_keyed(self) -> bool:
        """Whether its records are keyed by task id, or lie in the partition of such a record."""
        return self.name not in ("nodes", "kinds")


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the cluster and the file."""

    topic: str
    what: str  # the difference, in words
    fix: str  # what `apply` does about it, or why it refuses
    action: Literal["create", "grow", "configure", "refuse"]

    @property
    def refused(self) -> bool:
        return self.action == "refuse"


def find_topics_yaml() -> Path:
    """The file in the package of an installed wheel, or at the top of a checkout; UsageError when it is missing."""
    package = Path(__file__).resolve().parents[1]
    for path in (package / "topics.yaml", package.parent / "topics.yaml"):
        if path.exists():
            return path
    raise UsageError("topics.yaml is missing from this installation: install Headrace anew")


@cache
def load_topics(path: Path | None = None) -> Mapping[str, Topic]:
    """Name -> topic, in the file's order; UsageError when a field is missing or has the wrong type."""
    path = path or find_topics_yaml()
    found = yaml.safe_load(path.read_text())
    defaults = found["defaults"]
    topics = {}
    for name, t in found["topics"].items():
        try:
            config = {k: str(v) for k, v in {**defaults["config"], **t["config"]}.items()}
            partitions = int(t.get("partitions", defaults["partitions"]))
            topics[name] = Topic(
                name,
                t["description"],
                tuple(t["producers"]),
                tuple(t["consumers"]),
                t["key"],
                t["value"],
                t["headers"],
                partitions,
                config,
                t["example"],
                tuple(t.get("trimmers", ())),
                bool(t.get("grows", False)),
            )
        except (KeyError, TypeError, ValueError) as e:
            raise UsageError(f"{path}: topic {name}: {e!r}") from None
    keyed = {t.partitions for t in topics.values() if t.is_keyed}
    if len(keyed) != 1:
        raise UsageError(
            f"{path}: all keyed topics begin with one partition count: an id lies in the same partition everywhere"
        )
    return topics


def diff_topics(admin: AdminClient, prefix: str = "", partitions: int | None = None) -> list[Change]:
    """What `apply_topics` would do and what it would refuse. `partitions` overrides the count of keyed topics.

    KafkaException when Kafka does not answer.
    """
    topics = load_topics()
    existing = partitions_of(admin, [prefix + name for name in topics], _ADMIN_TIMEOUT_S)
    counts = {t.name: len(existing[prefix + t.name]) for t in topics.values() if prefix + t.name in existing}
    grown = max((count for name, count in counts.items() if topics[name].grows), default=0)
    changes = []
    for t in topics.values():
        wanted = _partitions(t, partitions)
        if t.name not in counts:
            changes.append(Change(t.name, "is missing", f"create it with {wanted} partitions", "create"))
            continue
        have = counts[t.name]
        if t.grows and have < grown:
            fix = f"a growth was cut short: run `headrace topics grow --partitions {grown}` again"
            changes.append(Change(t.name, f"has {have} partitions, others of the queue {grown}", fix, "refuse"))
        elif have < wanted:
            changes.append(_too_few(t, have, wanted, _has_tasks(admin, prefix, existing)))
        elif have > wanted and not (t.grows and have % wanted == 0):
            what = f"has {have} partitions, the file says {wanted}"
            changes.append(Change(t.name, what, "never shrinks: left as it is", "refuse"))
        changes += _config_changes(admin, prefix, t)
    return changes


def apply_topics(
    admin: AdminClient, prefix: str = "", partitions: int | None = None, replication: int = -1
) -> list[Change]:
    """Creates and alters topics until the cluster matches the file; returns what it did and what it refused.

    Never shrinks a topic, and refuses to add partitions once there have been tasks. `replication` -1 is the broker's
    default. UsageError when the cluster refuses a change, KafkaException when it does not answer.
    """
    changes = diff_topics(admin, prefix, partitions)
    topics = load_topics()
    missing = [topics[c.topic] for c in changes if c.action == "create"]
    new = [NewTopic(prefix + t.name, _partitions(t, partitions), replication, config=dict(t.config)) for t in missing]
    grow = {c.topic for c in changes if c.action == "grow"}
    more = {prefix + name: _partitions(topics[name], partitions) for name in grow}
    if new:
        _wait(admin.create_topics(new, operation_timeout=_ADMIN_TIMEOUT_S))
        _wait_for_leaders(admin, {t.topic: t.num_partitions for t in new})
    add_partitions(admin, more)
    for name in {c.topic for c in changes if c.action == "configure"}:
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            for key, value in topics[name].config.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, prefix + name, incremental_configs=entries)
        _wait(admin.incremental_alter_configs([resource]))
    return changes


def add_partitions(admin: AdminClient, counts: Mapping[str, int]) -> None:
    """Gives topics (named with their prefix) more partitions, in one request; returns when those have leaders.

    UsageError when the cluster refuses it, KafkaException when it does not answer.
    """
    if not counts:
        return
    wanted = [NewPartitions(name, count) for name, count in counts.items()]
    for name, added in admin.create_partitions(wanted, operation_timeout=_ADMIN_TIMEOUT_S).items():
        try:
            _wait({name: added})
        except UsageError:
            if not _gets_partitions(admin, name, counts[name]):
                raise
    _wait_for_leaders(admin, counts)


def _gets_partitions(admin: AdminClient, name: str, count: int) -> bool:
    """Whether the topic has them after all: another command was faster, and brokers learn of that a little later."""
    deadline = time.monotonic() + _LEARNED_S
    while time.monotonic() < deadline:
        if len(partitions_of(admin, [name], _ADMIN_TIMEOUT_S).get(name, ())) == count:
            return True
        time.sleep(_LEADER_RETRY_S)
    return False


def _too_few(topic: Topic, have: int, wanted: int, has_tasks: bool) -> Change:
    """Partitions are added while nothing has an id; later the queue grows by a command of its own, the rest never."""
    what = f"has {have} partitions, the file says {wanted}"
    if not has_tasks:
        return Change(topic.name, what, f"add {wanted - have} partitions", "grow")
    if topic.grows:
        fix = f"there have been tasks: run `headrace topics grow --partitions {wanted}`, or give {have} here"
    else:
        fix = (
            f"keeps its {have} for ever, since ids have their place there: `headrace topics grow` gives nodes more work"
        )
    return Change(topic.name, what, fix, "refuse")


def _partitions(topic: Topic, override: int | None) -> int:
    return topic.partitions if override is None or topic.partitions == 1 else override


def _config_changes(admin: AdminClient, prefix: str, topic: Topic) -> list[Change]:
    [found] = admin.describe_configs([ConfigResource(ResourceType.TOPIC, prefix + topic.name)]).values()
    have = {k: v.value for k, v in found.result(_ADMIN_TIMEOUT_S).items()}
    return [
        Change(topic.name, f"config {k} is {have.get(k)}, the file says {v}", f"set it to {v}", "configure")
        for k, v in topic.config.items()
        if have.get(k) != v
    ]


def _has_tasks(admin: AdminClient, prefix: str, existing: Mapping[str, Sequence[int]]) -> bool:
    """Whether a task topic or the journal holds a record. While one does, an id must stay in its partition."""
    places = [
        TopicPartition(prefix + name, p)
        for name in ("tasks.normal", "tasks.high", "tasks.running")
        if prefix + name in existing
        for p in existing[prefix + name]
    ]
    first = admin.list_offsets({p: OffsetSpec.earliest() for p in places})  # type: ignore[no-untyped-call]
    last = admin.list_offsets({p: OffsetSpec.latest() for p in places})  # type: ignore[no-untyped-call]
    return any(last[p].result(_ADMIN_TIMEOUT_S).offset > first[p].result(_ADMIN_TIMEOUT_S).offset for p in places)


def _wait_for_leaders(admin: AdminClient, counts: Mapping[str, int]) -> None:
    """Waits until all new partitions have a leader: brokers learn of them a little later than the controller.

    Before that, requests for their offsets fail. Returns after a time limit in any case: clients wait for leaders too.
    """
    deadline = time.monotonic() + _ADMIN_TIMEOUT_S
    places = [TopicPartition(name, p) for name, count in counts.items() for p in range(count)]
    while places and time.monotonic() < deadline:
        asked = admin.list_offsets({p: OffsetSpec.latest() for p in places})  # type: ignore[no-untyped-call]
        places = [p for p, future in asked.items() if _lacks_leader(future)]
        if places:
            for name in {p.topic for p in places}:
                admin.list_topics(name, timeout=_ADMIN_TIMEOUT_S)  # else librdkafka keeps the leaders that it knows
            time.sleep(_LEADER_RETRY_S)


def _lacks_leader(answer: Any) -> bool:
    try:
        answer.result(_ADMIN_TIMEOUT_S)
    except KafkaException as e:
        return e.args[0].name() in _NO_LEADER_YET
    return False


def _wait(futures: Mapping[Any, Any]) -> None:
    for name, future in futures.items():
        try:
            future.result(_ADMIN_TIMEOUT_S)
        except KafkaException as e:
            if e.args[0].name() == "TOPIC_ALREADY_EXISTS":  # another role was faster
                continue
            raise UsageError(f"topic {name}: {e.args[0].str()}") from None
