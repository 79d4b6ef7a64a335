"""Stores in an S3-compatible object store: written, read, verified, refused, unreachable, gone while reading."""

import http.server
import importlib.util
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest

from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.synthetic import synthetic
from accdistill_jax.errors import UserError
from accdistill_jax.storage import folder

needs_moto = pytest.mark.skipif(importlib.util.find_spec("moto") is None, reason="moto is not installed")
POPULATION = synthetic.SyntheticSettings(participants=3, segments_per_participant=3)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Credentials, and fewer retries than a user gets."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setattr(folder, "RETRIES", {"max_retries": 1, "initial_delay": "100ms", "max_delay": "100ms"})
    forget_contexts()
    yield
    forget_contexts()


def forget_contexts() -> None:
    folder.context.cache_clear()
    folder.root_context.cache_clear()


@pytest.fixture
def server(monkeypatch):
    """A local S3 service with the bucket "bucket", as a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", "0"], stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                break
        log = threading.Thread(target=process.stderr.read)  # it must not fill the pipe
        log.start()
        with urllib.request.urlopen(urllib.request.Request(f"{found[0]}/bucket", method="PUT"), timeout=20):
            pass
        monkeypatch.setenv("AWS_ENDPOINT_URL", found[0])
        yield process
    finally:
        process.kill()
        process.wait()
        log.join()
        process.stderr.close()


@needs_moto
def test_prepare_read_and_verify(server, tmp_path, capsys):
    url = "s3://bucket/stores/made"
    arguments = ["--participants", "3", "--segments-per-participant", "3", "--quiet", "--workers", "1"]
    assert main(["synthetic", "--out", url, *arguments]) == 0
    assert main(["verify", url]) == 0
    assert f"{url}: whole; 15 files" in capsys.readouterr().out
    local, remote = synthetic.write_store(tmp_path / "local", POPULATION), Store.open(url)
    rows = np.array([3, 0, 3, 1])
    assert remote.fingerprint == local.fingerprint
    for name, values in remote.read(rows).items():
        np.testing.assert_array_equal(values, local.read(rows)[name])
    assert folder.open_folder("s3://bucket/stores/made.partial").names() == []
    assert main(["synthetic", "--out", url, *arguments]) == 0, "the finished store is recognised"


@needs_moto
def test_damage_is_named(server, capsys):
    url = synthetic.write_store("s3://bucket/s", POPULATION).path
    objects = folder.open_folder(url)
    content = bytearray(objects.read("accel/c/0/0/0"))
    content[100] ^= 1
    objects.write("accel/c/0/0/0", content)
    with pytest.raises(UserError, match="^s3://bucket/s/accel/c/0/0/0: segment 0 is not what was written there"):
        Store.open(url).read(np.arange(2))
    assert main(["verify", url]) == 2
    assert "error: s3://bucket/s: damaged: accel/c/0/0/0 does not match its checksum" in capsys.readouterr().err
    objects.remove("ppg_scale/c/0/0")
    with pytest.raises(UserError, match="s3://bucket/s/ppg_scale/c/0/0: this file of the store is missing"):
        Store.open(url)


@needs_moto
def test_server_goes_away_while_reading(server):
    store = synthetic.write_store("s3://bucket/s", POPULATION)
    store.read(np.arange(2))
    server.kill()
    server.wait()
    with pytest.raises(
        UserError,
        match="^s3://bucket/s/ppg: .*Could not connect to server: cannot be read; .*prepare verify s3://bucket/s$",
    ):
        store.read(np.array([5]))


@needs_moto
def test_bucket_that_does_not_exist(server):
    with pytest.raises(UserError, match=r"^s3://nobody/s/: .*NoSuchBucket.* not exist\); check the address"):
        synthetic.write_store("s3://nobody/s", POPULATION)
    with pytest.raises(UserError, match="^s3://nobody/s"):
        Store.open("s3://nobody/s")


class Refusing(http.server.BaseHTTPRequestHandler):
    def refuse(self) -> None:
        self.send_error(403)

    do_GET = do_HEAD = do_PUT = do_DELETE = refuse

    def log_message(self, *arguments) -> None:
        pass


@pytest.fixture
def refusing(monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{service.server_port}")
        yield
        service.shutdown()


@pytest.fixture
def silent(monkeypatch):
    """A service that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{service.getsockname()[1]}")
        monkeypatch.setattr(folder, "DEADLINE_S", 1.0)
        yield


@pytest.mark.parametrize("command", ["verify", "show", "synthetic"])
def test_refused(refusing, capsys, command):
    arguments = [command, "--out", "s3://bucket/s"] if command == "synthetic" else [command, "s3://bucket/s"]
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(
        "error: s3://bucket/s/manifest.json: the object store cannot be used"
    )
    assert "PERMISSION_DENIED" in lines[0] and "[" not in lines[0]


@pytest.mark.parametrize("url", ["s3://bucket/s", "gs://bucket/s"])
def test_unreachable(monkeypatch, capsys, url):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "abc")
    begin = time.monotonic()
    assert main(["verify", url]) == 2
    assert time.monotonic() - begin < 20
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"error: {url}/manifest.json: the object store cannot be used"), (
        lines
    )


def test_no_answer(silent, capsys):
    assert main(["verify", "s3://bucket/s"]) == 2
    assert "manifest.json: the object store cannot be used (no answer within 1 s)" in capsys.readouterr().err
