"""The results root: the directory that all storekeepers and gateways share, identified by a marker file in it.

The marker `.headrace-root` holds a random id. The first role to start records the id in Kafka (topic `nodes`, key
`results-root/<id>`). A role that finds another root refuses to start with UsageError, because the other roles would not
see its results. `ResultsRoot.check` notices later that the directory was unmounted or replaced.
"""

import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import orjson
from confluent_kafka import KafkaException

from headrace.contract.cluster import RESULTS_ROOT_KEY
from headrace.contract.records import Outgoing
from headrace.errors import Retryable, UsageError
from headrace.kafka.client import SHORT_FETCH, Kafka
from headrace.kafka.reading import log_bounds, read_batches
from headrace.kafka.sender import Sender
from headrace.process.throttled_log import log_throttled
from headrace.settings import Settings

MARKER = ".headrace-root"
PRIVATE = ".headrace"  # below the root, for unfinished files; no task's directory starts with a dot
_RETRY_S = 1.0
_ANSWER_S = 5.0


@dataclass(slots=True)
class ResultsRoot:
    """An open root. `fd` is a descriptor of the directory: files are opened relative to it, never by path."""

    path: Path
    fd: int
    id: str
    openings: int = 1  # rises when `check` has reopened it, on another mount of the same root

    def check(self) -> str | None:
        """None while `path` is this root, else the reason in words. Reopens a root that has come back."""
        try:
            by_path, by_fd = os.stat(self.path), stat_open(self.fd)
            if by_fd is not None and os.path.samestat(by_path, by_fd) and by_fd.st_nlink:
                return None
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            return f"the results root {self.path} is gone ({e.strerror}): bring it back"
        try:
            return self._reopen(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        os.close(self.fd)

    def _reopen(self, fd: int) -> str | None:
        """Goes on with the directory `fd` if it is this root; else why not."""
        try:
            found = _read_marker(fd)
        except UsageError as e:
            return str(e)
        except OSError as e:
            return f"{self.path} is not the results root any more, or not readable: {MARKER}: {e.strerror}"
        if found != self.id:
            return f"{self.path} is not the results root any more: its {MARKER} should hold {self.id} and holds {found}"
        os.dup2(fd, self.fd, inheritable=False)
        self.openings += 1
        return None


def stat_open(fd: int) -> os.stat_result | None:
    """None when the descriptor's mount or directory no longer exists (NFS: ESTALE, FUSE: ENOTCONN)."""
    try:
        return os.fstat(fd)
    except OSError:
        return None


def open_results_root(settings: Settings, kafka: Kafka, timeout_s: float | None = None) -> ResultsRoot:
    """Opens the root, or creates it, and compares it with the one that Kafka knows.

    Waits for Kafka for `timeout_s` (None: without end), then Retryable. UsageError when this is another root.
    """
    root = open_directory(settings.results_root)
    try:
        known = _agree_on_id(kafka, root.id, None if timeout_s is None else time.monotonic() + timeout_s)
    except BaseException:
        root.close()
        raise
    if known != root.id:
        root.close()
        raise UsageError(
            f"HEADRACE_RESULTS: {root.path.absolute()} is another results root ({root.id}) than the "
            f"installation's ({known}): mount that one, or, if this is a copy of it, put its id into {MARKER}"
        )
    return root


def open_directory(path: Path) -> ResultsRoot:
    """The root at `path` with its marker, both created when missing; does not ask Kafka. UsageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise UsageError(f"HEADRACE_RESULTS: {path} cannot be used as results root: {e.strerror}") from None
    try:
        return ResultsRoot(path, fd, _read_marker(fd) or _make_marker(fd))
    except UsageError:
        os.close(fd)
        raise
    except OSError as e:
        os.close(fd)
        raise UsageError(f"HEADRACE_RESULTS: {path}/{MARKER} cannot be read or written: {e.strerror}") from None


def _read_marker(fd: int) -> str | None:
    """The id in the marker, None without one; UsageError for something else of its name, OSError."""
    try:
        # O_NONBLOCK: a FIFO of that name must not block the caller.
        marker = os.open(MARKER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    except FileNotFoundError:
        return None
    try:
        return str(uuid.UUID(orjson.loads(os.read(marker, 1000))["id"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"HEADRACE_RESULTS: {MARKER} in the results root is not a valid marker: remove or restore it"
        ) from None
    finally:
        os.close(marker)


def _make_marker(fd: int) -> str:
    """Creates the marker atomically; of several processes that try at once the first wins. Returns the id."""
    own = str(uuid.uuid4())
    temporary = f"{MARKER}.{own}"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=fd), "wb") as f:
        f.write(orjson.dumps({"id": own, "what": "results root of a Headrace installation"}) + b"\n")
        f.flush()
        os.fsync(f.fileno())
    try:
        os.link(temporary, MARKER, src_dir_fd=fd, dst_dir_fd=fd)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary, dir_fd=fd)
    os.fsync(fd)
    return _read_marker(fd) or own


def _agree_on_id(kafka: Kafka, own: str, deadline: float | None) -> str:
    """The root id that Kafka knows, after recording our own when there is none."""
    while True:
        try:
            ids = _recorded_ids(kafka)
            if not ids:
                _record_id(kafka, own)
                ids = _recorded_ids(kafka)
            if ids[0] != own and own in ids:  # two first roles at once: the later one removes its id
                _record_id(kafka, own, removed=True)
            return ids[0]
        except (KafkaException, Retryable, TimeoutError, IndexError) as e:
            log_throttled("results root", "waiting for Kafka to compare the results root: %s", e)
            if deadline is not None and time.monotonic() > deadline:
                raise Retryable(f"Kafka has not answered about the results root: {e}") from None
            time.sleep(_RETRY_S)


def _recorded_ids(kafka: Kafka) -> list[str]:
    """The ids of roots on `nodes`, in the order in which they were recorded."""
    consumer, place = kafka.consumer(None, **SHORT_FETCH), ("nodes", 0)
    found: dict[str, None] = {}
    try:
        name = kafka.topic("nodes")
        if consumer.list_topics(name, timeout=_ANSWER_S).topics[name].error is not None:
            raise UsageError(f"the topic {name} is missing: run `headrace topics apply` first")
        ranges = log_bounds(kafka, consumer, [place], _ANSWER_S)
        for batch in read_batches(kafka, consumer, ranges, silent_s=_ANSWER_S):
            for record in map(kafka.record, batch):
                if record.key is not None and record.key.startswith(RESULTS_ROOT_KEY):
                    root_id = record.key.removeprefix(RESULTS_ROOT_KEY).decode(errors="replace")
                    found.pop(root_id, None) if record.value is None else found.setdefault(root_id)
    finally:
        consumer.close()
    return list(found)


def _record_id(kafka: Kafka, root_id: str, removed: bool = False) -> None:
    sender = Sender(kafka, timeout_s=_ANSWER_S)
    try:
        value = None if removed else orjson.dumps({"id": root_id})
        sender.send_all([Outgoing("nodes", RESULTS_ROOT_KEY + root_id.encode(), value)], timeout_s=10.0)
    finally:
        sender.close()
