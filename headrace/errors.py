"""Errors named by what happens next, so that a caller never has to guess.

Source: raised by this package's decoders, loaders and settings; roles catch them at their edge.
"""


class HeadraceError(Exception):
    """Base of all of ours. The message says what to change, in words for the person who can change it."""


class UsageError(HeadraceError):
    """A setting, file or argument is wrong: the role refuses to start and says so."""


class Permanent(HeadraceError):
    """Trying again cannot help: the task or record ends here."""


class Invalid(Permanent):
    """A submission breaks a rule. `pointer` is the JSON Pointer of the field at fault ("" for the whole)."""

    def __init__(self, detail: str, pointer: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class Undecodable(Permanent):
    """A record's bytes are not what its topic holds. Keeps the bytes, so that nothing is lost with them."""

    def __init__(self, detail: str, raw: bytes | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.raw = raw


class Retryable(HeadraceError):
    """May succeed later; `delay_s` is how long to wait before the next try."""

    def __init__(self, detail: str, delay_s: float = 1.0) -> None:
        super().__init__(detail)
        self.delay_s = delay_s
