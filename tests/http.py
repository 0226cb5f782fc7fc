"""Plain HTTP for tests that ask often: httpx would read the machine's certificates anew for each call, 30 ms a time."""

import ssl

import httpx

_CONTEXT = ssl.create_default_context()


def get(url: str, timeout: float = 5.0) -> httpx.Response:
    """httpx's own errors when there is no answer within `timeout` seconds."""
    return httpx.get(url, timeout=timeout, verify=_CONTEXT)
