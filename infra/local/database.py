"""The embedded MariaDB, for statistics on a machine without a database: on loopback, and without root.

`up` starts it beside the rest. Its user `headrace` has only the rights that the statistics need, in the database
`headrace`; the database's root is locked. UsageError says what to do where it cannot run.
"""

import os
import platform
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
import zipfile
from pathlib import Path

import pymysql

from headrace.errors import UsageError
from headrace.settings import parse_address
from headrace.storage.mysql import Database

from ..setup import cache_dir
from .artifacts import artifact
from .process import end_left_over
from .service import Service

_NAME = "headrace"  # the database and its user
_KEPT = ("bin/mariadbd", "bin/my_print_defaults", "bin/resolveip", "scripts/", "share/english/", "share/charsets/")
_REMEDY = "give another database in HEADRACE_DATABASE, or go without statistics"


class EmbeddedDatabase(Service):
    """One MariaDB server; `folder` holds its tables and password, `listen` is host:port."""

    def __init__(self, folder: Path, listen: str = "127.0.0.1:3307", *, logs: Path | None = None) -> None:
        self.folder = folder.absolute()
        self.host, self.port = parse_address(listen, "HEADRACE_EMBEDDED_DATABASE")
        self._pid_file = self.folder / "pid"
        self._tables = self.folder / "tables"
        super().__init__("database", (logs or self.folder / "logs").absolute() / "database.log")

    @property
    def url(self) -> str:
        """`mysql://user:password@host:port/name`; creates the password on the first call."""
        return f"mysql://{_NAME}:{self._password()}@{self.host}:{self.port}/{_NAME}"

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        end_left_over(self._pid_file, str(self._tables))
        home = server_home()
        if not self._tables.exists():
            self._install(home)
        _write_private(self.folder / "init.sql", self._grants())

    def command(self) -> list[str]:
        home = server_home()
        return [
            str(home / "bin" / "mariadbd"),
            "--no-defaults",
            f"--basedir={home}",
            f"--datadir={self._tables}",
            f"--bind-address={self.host}",
            f"--port={self.port}",
            f"--socket={self._socket()}",
            f"--pid-file={self.folder / 'server.pid'}",
            f"--init-file={self.folder / 'init.sql'}",
            f"--tmpdir={self.folder}",
            "--skip-name-resolve",
            "--skip-log-bin",
            "--performance-schema=OFF",
            "--skip-ssl",  # loopback; creating a certificate takes 5 to 8 s at every start
            "--character-set-server=utf8mb4",
            "--default-time-zone=+00:00",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=32M",
            "--aria-pagecache-buffer-size=8M",
            "--key-buffer-size=1M",
            "--max-connections=64",
            "--local-infile=0",
            *_user_option(),
        ]

    def launch(self) -> None:
        super().launch()
        self._pid_file.write_text(str(self.pid))

    def ready(self) -> bool:
        """Whether its user can log in; then the grants have been made too."""
        try:
            socket.create_connection((self.host, self.port), 0.2).close()
            Database.parse(self.url).connect(timeout_s=1).close()
        except (OSError, pymysql.MySQLError):
            return False
        return True

    def _password(self) -> str:
        file = self.folder / "password"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _write_private(file, secrets.token_urlsafe(24))
        return file.read_text()

    def _socket(self) -> Path:
        """In the folder, or in /tmp when the path is too long for a Unix socket (107 bytes)."""
        beside = self.folder / "server.sock"
        short = Path(tempfile.gettempdir()) / f"headrace-{os.getpid()}-{self.port}.sock"
        return beside if len(os.fsencode(beside)) < 100 else short

    def _install(self, home: Path) -> None:
        """Creates the system tables in a second folder and renames it, so that they are complete or absent.

        It needs a TMPDIR of its own: a starting server removes temporary files of other servers as left over.
        """
        fresh = self.folder / "tables.new"
        shutil.rmtree(fresh, ignore_errors=True)
        done = subprocess.run(
            [
                home / "scripts" / "mariadb-install-db",
                "--no-defaults",
                f"--basedir={home}",
                f"--datadir={fresh}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
                *_user_option(),
            ],
            capture_output=True,
            text=True,
            env=os.environ | {"TMPDIR": str(self.folder)},
        )
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            why = next((line for line in lines if "ERROR" in line), lines[0] if lines else "no error message")
            raise UsageError(f"MariaDB cannot create its tables here ({why}): {_REMEDY}")
        fresh.rename(self._tables)

    def _grants(self) -> str:
        """SQL that runs at every start, before the first log-in; idempotent."""
        user = f"'{_NAME}'@'{self.host}'"
        return "\n".join(
            (
                f"CREATE DATABASE IF NOT EXISTS {_NAME} CHARACTER SET utf8mb4;",
                f"CREATE OR REPLACE USER {user} IDENTIFIED BY '{self._password()}';",
                f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP ON {_NAME}.* TO {user};",
                "ALTER USER 'root'@'localhost' ACCOUNT LOCK;",
                "DELETE FROM mysql.global_priv WHERE User = '' OR (User = 'root' AND Host <> 'localhost');",
                "FLUSH PRIVILEGES;\n",
            )
        )


def server_home() -> Path:
    """The home of MariaDB's files, unpacked from its jar into the cache. UsageError where it cannot run."""
    home = cache_dir() / "mariadb-11.4.5"
    if home.is_dir():
        return home
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise UsageError(
            f"the embedded MariaDB runs on Linux x86-64 only, and this is {platform.platform()}: {_REMEDY}"
        )
    [jar] = artifact("mariadb").glob("*.jar")
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".mariadb-") as name, zipfile.ZipFile(jar) as z:
        made = Path(name) / "home"
        for item in z.infolist():
            path = item.filename.partition("/linux/")[2]
            if item.is_dir() or not (path.startswith(_KEPT) or (path.startswith("share/") and path.endswith(".sql"))):
                continue
            target = made / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with z.open(item) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, 2**20)
            if path.startswith(("bin/", "scripts/")):
                target.chmod(target.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        try:
            made.rename(home)
        except OSError:  # another run was faster
            if not home.is_dir():
                raise
    return home


def _user_option() -> list[str]:
    """MariaDB runs as root only with this option; other users need none."""
    return ["--user=root"] if os.geteuid() == 0 else []


def _write_private(file: Path, text: str) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as out:
        out.write(text)
