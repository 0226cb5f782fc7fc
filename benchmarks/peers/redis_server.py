"""The peers' Redis: a server of the run's own on a free port. `python -m benchmarks.peers.redis_server` installs it.

It is `redis-server` on the PATH, or the program that REDIS_SERVER names; where neither is there, `make bench` installs
Debian's package with apt (as root) or says what to install. UsageError when there is none.
"""

import os
import shutil
import socket
import sys
from pathlib import Path

from headrace.errors import UsageError
from infra.local.process import free_port
from infra.local.service import Service
from infra.setup import apt_install, can_apt

_HOST = "127.0.0.1"


class RedisServer(Service):
    """As durable as Redis is usually run: an append-only file, synced every second."""

    def __init__(self, folder: Path) -> None:
        super().__init__("redis", folder / "redis.log")
        self._folder, self._port = folder, free_port()

    @property
    def url(self) -> str:
        return f"redis://{_HOST}:{self._port}/0"

    def command(self) -> list[str]:
        settings = {
            "bind": _HOST,
            "port": self._port,
            "dir": self._folder,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
        }
        return [redis_server(), *(part for name, value in settings.items() for part in (f"--{name}", str(value)))]

    def ready(self) -> bool:
        try:
            with socket.create_connection((_HOST, self._port), 0.5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def redis_server() -> str:
    """Path of the program; UsageError when there is none."""
    found = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    if found is None:
        raise UsageError("the peers need Redis: install redis-server, or give the path of one in REDIS_SERVER")
    return found


def main() -> int:
    try:
        redis_server()
    except UsageError as e:
        print("installing redis-server, for Headrace's peers", flush=True)
        if not can_apt() or not apt_install("redis-server"):
            print(e, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
