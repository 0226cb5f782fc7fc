"""Progress and output in odd words. Loaded in children alone, as a file."""

import contextlib
import os
import sys

from headrace import Context, task


class _Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@task(timeout_s=60)
def reports(context: Context, what: str) -> str:
    fraction, message = {
        "plain": (0.5, "half"),
        "surrogate": (0.5, "caf\udce9"),
        "long": (0.5, "x" * 1_000_000),
        "nan": (float("nan"), "?"),
        "infinite": (float("inf"), "?"),
        "text": ("half", "?"),
        "nothing": (None, None),
        "huge": (10**400, "?"),
        "negative": (-1, b"\xff"),
        "object": (object(), object()),
        "unprintable": (0.1, _Unprintable()),
        "control": (True, "\x00\x1b"),
    }[what]
    for _ in range(3):
        context.progress(fraction, message)  # type: ignore[arg-type]
    return "told"


@task(timeout_s=60)
def prints(what: str) -> str:
    if what == "bytes":
        os.write(1, bytes(range(256)) * 50)
    elif what == "much":
        for _ in range(40):
            os.write(2, b"." * 65_536)
    elif what == "surrogate":
        with contextlib.suppress(UnicodeEncodeError):
            print("caf\udce9")
    elif what == "no newline":
        print("x" * 100_000, end="")
    else:
        for n in range(2000):
            print(n, file=sys.stderr)
    return "printed"
