"""From the bytes of a body to a record for Kafka: parsing and all rules, without HTTP and without network.

POST /tasks calls `Submissions.prepare` for its body, and POST /tasks/batch for each line. A broken rule raises Problem.
The record's value is the body unchanged, so Kafka holds what the client sent.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from headrace.contract.exact_json import encode_json, parse_json
from headrace.contract.ids import id_of_idempotency_key, id_of_key_reused, new_id
from headrace.contract.records import Outgoing
from headrace.contract.submission import MAX_SUBMISSION_BYTES, Submission
from headrace.errors import Invalid, Undecodable

from .http.body import too_large_problem
from .http.problems import Problem
from .view.batch import DIGEST_HEADER
from .view.cluster import ClusterView

_TRACE_HEADERS = ("traceparent", "tracestate")  # the only request headers that the record gets
MAX_IDEMPOTENCY_KEY_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class PreparedSubmission:
    """A submission that passed all rules: its id, its content, and the record to send."""

    id: str
    submission: Submission
    record: Outgoing
    digest: str = ""  # SHA-256 of the body, when it came with an Idempotency-Key

    def with_next_id(self) -> "PreparedSubmission":
        """The same submission under the next id of its Idempotency-Key, for a key whose task is too old."""
        new = id_of_key_reused(self.id)
        return replace(self, id=new, record=replace(self.record, key=new.encode()))


class Submissions:
    """The rules for submissions. `allow_high_priority`: whether clients may submit with priority high."""

    def __init__(self, cluster: ClusterView, allow_high_priority: bool) -> None:
        self._cluster, self._allow_high_priority = cluster, allow_high_priority

    def prepare(self, body: bytes, headers: Mapping[str, str], key_holder: str = "") -> PreparedSubmission:
        """Checks a body and builds its record; raises Problem. Each `key_holder` has Idempotency-Keys of its own."""
        if len(body) > MAX_SUBMISSION_BYTES:
            raise too_large_problem()
        found = parse_body(body)
        try:
            submission = Submission.from_json(found)
        except Invalid as e:
            raise Problem("invalid-submission", e.detail, [e]) from None
        topic = self.check(submission)
        return self._build_record(body, found, submission, topic, headers, key_holder)

    def check(self, submission: Submission) -> str:
        """The topic that the submission goes to; Problem when its kind does not take it, or priority is not allowed."""
        self._check_kind(submission)
        if submission.priority != "high":
            return "tasks.normal"
        if not self._allow_high_priority:
            raise Problem(
                "forbidden", "a gateway that listens beyond loopback does not accept priority 'high': use 'normal'"
            )
        return "tasks.high"

    def _check_kind(self, submission: Submission) -> None:
        check = self._cluster.find_kind(submission.name)
        if check is None:
            kinds = self._cluster.kind_names()
            available = f"available are {', '.join(kinds)}" if kinds else "no kind is available yet: start a worker"
            detail = f"the kind '{submission.name}' is not available; {available}"
            raise Problem("unknown-kind", detail, [Invalid(detail, "/name")], kinds=kinds)
        if problems := check.problems(submission.payload):
            raise Problem("invalid-payload", f"{problems[0].pointer}: {problems[0].detail}", problems[:50])

    def _build_record(
        self, body: bytes, found: Any, submission: Submission, topic: str, headers: Mapping[str, str], key_holder: str
    ) -> PreparedSubmission:
        own = [("via", b"http")]
        own += [(h, headers[h].encode()) for h in _TRACE_HEADERS if h in headers]
        task_id, digest = "", ""
        if (key := headers.get("idempotency-key")) is not None:
            if not 1 <= len(key) <= MAX_IDEMPOTENCY_KEY_CHARACTERS:
                raise Problem(
                    "bad-request", f"Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY_CHARACTERS} characters"
                )
            task_id = id_of_idempotency_key(key_holder, key)
            # Of the parsed body with sorted keys, so that formatting and the order of keys do not matter.
            digest = hashlib.sha256(encode_json(found, sort_keys=True)).hexdigest()
            own.append((DIGEST_HEADER, digest.encode()))
        task_id = task_id or new_id()
        return PreparedSubmission(task_id, submission, Outgoing(topic, task_id.encode(), body, tuple(own)), digest)


def parse_body(body: bytes) -> Any:
    """Parses JSON, integers exact. Problem: bad-json for anything else, invalid-submission for JSON beyond a limit."""
    try:
        return parse_json(body)
    except Undecodable as e:
        raise Problem("bad-json", f"the body is not valid JSON: {e.detail.removeprefix('not JSON: ')}") from None
    except Invalid as e:
        raise Problem("invalid-submission", e.detail, [e]) from None
