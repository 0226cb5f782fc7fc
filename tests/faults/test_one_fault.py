"""Workload × fault × invariant: each fault once, while all workloads run; then the conservation check (I1, I2, I3, I6).

The random schedule (`test_random_schedule.py`) mixes the faults; here the test's name says which one broke something.
"""

import os
import random
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import orjson
import pytest

from headrace.contract.records import Outgoing, Record
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from infra.chaos.conservation import InjectedFault
from infra.chaos.evidence import EvidenceReader
from infra.chaos.faults import FAULTS
from infra.chaos.installation import Installation, kill
from infra.chaos.listener import Listener
from infra.chaos.schedule import check_conservation, wait_quiet
from infra.chaos.workloads import Submitted, heavy, mixture, submit_http, submit_native, tiny
from infra.local.process import free_port
from infra.local.roles import Role
from tests.faults.conftest import LONG
from tests.faults.processes.hard_workload import hard
from tests.faults.processes.next_version import LATER_HEADER
from tests.rigs.core import Log

# The long form has the full workloads; the short one a tenth of them, so that all faults fit.
TINY, HEAVY, MIXED = (2000, 60, 500) if LONG else (0, 6, 120)
TINY_AFTER = 40


@pytest.mark.timeout(900 if LONG else 240)
@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost_published_twice_or_run_in_vain(installation: Installation, name: str) -> None:
    rng = random.Random(name)
    submitted = Submitted()
    listener = Listener(*installation.urls).start()
    sender = Sender(installation.kafka)
    submit_http(rng.choice(installation.urls), heavy(HEAVY, rng, *((2.0, 5.0) if LONG else (1.0, 3.0))), submitted)
    submit_native(sender, tiny(TINY), submitted)
    submit_native(sender, mixture(MIXED, rng), submitted)
    submit_native(sender, hard(), submitted)
    listener.wait_heard()
    done = FAULTS[name][0](installation, rng)
    submit_native(sender, mixture(TINY_AFTER, rng, heavy_share=0), submitted)
    assert sender.close(30) == 0
    evidence = wait_quiet(EvidenceReader(installation.kafka), submitted.ids, 120)
    listener.wait_for(submitted.ids, 20)
    listener.close()
    verdict = check_conservation(installation, submitted, evidence, [done], dict(listener.terminal_events))
    assert verdict.good, f"{name}\n{verdict}"
    assert verdict.dead == len(submitted.poison)
    assert submitted.ids <= listener.terminal_events.keys(), "a listener that resumed has seen every end"


class Later(Role):
    """The role of a later version (`tests.faults.processes.next_version`)."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.faults.processes.next_version", self.role]


@contextmanager
def later_roles(settings: Settings) -> Iterator[dict[str, Later]]:
    """A gateway, a storekeeper and a worker of a later version beside those that run."""
    made = {}
    for role, where in (("gateway", "http"), ("storekeeper", "storekeeper_http"), ("worker", "stats_http")):
        own = replace(settings, node=f"later-{os.getpid()}", **{where: f"127.0.0.1:{free_port()}"})
        listens = str(getattr(own, where))
        made[role] = Later(f"later-{role}", role, own, listens, "", settings.data / "logs")
    try:
        for one in made.values():
            one.launch()
        for one in made.values():
            one.wait_ready(120)
        yield made
    finally:
        for one in made.values():
            one.kill()


@pytest.mark.timeout(300)
def test_old_and_new_versions_of_every_role_work_side_by_side(installation: Installation) -> None:
    rng, submitted = random.Random(1), Submitted()
    sender = Sender(installation.kafka)
    marked = [str(uuid.uuid4()) for _ in range(12)]
    with later_roles(installation.settings) as later:
        listener = Listener(later["gateway"].url).start()
        submit_http(installation.url, mixture(40, rng, crasher_share=0.1), submitted)
        submit_http(later["gateway"].url, mixture(40, rng, crasher_share=0.1), submitted)
        submit_http(later["gateway"].url, heavy(6, rng, 1.0, 3.0), submitted)
        for task_id in marked:  # each kills its process once; old and new roles claim, replay and end them
            body = {"name": "fragile", "payload": {"how": "kill", "attempts": 1}, "directory": "later", "later": [1]}
            headers = (("version", b"2"), LATER_HEADER)
            sender.send(Outgoing("tasks.normal", task_id.encode(), orjson.dumps(body), headers)).result(30)
        doomed, body = str(uuid.uuid4()), body | {"payload": {"how": "raise", "attempts": 100}}
        sender.send(Outgoing("tasks.normal", doomed.encode(), orjson.dumps(body), headers)).result(30)
        submitted.ids.update(marked, [doomed])
        submitted.suicidal.update(marked, [doomed])
        submitted.poison.add(doomed)  # it raises in every attempt: it must die
        listener.wait_heard()
        begun = int(time.time() * 1000)
        kill(later["worker"].pid)  # the old nodes send its tasks again, from claims of the later version
        done = InjectedFault("kill_node", f"later-{os.getpid()}", begun, begun + 1)
        evidence = wait_quiet(EvidenceReader(installation.kafka), submitted.ids, 120)
        assert listener.wait_for(submitted.ids, 60), "a later gateway reports every end"
        listener.close()
    sender.close(30)
    verdict = check_conservation(installation, submitted, evidence, [done], dict(listener.terminal_events))
    assert verdict.good, str(verdict)
    log = Log(installation.settings)
    for topic in ("tasks.high", "lifecycle.started", "lifecycle.completed"):
        found = [r for r in log.read(topic) if (r.key or b"").decode() in marked]
        assert {(r.key or b"").decode() for r in found} == set(marked)
        assert all(LATER_HEADER in r.headers for r in found), f"{topic} has lost a header"
        assert all(orjson.loads(r.value or b"")["later"] == [1] for r in found if topic == "tasks.high")
    [letter] = [r for r in log.read("tasks.dead") if r.key == doomed.encode()]
    assert LATER_HEADER in letter.headers
    assert orjson.loads(letter.value or b"")["later"] == [1]
    nodes = {e.node.startswith("later") for i in submitted.ids for e in evidence.histories[i].started}
    assert nodes == {True, False}, "both versions have run tasks"
    written = {v for r in log.read("lifecycle.completed") + log.read("tasks.dead") for v in _versions(r)}
    assert written == {b"1", b"2"}, "both versions of the storekeeper have written"


def _versions(record: Record) -> list[bytes]:
    return [v for k, v in record.headers if k == "version"]
