"""The process from which Spark forks its Python workers (`spark.python.daemon.module`), made to start fast.

Spark puts a zip of pyspark first on the path, and Python compiles modules from a zip anew in each worker: 0.6 s of
processor time, where the installed package takes 0.15. So the zip goes last, and the modules that every worker needs
are imported here, once. None of them may start a thread or open a connection, because the workers are forks.
"""

import sys


def zips_last(path: list[str]) -> list[str]:
    """`path` with Spark's own zips at its end; they serve machines without an installed pyspark."""
    zips = [p for p in path if p.endswith(".zip") and "/python/lib/" in p]
    return [p for p in path if p not in zips] + zips


if __name__ == "__main__":
    sys.path[:] = zips_last(sys.path)
    import pyspark.worker  # noqa: F401 - for the workers
    from pyspark.daemon import manager

    from .sinks import mysql  # noqa: F401 - for the workers

    manager()
