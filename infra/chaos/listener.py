"""A listener on GET /events that resumes at the next gateway after every disconnect, and counts terminal events.

Its counts are evidence: a reader of the event stream must see one terminal event for each task, whatever was killed.
"""

import itertools
import threading
import time
from collections import Counter

import httpx

from headrace.client import ServerEvent, read_events, tls_context
from headrace.contract.states import TERMINAL

_RECONNECT_S = 0.5
_PATIENCE_S = 30.0


class Listener:
    """Runs in a thread until `close()`. `terminal_events` counts them by task id."""

    def __init__(self, *urls: str) -> None:
        """`urls`: of the gateways of one installation."""
        self._urls = itertools.cycle(urls)
        self.terminal_events: Counter[str] = Counter()
        self._last_id = ""
        self._connected, self._heard = threading.Event(), threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)

    def start(self) -> "Listener":
        """Returns once it is connected: it will hear of everything that is submitted from then on."""
        self._thread.start()
        self._connected.wait(_PATIENCE_S)
        return self

    def wait_heard(self) -> None:
        """Waits for the first event, from which it can resume."""
        self._heard.wait(_PATIENCE_S)

    def wait_for(self, ids: set[str], timeout_s: float) -> bool:
        """Waits for a terminal event of every id; False when one is missing after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not ids <= self.terminal_events.keys():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def close(self) -> None:
        """Stops counting; the thread ends with the next event, or when the connection breaks."""
        self._closing.set()

    def _run(self) -> None:
        with httpx.Client(timeout=httpx.Timeout(5, read=12), verify=tls_context()) as client:
            while not self._closing.is_set():
                try:
                    self._listen(client)
                except httpx.HTTPError:
                    pass  # the gateway is away: reconnect and resume
                self._closing.wait(_RECONNECT_S)

    def _listen(self, client: httpx.Client) -> None:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last_id} if self._last_id else {})
        with client.stream("GET", f"{next(self._urls)}/events", headers=headers) as answer:
            answer.raise_for_status()
            self._connected.set()
            for event in read_events(answer):
                if self._closing.is_set():
                    return
                self._handle_event(event)

    def _handle_event(self, event: ServerEvent) -> None:
        if event.id:
            self._last_id = event.id
            self._heard.set()
        if event.event in TERMINAL:
            self.terminal_events[event.data["id"]] += 1
