"""Keeps Services running: starts them side by side, says a line as each becomes ready, starts again what died.

Used by `up`. A part that ends is started again after 1 s, doubled at each death up to 30 s, and from 1 s again once it
has lived a minute. Nothing here raises for a part that fails; it says what to do, in a sentence.
"""

import signal
import threading
import time
from collections.abc import Callable, Sequence

from headrace.errors import HeadraceError, UsageError
from infra.local.service import Service

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
STEADY_S = 60.0  # a part that lived this long has come back for good
KEEPS_DYING = 3  # deaths in a row from which a person should look
USAGE_EXIT = 2  # a role's way to say that a setting is wrong: starting it again cannot help

Say = Callable[[str], None]


class Watch:
    """One service under supervision, with a thread of its own from `begin()` to `end()`."""

    def __init__(self, service: Service, say: Say, on_change: Callable[[], None], at: str = "") -> None:
        """`at` is where it listens, for the line that says it is ready; `on_change` runs at each start."""
        self.service = service
        self.settled = threading.Event()  # ready for the first time, or given up
        self.failure = ""  # why it was given up: a setting that is wrong
        self._say, self._on_change, self._at = say, on_change, at
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{service.name}", daemon=True)
        self._deaths = 0
        self._delay_s = FIRST_DELAY_S

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Watches no more; what runs goes on."""
        self._closing.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closing.is_set():
            trouble = self._live_once()
            if self._closing.is_set() or self.failure:
                return
            self._say(self._words(trouble))
            self._closing.wait(self._delay_s)
            self._delay_s = min(LONGEST_DELAY_S, self._delay_s * 2)

    def _live_once(self) -> str:
        """One life from start to death; returns how it ended, in words."""
        service, begun = self.service, time.monotonic()
        try:
            service.launch()
            self._on_change()
            while not service.ready():
                if not service.wait(0.05):
                    continue
                if service.returncode == USAGE_EXIT and not self.settled.is_set():
                    self._give_up(service.last_line().removeprefix("headrace: "))
                self._deaths += 1
                return f"{service.name} {how_it_ended(service.returncode)} before it was ready"
        except (HeadraceError, OSError) as e:
            self._deaths += 1
            if isinstance(e, UsageError) and not self.settled.is_set():
                self._give_up(str(e))
            return str(e)
        self._say(f"{service.name} ready{self._at and f' on {self._at}'} in {time.monotonic() - begun:.1f} s")
        self.settled.set()
        while not service.wait(0.5):
            if self._deaths and time.monotonic() - begun > STEADY_S:
                self._deaths, self._delay_s = 0, FIRST_DELAY_S
        self._deaths += 1
        return f"{service.name} {how_it_ended(service.returncode)}"

    def _give_up(self, why: str) -> None:
        self.failure = why
        self.settled.set()

    def _words(self, trouble: str) -> str:
        if self._deaths < KEEPS_DYING:
            return f"{trouble}; starting it again in {self._delay_s:.0f} s"
        return (
            f"{trouble}, {self._deaths} times now; next try in {self._delay_s:.0f} s. Its log {self.service.log} "
            f"ends with: {self.service.last_line()}. Put that right, and it comes back by itself"
        )


class Supervisor:
    """A set of watches, begun in any order and stopped in the order that the caller gives."""

    def __init__(self, say: Say, on_change: Callable[[dict[str, int]], None]) -> None:
        """`on_change` gets the process ids by name whenever one has changed."""
        self._say = say
        self._on_change = on_change
        self._watches: dict[str, Watch] = {}
        self._lock = threading.Lock()
        self._telling = threading.Lock()

    def watch(self, service: Service, at: str = "") -> Watch:
        watch = Watch(service, self._say, self._changed, at)
        with self._lock:
            self._watches[service.name] = watch
        watch.begin()
        return watch

    def pids(self) -> dict[str, int]:
        with self._lock:
            return {name: w.service.pid for name, w in self._watches.items() if w.service.pid}

    def end(self) -> None:
        """Starts nothing again from here on; what runs goes on."""
        with self._lock:
            for watch in self._watches.values():
                watch.end()

    def stop(self, order: Sequence[tuple[str, float]], forced: threading.Event) -> bool:
        """Stops the named services one stage after another; `order` has (name prefix, grace in seconds).

        Those of one prefix stop side by side. True when all ended by themselves; `forced` kills what is left.
        """
        self.end()
        with self._lock:
            watches = dict(self._watches)
        clean = True
        for prefix, grace_s in order:
            stage = [w.service for name, w in watches.items() if name.startswith(prefix)]
            clean &= self._stop_stage([s for s in stage if s.alive], grace_s, forced)
        for watch in watches.values():
            watch.join(10)
            watch.service.kill()  # also what a start in those last moments has made
        return clean

    def _stop_stage(self, services: list[Service], grace_s: float, forced: threading.Event) -> bool:
        if not services:
            return True
        self._say(f"stopping {', '.join(s.name for s in services)} (up to {grace_s:.0f} s)")
        for service in services:
            service.terminate()
        deadline = time.monotonic() + grace_s
        while any(s.alive for s in services) and time.monotonic() < deadline and not forced.is_set():
            time.sleep(0.05)
        late = [s.name for s in services if s.alive]
        for service in services:
            service.kill()  # the rest of its group too
        if late:
            self._say(f"killed {', '.join(late)}")
        return not late

    def _changed(self) -> None:
        with self._telling:  # each watch has its thread, and the newest state must be the last that is told
            self._on_change(self.pids())


def how_it_ended(returncode: int | None) -> str:
    """An exit code in words, as subprocess gives it."""
    if returncode is None:
        return "ended"
    if returncode >= 0:
        return f"ended with exit code {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"
