"""Where one measurement runs: its brokers, names and folder. It travels in the environment, so that workers see it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[2]
_PREFIX = "HEADRACE_BENCH_"


@dataclass(frozen=True, slots=True)
class Bench:
    """Of one measurement of one system."""

    redis: str = ""  # redis://127.0.0.1:port/0, which is flushed; empty where no system needs one
    kafka: str = ""  # host:port
    namespace: str = "bench"  # of topics and groups
    variant: str = ""  # of the system, as in systems/__init__.py
    folder: Path = Path("bench")  # for logs and results
    brokers: Mapping[str, int] = field(default_factory=dict)  # kafka, redis -> process id

    @classmethod
    def from_environ(cls) -> Self:
        def value(name: str) -> str:
            return os.environ.get(_PREFIX + name, "")

        pids = (part.split("=") for part in value("BROKERS").split(",") if part)
        return cls(
            value("REDIS"),
            value("KAFKA"),
            value("NAMESPACE"),
            value("VARIANT"),
            Path(value("FOLDER") or "bench"),
            {name: int(pid) for name, pid in pids},
        )

    def environ(self) -> dict[str, str]:
        """This process's environment and the values above; modules of the tree can be imported."""
        brokers = ",".join(f"{name}={pid}" for name, pid in self.brokers.items())
        values = {
            "REDIS": self.redis,
            "KAFKA": self.kafka,
            "NAMESPACE": self.namespace,
            "VARIANT": self.variant,
            "FOLDER": str(self.folder),
            "BROKERS": brokers,
        }
        # The peers' warnings about deprecated calls of their own are nothing that a reader could change.
        ours = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        return {**os.environ, **ours, **{_PREFIX + k: v for k, v in values.items()}}
