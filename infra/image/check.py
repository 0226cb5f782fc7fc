"""Builds the image without an engine and uses it, with a broker and a database outside the containers.

`python -m infra.image.check` (Debian, as root; see `infra.image.build`) prints a line for each check. The tests run the
same checks one by one; each raises AssertionError with what it found instead. A `Product` is compose's services in
containers.
"""

import json
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from headrace.cli.health import ADDRESSES
from headrace.client import Client, Refused
from headrace.errors import HeadraceError, Retryable

from ..local.database import EmbeddedDatabase
from ..local.kafka import EmbeddedKafka
from ..local.process import free_port
from .build import build, build_on
from .container import COMPOSE, Container, Machine, machine

PATIENCE_S = 300.0  # for any wait; the machine may be busy
_FORBIDDEN_COMMANDS = ("pip", "pip3", "uv", "hatchling", "gcc", "cc", "make", "git", "curl", "wget", "javac")
_FORBIDDEN_MODULES = "pip setuptools hatchling pytest mypy agents gateway infra examples"  # tools; names of the user's

# Runs in the image's Python and prints what the container's user finds.
_INSPECTION = """
import importlib.util, json, os, shutil, sys
def writable(path):
    try:
        open(os.path.join(path, "probe"), "w").close()
        return True
    except OSError:
        return False
print(json.dumps({
    "ids": [os.getuid(), os.getgid()],
    "commands": [c for c in sys.argv[2:] if shutil.which(c)],
    "modules": [m for m in sys.argv[1].split() if importlib.util.find_spec(m)],
    "writable": [p for p in ("/", "/tasks", "/opt/headrace", "/results", "/var/lib/headrace", "/tmp") if writable(p)],
}))
"""

_OWN_KIND = """
from headrace import task

@task()
def greet(whom: str) -> dict[str, str]:
    return {"hello": whom}
"""


class Product:
    """topics, storekeeper, gateway and workers in containers, with a broker outside; Spark once it is started."""

    def __init__(self, on: Machine, kafka: str, prefix: str, database: str) -> None:
        self.gateway_port, self.kafka = free_port(), kafka
        self.machine = on
        on.secrets = {"database_url": database}
        on.replace = {
            "kafka:9092": kafka,
            "0.0.0.0:8000": f"127.0.0.1:{self.gateway_port}",
            "0.0.0.0:6066": f"127.0.0.1:{free_port()}",
            "127.0.0.1:6050": f"127.0.0.1:{free_port()}",
            "127.0.0.1:6040": f"127.0.0.1:{free_port()}",
            "7077": str(free_port()),
        }
        # Containers share this machine's network, so Spark must stay on loopback.
        self.environ = {"HEADRACE_TOPIC_PREFIX": prefix, "SPARK_LOCAL_IP": "127.0.0.1"}
        self.running: dict[str, Container] = {}
        self.submitted = 0

    def start(self, *services: str) -> None:
        """Starts services after the health of their dependencies in compose, and waits until all health checks pass."""
        for name in services:
            for first, how in COMPOSE["services"][name].get("depends_on", {}).items():
                if how["condition"] == "service_healthy" and first in self.running:
                    self.running[first].wait_ready(PATIENCE_S)
            self.running[name] = self.machine.container(name, **self.environ)
            self.running[name].launch()
        for name in services:
            self.running[name].wait_ready(PATIENCE_S)

    def apply_topics(self) -> None:
        topics = self.machine.container("topics", **self.environ)
        topics.launch()
        topics.wait(PATIENCE_S)
        topics.kill()
        assert topics.returncode == 0, topics.log.read_text()

    def close(self) -> None:
        for container in self.running.values():
            container.kill()

    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.gateway_port}")

    def submit(self, client: Client, name: str, payload: dict[str, Any]) -> str:
        """The task's id, once it is acknowledged; repeated with one key while the broker is slow."""
        task = {"name": name, "payload": payload, "directory": "image"}
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        found: dict[str, Any] = {}

        def acknowledged() -> bool:
            found.update(client.request("POST", "/tasks", json=task, headers=headers))
            return True

        wait_for("an acknowledgement", acknowledged, (Refused,))
        self.submitted += 1
        return str(found["id"])

    def stored(self, task_id: str) -> Any:
        """The result as the volume has it."""
        return json.loads((self.machine.folder / "volumes" / "results" / "image" / f"{task_id}.json").read_bytes())


@contextmanager
def product(on: Machine, kafka: str, prefix: str, database: str) -> Iterator[Product]:
    """A product that runs tasks: all of compose except the second worker and the statistics."""
    made = Product(on, kafka, prefix, database)
    try:
        made.apply_topics()
        made.start("storekeeper", "worker-1", "gateway")
        yield made
    finally:
        made.close()


def check_contents(on: Machine) -> str:
    """The user is not root, finds no build tools, and can write only where intended."""
    found = json.loads(
        on.once(["-c", _INSPECTION, _FORBIDDEN_MODULES, *_FORBIDDEN_COMMANDS], entrypoint=["/opt/headrace/bin/python"])
    )
    assert found == {"ids": [10001, 10001], "commands": [], "modules": [], "writable": ["/tmp"]}, found  # noqa: S108
    return "user 10001, no build tools, root file system read-only"


def check_help(on: Machine) -> str:
    for role in ADDRESSES:
        text = on.once([role, "--help"])
        assert f"headrace {role}" in text, text
        assert "HEADRACE_KAFKA" in text, text
    return f"--help of {', '.join(ADDRESSES)}"


