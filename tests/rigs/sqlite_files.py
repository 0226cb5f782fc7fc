"""Damage to SQLite files, as a bad disk, a crash of the machine or a person does it, also while the file is in use."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

PAGE = 4096


def flip_pages(path: Path) -> None:
    """Overwrites all of the file but its first page, after its log has been moved into it. Its lock stays as it is."""
    _checkpoint(path)
    size = path.stat().st_size
    assert size > PAGE, "there is nothing to damage yet"
    with path.open("r+b") as f:
        for at in range(PAGE, size, PAGE):
            f.seek(at)
            page = f.read(PAGE)
            f.seek(at)
            f.write(bytes(b ^ 0xFF for b in page))


def truncate(path: Path) -> None:
    """Cuts the file after its first page."""
    _checkpoint(path)
    assert path.stat().st_size > PAGE, "there is nothing to cut off"
    os.truncate(path, PAGE)


def _checkpoint(path: Path) -> None:
    """Moves the log into the file, so that whoever reads next reads from the file."""
    with closing(sqlite3.connect(path, timeout=30)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
