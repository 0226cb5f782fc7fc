"""Errors named by what the caller does next: correct an argument, give up, or try again.

Raised by decoders, loaders, settings and Kafka clients. Roles and commands catch them at their edge.
"""


class HeadraceError(Exception):
    """Base of all errors of Headrace. The message tells the person who can fix it what to change.

    `exit_code` is that of a command which ends with the error.
    """

    exit_code = 1


class UsageError(HeadraceError):
    """A setting, file or argument is wrong. The role or command does not start."""

    exit_code = 2


class Permanent(HeadraceError):
    """Another try cannot succeed: the task or record ends here."""


class Invalid(Permanent):
    """A submission breaks a rule. `pointer` is the JSON Pointer of the wrong field, "" for the whole submission."""

    def __init__(self, detail: str, pointer: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class Undecodable(Permanent):
    """A record is not what its topic holds. `raw` keeps its bytes."""

    def __init__(self, detail: str, raw: bytes | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.raw = raw


class Retryable(HeadraceError):
    """Another try may succeed; wait `delay_s` seconds before it."""

    def __init__(self, detail: str, delay_s: float = 1.0) -> None:
        super().__init__(detail)
        self.delay_s = delay_s


class Refused(Retryable):
    """Kafka takes the record only when a person has changed something: a right, a topic, its settings."""


class Unreachable(Retryable):
    """The gateway or Kafka does not answer a client."""

    exit_code = 5