def check_task(of: Product) -> str:
    """A task from HTTP to a stored result."""
    with of.client() as client:
        accepted = of.submit(client, "prime", {"upper_bound": 30})
        seen = [e.event for e in client.events(accepted)]
        assert seen[-1] == "completed", seen
        assert json.loads(b"".join(client.result(accepted))) == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    assert of.stored(accepted) == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    return f"prime, submitted over HTTP: {', '.join(seen)}; its result on the volume"


def check_kill(of: Product) -> str:
    """The worker's container is killed during the first attempt of a task that hangs in it."""
    with of.client() as client:
        hanging = of.submit(client, "fragile", {"how": "hang", "attempts": 1})
        wait_for("the first attempt", lambda: client.request("GET", f"/tasks/{hanging}")["status"] == "running")
        of.running["worker-1"].kill()
        waiting = [of.submit(client, "prime", {"upper_bound": n}) for n in range(10, 20)]
        begun = time.monotonic()
        of.start("worker-1")  # as its restart policy does
        for task_id in (hanging, *waiting):
            seen = [e.event for e in client.events(task_id)]
            assert seen.count("completed") == 1, (task_id, seen)
        took = time.monotonic() - begun
    assert of.stored(hanging) == {"attempt": 2, "went_wrong_before": 1}
    assert all(of.stored(task_id)[0] == 2 for task_id in waiting)
    return f"worker killed in the middle of a task: that one and {len(waiting)} more completed {took:.1f} s later"


def check_kill_all(of: Product) -> str:
    """Gateway, storekeeper and worker are killed together at work; only the volumes and the log remain."""
    with of.client() as client:
        tasks = [of.submit(client, "prime", {"upper_bound": n}) for n in range(100, 140)]
    for name in ("gateway", "storekeeper", "worker-1"):
        of.running[name].kill()
    of.start("storekeeper", "worker-1", "gateway")
    with of.client() as client:
        for task_id in tasks:
            assert [e.event for e in client.events(task_id)].count("completed") == 1, task_id
    assert all(of.stored(task_id)[0] == 2 for task_id in tasks)
    return f"all containers killed with {len(tasks)} tasks under way: all completed, once each"


def check_own_kinds(of: Product) -> str:
    """The two-line image of the README, with a task kind of its own."""
    folder = of.machine.folder / "own"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM headrace\nCOPY mykinds.py /tasks/\n")
    (folder / "mykinds.py").write_text(_OWN_KIND)
    of.running.pop("worker-1").kill()
    with machine(build_on(of.machine.image, folder), of.machine.folder) as own, of.client() as client:
        own.replace = of.machine.replace
        worker = own.container("worker-2", **of.environ, HEADRACE_TASKS="/tasks/mykinds.py")
        try:
            worker.start(PATIENCE_S)
            greeted = of.submit(client, "greet", {"whom": "you"})
            assert [e.event for e in client.events(greeted)][-1] == "completed"
            assert of.stored(greeted) == {"hello": "you"}
        finally:
            worker.kill()
    of.start("worker-1")
    return "a kind from an image of two lines on top"


def check_statistics(of: Product) -> str:
    """Spark's master, its worker and the statistics start, and count the lifecycle topics."""
    expected = of.submitted  # every check waited for its tasks
    with of.client() as client:
        of.start("spark-master", "spark-worker", "analytics")
        wait_for("the counts", lambda: client.request("GET", "/stats/summary")["completed"] == expected, (Refused,))
    return f"statistics on a Spark master and worker: {expected} completed tasks counted"


def check_drain(of: Product) -> str:
    """Roles end by themselves after SIGTERM, within compose's grace period."""
    for name in ("worker-1", "storekeeper", "gateway"):
        assert of.running[name].stop(45), f"{name} had to be killed:\n{of.running[name].log.read_text()[-2000:]}"
    return "worker, storekeeper and gateway ended at SIGTERM"


def wait_for(what: str, condition: Callable[[], bool], ignored: tuple[type[Exception], ...] = ()) -> None:
    """Waits until the condition holds; `ignored` are errors of a part that is still starting."""
    deadline = time.monotonic() + PATIENCE_S
    expected: tuple[type[Exception], ...] = (Retryable, *ignored)
    while True:
        try:
            if condition():
                return
        except expected:
            pass
        assert time.monotonic() < deadline, f"{what} did not come within {PATIENCE_S:.0f} s"
        time.sleep(0.1)


ON_MACHINE = (check_contents, check_help)
ON_PRODUCT = (check_task, check_kill, check_kill_all, check_own_kinds, check_statistics, check_drain)


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="headrace-image-"))
    try:
        with ExitStack() as stack:
            image = build()
            kafka = EmbeddedKafka(folder / "kafka", f"127.0.0.1:{free_port()}")
            database = EmbeddedDatabase(folder / "database", f"127.0.0.1:{free_port()}")
            for outside in (kafka, database):
                stack.callback(outside.kill)
                outside.start()
            on = stack.enter_context(machine(image, folder))
            for on_machine in ON_MACHINE:
                print(f"ok: {on_machine(on)}", flush=True)
            of = stack.enter_context(product(on, kafka.bootstrap, "", database.url))
            for on_product in ON_PRODUCT:
                print(f"ok: {on_product(of)}", flush=True)
    except (HeadraceError, AssertionError) as e:
        print(f"image: {e}\nlogs are in {folder}", file=sys.stderr)
        return 2 if isinstance(e, HeadraceError) else 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
