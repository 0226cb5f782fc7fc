"""Text from tasks and systems made fit for headers, JSON, logs and terminals. Nothing here fails.

A lone surrogate, such as `os.fsdecode` gives for bytes that are no UTF-8, has no encoding: whatever holds one cannot be
sent. Control characters would let a task's text move the cursor of the terminal that shows it.
"""

from itertools import chain

_CONTROLS = {code: f"\\x{code:02x}" for code in chain(range(0x20), range(0x7F, 0xA0)) if chr(code) not in "\n\t"} | {
    0x0D: "\\r"
}
_SEPARATORS = {0x2028: "\\u2028", 0x2029: "\\u2029"}
_ESCAPES = _CONTROLS | _SEPARATORS


def printable(text: str, most: int | None = None) -> str:
    """The text with lone surrogates and control characters escaped; at most `most` characters, an ellipsis included."""
    if most is not None and len(text) > most:
        text = text[: most - 1] + "…"
    if text.isascii() and text.isprintable():
        return text
    shown = text.encode(errors="backslashreplace").decode().translate(_ESCAPES)
    return shown if most is None or len(shown) <= most else shown[: most - 1] + "…"
