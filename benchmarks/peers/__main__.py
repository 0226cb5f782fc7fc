"""`python -m benchmarks.peers`: Headrace, its peers and the raw limits on the same work, round by round.

    python -m benchmarks.peers --rows A D --systems headrace celery_late --rounds 1

Prints every measurement as it ends, then a table of medians, spreads and ratios. It judges nothing. Ctrl-C ends it with
the table of what was measured until then.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from headrace.errors import HeadraceError

from .picture import write_picture
from .redis_server import redis_server
from .rounds import Measurement, Rounds, append, read
from .rows import LETTERS, ROWS
from .systems import SYSTEMS
from .table import collect, errors, markdown, number

_SYSTEMS = [n for n in SYSTEMS if n not in ("rq", "ppe")]  # those without a row of their own among the best
_ROWS = [letter for letter in LETTERS if letter not in ("B", "C")]  # K says it better on a machine that others share


def main() -> int:
    asked = _arguments()
    try:
        if any("redis" in SYSTEMS[name].needs for name in asked.systems):
            redis_server()
        known = collect(read(asked.read) if asked.read else _run(asked))
        table = {system: known[system] for system in asked.systems if system in known}
        print(f"\n{markdown(table, asked.baseline)}", *errors(table), sep="\n")
        if asked.picture is not None:
            write_picture(table, asked.picture)
    except HeadraceError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    return 0


def _run(asked: argparse.Namespace) -> list[Measurement]:
    measured, begun = list[Measurement](), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-", dir=asked.folder) as folder:
        try:
            for one in Rounds(Path(folder), asked.systems).run(asked.rows, asked.rounds):
                measured.append(one)
                append(asked.out, one)
                print(_line(one), flush=True)
        except KeyboardInterrupt:
            print("stopped: the table has what was measured until then", flush=True)
    print(f"measured in {(time.monotonic() - begun) / 60:.1f} minutes; every figure is in {asked.out}")
    return measured


def _line(one: Measurement) -> str:
    names = [*(row.figure for row in ROWS), *(f for f in one.figures if f.endswith("error"))]
    values = {name: one.figures[name] for name in names if name in one.figures}
    shown = (f"{k}={v if isinstance(v, str) else number(v)}" for k, v in values.items())
    return f"{time.strftime('%H:%M:%S')} round {one.round} {one.system}: {' '.join(shown)}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    known = list(SYSTEMS)
    parser.add_argument(
        "--systems", nargs="+", choices=known, default=_SYSTEMS, metavar="SYSTEM", help=", ".join(known)
    )
    parser.add_argument("--rows", nargs="+", choices=LETTERS, default=_ROWS, metavar="ROW", help=", ".join(LETTERS))
    parser.add_argument("--rounds", type=int, default=5, help="each system so often, in turn (default: 5)")
    parser.add_argument("--baseline", default="celery_late", help="ratios are to this system (default: celery_late)")
    parser.add_argument("--folder", type=Path, help="where brokers and roles keep their data (default: /tmp)")
    parser.add_argument(
        "--out", type=Path, default=Path("bench.jsonl"), help="figures, appended (default: bench.jsonl)"
    )
    parser.add_argument("--read", type=Path, help="measure nothing: the table of such a file")
    parser.add_argument("--picture", type=Path, help="write a picture to this SVG or HTML file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
