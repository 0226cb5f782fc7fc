"""Empties a peer's Redis before its measurement."""

import redis


def flush(url: str) -> None:
    """Deletes all keys of the database that `url` names."""
    with redis.Redis.from_url(url) as connection:
        connection.flushdb()
