"""Headrace as its users install it: from a wheel with one extra, from an sdist, as editable, beside openai-agents.

Environments hold exactly what the wheel's metadata asks for (`tests.rigs.environments`).
"""

import os
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest

from headrace.cli.roles import ROLES
from headrace.contract.outcome import Outcome
from headrace.contract.records import Outgoing
from headrace.kafka.client import Kafka
from headrace.kafka.sender import Sender
from headrace.settings import Settings
from infra.local.process import free_port
from infra.setup import ROOT
from tests.rigs.core import submission
from tests.rigs.environments import Environment, build, closure, requirements
from tests.rigs.reading import read_until

# As openai-agents installs itself, and as other people's packages are called.
_THEIRS = {
    "agents": "class Agent:\n    name = 'openai'\n",
    "gateway": "WHOSE = 'the user'\n",
    "infra": "WHOSE = 'the user'\n",
    "examples": "WHOSE = 'the user'\n",
    "tiny_numbers": "SEVEN = 7\n",
}

_KINDS = """
import subprocess, sys
import agents, examples, gateway, infra, tiny_numbers
from agents import Agent
from headrace import task
import helper

@task
def whose() -> list[str]:
    beside = subprocess.run([sys.executable, "-c", "import headrace, tiny_numbers; print('both')"], capture_output=True)
    return [Agent.name, gateway.WHOSE, infra.WHOSE, examples.WHOSE, str(tiny_numbers.SEVEN), helper.NAME,
            beside.stdout.decode().strip()]
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """`pip install headrace`"""
    return Environment(tmp_path_factory.mktemp("base")).install_wheel(wheel)


@contextmanager
def worker(environment: Environment, settings: Settings, folder: Path) -> Iterator[None]:
    """`headrace worker`, started in a user's folder."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("HEADRACE_", "PYTHON"))}
    log = folder / "worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [environment.bin / "headrace", "worker"],
            cwd=folder,
            env={**environ, **settings.environ()},
            stdout=out,
            stderr=out,
        )
    try:
        yield
    except BaseException:
        print(log.read_text())
        raise
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("shape", ["wheel", "editable"])
def test_a_kind_imports_what_its_environment_has_and_not_what_is_ours(
    shape: str, wheel: Path, kafka_settings: Settings, topics: str, sender: Sender, tmp_path: Path
) -> None:
    environment = Environment(tmp_path / "venv")
    install = environment.install_wheel if shape == "wheel" else environment.install_editable
    install(wheel, "worker")
    for name, text in _THEIRS.items():
        (environment.site / name).mkdir()
        (environment.site / name / "__init__.py").write_text(text)
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "mykinds.py").write_text(_KINDS)
    (folder / "helper.py").write_text("NAME = 'a module beside the kinds'\n")
    settings = replace(
        kafka_settings,
        tasks="mykinds.py",
        task_user="same",
        slots=1,
        drain_s=1.0,
        stats_http=f"127.0.0.1:{free_port()}",
    )
    task_id = str(uuid.uuid4())
    sender.send(Outgoing("tasks.normal", task_id.encode(), submission("whose"))).result(60)
    with worker(environment, settings, folder):
        [record] = read_until(Kafka(settings, "test"), "results", 1)
    outcome = Outcome.decode(record)
    assert (outcome.id, outcome.outcome) == (task_id, "completed"), outcome
    assert outcome.value == b'["openai","the user","the user","the user","7","a module beside the kinds","both"]'


def test_the_wheel_has_headrace_alone_at_the_top_and_all_that_it_reads(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names} == {"headrace", "headrace-0.1.0.dist-info"}
    assert {"headrace/py.typed", "headrace/topics.yaml"} <= names
    parts = ("headrace", "agents", "gateway", "spark_analytics", "infra", "examples")
    files = {p.relative_to(ROOT) for part in parts for p in (ROOT / part).rglob("*") if p.is_file()}
    left_out = {"__pycache__", "secrets", "image", "chromium.py", "compose.yaml"}
    kept = {str(p) for p in files if not left_out & set(p.parts)}
    assert len(kept) > 200
    assert {name if name.startswith("headrace/") else f"headrace/{name}" for name in kept} - names == set()


def test_its_metadata_says_what_it_is(base: Environment) -> None:
    program = (
        "from importlib.metadata import metadata; m = metadata('headrace'); "
        "print(*m.get_all('Classifier'), *m.get_all('Provides-Extra'), sep='\\n')"
    )
    said = output(base, "-c", program).splitlines()
    assert "Typing :: Typed" in said
    assert {"gateway", "worker", "analytics", "all"} <= set(said)


def test_an_sdist_has_the_whole_tree_and_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    packed = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    tree = tmp_path / packed.name.removesuffix(".tar.gz")
    assert (tree / "tests" / "conftest.py").exists()
    again = build("wheel", tree, tmp_path / "again")
    assert again.read_bytes() == wheel.read_bytes()


def test_without_an_extra_there_are_client_command_line_and_task(base: Environment) -> None:
    program = """
import importlib, pkgutil, sys
import headrace.cli, headrace.client
from headrace import task
for module in pkgutil.walk_packages(headrace.cli.__path__, "headrace.cli."):
    importlib.import_module(module.name)
@task
def double(x: int) -> int:
    return 2 * x
from headrace.kafka.topics import load_topics
print(len(load_topics()), *sorted({"faust", "fastapi", "pyspark", "pymysql"} & set(sys.modules)))
"""
    assert output(base, "-c", program).split() == ["13"]


@pytest.mark.parametrize("role", ROLES)
def test_a_role_without_its_packages_says_which_extra_it_needs(role: str, base: Environment, tmp_path: Path) -> None:
    done = subprocess.run([base.bin / "headrace", role], cwd=tmp_path, capture_output=True, text=True)
    extra = {"storekeeper": "worker", "up": "all", "chaos": "all"}.get(role, role)
    assert done.returncode == 2
    assert done.stderr.startswith(f"headrace: headrace {role} needs packages that are not installed (")
    assert done.stderr.endswith(f": pip install 'headrace[{extra}]'\n")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_up_without_spark_says_how_to_get_a_kafka(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv").install_wheel(wheel, "gateway")
    environment.link(closure(requirements(wheel, "worker")).values())
    environ = {**os.environ, "HEADRACE_CACHE": str(tmp_path / "cache")}
    command = [environment.bin / "headrace", "up"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "headrace: the embedded Kafka is downloaded with a tool that comes with Spark: "
        "pip install 'headrace[analytics]', or give a Kafka of your own in HEADRACE_KAFKA\n"
    )


@pytest.mark.parametrize("extra", ["gateway", "worker", "analytics", "all"])
def test_an_extra_brings_all_that_its_roles_import(extra: str, wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv").install_wheel(wheel, extra)
    modules = [name for name, extras in ROLES.values() if extra == "all" or set(extras) == {extra}]
    folders = {name.split(".")[0] for name in modules}
    program = f"""
import importlib, pkgutil
from headrace.installation import missing_packages
assert missing_packages({extra!r}) == [], missing_packages({extra!r})
for folder in {sorted(folders)}:
    package = importlib.import_module("headrace." + folder)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        print(module.name)
"""
    loaded = output(environment, "-c", program).split()
    assert {f"headrace.{name}" for name in modules} <= set(loaded)


def output(environment: Environment, *arguments: str) -> str:
    done = subprocess.run([environment.python, "-P", *arguments], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
