"""What a child tells its node beside its answers: that it was born, and how far an attempt is.

Datagrams on a socket in Linux's abstract namespace (a temporary path elsewhere), sent by `headrace.child.attempt`, read
by the node's pool. The kernel adds the sender's pid, which the node trusts in place of anything a task could write.
News is no promise: what cannot be sent is dropped, and a datagram that is no news is ignored.
"""

import contextlib
import secrets
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_LARGEST = 16_384


@dataclass(frozen=True, slots=True)
class Born:
    """A child serves that slot from now on. `parent` is the forkserver's pid.

    `token` is what the node has given to this child alone, for this word alone: tasks could say all the rest.
    """

    slot: int
    parent: int
    token: str


@dataclass(frozen=True, slots=True)
class Reported:
    """A running attempt's progress: `fraction` from 0 to 1."""

    id: str
    attempt: int
    fraction: float
    message: str


News = Born | Reported
_KINDS: dict[str, type[News]] = {"born": Born, "reported": Reported}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def tell(address: str, news: News, wait_s: float = 0.0) -> None:
    """Sends it, waiting up to `wait_s` for room. Never fails."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out, contextlib.suppress(OSError):
        out.settimeout(wait_s)
        out.sendto(orjson.dumps({"news": _NAMES[type(news)]} | asdict(news)), _unprintable(address))


class NotificationSocket:
    """The node's end. `address` is for children; `read()` never blocks."""

    def __init__(self) -> None:
        name = f"headrace-{secrets.token_hex(8)}"
        self._path = None if sys.platform == "linux" else Path(tempfile.gettempdir()) / name
        self.address = f"@{name}" if self._path is None else str(self._path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(_unprintable(self.address))
        if sys.platform == "linux":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> Iterator[tuple[int, News]]:
        """All that has come, each with its sender's pid (0 where the kernel does not tell)."""
        while True:
            try:
                raw, extra, _flags, _address = self._socket.recvmsg(_LARGEST, socket.CMSG_SPACE(_CREDENTIALS.size))
            except OSError:
                return
            pid = _CREDENTIALS.unpack(extra[0][2])[0] if extra else 0
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                found = orjson.loads(raw)
                kind = _KINDS[found.pop("news")]
                yield pid, _checked(kind(**found))

    def close(self) -> None:
        self._socket.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _checked(news: News) -> News:
    """The same, if each field is of its type: a task could send anything."""
    for name, of in type(news).__annotations__.items():
        value = getattr(news, name)
        if not isinstance(value, of) or isinstance(value, bool):
            raise TypeError(name)
    return news


def _unprintable(address: str) -> str:
    return "\0" + address[1:] if address.startswith("@") else address
