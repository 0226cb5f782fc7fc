"""From the bytes of a body to a record for Kafka: parsing and every rule, with no HTTP and no network in it.

`Submissions.prepare` is used by POST /tasks and, line by line, by POST /tasks/batch. What is wrong raises Problem.
The record's value is the body as it came, so that Kafka holds what the person wrote.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from gateway.http.problems import Problem
from gateway.view.batch import DIGEST_HEADER
from gateway.view.cluster import ClusterView
from headrace.contract.ids import id_of_idempotency_key, id_of_key_reused, new_id
from headrace.contract.records import Outgoing
from headrace.contract.submission import MAX_SUBMISSION_BYTES, Submission
from headrace.errors import Invalid

_TRACE_HEADERS = ("traceparent", "tracestate")  # all that is handed on of a request's headers
MAX_IDEMPOTENCY_KEY_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submission that may be sent: its id, what it asks for, and the record."""

    id: str
    submission: Submission
    record: Outgoing
    digest: str = ""  # set when it came with an Idempotency-Key

    def under_reused_key(self) -> "Prepared":
        """The same with the id that follows: what the key stood for is too old to be what a repeat means."""
        new = id_of_key_reused(self.id)
        return replace(self, id=new, record=replace(self.record, key=new.encode()))


class Submissions:
    """The rules for submissions. `may_be_high`: whether priority high is open to those who send here."""

    def __init__(self, cluster: ClusterView, may_be_high: bool) -> None:
        self._cluster, self._may_be_high = cluster, may_be_high

    def prepare(self, body: bytes, headers: Mapping[str, str], holder: str = "") -> Prepared:
        """Checks a body and gives the record for it; raises Problem."""
        if len(body) > MAX_SUBMISSION_BYTES:
            raise too_large()
        found = parse(body)
        try:
            submission = Submission.from_json(found)
        except Invalid as e:
            raise Problem("invalid-submission", e.detail, [e]) from None
        self._check_kind(submission)
        if submission.priority == "high" and not self._may_be_high:
            raise Problem("forbidden", "priority 'high' is for keys with the role operate")
        return self._record(body, found, submission, headers, holder)

    def _check_kind(self, submission: Submission) -> None:
        check = self._cluster.kind(submission.name)
        if check is None:
            kinds = self._cluster.names()
            there = f"there are {', '.join(kinds)}" if kinds else "there are none yet: start a worker"
            detail = f"no node announces the kind '{submission.name}'; {there}"
            raise Problem("unknown-kind", detail, [Invalid(detail, "/name")], kinds=kinds)
        if problems := check.problems(submission.payload):
            raise Problem("invalid-payload", f"{problems[0].pointer}: {problems[0].detail}", problems[:50])

    def _record(
        self, body: bytes, found: Any, submission: Submission, headers: Mapping[str, str], holder: str
    ) -> Prepared:
        own = [("via", b"http")]
        own += [(h, headers[h].encode()) for h in _TRACE_HEADERS if h in headers]
        task_id, digest = "", ""
        if (key := headers.get("idempotency-key")) is not None:
            if not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY_CHARACTERS:
                raise Problem(
                    "bad-request", f"Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} characters"
                )
            task_id = id_of_idempotency_key(holder, key)
            # Of the parsed body, keys sorted: the same request written another way is the same request.
            digest = hashlib.sha256(orjson.dumps(found, option=orjson.OPT_SORT_KEYS)).hexdigest()
            own.append((DIGEST_HEADER, digest.encode()))
        task_id = task_id or new_id()
        topic = "tasks.high" if submission.priority == "high" else "tasks.normal"
        return Prepared(task_id, submission, Outgoing(topic, task_id.encode(), body, tuple(own)), digest)


def too_large() -> Problem:
    return Problem(
        "too-large", f"a submission has at most {MAX_SUBMISSION_BYTES} bytes", headers={"Connection": "close"}
    )


def parse(body: bytes) -> Any:
    """JSON as every reader of the record will understand it; Problem bad-json otherwise, duplicate keys included."""
    try:
        found = orjson.loads(body)
        # A reader that takes the first of two equal keys and one that takes the last would run different tasks.
        # Each key has a colon, and without \u escapes writing it anew adds none: equal counts mean no key was dropped.
        if b"\\u" in body or body.count(b":") != orjson.dumps(found).count(b":"):
            json.loads(body, object_pairs_hook=_distinct)
    except (ValueError, RecursionError, TypeError) as e:  # TypeError: deeper than orjson writes
        raise Problem("bad-json", f"the body is not valid JSON: {e}") from None
    return found


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [k for k, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} appears twice in one object")
    return found
