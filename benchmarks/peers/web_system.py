"""What the web peers share: a System with a service in front, on the gateway's server with its settings."""

from collections.abc import Iterable
from subprocess import Popen
from typing import Any

import psutil

from infra.local.process import free_port

from .bench import Bench
from .processes import end, existing, tree
from .redis_flush import flush
from .system import Handle, System, module_of
from .web_client import WebClient
from .web_service import service_command, wait_for_service
from .work import PARAMETERS


class WebSystem(System):
    """`file` is the module's, which has the service as `app`."""

    file = ""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.address = f"127.0.0.1:{free_port()}"

    def open(self) -> None:
        flush(self.bench.redis)
        self._service: Popen[bytes] = self.start(service_command(module_of(self.file), self.address), "service")
        wait_for_service(self.address)
        self._client = WebClient(self.address)

    def roles(self) -> dict[str, list[psutil.Process]]:
        return {**super().roles(), "service": existing([self._service.pid])}

    def submit(self, name: str, *args: Any, priority: str = "normal") -> Handle:
        return self._client.submit(_task(name, args, priority))

    def submit_many(self, name: str, calls: Iterable[tuple[Any, ...]], priority: str = "normal") -> Any:
        return self._client.submit_many(_task(name, call, priority) for call in calls)

    def wait(self, handle: Handle, timeout_s: float = 60.0) -> object:
        return self._client.wait(handle, timeout_s)

    def close(self) -> None:
        self._client.close()
        end([self._service], tree(self._service.pid))


def _task(name: str, call: tuple[Any, ...], priority: str) -> dict[str, Any]:
    payload = dict(zip(PARAMETERS[name], call, strict=True))
    return {"name": name, "payload": payload, "directory": "bench", "priority": priority}
