"""Plain HTTP for tests that ask often: httpx would read the machine's certificates anew for each call, 30 ms a time."""

import httpx

from headrace.client import tls_context


def get(url: str, timeout: float = 5.0) -> httpx.Response:
    """httpx's own errors when there is no answer within `timeout` seconds."""
    return httpx.get(url, timeout=timeout, verify=tls_context())
