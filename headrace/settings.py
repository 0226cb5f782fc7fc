"""Every setting of every role, in one typed table, read once at start and handed onward.

The command line builds its options from this table (`headrace.cli`), so that each option is an environment
variable too and `--help` explains it with its default. Wrong values raise UsageError before anything starts.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from headrace.errors import UsageError

T = TypeVar("T")


def _setting(env: str, help: str, default: T) -> T:
    return field(default=default, metadata={"env": env, "help": help})


def usable_cpus() -> int:
    """CPUs this process may use: its affinity, cut by the cgroup's quota; at least 1."""
    count = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, int(quota) / int(period))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: affinity alone decides
    return max(1, int(count))


@dataclass(frozen=True, slots=True)
class Settings:
    """What a role is told at start. Durations are seconds, addresses are host:port."""

    data: Path = _setting("HEADRACE_DATA", "directory for everything `up` keeps", Path(".headrace"))
    workers: int = _setting("HEADRACE_WORKERS", "worker nodes that `up` starts", 1)
    slots: int = _setting("HEADRACE_SLOTS", "pool size of a node; 0 = the CPUs it may use", 0)
    tasks: str = _setting(
        "HEADRACE_TASKS", "modules or files with task kinds, comma-separated; empty = the examples", ""
    )
    task_user: str = _setting(
        "HEADRACE_TASK_USER",
        "whom tasks run as where the worker is root: `auto` = each slot a user id of its own, `same` = the worker's "
        "own user, or a user's name or number",
        "auto",
    )
    slot_memory_mb: int = _setting(
        "HEADRACE_SLOT_MEMORY_MB", "MiB an attempt may take when its kind names no memory_mb; 0 = no limit", 0
    )
    scratch_mb: int = _setting(
        "HEADRACE_SCRATCH_MB", "MiB an attempt's scratch, and so its result file, may take; 0 = no limit", 10_240
    )
    scratch: str = _setting(
        "HEADRACE_SCRATCH",
        "directory for attempts' scratch, on a disk with room for results; empty = below the data directory, or "
        "/var/tmp where tasks run as another user",
        "",
    )
    drain_s: float = _setting("HEADRACE_DRAIN_S", "seconds that running attempts get at SIGTERM", 30.0)
    kafka: str = _setting("HEADRACE_KAFKA", "bootstrap servers; empty = the embedded broker's under `up`", "")
    embedded_kafka: str = _setting(
        "HEADRACE_EMBEDDED_KAFKA", "host:port that the embedded broker listens on", "127.0.0.1:9092"
    )
    embedded_database: str = _setting(
        "HEADRACE_EMBEDDED_DATABASE", "host:port that the embedded MariaDB listens on", "127.0.0.1:3307"
    )
    kafka_security: str = _setting(
        "HEADRACE_KAFKA_SECURITY", "file of librdkafka-style security options (SASL, TLS), a `key=value` a line", ""
    )
    topic_prefix: str = _setting("HEADRACE_TOPIC_PREFIX", "put before every topic and group name", "")
    results: str = _setting("HEADRACE_RESULTS", "results root; empty = <data>/results", "")
    database: str = _setting(
        "HEADRACE_DATABASE", "mysql://user:password@host:port/name; empty = the embedded MariaDB under `up`", ""
    )
    spark_master: str = _setting("HEADRACE_SPARK_MASTER", "Spark master", "local[2]")
    api_keys: str = _setting("HEADRACE_API_KEYS", "file of API keys with roles and quotas", "")
    http: str = _setting("HEADRACE_HTTP", "gateway's host:port", "127.0.0.1:8000")
    stats_http: str = _setting(
        "HEADRACE_STATS_HTTP",
        "a worker's Faust web host:port; further workers under `up` take the next ports",
        "127.0.0.1:6066",
    )
    storekeeper_http: str = _setting(
        "HEADRACE_STOREKEEPER_HTTP", "the storekeeper's health and metrics host:port", "127.0.0.1:6050"
    )
    analytics_http: str = _setting(
        "HEADRACE_ANALYTICS_HTTP", "the analytics job's health and metrics host:port", "127.0.0.1:6040"
    )
    insecure: bool = _setting("HEADRACE_INSECURE", "1 = serve beyond loopback without API keys", False)
    node: str = _setting("HEADRACE_NODE", "a worker's name, kept over restarts; empty = host name and stats port", "")
    lease_s: float = _setting(
        "HEADRACE_LEASE_S",
        "seconds without a heartbeat after which a node counts as dead; above the group's 6 s session, "
        "so that its partitions have moved before its tasks are sent again",
        9.0,
    )
    keep_s: float = _setting(
        "HEADRACE_KEEP_S",
        "seconds for which the task topics keep a record that was taken, before it is trimmed; at least 3600, "
        "within which repeats are looked for",
        86_400.0,
    )
    trigger_s: float = _setting("HEADRACE_TRIGGER_S", "seconds between two micro-batches of the statistics", 5.0)
    audit_s: float = _setting("HEADRACE_AUDIT_S", "seconds between two audits that nothing was lost or repeated", 60.0)
    spark_jars: str = _setting(
        "HEADRACE_SPARK_JARS",
        "jar files of Spark's Kafka connector or patterns of them, comma-separated; "
        "empty = downloaded from Maven Central by Spark",
        "",
    )
    spark_memory: str = _setting("HEADRACE_SPARK_MEMORY", "heap of the driver, and of each executor on a cluster", "1g")

    @property
    def results_root(self) -> Path:
        return Path(self.results) if self.results else self.data / "results"

    @property
    def slot_count(self) -> int:
        return self.slots or usable_cpus()

    @property
    def node_name(self) -> str:
        return self.node or f"{socket.gethostname()}-{address(self.stats_http)[1]}"

    @classmethod
    def load(cls, given: Mapping[str, object] | None = None, environ: Mapping[str, str] = os.environ) -> "Settings":
        """From what was given on the command line, then the environment, then the defaults."""
        given = {k: v for k, v in (given or {}).items() if v is not None}
        values: dict[str, Any] = {}
        for f in fields(cls):
            if f.name in given:
                raw: object = given[f.name]
            elif environ.get(f.metadata["env"], "") != "":
                raw = environ[f.metadata["env"]]
            elif path := environ.get(f.metadata["env"] + "_FILE"):  # as container platforms hand secrets over
                raw = _read(f.metadata["env"] + "_FILE", path)
            else:
                continue
            values[f.name] = _convert(f.metadata["env"], raw, f.default)
        settings = cls(**values)
        settings.check()
        return settings

    def environ(self) -> dict[str, str]:
        """These settings as the environment of a child role, defaults left out."""
        found = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.default is MISSING or value != f.default:
                found[f.metadata["env"]] = str(int(value) if isinstance(value, bool) else value)
        return found

    def check(self) -> None:
        for name in ("embedded_kafka", "embedded_database", "http", "stats_http", "storekeeper_http", "analytics_http"):
            address(getattr(self, name), f"HEADRACE_{name.upper()}")
        if self.workers < 0 or self.slots < 0:
            raise UsageError("HEADRACE_WORKERS and HEADRACE_SLOTS must not be negative: give a count, or 0")
        if self.slot_memory_mb < 0 or self.scratch_mb < 0 or 0 < self.slot_memory_mb < 16:
            raise UsageError(
                "HEADRACE_SLOT_MEMORY_MB must be 0 or at least 16, HEADRACE_SCRATCH_MB at least 0: give MiB"
            )
        if self.lease_s < 7:
            raise UsageError(
                "HEADRACE_LEASE_S must be at least 7: the group's session of 6 s has to end before the lease does"
            )
        if self.keep_s < 3600:
            raise UsageError("HEADRACE_KEEP_S must be at least 3600: repeats are looked for within an hour")
        if self.drain_s < 0 or self.trigger_s <= 0 or self.audit_s <= 0:
            raise UsageError(
                "HEADRACE_DRAIN_S must be at least 0, HEADRACE_TRIGGER_S and HEADRACE_AUDIT_S above 0: give seconds"
            )


def address(value: str, env: str = "address") -> tuple[str, int]:
    """`host:port` (or `[v6]:port`) taken apart; UsageError names the setting when it is neither."""
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"{env} is {value!r}: give host:port, such as 127.0.0.1:8000")
    return host.strip("[]"), int(port)


def _read(env: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as e:
        raise UsageError(f"{env}: cannot read {path}: {e.strerror}") from None


def _convert(env: str, raw: object, default: object) -> object:
    try:
        if isinstance(default, bool):
            if str(raw).lower() not in {"0", "1", "true", "false", "yes", "no"}:
                raise ValueError
            return str(raw).lower() in {"1", "true", "yes"}
        return type(default)(raw)  # type: ignore[call-arg]
    except ValueError:
        raise UsageError(f"{env} is {raw!r}: give {_WORDS[type(default)]}") from None


_WORDS = {bool: "0 or 1", int: "a whole number", float: "a number of seconds", str: "text", Path: "a path"}
