"""Readers from outside the package: installed plug-ins and files; clashes and broken ones give a line."""

import sys

import numpy as np
import pytest

from accdistill_jax.data import outside_readers, recordings
from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from tests.guides import REPOSITORY, blocks

READER, *_ = blocks(REPOSITORY / "accdistill_jax/data/README.md", "python")


@pytest.fixture(autouse=True)
def unchanged_python(monkeypatch):
    """Modules, paths and plug-ins are as before after each test."""
    modules, path = set(sys.modules), list(sys.path)
    outside_readers.plug_ins.cache_clear()
    yield
    for name in filter(recordings.is_outside, recordings.names()):
        recordings.remove_file(name)
    for name in set(sys.modules) - modules:
        if not name.startswith(("accdistill_jax", "numpy", "scipy", "pyarrow")):
            del sys.modules[name]
    sys.path[:] = path
    outside_readers.plug_ins.cache_clear()


@pytest.fixture
def watches(tmp_path):
    """Two recordings of the guide's watch."""
    folder = tmp_path / "watches"
    folder.mkdir()
    for seed, name in enumerate(("anna", "ben")):
        rng, time_s = np.random.default_rng(seed), np.arange(50 * 65) / 50
        ppg = np.sin(2 * np.pi * 1.2 * time_s) + rng.normal(0, 0.02, len(time_s))
        table = np.column_stack([ppg, rng.normal([0, 0, 1000], 5, (len(time_s), 3))])
        np.savetxt(folder / f"{name}.mywatch", table, fmt="%.3f", delimiter=",", header="green,x,y,z", comments="")
    return folder


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install(package, {entry point: module}, {file: text}) installs a made-up package."""

    def do(package, points, files):
        site = tmp_path / f"site_{package}"
        info = site / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {module}\n" for name, module in points.items())
        (info / "entry_points.txt").write_text(f"[accdistill_jax.recordings]\n{lines}")
        for file, text in files.items():
            (site / file).write_text(text)
        monkeypatch.syspath_prepend(site)
        outside_readers.plug_ins.cache_clear()

    return do


def run(capsys, *words):
    try:
        status = main([str(word) for word in words])
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr()
    return status, " ".join(said.out.split()), said.err


def test_the_guides_reader_in_a_file_with_its_flags(watches, tmp_path, capsys):
    file = tmp_path / "outside_a.py"
    file.write_text(READER.replace('"my_reader"', '"outside_a"'))
    out = tmp_path / "store"
    command = ["--reader", file, watches, "--out", out, "--wrist", "right", "--workers", 2, "--quiet"]
    status, _, error = run(capsys, *command)
    assert (status, error) == (0, "")
    store = Store.open(out, verify=True)
    assert store.manifest["source"] == "outside_a" and store.manifest["source_settings"] == {"wrist": "right"}
    assert set(store.segments["device"]) == {"My watch, right"} and store.num_segments == 2
    status, shown, _ = run(capsys, f"--reader={file}", "--help")
    assert status == 0 and "--wrist WRIST the wrist that wore the watch, left or right. (default: left)" in shown
    assert recordings.named_or_added(str(file)) == "outside_a"


@pytest.mark.slow
def test_an_installed_plug_in_is_a_command(watches, tmp_path, capsys, install):
    install("watchmakers", {"outside_b": "outside_b_module"}, {"outside_b_module.py": READER})
    assert "outside_b" in recordings.names()
    assert "outside_b My watch: a file NAME.mywatch for each person" in run(capsys, "--help")[1]
    status, _, error = run(capsys, "outside_b", watches, "--out", tmp_path / "store", "--workers", 1, "--quiet")
    assert (status, error) == (0, "") and Store.open(tmp_path / "store").num_segments == 2
    status, said, _ = run(capsys, "auto", watches, "--out", tmp_path / "auto", "--workers", 1, "--quiet")
    assert status == 0 and "recognised outside_b" in said


BROKEN = {
    "syntax": ("def find(:\n", "SyntaxError: .*line 1"),
    "import": (
        "import no_such_module_at_all\n",
        "ModuleNotFoundError: No module named 'no_such_module_at_all', .* line 1",
    ),
    "exit": ("raise SystemExit(3)\n", "SystemExit: 3"),
    "no find": ("'''A reader.'''\n", "a reader needs a docstring and a function find"),
    "no docstring": ("def find(tree):\n    return []\n", "a reader needs a docstring and a function find"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_in_a_line(tmp_path, capsys, name):
    text, message = BROKEN[name]
    file = tmp_path / f"broken_{name.replace(' ', '_')}.py"
    file.write_text(text)
    status, _, error = run(capsys, "--reader", file, tmp_path, "--out", tmp_path / "out")
    assert status == 2 and error.count("\n") == 1 and str(file) in error
    with pytest.raises(UserError, match=message):
        recordings.add_file(file)
    assert file.stem not in recordings.names()


FAULTS = {
    "outside_c": (
        "raise KeyError('gone')",
        "the reader 'outside_c' fails to find recordings: KeyError: 'gone', outside_c.py line 4",
    ),
    "outside_d": ("return ['x']", "the reader 'outside_d': find must return RecordingSources, got str"),
    "outside_e": ("return None", "the reader 'outside_e' fails to find recordings: TypeError"),
    "outside_f": ("return [RecordingSource('a', 'a', dict)]", "its reader returned dict, not a Recording"),
    "outside_g": ("return []", "no recording of kind 'outside_g' found"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_reader_is_named_in_a_line(tmp_path, capsys, name):
    body, message = FAULTS[name]
    file = tmp_path / f"{name}.py"
    file.write_text(
        f"'''Faulty.'''\nfrom accdistill_jax.data.recording import RecordingSource\ndef find(tree):\n    {body}\nCAN_CRASH = False\n"
    )
    status, _, error = run(capsys, "--reader", file, tmp_path, "--out", tmp_path / "out", "--workers", 1, "--quiet")
    assert status == 2 and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("troika.py", "a reader cannot be called 'troika'"),
        ("auto.py", "a reader cannot be called 'auto'"),
        ("my-reader.py", "a reader cannot be called 'my-reader'"),
        ("json.py", "Python has another module 'json'"),
        ("gone.py", "no such Python file"),
        ("reader.txt", "no such Python file"),
    ],
)
def test_a_file_whose_name_does_not_do(tmp_path, capsys, file, message):
    if file != "gone.py":
        (tmp_path / file).write_text(READER)
    status, _, error = run(capsys, "--reader", tmp_path / file, tmp_path, "--out", tmp_path / "out")
    assert status == 2 and message in error and error.count("\n") == 1


def test_a_command_beside_the_file_is_refused(tmp_path, capsys):
    status, _, error = run(capsys, "auto", "--reader", tmp_path / "x.py", tmp_path, "--out", tmp_path / "out")
    assert status == 2 and "takes the place of the command 'auto'" in error


def test_clashing_and_broken_plug_ins_leave_the_others_usable(tmp_path, capsys, install, watches):
    install("one", {"troika": "outside_h", "twice": "outside_h"}, {"outside_h.py": READER})
    install(
        "two",
        {"twice": "outside_i", "broken": "outside_j", "auto": "outside_i"},
        {"outside_i.py": READER, "outside_j.py": "1/0"},
    )
    status, shown, _ = run(capsys, "--help")
    assert status == 0 and "cannot be used: several readers are called 'troika'" in shown
    problems = {
        "troika": "several readers are called 'troika': accdistill_jax's own and outside_h of one; uninstall",
        "twice": "several readers are called 'twice': outside_",
        "broken": "the plug-in outside_j of two: cannot be imported: ZeroDivisionError",
    }
    for name, message in problems.items():
        status, _, error = run(capsys, name, watches, "--out", tmp_path / "out", "--no-such-flag")
        assert status == 2 and message in error and error.count("\n") == 1, error
    assert "auto" not in recordings.names()
    assert run(capsys, "bami", watches, "--out", tmp_path / "out")[2].startswith("error: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("out: str = ''", "its options cannot be flags: argument --out: conflicting option string"),
        ("split_seed: int = 1", "its options cannot be flags: argument --split-seed"),
        ("unit: 'Unknown' = 1", "its options cannot be flags: name 'Unknown' is not defined"),
        ("unit: str", "its option 'unit' needs a default"),
    ],
)
def test_options_that_cannot_be_flags(tmp_path, capsys, options, message):
    reader = tmp_path / "my_odd_reader.py"
    reader.write_text(f'"""Odd."""\n\n\ndef find(tree, *, {options}):\n    return []\n')
    assert main(["--reader", str(reader), str(tmp_path), "--out", str(tmp_path / "store")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the reader 'my_odd_reader': ") and message in error and error.count("\n") == 1
