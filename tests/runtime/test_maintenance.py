"""The watch for maintenance notices, against a stand-in for Google's metadata server."""

import http.server
import queue
import socket
import threading
import time
import urllib.parse

import pytest

from accdistill_jax.runtime import maintenance
from accdistill_jax.runtime.maintenance import MaintenanceWatch

WAIT_S = 20.0


class MetadataServer:
    """Answers like the metadata server, including requests that wait for a change."""

    def __init__(self, port: int = 0, *, flavor: str = "Google"):
        self.values = {"": "instance/", "instance/maintenance-event": "NONE", "instance/preempted": "FALSE"}
        self.status = 200
        self.asked: list[tuple[str, dict, str]] = []
        self._changed = threading.Condition()
        self._closing = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer._answer(self, flavor)

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = False
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def _answer(self, request, flavor):
        url = urllib.parse.urlsplit(request.path)
        key = url.path.removeprefix("/computeMetadata/v1/")
        options = dict(urllib.parse.parse_qsl(url.query))
        with self._changed:
            self.asked.append((key, options, request.headers.get("Metadata-Flavor", "")))
            self._changed.notify_all()
            if options.get("wait_for_change") == "true":
                self._changed.wait_for(
                    lambda: self._closing or options["last_etag"] != self._etag(key),
                    float(options["timeout_sec"]),
                )
            status, value, etag = self.status, self.values[key], self._etag(key)
        try:
            request.send_response(status)
            request.send_header("Metadata-Flavor", flavor)
            request.send_header("ETag", etag)
            request.end_headers()
            request.wfile.write(value.encode())
        except OSError:
            pass  # the watch has broken the request off

    def _etag(self, key: str) -> str:
        return f"{hash((self.values[key], self.status)):x}"

    def set(self, key: str, value: str, *, status: int = 200) -> int:
        """Changes a value; returns how many requests had come before."""
        with self._changed:
            self.values[f"instance/{key}"] = value
            self.status = status
            self._changed.notify_all()
            return len(self.asked)

    def wait_until_waited_for(self, *keys: str) -> None:
        """Returns once each key is asked for with the etag of its present value."""

        def waited_for(key):
            return any(asked == key and options.get("last_etag") == self._etag(key) for asked, options, _ in self.asked)

        with self._changed:
            assert self._changed.wait_for(lambda: all(waited_for(f"instance/{key}") for key in keys), WAIT_S)

    def wait_for_requests(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= count, WAIT_S)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch):
    server = MetadataServer()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.port}")
    monkeypatch.setattr(maintenance, "SHORTEST_POLL_S", 0.01)
    monkeypatch.setattr(maintenance, "LONGEST_PAUSE_S", 0.05)
    yield server
    server.close()


def watch_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("maintenance-")]


def wait_for_no_threads() -> None:
    end = time.monotonic() + WAIT_S
    while watch_threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert not watch_threads()


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", "maintenance"),
        ("preempted", "TRUE", "preempted"),
    ],
)
def test_a_notice_is_told_once(server, key, value, word):
    notices = queue.Queue()
    with MaintenanceWatch(notices.put):
        server.wait_until_waited_for("maintenance-event", "preempted")
        server.set(key, value)
        assert word in notices.get(timeout=WAIT_S)
        server.wait_until_waited_for(key)
        server.set("preempted", "FALSE")
        server.set("maintenance-event", "NONE")
        server.wait_until_waited_for("maintenance-event", "preempted")
        server.set("preempted", "TRUE")
        server.wait_until_waited_for("preempted")
    assert notices.empty()
    assert not watch_threads()


def test_the_requests_are_those_of_the_documentation(server):
    with MaintenanceWatch(lambda notice: None):
        server.wait_until_waited_for("maintenance-event", "preempted")
    assert {flavor for _, _, flavor in server.asked} == {"Google"}
    waits = [options for key, options, _ in server.asked if key and options]
    assert waits
    assert all(set(options) == {"wait_for_change", "timeout_sec", "last_etag"} for options in waits)


def test_a_live_migration_is_no_notice(server):
    notices = queue.Queue()
    with MaintenanceWatch(notices.put):
        server.wait_until_waited_for("maintenance-event")
        server.set("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
        server.wait_until_waited_for("maintenance-event")
    assert notices.empty()


def test_what_stood_before_is_not_told_but_its_return_is(server):
    server.set("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
    notices = queue.Queue()
    with MaintenanceWatch(notices.put):
        server.wait_until_waited_for("maintenance-event")
        server.set("maintenance-event", "NONE")
        server.wait_until_waited_for("maintenance-event")
        assert notices.empty()
        server.set("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
        assert "maintenance" in notices.get(timeout=WAIT_S)


@pytest.mark.parametrize("garbage", ["", "<html>busy</html>", "\xff\xfe", "x" * 100_000])
def test_garbage_and_errors_are_survived(server, garbage):
    notices = queue.Queue()
    with MaintenanceWatch(notices.put):
        server.wait_until_waited_for("maintenance-event")
        server.wait_for_requests(server.set("maintenance-event", garbage) + 1)
        server.wait_for_requests(server.set("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE", status=503) + 3)
        assert notices.empty()
        server.set("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
        assert notices.get(timeout=WAIT_S)


def test_a_server_that_goes_away_and_returns(server, monkeypatch):
    notices = queue.Queue()
    first = MetadataServer()
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{first.port}")
    with MaintenanceWatch(notices.put):
        first.wait_until_waited_for("maintenance-event", "preempted")
        first.close()
        second = MetadataServer(first.port)
        try:
            second.wait_until_waited_for("maintenance-event")
            assert notices.empty()
            second.set("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
            assert notices.get(timeout=WAIT_S)
        finally:
            second.close()


def test_no_server_ends_the_watch_silently(monkeypatch, capfd):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{unused.getsockname()[1]}")
        with MaintenanceWatch(pytest.fail):
            wait_for_no_threads()
    assert capfd.readouterr() == ("", "")


def test_another_clouds_server_ends_the_watch(monkeypatch):
    other = MetadataServer(flavor="Other")
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{other.port}")
    try:
        with MaintenanceWatch(pytest.fail):
            wait_for_no_threads()
    finally:
        other.close()


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(maintenance, "PROBE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{silent.getsockname()[1]}")
        with MaintenanceWatch(pytest.fail):
            wait_for_no_threads()


def test_proxies_are_not_asked(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with MaintenanceWatch(lambda notice: None):
        server.wait_until_waited_for("maintenance-event", "preempted")


def test_stop_is_quick_and_may_come_from_the_callback(server):
    stopped = threading.Event()

    def stop(notice):
        watch.stop()
        stopped.set()

    with MaintenanceWatch(stop) as watch:
        server.wait_until_waited_for("maintenance-event", "preempted")
        server.set("preempted", "TRUE")
        assert stopped.wait(WAIT_S)
    assert not watch_threads()
    begin = time.monotonic()
    with MaintenanceWatch(pytest.fail):
        pass
    assert time.monotonic() - begin < WAIT_S  # a request that is not broken off waits for a minute
    assert not watch_threads()
