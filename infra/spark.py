"""Spark's standalone master and worker from the pip package: `python -m headrace.infra.spark master|worker …`.

Replaces itself by the Java process, so that a container or a supervisor signals Java directly. `check host:port` fails
unless a master accepts connections there.
"""

import os
import socket
import sys
from pathlib import Path

CLASSES = {"master": "org.apache.spark.deploy.master.Master", "worker": "org.apache.spark.deploy.worker.Worker"}


def main(arguments: list[str]) -> int:
    if len(arguments) == 2 and arguments[0] == "check":
        host, _, port = arguments[1].rpartition(":")
        with socket.create_connection((host, int(port)), timeout=3):
            return 0
    if not arguments or arguments[0] not in CLASSES:
        print(f"usage: python -m {__spec__.name} master|worker [Spark's own options]", file=sys.stderr)
        return 2
    import pyspark

    home = Path(pyspark.__file__).parent
    os.environ["SPARK_HOME"] = str(home)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    command = str(home / "bin" / "spark-class")
    os.execv(command, [command, CLASSES[arguments[0]], *arguments[1:]])  # noqa: S606 - a fixed list, no shell
    raise AssertionError("exec does not return")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
