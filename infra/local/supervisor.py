"""Keeps Services running: starts them side by side, prints a line when each is ready, and restarts those that die.

Used by `up`. The delay before a restart is 1 s, doubles with each death up to 30 s, and is 1 s again after a life of a
minute. A failing part raises nothing here: a line says what to do.
"""

import signal
import threading
import time
from collections.abc import Callable, Sequence

from headrace.errors import HeadraceError, UsageError

from .service import Service

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
STEADY_S = 60.0  # a part that lived this long has recovered
DEATHS_TO_EXPLAIN = 3  # in a row, after which a person should look
USAGE_EXIT = 2  # a role's exit code for a wrong setting: a restart cannot help

Say = Callable[[str], None]


class Watch:
    """One service under supervision, with a thread of its own from `begin()` to `end()`."""

    def __init__(self, service: Service, say: Say, on_change: Callable[[], None], listens: str = "") -> None:
        """`listens` is its address, for the line that says it is ready; `on_change` runs at each start."""
        self.service = service
        self.settled = threading.Event()  # set when it is ready for the first time, or given up
        self.failure = ""  # why it was given up: a wrong setting
        self._say, self._on_change, self._listens = say, on_change, listens
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch-{service.name}", daemon=True)
        self._deaths = 0
        self._delay_s = FIRST_DELAY_S

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stops watching; the process keeps running."""
        self._closing.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closing.is_set():
            how = self._run_once()
            if self._closing.is_set() or self.failure:
                return
            self._say(self._restart_line(how))
            self._closing.wait(self._delay_s)
            self._delay_s = min(LONGEST_DELAY_S, self._delay_s * 2)

    def _run_once(self) -> str:
        """One life of the process, from start to death; returns how it ended, in words."""
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
        self._say(f"{service.name} ready{self._listens and f' on {self._listens}'} in {time.monotonic() - begun:.1f} s")
        self.settled.set()
        while not service.wait(0.5):
            if self._deaths and time.monotonic() - begun > STEADY_S:
                self._deaths, self._delay_s = 0, FIRST_DELAY_S
        self._deaths += 1
        return f"{service.name} {how_it_ended(service.returncode)}"

    def _give_up(self, why: str) -> None:
        self.failure = why
        self.settled.set()

    def _restart_line(self, how: str) -> str:
        if self._deaths < DEATHS_TO_EXPLAIN:
            return f"{how}; starting it again in {self._delay_s:.0f} s"
        return (
            f"{how}, {self._deaths} times now; next start in {self._delay_s:.0f} s. Its log {self.service.log} "
            f"ends with: {self.service.last_line()}. Fix the cause; the next start will then succeed"
        )


class Supervisor:
    """A set of watches, started side by side and stopped in the order that the caller gives."""

    def __init__(self, say: Say, on_change: Callable[[dict[str, int]], None]) -> None:
        """`on_change` gets the process ids by name after each change, one call at a time."""
        self._say = say
        self._on_change = on_change
        self._watches: dict[str, Watch] = {}
        self._lock = threading.Lock()
        self._change_lock = threading.Lock()

    def watch(self, service: Service, listens: str = "") -> Watch:
        """Starts a service and keeps it running; returns at once."""
        watch = Watch(service, self._say, self._report_change, listens)
        with self._lock:
            self._watches[service.name] = watch
        watch.begin()
        return watch

    def pids(self) -> dict[str, int]:
        """Process ids of the running services, by name."""
        with self._lock:
            return {name: w.service.pid for name, w in self._watches.items() if w.service.pid}

    def end(self) -> None:
        """Restarts nothing from now on; running processes keep running."""
        with self._lock:
            for watch in self._watches.values():
                watch.end()

    def stop(self, order: Sequence[tuple[str, float]], forced: threading.Event) -> bool:
        """Stops the services one stage after another; `order` has (name prefix, grace in seconds) for each stage.

        The services of a stage stop side by side. True when all ended by themselves; `forced` cuts every grace short.
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
            watch.service.kill()  # also a process started in the last moments
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

    def _report_change(self) -> None:
        with self._change_lock:  # each watch has a thread; the newest state must be reported last
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
