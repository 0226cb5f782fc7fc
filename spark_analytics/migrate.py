"""Creates and changes the statistics' tables: each file `migrations/NNNN_what.sql` runs once, in order.

The MySQL sink calls it at start; concurrent calls wait for each other. DDL is not transactional in MySQL, so every file
must be safe to run again from its beginning.
"""

from functools import cache
from importlib.resources import files

from headrace.errors import UsageError
from headrace.storage.mysql import Database

_LOCK_S = 30
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
  version INT NOT NULL PRIMARY KEY, name VARCHAR(200) NOT NULL, applied_at DATETIME(3) NOT NULL
) ENGINE=InnoDB
"""


@cache
def migrations() -> tuple[tuple[int, str, str], ...]:
    """(version, file name, SQL), ascending."""
    found = [f for f in files(__package__).joinpath("migrations").iterdir() if f.name.endswith(".sql")]
    return tuple(sorted((int(f.name.split("_")[0]), f.name, f.read_text()) for f in found))


def migrate(database: Database) -> list[str]:
    """Runs the files that have not run yet; returns their names.

    UsageError for tables of a newer release; pymysql's errors are raised as they are.
    """
    connection = database.connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT GET_LOCK('headrace-migrations', %s)", (_LOCK_S,))
            try:
                cursor.execute(_TABLE)
                cursor.execute("SELECT COALESCE(MAX(version), 0) FROM schema_migrations")
                [at] = cursor.fetchone() or (0,)
                if at > migrations()[-1][0]:
                    raise UsageError(
                        f"the statistics' tables are of a newer release (version {at}): run that release, or give "
                        "another database in HEADRACE_DATABASE"
                    )
                done = []
                for version, name, sql in migrations():
                    if version > at:
                        for statement in statements(sql):
                            cursor.execute(statement)
                        cursor.execute(
                            "INSERT INTO schema_migrations VALUES (%s, %s, UTC_TIMESTAMP(3))", (version, name)
                        )
                        connection.commit()
                        done.append(name)
                return done
            finally:
                cursor.execute("SELECT RELEASE_LOCK('headrace-migrations')")
    finally:
        connection.close()


def statements(sql: str) -> list[str]:
    """The statements of a file: each ends with a semicolon at a line's end; lines with `--` first are comments."""
    lines = [line for line in sql.splitlines() if not line.lstrip().startswith("--")]
    return [s.strip() for s in "\n".join(lines).split(";\n") if s.strip(" ;\n")]
