"""Every image, command, port, variable and health check in compose.yaml exists in the project and agrees with it."""

import importlib.util
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.cli.health import ADDRESSES
from headrace.cli.main import COMMANDS
from headrace.installation import module_name
from headrace.settings import Settings, parse_address
from infra.image.container import interpolated
from infra.local.artifacts import ARTIFACTS
from infra.spark import CLASSES

ROOT = Path(__file__).resolve().parents[3]
COMPOSE_AS_WRITTEN = yaml.safe_load((ROOT / "infra" / "compose.yaml").read_text())
COMPOSE = interpolated(COMPOSE_AS_WRITTEN, {})
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
VARIABLES = {f.metadata["env"] for f in fields(Settings)}
OURS = {name: s for name, s in SERVICES.items() if s["image"] == "headrace"}
ROLES = {name: s for name, s in OURS.items() if "HEADRACE_ROLE" in s.get("environment", {})}


def settings_of(service: dict[str, Any]) -> Settings:
    given = {k: str(v) for k, v in service["environment"].items() if not k.endswith("_FILE")}
    return Settings.load({}, given)


def test_the_services_are_those_of_the_product() -> None:
    assert set(SERVICES) == {
        "kafka",
        "mariadb",
        "topics",
        "storekeeper",
        "gateway",
        "worker-1",
        "worker-2",
        "spark-master",
        "spark-worker",
        "analytics",
    }
    assert {s["environment"]["HEADRACE_ROLE"] for s in ROLES.values()} == set(ADDRESSES)


def test_images_are_ours_or_of_the_versions_that_up_runs() -> None:
    kafka, mariadb = ARTIFACTS["kafka"].version, ARTIFACTS["mariadb"].version
    assert {s["image"] for s in SERVICES.values()} == {
        "headrace",
        f"apache/kafka:{kafka}",
        f"mariadb:{mariadb.rsplit('.', 1)[0]}",
    }
    assert "docker build -t headrace ." in (ROOT / "README.md").read_text()


def test_own_kinds_come_with_an_own_image_and_module() -> None:
    given = {"HEADRACE_IMAGE": "mine", "HEADRACE_TASKS": "/tasks/mykinds.py"}
    services = interpolated(COMPOSE_AS_WRITTEN, given)["services"]
    assert {services[name]["image"] for name in OURS} == {"mine"}
    assert {services[w]["environment"]["HEADRACE_TASKS"] for w in ("worker-1", "worker-2")} == {"/tasks/mykinds.py"}
    assert {OURS[w]["environment"]["HEADRACE_TASKS"] for w in ("worker-1", "worker-2")} == {""}, "the examples"


def test_secrets_get_neither_into_the_image_nor_into_the_history() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored.index("infra/secrets") > ignored.index("!infra")
    assert "infra/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", OURS)
def test_commands_exist(name: str) -> None:
    service = OURS[name]
    if "entrypoint" not in service:
        assert service["command"][0] in COMMANDS
        return
    python, safe_path, dash_m, module, what = service["entrypoint"]
    assert python == "/opt/headrace/bin/python"
    assert "/opt/headrace" in DOCKERFILE
    assert module.startswith("headrace."), "the image has the wheel"
    here = module_name(module.removeprefix("headrace."))
    assert safe_path == "-P", "a file of the user's in /tasks must not be a module of Spark's"
    assert (dash_m, bool(importlib.util.find_spec(here)), what in CLASSES) == ("-m", True, True)


@pytest.mark.parametrize("name", OURS)
def test_variables_are_settings(name: str) -> None:
    for variable in OURS[name].get("environment", {}):
        if variable.startswith("HEADRACE_") and variable != "HEADRACE_ROLE":
            assert variable.removesuffix("_FILE") in VARIABLES, variable


@pytest.mark.parametrize("name", ROLES)
def test_a_role_is_the_one_that_its_health_check_asks(name: str) -> None:
    service = ROLES[name]
    assert service["command"] == [service["environment"]["HEADRACE_ROLE"]]
    assert "healthcheck" not in service, "the image's own asks `headrace health`"
    assert 'CMD ["headrace", "health"]' in DOCKERFILE
    assert COMMANDS["health"] == "headrace.cli.health:health"


@pytest.mark.parametrize("name", [n for n, s in SERVICES.items() if "ports" in s])
def test_published_ports_are_those_that_the_role_listens_on_and_loopback_only(name: str) -> None:
    service = SERVICES[name]
    listens = parse_address(getattr(settings_of(service), ADDRESSES[service["environment"]["HEADRACE_ROLE"]]))[1]
    for port in service["ports"]:
        host, _, inside = port.rsplit(":", 2)
        assert (host, int(inside)) == ("127.0.0.1", listens)


def test_lasting_data_is_on_volumes_and_secrets_come_from_files() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
        for secret in service.get("secrets", []):
            assert COMPOSE["secrets"][secret]["file"].startswith("./secrets/")
    for name in ("storekeeper", "gateway", "worker-1", "worker-2"):
        assert any(v.split(":")[1] == "/results" for v in SERVICES[name]["volumes"])
        assert any(v.endswith(":/var/lib/headrace") for v in SERVICES[name]["volumes"])
    assert "HEADRACE_DATA=/var/lib/headrace" in DOCKERFILE
    for service in SERVICES.values():
        for variable, value in service.get("environment", {}).items():
            assert "PASSWORD" not in variable or variable.endswith(("_PASSWORD_FILE", "_RANDOM_ROOT_PASSWORD")), (
                variable
            )
            assert "mysql://" not in str(value)


def test_every_role_waits_for_what_it_needs_restarts_and_writes_nowhere_else() -> None:
    for service in OURS.values():
        assert service["read_only"] is True
        assert service["restart"] in ("unless-stopped", "no")
    for service in ROLES.values():
        assert service["depends_on"]["topics"] == {"condition": "service_completed_successfully"}
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES, name
            if how["condition"] == "service_healthy":
                assert needed in ROLES or SERVICES[needed]["healthcheck"].get("test"), needed


def test_running_attempts_get_their_grace_before_docker_kills() -> None:
    for name in ("worker-1", "worker-2"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > settings_of(SERVICES[name]).drain_s
