"""The directory in which `up` keeps everything: for one `up` at a time, and with a layout that this release knows.

UsageError names the directory, the reason and the remedy.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path

from headrace.errors import UsageError
from headrace.settings import parse_address

LAYOUT = 1  # raised by a release that changes the layout of its files


class DataDirectory:
    """Locked from `open()` to `close()`; the kernel releases the lock if the process dies.

    `logs/` has a log for each part; `kafka/`, `database/` and `results/` belong to those parts; `run.json` lists the
    running processes and their addresses: `{"pid": of up, "roles": {"gateway": pid, …}, "addresses": {"http": …}}`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.addresses: Mapping[str, str] = {}  # setting -> host:port, as the parts listen
        self._lock: int | None = None

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def open(self) -> None:
        """Creates the directory if it is missing, and locks it. UsageError when that fails, or for a newer layout."""
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as e:
            raise UsageError(
                f"{self.path} cannot be written ({(e.strerror or str(e)).lower()}): "
                "make it writable, or give another directory in HEADRACE_DATA (--data)"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 20, 0).decode() or "another process"
            self.close()
            raise UsageError(
                f"{self.path} is in use by another `headrace up` (process {holder}): "
                "stop that one, or give another directory in HEADRACE_DATA (--data)"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)
        self._check_layout()

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_running(self, roles: Mapping[str, int]) -> None:
        """Writes the process ids by role to `run.json`, for `headrace chaos` and other observers of a running `up`."""
        _write_whole(
            self.path / "run.json", {"pid": os.getpid(), "roles": dict(roles), "addresses": dict(self.addresses)}
        )

    def read_moved(self) -> dict[str, str]:
        """Where an earlier `up` has moved to, by setting; empty when it has not moved, or the file is damaged."""
        try:
            found = json.loads((self.path / "addresses.json").read_text())
            for address in found.values():
                parse_address(address)
            return dict(found)
        except (OSError, ValueError, AttributeError, TypeError, UsageError):
            return {}

    def write_moved(self, addresses: Mapping[str, str]) -> None:
        """Keeps the addresses for the next `up`."""
        _write_whole(self.path / "addresses.json", dict(addresses))

    def forget_running(self) -> None:
        """Removes `run.json`."""
        (self.path / "run.json").unlink(missing_ok=True)

    def _check_layout(self) -> None:
        file = self.path / "version.json"
        try:
            found = json.loads(file.read_text())["layout"]
        except FileNotFoundError:
            _write_whole(file, {"layout": LAYOUT})
            return
        except (ValueError, KeyError, TypeError):
            self.close()
            raise UsageError(
                f'{file} is damaged: restore it ({{"layout": {LAYOUT}}}), or give another HEADRACE_DATA'
            ) from None
        if found > LAYOUT:
            self.close()
            raise UsageError(
                f"{self.path} was written by a newer Headrace (layout {found}, this one knows {LAYOUT}): "
                "install that release again, or give another directory in HEADRACE_DATA (--data)"
            )


def _write_whole(file: Path, content: object) -> None:
    """Writes through a second file, so that no reader sees a part."""
    aside = file.with_name(file.name + ".new")
    aside.write_text(json.dumps(content))
    aside.replace(file)
