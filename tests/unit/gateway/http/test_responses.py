"""JSON is never cached, and content is revalidated by its ETag."""

import pytest
from starlette.requests import Request

from gateway.http.responses import json_response, not_modified


def test_json_is_never_cached() -> None:
    response = json_response({"id": "x"}, 202)
    assert (response.status_code, response.body, response.headers["cache-control"]) == (202, b'{"id":"x"}', "no-store")


@pytest.mark.parametrize(
    ("condition", "is_unchanged"),
    [('"a"', True), ('W/"a"', True), ('"b", "a"', True), ("*", True), ('"b"', False), ("", False)],
)
def test_304_when_if_none_match_names_the_etag(condition: str, is_unchanged: bool) -> None:
    request = Request({"type": "http", "headers": [(b"if-none-match", condition.encode())]})
    response = not_modified(request, {"ETag": '"a"'})
    assert (response is not None and response.status_code == 304) is is_unchanged
