"""Every setting of every role in one typed table, read once at start and passed on.

`headrace.cli.options` builds the command line's options from this table, so each option is an environment variable too,
and `--help` explains it with its default. UsageError for a wrong value, before anything starts.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from headrace.errors import UsageError

T = TypeVar("T")

_MOST_NODE = 200  # characters of a node's name: it is in most records, and in a key of the statistics' tables

# Settings that are a host:port on which a part of `up` listens.
ADDRESSES = ("http", "stats_http", "storekeeper_http", "analytics_http", "embedded_kafka", "embedded_database")


def _setting(env: str, help: str, default: T, hidden: bool = False) -> T:
    return field(default=default, metadata={"env": env, "help": help, "hidden": hidden})


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity, limited by the cgroup's quota; at least 1."""
    count = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, int(quota) / int(period))
    except (OSError, ValueError):
        pass  # no cgroup v2
    return max(1, int(count))


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a role. Durations are in seconds, addresses are host:port."""

    data: Path = _setting("HEADRACE_DATA", "directory for everything that `up` keeps", Path(".headrace"))
    workers: int = _setting("HEADRACE_WORKERS", "number of worker nodes that `up` starts", 1)
    storekeepers: int = _setting("HEADRACE_STOREKEEPERS", "number of storekeepers that `up` starts", 1)
    gateways: int = _setting("HEADRACE_GATEWAYS", "number of gateways that `up` starts", 1)
    slots: int = _setting("HEADRACE_SLOTS", "attempts that a node runs at once; 0 = one per CPU that it may use", 0)
    tasks: str = _setting(
        "HEADRACE_TASKS", "modules or files with task kinds, comma-separated; empty = the examples", ""
    )
    import_s: float = _setting("HEADRACE_IMPORT_S", "seconds that importing the task kinds may take", 60.0)
    task_user: str = _setting(
        "HEADRACE_TASK_USER",
        "user that tasks run as when the worker is root: `auto` = a user id of its own for each slot, `same` = the "
        "worker's user, or a user's name or number",
        "auto",
    )
    slot_memory_mb: int = _setting(
        "HEADRACE_SLOT_MEMORY_MB", "MiB that an attempt may use when its kind sets no memory_mb; 0 = no limit", 0
    )
    scratch_mb: int = _setting(
        "HEADRACE_SCRATCH_MB", "MiB that an attempt's scratch, result file included, may use; 0 = no limit", 10_240
    )
    scratch: str = _setting(
        "HEADRACE_SCRATCH",
        "directory for attempts' scratch, on a disk with room for results; empty = below the data directory, or "
        "/var/tmp when tasks run as another user",
        "",
    )
    aside_s: float = _setting(
        "HEADRACE_ASIDE_S",
        "seconds that a task of a kind that only other nodes run, none of which has room, may hold up the tasks behind "
        "it in its partition; then it waits aside",
        5.0,
    )
    alone_wait_s: float = _setting(
        "HEADRACE_ALONE_WAIT_S",
        "seconds that a node takes nothing new so that a task runs alone, after the kernel killed it for memory beside "
        "others; then it runs beside what has not ended",
        60.0,
    )
    drain_s: float = _setting("HEADRACE_DRAIN_S", "seconds that running attempts get to end after SIGTERM", 30.0)
    kafka: str = _setting("HEADRACE_KAFKA", "Kafka's bootstrap servers; empty = the embedded broker of `up`", "")
    embedded_kafka: str = _setting("HEADRACE_EMBEDDED_KAFKA", "host:port of the embedded broker", "127.0.0.1:9092")
    embedded_database: str = _setting(
        "HEADRACE_EMBEDDED_DATABASE", "host:port of the embedded MariaDB", "127.0.0.1:3307"
    )
    kafka_security: str = _setting(
        "HEADRACE_KAFKA_SECURITY", "file with librdkafka's security options (SASL, TLS), one `key=value` a line", ""
    )
    topic_prefix: str = _setting("HEADRACE_TOPIC_PREFIX", "prefix of every topic and group name", "")
    results: str = _setting(
        "HEADRACE_RESULTS", "results root, the directory for all results; empty = <data>/results", ""
    )
    view_days: int = _setting(
        "HEADRACE_VIEW_DAYS", "days that gateways remember a task after its end, the same for all; 0 = for ever", 0
    )
    view_snapshots: str = _setting(
        "HEADRACE_VIEW_SNAPSHOTS",
        "directory in which gateways leave copies of their status views, from which gateways start; empty = below the "
        "results root; `none` = no copies",
        "",
    )
    view_snapshot_s: float = _setting("HEADRACE_VIEW_SNAPSHOT_S", "seconds between two such copies", 3600.0)
    log_days: int = _setting(
        "HEADRACE_LOG_DAYS", "days that workers keep what attempts printed, the same for all; 0 = for ever", 0
    )
    database: str = _setting(
        "HEADRACE_DATABASE", "mysql://user:password@host:port/name; empty = the embedded MariaDB of `up`", ""
    )
    spark_master: str = _setting("HEADRACE_SPARK_MASTER", "URL of the Spark master", "local[2]")
    # Hidden until a gateway checks keys: today it refuses to start with them.
    api_keys: str = _setting("HEADRACE_API_KEYS", "file of API keys with roles and quotas", "", hidden=True)
    http: str = _setting(
        "HEADRACE_HTTP", "host:port of the gateway; under `up` further gateways take the next ports", "127.0.0.1:8000"
    )
    stats_http: str = _setting(
        "HEADRACE_STATS_HTTP",
        "host:port of a worker's stats page, health and metrics; under `up` further workers take the next ports",
        "127.0.0.1:6066",
    )
    storekeeper_http: str = _setting(
        "HEADRACE_STOREKEEPER_HTTP",
        "host:port of the storekeeper's health and metrics; under `up` further storekeepers take the next ports",
        "127.0.0.1:6050",
    )
    analytics_http: str = _setting(
        "HEADRACE_ANALYTICS_HTTP", "host:port of the statistics job's health and metrics", "127.0.0.1:6040"
    )
    insecure: bool = _setting(
        "HEADRACE_INSECURE", "1 = serve the network, not only loopback, without authentication", False
    )
    node: str = _setting(
        "HEADRACE_NODE", "name of a worker, the same after a restart; empty = host name and port of the stats page", ""
    )
    lease_s: float = _setting(
        "HEADRACE_LEASE_S",
        "seconds without a heartbeat after which a node counts as dead; longer than the consumer group's session of 6 "
        "s, so that its partitions have moved before its tasks are sent again",
        9.0,
    )
    keep_s: float = _setting(
        "HEADRACE_KEEP_S",
        "seconds that the task topics keep a record after it was taken, `tasks.control` a cancel whose task is "
        "settled, and `results` an outcome that is; at least 3600, the window in which repeats are recognised",
        86_400.0,
    )
    remember_days: float = _setting(
        "HEADRACE_REMEMBER_DAYS",
        "days for which the storekeeper remembers that a task has ended: a repeat of its id is passed over for so "
        "long; 0 = as long as lifecycle.completed and tasks.dead hold its end, by default for ever",
        0.0,
    )
    trigger_s: float = _setting("HEADRACE_TRIGGER_S", "seconds between two batches of the statistics job", 5.0)
    audit_s: float = _setting(
        "HEADRACE_AUDIT_S", "seconds between two audits, which check that nothing was lost or counted twice", 60.0
    )
    spark_jars: str = _setting(
        "HEADRACE_SPARK_JARS",
        "jar files of Spark's Kafka connector, or patterns, comma-separated; empty = Spark downloads them from Maven "
        "Central",
        "",
    )
    spark_memory: str = _setting(
        "HEADRACE_SPARK_MEMORY", "heap of the Spark driver, and of each executor on a cluster", "1g"
    )

    def make_data_folder(self, name: str = "") -> Path:
        """A folder of the data directory, created when missing; UsageError when it cannot be."""
        folder = self.data / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UsageError(
                f"HEADRACE_DATA: {folder} cannot be created ({e.strerror}): give another directory (--data)"
            ) from None
        return folder

    @property
    def results_root(self) -> Path:
        return Path(self.results) if self.results else self.data / "results"

    @property
    def slot_count(self) -> int:
        return self.slots or usable_cpus()

    @property
    def node_name(self) -> str:
        return self.node or f"{socket.gethostname()}-{parse_address(self.stats_http)[1]}"

    @classmethod
    def load(cls, options: Mapping[str, object] | None = None, environ: Mapping[str, str] = os.environ) -> "Settings":
        """From the command line's options by field name, then the environment, then the defaults; UsageError."""
        options = {k: v for k, v in (options or {}).items() if v is not None}
        values: dict[str, Any] = {}
        for f in fields(cls):
            if f.name in options:
                raw: object = options[f.name]
            elif environ.get(f.metadata["env"], "") != "":
                raw = environ[f.metadata["env"]]
            elif path := environ.get(f.metadata["env"] + "_FILE"):  # as container platforms pass secrets
                raw = _read_secret(f.metadata["env"] + "_FILE", path)
            else:
                continue
            values[f.name] = _convert(f.metadata["env"], raw, f.default)
        settings = cls(**values)
        settings.check()
        return settings

    @classmethod
    def given(cls, options: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> frozenset[str]:
        """The names of the settings that `load` takes from options or the environment, and not from the defaults."""
        variables = {f.name: f.metadata["env"] for f in fields(cls)}
        return frozenset(
            name
            for name, env in variables.items()
            if options.get(name) is not None or environ.get(env) or environ.get(env + "_FILE")
        )

    def environ(self) -> dict[str, str]:
        """The environment for a child role with these settings; defaults are left out."""
        found = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.default is MISSING or value != f.default:
                found[f.metadata["env"]] = str(int(value) if isinstance(value, bool) else value)
        return found

    def check(self) -> None:
        """UsageError names the first setting with a value out of range."""
        for name in ADDRESSES:
            parse_address(getattr(self, name), f"HEADRACE_{name.upper()}")
        if self.workers < 0 or self.slots < 0:
            raise UsageError("HEADRACE_WORKERS and HEADRACE_SLOTS must not be negative")
        if self.storekeepers < 1 or self.gateways < 1:
            raise UsageError("HEADRACE_STOREKEEPERS and HEADRACE_GATEWAYS must be at least 1")
        if self.slot_memory_mb < 0 or self.scratch_mb < 0 or 0 < self.slot_memory_mb < 16:
            raise UsageError(
                "HEADRACE_SLOT_MEMORY_MB must be 0 or at least 16 (MiB), and HEADRACE_SCRATCH_MB at least 0"
            )
        if not self.node.isprintable() or len(self.node) > _MOST_NODE:
            raise UsageError(
                f"HEADRACE_NODE is {self.node[:300]!a}: give printable text in UTF-8, {_MOST_NODE} characters at most"
            )
        if not 0 < self.import_s < 86_400:
            raise UsageError("HEADRACE_IMPORT_S must be above 0 seconds and less than a day")
        if self.lease_s < 7:
            raise UsageError(
                "HEADRACE_LEASE_S must be at least 7: the consumer group's session of 6 s must end before the lease"
            )
        if self.keep_s < 3600:
            raise UsageError("HEADRACE_KEEP_S must be at least 3600: repeats are recognised within an hour")
        if self.view_days < 0 or self.log_days < 0:
            raise UsageError("HEADRACE_VIEW_DAYS and HEADRACE_LOG_DAYS must be 0 (for ever) or a number of days")
        if self.view_snapshot_s <= 0:
            raise UsageError("HEADRACE_VIEW_SNAPSHOT_S must be above 0 seconds")
        if self.remember_days and self.remember_days * 86_400 < self.keep_s:
            raise UsageError(
                "HEADRACE_REMEMBER_DAYS must be 0, or no less time than HEADRACE_KEEP_S: what the task topics "
                "still hold may be run again"
            )
        if self.aside_s < 0 or self.alone_wait_s < 0:
            raise UsageError("HEADRACE_ASIDE_S and HEADRACE_ALONE_WAIT_S must be at least 0 seconds")
        if self.drain_s < 0 or self.trigger_s <= 0 or self.audit_s <= 0:
            raise UsageError(
                "HEADRACE_DRAIN_S must be at least 0 seconds, HEADRACE_TRIGGER_S and HEADRACE_AUDIT_S above 0"
            )


def parse_address(value: str, env: str = "address") -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; UsageError names the setting `env` for anything else."""
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"{env} is {value!r}: give host:port, such as 127.0.0.1:8000")
    return host.strip("[]"), int(port)


def _read_secret(env: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as e:
        raise UsageError(f"{env}: cannot read {path}: {e.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{env}: {path} is no text file") from None


def _convert(env: str, raw: object, default: object) -> object:
    try:
        if isinstance(default, bool):
            if str(raw).lower() not in {"0", "1", "true", "false", "yes", "no"}:
                raise ValueError
            return str(raw).lower() in {"1", "true", "yes"}
        return type(default)(raw)  # type: ignore[call-arg]
    except ValueError:
        raise UsageError(f"{env} is {raw!r}: give {_FORMS[type(default)]}") from None


_FORMS = {bool: "0 or 1", int: "a whole number", float: "a number of seconds", str: "text", Path: "a path"}
