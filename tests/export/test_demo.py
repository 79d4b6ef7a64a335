"""The page that runs a student in the browser: its files, its refusals, and its numbers in headless Chromium."""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading

import numpy as np
import pytest

import accdistill_jax as ad
from accdistill_jax.errors import UserError
from accdistill_jax.export import demo

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture
def runtime(tmp_path):
    """Stand-ins of the files of onnxruntime-web."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in demo.RUNTIME_FILES:
        (folder / name).write_text(name)
    return folder


def test_the_page_has_all_its_files_and_its_numbers(finished, runtime, tmp_path):
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    encoder = ad.load(finished)
    files = demo.write_demo(encoder, encoder.readouts, tmp_path / "page", runtime=runtime)
    names = {path.name for path in files}
    assert names == {"encoder.onnx", "about.json", "sample.csv", *demo.PAGE_FILES, *demo.RUNTIME_FILES}
    about = json.loads((tmp_path / "page/about.json").read_text())
    assert about["fingerprint"] == encoder.fingerprint and len(about["readout"]["weights"]) == encoder.embedding_size
    page = "".join((tmp_path / "page" / name).read_text() for name in demo.PAGE_FILES)
    assert not re.search(r"https?://", page)  # nothing is fetched from elsewhere
    sample = np.loadtxt(tmp_path / "page/sample.csv", delimiter=",", skiprows=1)
    assert sample.shape == (4 * 3840, 4) and 0.9 < np.linalg.norm(sample[:, 1:], axis=1).mean() < 1.1


def test_what_cannot_be_shown_is_refused(finished, runtime, tmp_path):
    student, teacher = ad.load(finished), ad.load(finished, part="teacher")
    with pytest.raises(UserError, match="students of acceleration"):
        demo.write_demo(teacher, teacher.readouts, tmp_path / "page", runtime=runtime)
    with pytest.raises(UserError, match="no read-out of heart rate"):
        demo.write_demo(student, None, tmp_path / "page", runtime=runtime)
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    (runtime / demo.RUNTIME_FILES[0]).unlink()
    with pytest.raises(UserError, match=r"ort.wasm.min.js is missing; give the folder dist"):
        demo.write_demo(student, student.readouts, tmp_path / "page", runtime=runtime)


@pytest.fixture
def served(finished, tmp_path):
    """Url of a real page; skips where Chromium or the npm package cannot be had."""
    pytest.importorskip("onnx", reason="the extra `export` is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    encoder = ad.load(finished)
    try:
        demo.write_demo(encoder, encoder.readouts, tmp_path / "page")
    except UserError as error:
        pytest.skip(str(error))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "page"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/index.html"
        server.shutdown()
        thread.join()


def opened(url, profile):
    """The page after its work, as HTML."""
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*words, "--virtual-time-budget=60000", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::accdistill_jax.errors.SignalWarning")  # a minute of the sample moves
def test_the_browser_shows_the_numbers_of_python(finished, served, tmp_path):
    encoder, page = ad.load(finished), tmp_path / "page"
    sample = np.loadtxt(page / "sample.csv", delimiter=",", skiprows=1)[:, 1:]
    slow = np.random.default_rng(0).normal([0.0, 600.0, 800.0], 2.0, (50 * 130, 3)).round(3)
    rows = (f"{i / 50:.3f};{x:.3f};{y:.3f};{z:.3f}".replace(".", ",") for i, (x, y, z) in enumerate(slow))
    (page / "slow.csv").write_text("time;x;y;z\n" + "\n".join(rows) + "\n")
    # the package resamples in float32, the page in float64
    cases = [("?sample", sample, 64, "g", 1e-3), ("?sample=slow.csv&unit=0.001", slow, 50, "mg", 1e-2)]
    for query, signal, rate_hz, unit, tolerance in cases:
        text = opened(served + query, tmp_path / "profile")
        shown = json.loads(html.unescape(re.search(r'data-values="([^"]*)"', text)[1]))
        expected = encoder.predict(signal, rate_hz, unit=unit)["hr_bpm"]
        estimate = encoder.readouts.targets["hr_bpm"].estimate(encoder.embed(signal, rate_hz, unit=unit))
        np.testing.assert_allclose([row["value"] for row in shown], estimate.value, atol=tolerance)
        assert [row["reason"] for row in shown] == expected.reason.tolist()
    wrong = opened(served + "?sample=slow.csv", tmp_path / "profile")
    assert "gravity is 1 g" in wrong and "data-values" not in wrong
