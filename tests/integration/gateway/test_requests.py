"""What holds for every route: HEAD is GET without a body, unknown parameters are named, and bodies may be gzip."""

import gzip
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from gateway.http import body as body_module
from gateway.http.direct import DirectRoutes
from gateway.routes import submit as submit_module
from headrace.contract.ids import new_id
from tests.rigs.gateway import BODY, Gateway, Stage, records_on, submission

JSON = {"content-type": "application/json"}
LINES = {"content-type": "application/x-ndjson"}
GZIP = {"content-encoding": "gzip"}


@pytest.fixture(scope="module")
def gw(stage: Stage) -> Gateway:
    return stage.gw


@pytest.fixture(scope="module")
def ended(stage: Stage) -> str:
    """A completed task, for the routes that need one."""
    task_id = new_id()
    stage.roles.run(task_id)
    deadline = time.monotonic() + 20
    while stage.gw.http.get(f"/tasks/{task_id}").json().get("status") != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return task_id


def paths(stage: Stage) -> Iterator[tuple[str, str]]:
    """(method, path with names in braces) of every route."""
    for path, operations in stage.gw.http.get("/openapi.json").json()["paths"].items():
        for method in operations:
            yield method.upper(), path
    yield from (("GET", path) for path in ("/", "/page/page.css", "/stats", "/stats/plotly.js"))


def filled(path: str, task_id: str) -> str:
    return path.replace("{task_id}", task_id).replace("{attempt}", "1").replace("{name}", "page.css")


def test_head_answers_as_get_does_without_a_body(stage: Stage, ended: str) -> None:
    streams = ("/events", "/tasks/{task_id}/events")
    found = [path for method, path in paths(stage) if method == "GET"]
    assert len(found) > 15
    for path in found:
        url = filled(path, ended)
        head = stage.gw.http.head(url, timeout=5)
        with stage.gw.http.stream("GET", url) as get:
            assert (head.status_code, head.content) == (get.status_code, b""), path
            volatile = {"date", "transfer-encoding"} | ({"content-length"} if path == "/metrics" else set())
            kept = [{k: v for k, v in a.headers.items() if k not in volatile} for a in (head, get)]
            assert kept[0] == kept[1], path
            if path not in streams:
                get.read()
    assert stage.gw.dependencies.metrics.listeners._value.get() == 0, "no stream is left open"


def test_head_of_a_result_has_its_length_and_its_range(gw: Gateway, ended: str) -> None:
    whole = gw.http.head(f"/tasks/{ended}/result")
    assert (whole.status_code, whole.headers["content-length"]) == (200, str(len(b"[2,3,5,7]")))
    part = gw.http.head(f"/tasks/{ended}/result", headers={"range": "bytes=1-3"})
    assert (part.status_code, part.headers["content-length"], part.content) == (206, "3", b"")
    missing = gw.http.head(f"/tasks/{new_id()}/result")
    assert (missing.status_code, missing.content) == (404, b"")


def test_a_path_without_get_has_no_head_and_says_what_it_supports(gw: Gateway) -> None:
    assert gw.http.head("/tasks/batch").status_code in (404, 405)
    assert gw.http.head("/dead/redrive").status_code == 405
    assert gw.http.put("/kinds").headers["allow"] == "GET, HEAD"


def test_every_route_names_an_unknown_query_parameter(stage: Stage, ended: str) -> None:
    for method, path in paths(stage):
        answer = stage.gw.http.request(method, filled(path, ended), params={"stauts": "failed"}, content=b"", timeout=5)
        assert answer.status_code == 400, (method, path, answer.text)
        problem = answer.json()
        assert (problem["type"], problem["errors"][0]["pointer"]) == ("/problems/bad-request", "?stauts")


def test_the_parameters_that_there_are_are_named_and_documented(gw: Gateway) -> None:
    problem = gw.http.get("/tasks", params={"stauts": "failed"}).json()
    for name in ("status", "name", "directory", "since", "until", "limit", "cursor"):
        assert name in problem["detail"]
    documented = gw.http.get("/openapi.json").json()["paths"]["/dead"]["get"]["parameters"]
    assert "reason" in [p["name"] for p in documented]


