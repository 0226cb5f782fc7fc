"""What a child tells its node unasked: that it was born, and the progress of an attempt.

Datagrams on a socket in Linux's abstract namespace (a temporary path elsewhere), sent by `headrace.child.attempt` and
read by the node's pool. The kernel adds the sender's pid, which no task can forge. Delivery is not guaranteed: a
notification that cannot be sent is dropped, and an invalid datagram is ignored.
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

from headrace.child.protocol import check_types

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_MAX_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Born:
    """A new child serves the slot. `parent` is the forkserver's pid.

    The node gives `token` to this child alone, for this notification alone: a task could forge every other field.
    """

    slot: int
    parent: int
    token: str


@dataclass(frozen=True, slots=True)
class Reported:
    """Progress of a running attempt; `fraction` is from 0 to 1."""

    id: str
    attempt: int
    fraction: float
    message: str


Notification = Born | Reported
_TYPES: dict[str, type[Notification]] = {"born": Born, "reported": Reported}
_NAMES = {notification_type: name for name, notification_type in _TYPES.items()}


def send_notification(address: str, notification: Notification) -> None:
    """Sends it if the node's socket has room. Never blocks and never fails."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.setblocking(False)
        out.sendto(orjson.dumps({"news": _NAMES[type(notification)]} | asdict(notification)), _socket_name(address))


class NotificationSocket:
    """The node's end. Children send to `address`."""

    def __init__(self) -> None:
        name = f"headrace-{secrets.token_hex(8)}"
        self._path = None if sys.platform == "linux" else Path(tempfile.gettempdir()) / name
        self.address = f"@{name}" if self._path is None else str(self._path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(_socket_name(self.address))
        if sys.platform == "linux":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read_notifications(self) -> Iterator[tuple[int, Notification]]:
        """Yields all that have arrived, each with its sender's pid (0 where the kernel does not tell). Never blocks."""
        while True:
            try:
                raw, extra, _flags, _address = self._socket.recvmsg(_MAX_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
            except OSError:
                return
            pid = _CREDENTIALS.unpack(extra[0][2])[0] if extra else 0
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                fields = orjson.loads(raw)
                notification = _TYPES[fields.pop("news")](**fields)
                check_types(notification)
                yield pid, notification

    def close(self) -> None:
        self._socket.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _socket_name(address: str) -> str:
    """`@name` stands for the abstract socket `\\0name`, as it does in /proc/net/unix: NUL is awkward to pass on."""
    return "\0" + address[1:] if address.startswith("@") else address
