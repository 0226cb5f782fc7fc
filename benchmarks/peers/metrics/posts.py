"""Row S: POSTs a second and their latency at 1 and at 16 connections, without a worker, which would take the CPU."""

import asyncio
import json
import statistics
import time

from ..system import System

_LOADS = (1, 16)
_SECONDS = 4.0
_BODY = json.dumps({"name": "noop", "payload": {"i": 1}, "directory": "bench"}).encode()
_KIND = f"content-type: application/json\r\ncontent-length: {len(_BODY)}"


def posts(system: System) -> dict[str, float | str]:
    """RuntimeError when the service refuses one."""
    system.kill_worker()
    figures: dict[str, float | str] = {}
    for connections in _LOADS:
        took_s = asyncio.run(_load(system.address, connections))
        figures[f"S_posts_{connections}_per_s"] = len(took_s) / _SECONDS
        figures[f"S_p99_{connections}_ms"] = statistics.quantiles(took_s, n=100)[98] * 1000
    return figures


async def _load(address: str, connections: int) -> list[float]:
    """Seconds of each POST, from all connections."""
    until = time.monotonic() + _SECONDS
    each = await asyncio.gather(*[_connection(address, until) for _ in range(connections)])
    return [took_s for some in each for took_s in some]


async def _connection(address: str, until: float) -> list[float]:
    """One POST after another on one connection."""
    host, _, port = address.partition(":")
    request = f"POST /tasks HTTP/1.1\r\nhost: {address}\r\n{_KIND}\r\n\r\n".encode() + _BODY
    reader, writer = await asyncio.open_connection(host, int(port))
    took_s = []
    while (begun := time.monotonic()) < until:
        writer.write(request)
        await _answer(reader)
        took_s.append(time.monotonic() - begun)
    writer.close()
    return took_s


async def _answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    body = await reader.readexactly(length)
    if b" 202" not in head[:14]:
        raise RuntimeError(f"POST /tasks answered {head[:14].decode()!r}: {body[:200]!r}")
