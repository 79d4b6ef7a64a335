"""Watches for Google Cloud stopping this machine: host maintenance, or preemption of a Spot machine.

It watches two keys of the metadata server, each by a request that the server answers when the value changes:

    instance/maintenance-event   NONE, MIGRATE_ON_HOST_MAINTENANCE or TERMINATE_ON_HOST_MAINTENANCE; changes 60 seconds
                                 before the event (an hour before on machines with GPUs), but only if the key was read
                                 since the last event
    instance/preempted           FALSE or TRUE; changes about 30 seconds before the machine stops

A live migration (MIGRATE_...) is not reported: the machine goes on.

Source: https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice (values, warning times),
https://cloud.google.com/compute/docs/instances/create-use-spot (preempted),
https://cloud.google.com/compute/docs/metadata/querying-metadata (wait_for_change, timeout_sec, last_etag, 503).
"""

import http.client
import os
import socket
import threading
import urllib.parse
from collections.abc import Callable

# The address of metadata.google.internal; outside Google Cloud a look-up of the name might hang.
_ADDRESS = "169.254.169.254"
_FLAVOR = {"Metadata-Flavor": "Google"}
PROBE_S = 1.0
_PROBES = 3
_WAIT_S = 60
_SLACK_S = 15
SHORTEST_POLL_S = 1.0
LONGEST_PAUSE_S = 30.0
_JOIN_S = 2.0

_NOTICES = {
    "maintenance-event": {
        value: f"Google Cloud is about to stop this machine for maintenance ({value})"
        for value in ("TERMINATE_ON_HOST_MAINTENANCE", "SHUTDOWN_ON_HOST_MAINTENANCE")
    },
    "preempted": {"TRUE": "Google Cloud is taking this machine back (preempted)"},
}


class MaintenanceWatch:
    """Context that calls a callback once when this machine is about to be stopped.

    Without a metadata server of Google Cloud (found by a probe of a few seconds, in the background) it does nothing. A notice that
    existed before the watch began is not reported. Otherwise a run that is launched again on the same machine would stop again at
    once, over and over.

    Args:
        on_notice: called with one readable line, in a thread of the watch.
    """

    def __init__(self, on_notice: Callable[[str], None]):
        self._on_notice = on_notice
        self._host = os.environ.get("GCE_METADATA_HOST") or _ADDRESS
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._told = False
        self._sockets: set[socket.socket] = set()
        self._threads = [
            threading.Thread(target=self._run, args=(key,), name=f"maintenance-{key}", daemon=True) for key in _NOTICES
        ]

    def __enter__(self) -> "MaintenanceWatch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the watch and aborts its requests; may be called from the callback."""
        self._stopped.set()
        with self._lock:
            for connected in self._sockets:
                _break_off(connected)
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(_JOIN_S)

    def _run(self, key: str) -> None:
        if not self._probe():
            return
        value, etag, pause_s = None, None, SHORTEST_POLL_S
        while not self._stopped.is_set():
            before = value
            try:
                value, new_etag = self._ask(f"instance/{key}", etag)
            except (OSError, http.client.HTTPException, ValueError):
                # During maintenance of its host the server restarts and answers 503.
                self._stopped.wait(pause_s)
                pause_s, etag = min(2 * pause_s, LONGEST_PAUSE_S), None
                continue
            pause_s = SHORTEST_POLL_S
            notice = _NOTICES[key].get(value)
            if notice and before is not None and value != before:
                self._tell(notice)
            if new_etag == etag or new_etag is None:
                self._stopped.wait(SHORTEST_POLL_S)  # this server answers without waiting
            etag = new_etag

    def _probe(self) -> bool:
        for _ in range(_PROBES):
            try:
                self._ask("", None, timeout_s=PROBE_S)
                return True
            except TimeoutError:
                continue
            except (OSError, http.client.HTTPException, ValueError):
                break
        return False

    def _ask(self, path: str, etag: str | None, *, timeout_s: float = 5.0) -> tuple[str, str | None]:
        """Value and etag of a key: at once without `etag`, else when the etag changes or after `_WAIT_S`."""
        query = ""
        if etag is not None:
            query = "?" + urllib.parse.urlencode({"wait_for_change": "true", "timeout_sec": _WAIT_S, "last_etag": etag})
            timeout_s = _WAIT_S + _SLACK_S
        # Not urllib.request: it would use a proxy from the environment.
        connection = http.client.HTTPConnection(self._host, timeout=min(timeout_s, 5.0))
        try:
            connection.connect()
            connected = connection.sock
            connected.settimeout(timeout_s)
            with self._lock:
                if self._stopped.is_set():
                    raise ConnectionAbortedError
                self._sockets.add(connected)
            try:
                connection.request("GET", f"/computeMetadata/v1/{path}{query}", headers=_FLAVOR)
                response = connection.getresponse()
                if response.status != 200 or response.headers.get("Metadata-Flavor") != _FLAVOR["Metadata-Flavor"]:
                    raise ValueError("not an answer of the metadata server")
                return response.read(1000).decode("ascii").strip(), response.headers.get("ETag")
            finally:
                with self._lock:
                    self._sockets.discard(connected)
        finally:
            connection.close()

    def _tell(self, notice: str) -> None:
        with self._lock:
            if self._told or self._stopped.is_set():
                return
            self._told = True
        self._on_notice(notice)


def _break_off(connected: socket.socket) -> None:
    try:
        connected.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # its thread has closed it
