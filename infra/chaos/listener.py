"""A listener on GET /events that resumes wherever it was cut off, and counts the terminal events that each task had.

What it hears is evidence: a reader of the event stream must see one terminal event a task, whatever was killed.
"""

import threading
import time
from collections import Counter
from itertools import takewhile

import httpx

from headrace.client import ServerEvent, parse_events, tls_context
from headrace.contract.states import TERMINAL

_RECONNECT_S = 0.5
_PATIENCE_S = 30.0


class Listener:
    """Runs in a thread until `close()`. `told` counts terminal events by id, `resets` positions that Kafka had lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.told: Counter[str] = Counter()
        self.resets = 0
        self.reconnects = 0
        self._last_id = ""
        self._connected, self._heard = threading.Event(), threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> "Listener":
        """Returns once the gateway listens to it: what is submitted from here on is heard of."""
        self._thread.start()
        self._connected.wait(_PATIENCE_S)
        return self

    def wait_heard(self) -> None:
        """Until it has heard of something, and so has a place to resume from."""
        self._heard.wait(_PATIENCE_S)

    def wait_for(self, ids: set[str], timeout_s: float) -> bool:
        """Whether it has heard of the end of all of them within that time."""
        deadline = time.monotonic() + timeout_s
        while not ids <= self.told.keys():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def close(self) -> None:
        """Listens no more. Its thread ends with the next line from the gateway, and nobody need wait for that."""
        self._closing.set()

    def _run(self) -> None:
        with httpx.Client(timeout=httpx.Timeout(5, read=12), verify=tls_context()) as client:
            while not self._closing.is_set():
                try:
                    self._listen(client)
                except httpx.HTTPError:
                    pass  # the gateway is away: that is what this listener is for
                self.reconnects += 1
                self._closing.wait(_RECONNECT_S)

    def _listen(self, client: httpx.Client) -> None:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last_id} if self._last_id else {})
        with client.stream("GET", f"{self._url}/events", headers=headers) as answer:
            answer.raise_for_status()
            self._connected.set()
            for event in parse_events(takewhile(lambda _: not self._closing.is_set(), answer.iter_lines())):
                self._take(event)

    def _take(self, event: ServerEvent) -> None:
        if event.id:
            self._last_id = event.id
            self._heard.set()
        if event.event == "reset":
            self.resets += 1
        elif event.event in TERMINAL:
            self.told[event.data["id"]] += 1
