"""A clock that a test sets."""


class Clock:
    """Called, it says `now`."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
