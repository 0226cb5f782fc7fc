"""The addresses of one `up`: one that was given must be free, every other one is moved to a free port when it is not.

Called by `up` before anything starts. An address is reserved from then on, so that two `up` that start at the same
moment do not choose the same one: between the check and the server's start lie seconds. UsageError names the setting of
an address that was given and is in use.
"""

import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from headrace.errors import UsageError
from headrace.settings import Settings, parse_address

from .process import bind_error, free_port
from .roles import COUNTED, reached_at

_PATIENCE_S = 3.0  # a process killed a moment ago may still hold its port
_LOOK_S = 0.1
_TRIES = 100


@dataclass(frozen=True, slots=True)
class _Part:
    """A part that listens: its setting, its name for people, and how many ports in a row it needs."""

    setting: str
    what: str
    ports: int = 1

    @property
    def variable(self) -> str:
        return f"HEADRACE_{self.setting.upper()}"


class Addresses:
    """Reserves addresses on this machine for as long as this process lives, or until `release`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._held: dict[tuple[str, int], socket.socket | None] = {}
        self._owners: dict[tuple[str, int], _Part] = {}

    def settle(self, settings: Settings, given: Collection[str], earlier: Mapping[str, str] | None = None) -> Settings:
        """The settings with free addresses. `given`: the names of the settings that a person chose.

        `earlier`: where an `up` before this one has moved to, by setting. It is taken again when it is free: files in
        the data directory and the user's bookmarks belong to it.
        """
        parts = _parts(settings)
        patience = time.monotonic() + _PATIENCE_S
        for part in sorted(parts, key=lambda p: p.setting not in given):  # the given ones choose first
            own: str = getattr(settings, part.setting)
            before = "" if part.setting in given else (earlier or {}).get(part.setting, "")
            if before and before != own and self._take(part, before)[0] is None:
                self._say(f"{part.what} is at {before}, as before ({part.variable} chooses another address)")
                settings = _replaced(settings, part, before)
                continue
            why = self._wait_and_take(part, own, patience)
            if why is None:
                continue
            if part.setting in given:
                raise UsageError(f"{part.what} cannot listen on {own} ({why}): {_remedy(part)}")
            moved = self._move(part, own)
            self._say(f"{part.what} moves to {moved}: {own} is in use ({part.variable} chooses another)")
            settings = _replaced(settings, part, moved)
        return settings

    def release(self) -> None:
        for held in self._held.values():
            if held is not None:
                held.close()
        self._held.clear()
        self._owners.clear()

    def _wait_and_take(self, part: _Part, address: str, until: float) -> str | None:
        """Takes the part's ports; returns why that cannot be, if it still cannot at the time `until`."""
        while True:
            why, final = self._take(part, address)
            if why is None or final or time.monotonic() > until:
                return why
            time.sleep(_LOOK_S)

    def _take(self, part: _Part, address: str) -> tuple[str | None, bool]:
        """Takes all ports or none; returns what stands in the way, and whether waiting cannot help."""
        taken: list[tuple[str, int]] = []
        for place in _places(part, address):
            why, final = self._obstacle(place, address)
            if why is not None:
                for mine in taken:
                    self._give_back(mine)
                return why, final
            self._owners[place] = part
            taken.append(place)
        return None, False

    def _obstacle(self, place: tuple[str, int], address: str) -> tuple[str | None, bool]:
        """Reserves one port; otherwise as `_take`."""
        if place in self._owners:
            other = self._owners[place]
            return f"{other.what} listens there, see {other.variable}", True
        try:
            self._held[place] = _reserve(place)
        except OSError:
            return "another `headrace up` uses it", True
        host = parse_address(address)[0]  # not `place`: a server on all addresses needs the port on each of them
        if why := bind_error(host, place[1]):
            self._give_back(place)
            return why.lower(), False
        return None, False

    def _give_back(self, place: tuple[str, int]) -> None:
        self._owners.pop(place, None)
        if (held := self._held.pop(place, None)) is not None:
            held.close()

    def _move(self, part: _Part, address: str) -> str:
        host = parse_address(address)[0]
        for _ in range(_TRIES):
            moved = f"{address.rpartition(':')[0]}:{free_port(host)}"
            if self._take(part, moved)[0] is None:
                return moved
        raise UsageError(f"{part.what} finds no free port on {host}: {_remedy(part)}")


def _replaced(settings: Settings, part: _Part, address: str) -> Settings:
    changed: dict[str, Any] = {part.setting: address}
    return replace(settings, **changed)


def _parts(settings: Settings) -> list[_Part]:
    parts = [_counted(role, field, getattr(settings, count)) for role, (count, field) in COUNTED.items()]
    parts += [_Part("analytics_http", "analytics")]
    parts += [] if settings.kafka else [_Part("embedded_kafka", "the embedded Kafka")]
    parts += [] if settings.database else [_Part("embedded_database", "the embedded database")]
    return parts


def _counted(role: str, setting: str, count: int) -> _Part:
    return _Part(setting, role if count == 1 else f"{role}s", count)


def _places(part: _Part, address: str) -> list[tuple[str, int]]:
    host, first = reached_at(address)
    if part.ports and first + part.ports - 1 > 65535:
        raise UsageError(f"{part.variable} is {address!r}: {part.ports} {part.what} need as many ports up to 65535")
    return [(host, first + i) for i in range(part.ports)]


def _reserve(place: tuple[str, int]) -> socket.socket | None:
    """A name that one process of this machine can hold, and that the kernel frees with it. OSError when it is held.

    An abstract Unix socket: it belongs to the network namespace, as ports do, and leaves no file. Linux only.
    """
    if not sys.platform.startswith("linux"):
        return None
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(f"\0headrace-{place[0]}:{place[1]}")
    except OSError:
        held.close()
        raise
    return held


def _remedy(part: _Part) -> str:
    return f"end the process that uses that port, or give another address in {part.variable}"
