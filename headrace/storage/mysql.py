"""Connections to the statistics' database, which `HEADRACE_DATABASE` names.

Spark's sink writes through them, the gateway reads statistics. Connections use UTC and utf8mb4, and every wait has a
time limit. UsageError for an invalid URL; pymysql's own errors when the database does not answer.
"""

import ssl
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql
from dbutils.pooled_db import PooledDB

from headrace.errors import UsageError

_FORM = "give mysql://user:password@host:port/name"


@dataclass(frozen=True, slots=True)
class Database:
    """One MySQL or MariaDB database. Hashable and picklable, so that a Spark executor can connect to it too."""

    host: str
    port: int
    user: str
    name: str
    password: str = field(repr=False, default="")

    @classmethod
    def parse(cls, url: str) -> "Database":
        """From `mysql://user:password@host:port/name`, reserved characters percent-encoded; UsageError otherwise."""
        parts = urlsplit(url)
        try:
            port = parts.port or 3306
        except ValueError:
            raise UsageError(f"HEADRACE_DATABASE has an invalid port: {_FORM}") from None
        name = unquote(parts.path.removeprefix("/"))
        if parts.scheme != "mysql" or not parts.hostname or not parts.username or not name or "/" in name:
            raise UsageError(f"HEADRACE_DATABASE is not a MySQL URL: {_FORM}")
        return cls(parts.hostname, port, unquote(parts.username), name, unquote(parts.password or ""))

    def connect(self, timeout_s: float = 5.0) -> "pymysql.Connection[Any]":
        """A new connection; OperationalError when the database does not accept one within `timeout_s`."""
        return _connect(**self._arguments(timeout_s))

    def pool(self, most: int = 4, timeout_s: float = 5.0) -> PooledDB:
        """A pool of at most `most` connections, each checked before use and reopened when the server has closed it."""
        return PooledDB(
            _connect,
            maxconnections=most,
            maxcached=most,
            blocking=True,
            ping=1,
            reset=True,
            **self._arguments(timeout_s),
        )

    def _arguments(self, timeout_s: float) -> dict[str, Any]:
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "database": self.name,
            "charset": "utf8mb4",
            "connect_timeout": max(1, int(timeout_s)),
            "read_timeout": 6 * timeout_s,
            "write_timeout": 6 * timeout_s,
            "init_command": "SET time_zone = '+00:00'",
        }


class _Connection(pymysql.Connection):
    """pymysql's connection, encrypted where the server supports it, with one TLS context a process.

    A new context reads all certificates of the machine, which takes 40 ms, and these connections check none.
    """

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        return _tls()


def _connect(**arguments: Any) -> _Connection:
    return _Connection(**arguments)


_connect.dbapi = pymysql  # type: ignore[attr-defined]  # the pool looks for it on a function


@cache
def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
