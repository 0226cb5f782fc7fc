"""The ACLs of each role, derived from `topics.yaml` alone, for Kafka's own access control.

A role may write to the topics that name it as a producer, read those that name it as a consumer, delete records from
those that name it as a trimmer, and join or describe the groups that list it. `headrace topics acls` prints the rules;
a test runs every role with these rights and no others. UsageError when the file names an unknown role.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import yaml

from headrace.errors import UsageError
from headrace.kafka.topics import find_topics_yaml, load_topics

# The role behind each name in the file's lists of producers and consumers. The reaper is a part of the worker.
_ROLE_OF = {
    "gateway": "gateway",
    "worker": "worker",
    "reaper": "worker",
    "storekeeper": "storekeeper",
    "analytics": "analytics",
    "Kafka-native producers": "submitter",
}
ROLES = ("gateway", "worker", "storekeeper", "analytics", "submitter", "operator")
_OPERATOR_MAY = (
    "Create",
    "Alter",
    "AlterConfigs",
    "DescribeConfigs",
    "Read",
)  # topics apply, diff and grow; why


@dataclass(frozen=True, slots=True)
class Rule:
    """Allows `operations` on one resource to a role; a `prefixed` rule covers every name that begins with `name`."""

    role: str
    operations: tuple[str, ...]
    kind: Literal["topic", "group"]
    name: str  # without the installation's prefix
    prefixed: bool = False


def acl_rules() -> list[Rule]:
    """Every rule of every role. As in Kafka, Read and Write include Describe."""
    return [rule for role in ROLES for rule in (*_on_topics(role), *_on_groups(role))]


def acl_commands(prefix: str, principals: Mapping[str, str], command: str) -> Iterator[str]:
    """Shell lines that create the rules, with as many rules a line as one call allows.

    `command` is kafka-acls.sh with its connection options. `principals` maps a role to its principal, such as
    User:headrace-worker; roles without one are left out.
    """
    merged: dict[tuple[str, tuple[str, ...], str, bool], list[str]] = {}
    for rule in acl_rules():
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
            yield Rule(role, _OPERATOR_MAY, "topic", topic.name)
            continue
        named = {"Read": topic.consumers, "Write": topic.producers, "Delete": topic.trimmers}  # Delete: records
        if operations := tuple(o for o, who in named.items() if role in _roles(who)):
            yield Rule(role, operations, "topic", topic.name)


def _on_groups(role: str) -> Iterator[Rule]:
    for name, group in yaml.safe_load(find_topics_yaml().read_text())["groups"].items():
        prefixed = name.endswith("*")
        for operation, who in (("Read", group["members"]), ("Describe", group.get("observers", ()))):
            if role in who:
                yield Rule(role, (operation,), "group", name.rstrip("*"), prefixed)


def _roles(named: tuple[str, ...]) -> set[str]:
    """The roles of names such as `worker (receiver)`."""
    found = set()
    for name in named:
        plain = name.partition(" (")[0]
        if plain not in _ROLE_OF:
            raise UsageError(f"topics.yaml names an unknown producer or consumer: {name!r}")
        found.add(_ROLE_OF[plain])
    return found
