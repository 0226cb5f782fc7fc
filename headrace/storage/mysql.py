"""The statistics' database, as `HEADRACE_DATABASE` names it: where it is, and a pool of connections to it.

Spark's sink writes through it, the gateway's statistics read. Connections speak UTC and utf8mb4, and every wait has an
end. UsageError for a URL that cannot be one; pymysql's own errors for a database that does not answer.
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
    """One MySQL or MariaDB database. Hashable and picklable, so that an executor can open it too."""

    host: str
    port: int
    user: str
    name: str
    password: str = field(repr=False, default="")

    @classmethod
    def parse(cls, url: str) -> "Database":
        """From `mysql://user:password@host:port/name`; reserved characters are percent-encoded."""
        parts = urlsplit(url)
        try:
            port = parts.port or 3306
        except ValueError:
            raise UsageError(f"HEADRACE_DATABASE has a port that is no number: {_FORM}") from None
        name = unquote(parts.path.removeprefix("/"))
        if parts.scheme != "mysql" or not parts.hostname or not parts.username or not name or "/" in name:
            raise UsageError(f"HEADRACE_DATABASE is not such a URL: {_FORM}")
        return cls(parts.hostname, port, unquote(parts.username), name, unquote(parts.password or ""))

    def connect(self, timeout_s: float = 5.0) -> "pymysql.Connection[Any]":
        """A connection of the caller's own; OperationalError when there is none to be had within `timeout_s`."""
        return _connect(**self._arguments(timeout_s))

    def pool(self, most: int = 4, timeout_s: float = 5.0) -> PooledDB:
        """Connections that are tried before use and opened anew when the server has dropped them; `most` at once."""
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
    """As pymysql makes it, encrypted where the server can, but with one TLS context a process.

    Each new context reads all certificates of the machine: 40 ms, for a connection that checks none.
    """

    def _create_ssl_ctx(self, sslp: Any) -> ssl.SSLContext:
        return _tls()


def _connect(**arguments: Any) -> _Connection:
    return _Connection(**arguments)


_connect.dbapi = pymysql  # type: ignore[attr-defined]  # the pool asks a function for it


@cache
def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