def test_documented_parameters_are_accepted(stage: Stage, ended: str) -> None:
    values = {"limit": "5", "since": "2026-01-01T00:00:00Z", "until": "2027-01-01T00:00:00Z", "bucket": "day"}
    values |= {"status": "failed", "reason": "failed", "by": "name", "format": "json", "name": "a", "directory": "b"}
    for path, operations in stage.gw.http.get("/openapi.json").json()["paths"].items():
        if "get" not in operations:
            continue
        names = [p["name"] for p in operations["get"].get("parameters", ()) if p["in"] == "query"]
        with stage.gw.http.stream("GET", filled(path, ended), params={n: values[n] for n in names if n in values}) as a:
            assert a.status_code in (200, 404, 503), (path, a.read())


@pytest.mark.parametrize(
    ("url", "pointer"),
    [
        ("/tasks?status=failed&status=queued", "?status"),
        ("/tasks?reason=failed", "?reason"),
        ("/events?since=2026-01-01T00:00:00Z", "?since"),
        ("/stats/audits?format=xml", "?format"),
        ("/tasks?=x", "?"),
    ],
)
def test_a_parameter_that_would_be_ignored_is_named(gw: Gateway, url: str, pointer: str) -> None:
    answer = gw.http.get(url)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (400, pointer)


def test_an_unknown_field_of_a_submission_is_named(gw: Gateway) -> None:
    answer = gw.http.post("/tasks", json=BODY | {"timeout": 5})
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, "/problems/invalid-submission")
    assert problem["errors"][0]["pointer"] == "/timeout"
    assert "timeout_s" in problem["detail"]
    lines = gw.http.post("/tasks/batch", content=orjson.dumps(BODY | {"a/b": 1}), headers=LINES)
    assert orjson.loads(lines.content)["error"]["errors"][0]["pointer"] == "/a~1b"


# --- gzip


def packed(raw: bytes) -> bytes:
    return gzip.compress(raw, mtime=0)


def test_a_gzip_body_is_unpacked_before_it_goes_to_kafka(gw: Gateway, stage: Stage) -> None:
    for content in (packed(submission()), packed(submission()[:9]) + packed(submission()[9:])):
        answer = gw.http.post("/tasks", content=content, headers=JSON | GZIP)
        assert answer.status_code == 202, answer.text
        task_id = answer.json()["id"].encode()
        assert [r.value for r in records_on(stage.settings, "tasks.normal") if r.key == task_id] == [submission()]


def test_gzip_in_small_pieces_and_other_spellings(gw: Gateway) -> None:
    content = packed(submission())
    for encoding in ("gzip", "GZIP", "x-gzip", "identity, gzip"):
        headers = JSON | {"content-encoding": encoding}
        answer = gw.http.post("/tasks", content=(content[i : i + 1] for i in range(len(content))), headers=headers)
        assert answer.status_code == 202, answer.text
    assert gw.http.post("/tasks", content=submission(), headers=JSON | {"content-encoding": "identity"}).is_success


def test_a_gzip_batch_is_answered_line_by_line(gw: Gateway) -> None:
    lines = [submission(payload={"upper_bound": n}) for n in range(3000)]
    answer = gw.http.post("/tasks/batch", content=packed(b"\n".join(lines)), headers=LINES | GZIP)
    assert len({orjson.loads(line)["id"] for line in answer.content.splitlines()}) == 3000


def test_a_redrive_may_be_gzip(gw: Gateway) -> None:
    answer = gw.http.post("/dead/redrive", content=packed(b'{"name": "none", "dry_run": true}'), headers=JSON | GZIP)
    assert (answer.status_code, answer.json()["matched"]) == (200, 0)


def test_a_gzip_bomb_is_refused_and_never_unpacked_whole(gw: Gateway) -> None:
    bomb = packed(b" " * 500_000_000)
    assert len(bomb) < 1_000_000
    tracemalloc.start()
    try:
        for path, headers in (("/tasks", JSON), ("/dead/redrive", JSON), ("/tasks/batch", LINES)):
            answer = gw.http.post(path, content=bomb, headers=headers | GZIP)
            assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large"), path
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "compress"])
def test_another_encoding_is_refused_and_the_right_one_named(gw: Gateway, encoding: str) -> None:
    for path, headers in (("/tasks", JSON), ("/tasks/batch", LINES), ("/dead/redrive", JSON)):
        answer = gw.http.post(path, content=b"x", headers=headers | {"content-encoding": encoding})
        assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip"), path
        assert "gzip" in answer.json()["detail"]


