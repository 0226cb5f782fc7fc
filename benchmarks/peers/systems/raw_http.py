"""The limit of POSTs: an empty FastAPI handler on the gateway's server. The server imports this module too."""

from subprocess import Popen

from fastapi import FastAPI

from infra.local.process import free_port

from ..bench import Bench
from ..processes import end, tree
from ..system import System, module_of
from ..web_service import service_command, wait_for_service

app = FastAPI()


@app.post("/tasks", status_code=202)
async def accept() -> dict[str, str]:
    return {"id": "0"}


class Sys(System):
    runs_tasks = False

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.address = f"127.0.0.1:{free_port()}"

    def open(self) -> None:
        command = service_command(module_of(__file__), self.address)
        self._service: Popen[bytes] = self.start(command, "service")
        wait_for_service(self.address)

    def close(self) -> None:
        end([self._service], tree(self._service.pid))
