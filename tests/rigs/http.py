"""Plain HTTP for tests that poll: httpx would read the machine's certificates at each call, which takes 30 ms."""

import httpx

from headrace.client import tls_context


def get(url: str, timeout: float = 5.0) -> httpx.Response:
    """Raises httpx's errors when there is no answer within `timeout` seconds."""
    return httpx.get(url, timeout=timeout, verify=tls_context())
