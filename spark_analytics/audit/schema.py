"""The tables of the audit's file, for `AuditProjection`. sqlite3.Error from `prepare`, as `make_tables` raises it."""

import sqlite3

from headrace.storage.sqlite import make_tables

from .copies import SCHEMA as _COPIES_SCHEMA

_SCHEMA = """
CREATE TABLE positions (
  topic TEXT, partition INT, next INT, PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE tasks (
  id BLOB PRIMARY KEY, partition INT, received INT, ended INT, how TEXT, starts INT, topic TEXT, place INT, source INT,
  missed INT
) WITHOUT ROWID;
CREATE INDEX closed ON tasks (ended) WHERE ended IS NOT NULL AND received IS NOT NULL;
CREATE INDEX unended ON tasks (received) WHERE ended IS NULL;
CREATE INDEX unreceived ON tasks (ended) WHERE received IS NULL;
CREATE INDEX only_started ON tasks (id) WHERE received IS NULL AND ended IS NULL;
CREATE INDEX missed ON tasks (missed) WHERE missed > 0;
CREATE TABLE claims (key TEXT, id BLOB, PRIMARY KEY (key, id)) WITHOUT ROWID;
CREATE INDEX claimed ON claims (id);
CREATE TABLE totals (event TEXT PRIMARY KEY, n INT) WITHOUT ROWID;
CREATE TABLE minutes (minute INT, event TEXT, n INT, PRIMARY KEY (minute, event)) WITHOUT ROWID;
CREATE TABLE repeats (id BLOB, event TEXT, at INT, PRIMARY KEY (id, event)) WITHOUT ROWID;
CREATE TABLE looked (id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE cluster (name TEXT PRIMARY KEY) WITHOUT ROWID;
"""
TABLES = ("positions", "tasks", "claims", "totals", "minutes", "repeats", "looked", "copies", "cluster")
_TEMPORARY = """
CREATE TEMP TABLE wanted (id BLOB PRIMARY KEY);
CREATE TEMP TABLE waiting (topic TEXT, partition INT, next INT, stop INT, PRIMARY KEY (topic, partition));
"""


def prepare(db: sqlite3.Connection) -> None:
    """Makes the tables of an empty file, and those that live with the connection; Damaged for a file of others."""
    db.execute("PRAGMA cache_size = -8000")  # kB
    make_tables(db, _SCHEMA + _COPIES_SCHEMA)
    db.executescript(_TEMPORARY)
