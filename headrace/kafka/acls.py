"""What each role may do on Kafka, from `topics.yaml` alone: the rules that Kafka's own access control has to enforce.

A role may write where the file names it as a producer, read where it names it as a consumer, delete records where it is
a trimmer, and join or look at the groups that the file gives it. `headrace topics acls` prints the rules; a test runs
every role under them and no others.
UsageError when the file names a role that there is none of.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import yaml

from headrace.errors import UsageError
from headrace.kafka.topics import find_topics_yaml, load_topics

# What names in the file's lists of producers and consumers mean. What runs inside a worker acts as the worker.
_NAMES = {
    "gateway": "gateway",
    "worker": "worker",
    "reaper": "worker",
    "storekeeper": "storekeeper",
    "analytics": "analytics",
    "Kafka-native producers": "submitter",
}
ROLES = ("gateway", "worker", "storekeeper", "analytics", "submitter", "operator")
_OPERATES = ("Create", "Alter", "AlterConfigs", "DescribeConfigs", "Read")  # topics apply|diff; why reads everything


@dataclass(frozen=True, slots=True)
class Rule:
    """`operations` are allowed to the role on the resource; a `prefixed` name stands for all that begin with it."""

    role: str
    operations: tuple[str, ...]
    kind: Literal["topic", "group"]
    name: str  # without the installation's prefix
    prefixed: bool = False


def rules() -> list[Rule]:
    """Every rule of every role. Read and Write include Describe, as Kafka has it."""
    return [rule for role in ROLES for rule in (*_on_topics(role), *_on_groups(role))]


def commands(prefix: str, principals: Mapping[str, str], command: str) -> Iterator[str]:
    """Lines for a shell that allow it all: `command` (kafka-acls.sh and how it connects) with a role's rules each.

    `principals`: role -> principal, such as User:headrace-worker; roles that are missing are left out.
    """
    merged: dict[tuple[str, tuple[str, ...], str, bool], list[str]] = {}
    for rule in rules():
        if rule.role in principals:
            merged.setdefault((rule.role, rule.operations, rule.kind, rule.prefixed), []).append(prefix + rule.name)
    for (role, operations, kind, prefixed), names in merged.items():
        yield " ".join(
            [
                command,
                "--add",
                "--allow-principal",
                shlex.quote(principals[role]),
                *(f"--operation {o}" for o in operations),
                *(f"--{kind} {shlex.quote(name)}" for name in names),
                *(["--resource-pattern-type prefixed"] if prefixed else []),
            ]
        )


def _on_topics(role: str) -> Iterator[Rule]:
    for topic in load_topics().values():
        if role == "operator":
            yield Rule(role, _OPERATES, "topic", topic.name)
            continue
        named = {"Read": topic.consumers, "Write": topic.producers, "Delete": topic.trimmers}  # Delete: of records
        if operations := tuple(o for o, who in named.items() if role in _roles(who)):
            yield Rule(role, operations, "topic", topic.name)


def _on_groups(role: str) -> Iterator[Rule]:
    for name, group in yaml.safe_load(find_topics_yaml().read_text())["groups"].items():
        prefixed = name.endswith("*")
        for operation, who in (("Read", group["members"]), ("Describe", group.get("observers", ()))):
            if role in who:
                yield Rule(role, (operation,), "group", name.rstrip("*"), prefixed)


def _roles(named: tuple[str, ...]) -> set[str]:
    """Roles of names such as `worker (receiver)`."""
    found = set()
    for name in named:
        plain = name.partition(" (")[0]
        if plain not in _NAMES:
            raise UsageError(f"topics.yaml names a producer or consumer that there is none of: {name!r}")
        found.add(_NAMES[plain])
    return found
