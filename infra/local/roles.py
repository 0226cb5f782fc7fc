"""The roles of one machine as Services: a process for each role, with its settings.

The supervisor and the tests start them. A role is ready when its `/readyz` answers 200; the role itself decides that.
"""

import http.client
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headrace.settings import Settings, parse_address

from .service import Service

_PROBE_TIMEOUT_S = 1.0


class Role(Service):
    """`role` is its subcommand of `headrace`, `name` its name here (worker-1), `listens` its host:port.

    `setting` is the environment variable for another address.
    """

    def __init__(
        self,
        name: str,
        role: str,
        settings: Settings,
        listens: str,
        setting: str,
        logs: Path,
        extra_environ: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, logs / f"{name}.log")
        self.settings = settings
        self.listens = listens
        self.setting = setting
        self.role = role
        self._extra = dict(extra_environ or {})

    @property
    def url(self) -> str:
        host, port = reached_at(self.listens)
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def command(self) -> list[str]:
        # -P: a file of the user's in the current directory, such as random.py, must not be the role's module.
        return [sys.executable, "-P", "-m", "headrace.cli.main", self.role]

    def environ(self) -> Mapping[str, str]:
        """Our environment, in which the role's settings replace ours."""
        inherited = {k: v for k, v in os.environ.items() if k not in _setting_names()}
        return {**inherited, "PYTHONUNBUFFERED": "1", **self.settings.environ(), **self._extra}

    def ready(self) -> bool:
        return answers(*reached_at(self.listens), "/readyz")


# Role -> the settings that give its number under `up`, and the address of its first process.
COUNTED = {
    "gateway": ("gateways", "http"),
    "storekeeper": ("storekeepers", "storekeeper_http"),
    "worker": ("workers", "stats_http"),
}


def machine_roles(settings: Settings, logs: Path) -> list[Role]:
    """The gateways, storekeepers and workers, each with its own settings. UsageError for a bad port."""
    roles = []
    for name, (role, address) in role_addresses(settings).items():
        field = COUNTED[role][1]
        variable = f"HEADRACE_{field.upper()}"
        parse_address(address, variable)
        changed: dict[str, Any] = {field: address}
        if role == "worker":
            changed["node"] = _node_name(settings, int(name.removeprefix("worker-")) - 1)
        roles.append(Role(name, role, replace(settings, **changed), address, variable, logs))
    return roles


def role_addresses(settings: Settings) -> dict[str, tuple[str, str]]:
    """The name of each process -> (its role, its host:port): gateway, gateway-2, …, storekeeper, …, worker-1, …."""
    found = {}
    for role, (count, field) in COUNTED.items():
        host, first = getattr(settings, field).rpartition(":")[::2]
        for i in range(getattr(settings, count)):
            name = role if i == 0 and role != "worker" else f"{role}-{i + 1}"
            found[name] = (role, f"{host}:{int(first) + i}")
    return found


def analytics_role(settings: Settings, logs: Path) -> Role:
    """The statistics. Downloads missing artifacts; UsageError when that fails."""
    from . import spark_archive

    extra = spark_archive.environ() | {"HEADRACE_SPARK_JARS": spark_archive.connector()}
    return Role("analytics", "analytics", settings, settings.analytics_http, "HEADRACE_ANALYTICS_HTTP", logs, extra)


def reached_at(listens: str) -> tuple[str, int]:
    """The address at which this machine reaches a server that listens there."""
    host, port = parse_address(listens)
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port  # noqa: S104 - compared, not bound


def answers(host: str, port: int, path: str) -> bool:
    """Whether GET `path` answers 200 within a second."""
    connection = http.client.HTTPConnection(host, port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _node_name(settings: Settings, i: int) -> str:
    """The same over restarts. "" on a Kafka that others may share: the worker's own default has host name and port,
    which no other node has, not even one of a second `up` on this machine."""
    if settings.node:
        return settings.node if settings.workers == 1 else f"{settings.node}-{i + 1}"
    return f"node-{i + 1}" if settings.kafka == settings.embedded_kafka else ""


def _setting_names() -> set[str]:
    from dataclasses import fields

    return {f.metadata["env"] for f in fields(Settings)}
