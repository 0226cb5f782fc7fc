"""The embedded MariaDB beside others on one machine."""

import tempfile
import uuid
from pathlib import Path

from infra.local.database import EmbeddedDatabase
from infra.local.process import free_port


def test_its_first_start_leaves_the_temporary_files_of_other_servers_alone(tmp_path: Path) -> None:
    theirs = Path(tempfile.gettempdir()) / f"#sql-temptable-{uuid.uuid4().hex[:4]}-1-1.MAI"  # as servers name them
    theirs.touch()
    server = EmbeddedDatabase(tmp_path / "database", f"127.0.0.1:{free_port()}")
    try:
        server.start()
        assert theirs.exists()
    finally:
        server.stop()
        theirs.unlink(missing_ok=True)