@pytest.mark.parametrize(
    "content", [b"{}", packed(submission())[:-5], zlib.compress(submission()), packed(b"{}") + b"x"]
)
def test_a_body_that_is_no_whole_gzip_is_refused(gw: Gateway, content: bytes) -> None:
    for path, headers in (("/tasks", JSON), ("/tasks/batch", LINES)):
        answer = gw.http.post(path, content=content, headers=headers | GZIP)
        found = (answer.status_code, answer.headers["content-type"])
        assert found == (400, "application/problem+json"), (path, answer.text)


def test_a_batch_that_fails_halfway_answers_for_the_lines_before(gw: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b"\n".join(submission() for _ in range(600))
    packing = zlib.compressobj(wbits=31)
    cut = packing.compress(lines + b"\n") + packing.flush(zlib.Z_SYNC_FLUSH)
    for name, content in (("cut", cut), ("long", packed(lines)), ("large", packed(lines))):
        if name == "long":
            monkeypatch.setattr(submit_module, "MAX_BATCH_LINES", 400)
        if name == "large":
            monkeypatch.undo()
            monkeypatch.setattr(body_module, "MAX_UNPACKED_BYTES", 40_000)
            monkeypatch.setattr(body_module, "_PIECE_BYTES", 1000)
        answer = gw.http.post("/tasks/batch", content=content, headers=LINES | GZIP)
        problem: dict[str, Any] = answer.json()
        assert answer.status_code == (400 if name == "cut" else 413)
        assert 250 <= len(problem["answers"]) < 600
        assert gw.http.get(f"/tasks/{problem['answers'][-1]['id']}").status_code == 200
        assert f"first {len(problem['answers'])} lines" in problem["detail"]


# --- the hot routes, which the framework does not call


async def _leave_alone(*_: object) -> bool:
    return False


def test_the_hot_routes_answer_as_through_the_framework(
    gw: Gateway, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[tuple[str, str, dict[str, str], bytes]] = [
        ("POST", "/tasks", JSON | {"idempotency-key": "hot"}, submission()),
        ("POST", "/tasks", JSON | {"idempotency-key": "hot"}, submission(directory="other")),
        ("POST", "/tasks", JSON, b"{"),
        ("POST", "/tasks", JSON, orjson.dumps(BODY | {"name": "nothing"})),
        ("POST", "/tasks", {}, b"{}"),
        ("POST", "/tasks", JSON | {"host": "example.com"}, b"{}"),
        ("POST", "/tasks", JSON | {"origin": "http://example.com"}, b"{}"),
        ("POST", "/tasks?a=1", JSON, b"{}"),
        ("POST", "/tasks", JSON | GZIP, b"x"),
        ("POST", "/tasks/batch", LINES, b"{\n{}\n\n"),
        ("POST", "/tasks/batch", JSON, b"{}"),
        ("GET", f"/tasks/{ended}", {}, b""),
        ("GET", f"/tasks/{ended}?a=1", {}, b""),
        ("GET", "/tasks/nothing", {"host": "LOCALHOST:1"}, b""),
        ("GET", f"/tasks/{ended}/events", {}, b""),
        ("GET", f"/tasks/{ended}/events", {"last-event-id": "9"}, b""),
        ("GET", "/events?status=wrong", {}, b""),
        ("GET", "/tasks//events", {}, b""),
        ("PUT", "/tasks", JSON, b"{}"),
        ("GET", "/tasks/batch", {}, b""),
    ]
    answers: list[list[object]] = []
    for _ in range(2):
        found = [gw.http.request(m, url, headers=h, content=c) for m, url, h, c in requests]
        answers.append([(a.status_code, {**a.headers, "date": ""}, a.content) for a in found])
        monkeypatch.setattr(DirectRoutes, "answer", _leave_alone)
    for request, direct, through_the_framework in zip(requests, *answers, strict=True):
        assert direct == through_the_framework, request


def test_an_error_of_a_hot_route_is_answered_and_logged(
    gw: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(gw.dependencies.submissions, "prepare", fail)
    answer = gw.http.post("/tasks", json=BODY)
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")
    assert "POST /tasks failed" in caplog.text
