"""The web services of peers and limits: started with the settings of Headrace's gateway, and waited for."""

import socket
import sys
import time

_START_S = 30.0
_QUIET = ("--no-access-log", "--log-level", "warning")


def service_command(module: str, address: str) -> list[str]:
    """uvicorn for the module's `app`, as the gateway runs it."""
    host, _, port = address.partition(":")
    options = ["--http", "httptools", "--loop", "uvloop", "--timeout-keep-alive", "60"]
    return [sys.executable, "-m", "uvicorn", f"{module}:app", "--host", host, "--port", port, *options, *_QUIET]


def wait_for_service(address: str) -> None:
    """Returns when something listens there; TimeoutError when nothing does for 30 s."""
    host, _, port = address.partition(":")
    deadline = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection((host, int(port)), 1.0).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no service listens at {address}: its log says why") from None
            time.sleep(0.05)
