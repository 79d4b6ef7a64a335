"""Preparation by Apache Beam, which has an environment of its own: ACCDISTILL_BEAM_PYTHON names its Python."""

import importlib.util
import os
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from accdistill_jax.storage.folder import open_folder
from tests.data.prepare.test_prepare_remarks import put

# Runs commands of `prepare`, given as lines of words, without a network: a connection to another machine is an error.
COMMANDS = """
import socket, sys

def only_here(connect):
    def checked(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a connection to {address}")
        return connect(self, address)
    return checked

socket.socket.connect = only_here(socket.socket.connect)
from accdistill_jax.data.prepare.__main__ import main
for line in sys.stdin.read().splitlines():
    print("status", main(line.split()), flush=True)
assert not {"jax", "flax"} & sys.modules.keys()
"""
LOOSE = "--max-motion-g inf --min-ppg-quality 0 --quiet"


@pytest.fixture(scope="module")
def beam_python() -> str:
    python = os.environ.get("ACCDISTILL_BEAM_PYTHON")
    if python is None and importlib.util.find_spec("apache_beam") is None:
        pytest.skip("no Apache Beam: set ACCDISTILL_BEAM_PYTHON")
    return python or sys.executable


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("recordings")
    for number in range(18):  # two batches
        put(root, f"p{number:02d}", shake=0.2 if number == 3 else 0.003)
    return root


@pytest.fixture
def bucket(monkeypatch):
    """A local S3 service with the bucket "bucket"."""
    pytest.importorskip("moto")
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", "0"], stderr=subprocess.PIPE, text=True)
    found = next(found for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
    log = threading.Thread(target=process.stderr.read)  # it must not fill the pipe
    log.start()
    with urllib.request.urlopen(urllib.request.Request(f"{found[0]}/bucket", method="PUT"), timeout=20):
        pass
    for name, value in (("ENDPOINT_URL", found[0]), ("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test")):
        monkeypatch.setenv(f"AWS_{name}", value)
    yield "s3://bucket"
    process.kill()
    process.wait()
    log.join()
    process.stderr.close()


def run(python: str, *commands: str, repository: Path) -> tuple[list[int], str]:
    """Statuses of the commands, and what they print."""
    done = subprocess.run(
        [python, "-c", COMMANDS],
        input="\n".join(commands),
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return [
        int(status) for status in re.findall(r"^status (\d+)$", done.stdout, re.MULTILINE)
    ], done.stdout + done.stderr


def files(path) -> dict[str, bytes]:
    folder = open_folder(path)
    return {name: folder.read(name) for name in folder.names()}


@pytest.mark.slow
def test_the_store_equals_that_of_the_local_engine(beam_python, root, tmp_path, repository):
    bad = tmp_path / "with-bad"
    put(bad, "good")
    put(bad, "empty")
    (bad / "empty/data.csv").write_text("")
    statuses, text = run(
        beam_python,
        f"generic {root} --out {tmp_path}/local --workers 1 {LOOSE}",
        f"generic {root} --out {tmp_path}/beam --engine=beam {LOOSE}",
        f"generic {root} --out {tmp_path}/beam --engine=beam {LOOSE}",
        f"generic {bad} --out {tmp_path}/bad --engine=beam {LOOSE}",
        f"generic {bad} --out {tmp_path}/bad --engine=beam --skip-bad {LOOSE}",
        f"generic {bad} --out {tmp_path}/far --engine=beam --beam-options=--runner=DataflowRunner {LOOSE}",
        f"generic {bad} --out {tmp_path}/none --engine=beam --beam-options=--runner=Nonsense {LOOSE}",
        repository=repository,
    )
    assert statuses == [0, 0, 0, 2, 0, 2, 2], text
    assert files(tmp_path / "beam") == files(tmp_path / "local")
    assert "was already complete" in text and "recording empty: " in text and "see no local folder" in text
    assert "the runner 'Nonsense' cannot be used" in text
    assert not (tmp_path / "beam.partial").exists()


@pytest.mark.slow
def test_recordings_and_store_in_a_bucket(beam_python, root, bucket, tmp_path, repository):
    recordings = open_folder(f"{bucket}/{root.name}")
    for file in sorted(root.glob("p0[0-3]/*")):
        recordings.write(str(file.relative_to(root)), file.read_bytes())
        (tmp_path / root.name / file.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / root.name / file.relative_to(root)).write_bytes(file.read_bytes())
    statuses, text = run(
        beam_python,
        f"generic {tmp_path / root.name} --out {tmp_path}/local --workers 1 {LOOSE}",
        f"generic {recordings.path} --out {bucket}/store --engine=beam {LOOSE}",
        repository=repository,
    )
    assert statuses == [0, 0], text
    assert files(f"{bucket}/store") == files(tmp_path / "local")
