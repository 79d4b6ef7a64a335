"""Names that users give are shown as they are and command nothing: in terminals, plots and stores, on streams of any encoding."""

import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from accdistill_jax import text
from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.preprocessing.segments import SegmentBatch
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant, RecordingSource, Stream
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.errors import UserError

NAMES = [
    "[/a]",
    "[bold red]x[/bold red]",
    "$a$b$",
    "$\\frac{",
    "_hidden",
    "太郎",
    "می‌خواهم",
    "a\x1b[2Jb",
    "a\nb",
    "a\rb",
    "\u202eevil",
    "<b>&",
    "`|*_",
]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("[/a]", "[/a]"),
        ("太郎", "太郎"),
        ("a b\u00a0c\u3000d", "a b\u00a0c\u3000d"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\r\t", "a\\nb\\r\\t"),
        ("\u202ea", "\\u202ea"),
        ("\x9b1m", "\\x9b1m"),
        ("a\u2028b", "a\\u2028b"),
        ("Ren\udce9", "Ren\\xe9"),
        ("می\u200cخ", "می\u200cخ"),
    ],
)
def test_one_line(name, shown):
    assert text.one_line(name) == shown


@pytest.mark.parametrize(
    "name", ["Zoe\u0308", "Zo\u00eb", os.fsdecode("Zo\u00eb".encode()), os.fsdecode("Zoe\u0308".encode())]
)
def test_readable_is_the_same_for_every_form(name):
    assert text.readable(name) == "Zo\u00eb"


def test_readable_keeps_bytes_that_are_no_text():
    assert text.readable(os.fsdecode(b"Ren\xe9")) == "Ren\\xe9" and text.readable("\ud800") == "\\ud800"
    assert text.readable(os.fsdecode(b"Ren\xe9 \xe5\xa4\xaa")) == "Ren\\xe9 太"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("error")
def test_plots_draw_every_name(name):
    figure = Figure()
    axis = figure.subplots()
    axis.set_title(text.for_plot(name))
    axis.plot([0, 1], label=text.for_plot(name))
    legend = axis.legend()
    figure.canvas.draw()
    assert len(legend.get_texts()) == 1
    shown = text.for_plot(name)
    assert shown.replace("\\$", "").count("$") == 0 and "\x1b" not in shown and "\n" not in shown


def test_letters_that_the_font_lacks_stay_distinct():
    assert text.for_plot("太郎") == "\\u592a\\u90ce" != text.for_plot("花子") and text.for_plot("Zoë") == "Zoë"


def test_names_are_one_text_in_every_place(tmp_path):
    forms = ("Zoe\u0308", "Zo\u00eb")
    assert len({Participant(form).participant_id for form in forms}) == 1
    assert len({RecordingSource("r", form, list).participant_id for form in forms}) == 1
    (tmp_path / "split.csv").write_text(f"participant,split\n{forms[0]},test\n", encoding="utf-8")
    assert SplitRule.from_file(tmp_path / "split.csv").assign([forms[1]]) == {forms[1]: "test"}
    (tmp_path / "split.csv").write_text(
        "participant,split\n" + "".join(f"{form},test\n" for form in forms), encoding="utf-8"
    )
    with pytest.raises(UserError, match="named twice"):
        SplitRule.from_file(tmp_path / "split.csv")


def test_a_name_cannot_hold_nul():
    with pytest.raises(UserError, match="must not contain the character NUL"):
        Participant("p\0")
    with pytest.raises(UserError, match="must not contain the character NUL"):
        Stream("ppg", np.zeros((2, 1)), ("a\0",), "a.u.", rate_hz=64.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store whose people, devices, channels and left-out files carry every name."""
    path = tmp_path_factory.mktemp("names") / "s"
    writer = StoreWriter(path, settings=PreprocessSettings(segment_s=10.0, hop_s=10.0), source="bench")
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        writer.add(
            f"r{number}",
            SegmentBatch(
                ppg=rng.normal(0, 1, (2, 640, 2)).astype(np.float32),
                accel=rng.normal(0, 1, (2, 640, 3)).astype(np.float32),
                ppg_channels=("_$g$", "[/b]"),
                participant=Participant(name, conditions={name: True}),
                examined=2,
                rejected={},
                columns={
                    "participant": np.full(2, name),
                    "recording": np.full(2, f"r{number}"),
                    "device": np.full(2, name),
                    "start_unix_s": np.zeros(2),
                    "hr_bpm": np.full(2, 60, np.float32),
                },
            ),
        )
    writer.commit(
        [f"r{number}" for number in range(len(NAMES))],
        skipped={name: name for name in NAMES},
        not_read={name: name for name in NAMES},
    )
    return path


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_show_prints_every_name_whatever_the_encoding(store, repository, encoding, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-m", "accdistill_jax.data.prepare", "show", store, "--plot", tmp_path / "[p] $x$.png"],
        cwd=repository,
        env=environment,
        capture_output=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    out = done.stdout.decode(encoding)
    assert "\x1b" not in out and "\r" not in out and "\u202e" not in out
    for name in NAMES:
        shown = text.one_line(name).encode(encoding, "backslashreplace").decode(encoding)
        assert f"left out: recording {shown}: {shown}" in out and f"not read: {shown}: {shown}" in out
        assert f" {shown} " in out  # in the table
    assert (tmp_path / "[p] $x$.png").exists()


def test_a_store_whose_path_is_no_utf8_is_refused_before_anything_is_made(tmp_path, capsys):
    out = tmp_path / os.fsdecode(b"Ren\xe9")
    assert (
        main(["synthetic", "--out", str(out), "--participants", "1", "--segments-per-participant", "1", "--quiet"]) == 2
    )
    error = capsys.readouterr().err
    assert "Ren\\xe9: this path is not UTF-8" in error and error.count("\n") == 1 and not os.listdir(tmp_path)


@pytest.mark.slow
def test_errors_in_a_c_locale(repository, tmp_path):
    root = os.fsencode(tmp_path) + "/太\x1b[2J".encode() + b"\xe9"
    os.mkdir(root)
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "accdistill_jax.data.prepare", "generic", root, "--out", tmp_path / "s", "--quiet"],
        cwd=repository,
        env=environment,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stderr.startswith(b"error: ") and done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr and b"Traceback" not in done.stderr
