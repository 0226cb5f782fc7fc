"""Rights follow from topics.yaml: no role is forgotten, and nobody gets what the file does not give."""

import orjson
from click.testing import CliRunner, Result

from headrace.cli.topics import topics
from headrace.errors import UsageError
from headrace.kafka.acls import ROLES, acl_rules
from headrace.kafka.groups import (
    ANALYTICS_GROUP_PREFIX,
    INTAKE_GROUP,
    NO_GROUP,
    REAPER_GROUP,
    RECEIVER_GROUP,
    STOREKEEPER_GROUP,
)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(topics, ["acls", *arguments])


def may(role: str, operation: str, kind: str = "topic") -> set[str]:
    return {r.name for r in acl_rules() if r.role == role and operation in r.operations and r.kind == kind}


def test_only_those_who_have_to_may_write_where_a_tasks_end_is_decided() -> None:
    writers = {role: may(role, "Write") for role in ROLES}
    assert writers["submitter"] == {"tasks.normal"}
    assert writers["analytics"] == writers["operator"] == set()
    assert {role for role in ROLES if "tasks.running" in writers[role]} == {"worker"}
    assert {role for role in ROLES if "results" in writers[role]} == {"worker", "gateway"}
    assert {role for role in ROLES if writers[role] & {"tasks.dead", "lifecycle.completed"}} == {"storekeeper"}


def test_every_group_that_is_joined_has_its_member_and_no_other() -> None:
    members = {role: may(role, "Read", "group") for role in ROLES}
    assert members["worker"] == {INTAKE_GROUP, RECEIVER_GROUP, REAPER_GROUP}
    assert members["storekeeper"] == {STOREKEEPER_GROUP}
    assert members["analytics"] == {ANALYTICS_GROUP_PREFIX}
    assert members["gateway"] == members["submitter"] == members["operator"] == set()
    watched = {role: may(role, "Describe", "group") for role in ROLES}
    assert watched["analytics"] == {INTAKE_GROUP, STOREKEEPER_GROUP, NO_GROUP}
    assert {role for role in ROLES if NO_GROUP in watched[role]} == set(ROLES) - {"submitter"}


def test_principals_prefix_and_roles_are_the_installations() -> None:
    answer = run("--role", "submitter", "--principal", "submitter=User:CN=a shop", "--topic-prefix", "blue.")
    [line] = answer.output.splitlines()
    assert "--allow-principal 'User:CN=a shop' --operation Write --topic blue.tasks.normal" in line
    [row] = [orjson.loads(r) for r in run("--role", "submitter", "--json").output.splitlines()]
    assert (row["principal"], row["name"], row["operations"]) == ("User:headrace-submitter", "tasks.normal", ["Write"])


def test_a_principal_that_is_none_is_refused_in_words() -> None:
    for text in ("worker=alice", "nobody=User:a", "User:a"):
        answer = run("--principal", text)
        assert isinstance(answer.exception, UsageError)
        assert "ROLE=TYPE:NAME" in str(answer.exception)
