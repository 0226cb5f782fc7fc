"""The process that Spark's Python workers are forked from (`spark.python.daemon.module`), started fast.

Spark puts a zip of pyspark before all else on the path, and Python compiles what it imports from a zip at every start,
in each worker: 0.6 s of processor time, where the installed package takes 0.15. So the zip goes last, and what every
worker needs is imported here, once. Nothing that is imported may start a thread or open a connection: workers fork.
"""

import sys


def zips_last(path: list[str]) -> list[str]:
    """`path` with Spark's own zips at its end, for where pyspark is not installed."""
    zips = [p for p in path if p.endswith(".zip") and "/python/lib/" in p]
    return [p for p in path if p not in zips] + zips


if __name__ == "__main__":
    sys.path[:] = zips_last(sys.path)
    import pyspark.worker  # noqa: F401 - for the workers
    from pyspark.daemon import manager

    import spark_analytics.sinks.mysql  # noqa: F401 - for the workers

    manager()
