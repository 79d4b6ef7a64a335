"""A new device is one file in the folder of readers: nothing else changes."""

import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from accdistill_jax.data.store.store import Store

READER = """
    '''My watch: an arrays' file (.npz) for each recording.'''

    import functools
    from pathlib import Path

    import numpy as np

    from accdistill_jax.data.recording import Participant, Recording, RecordingSource, Stream
    from accdistill_jax.data.tree import Tree, ending
    from accdistill_jax.errors import UserError

    CAN_CRASH = False


    def find(tree: Tree, *, wrist: str = "left") -> list[RecordingSource]:
        '''Finds the arrays' files.

        Args:
            tree: the files to search.
            wrist: the wrist that wore the watch, left or right.
        '''
        files = [file for file in tree.files if ending(file.name) == ".npz"]
        tree.claim(*files)
        return [RecordingSource(f.stem, f.stem, functools.partial(load, f, wrist)) for f in files]


    def load(file: Path, wrist: str) -> Recording:
        if "bad" in file.stem:
            raise UserError(f"{file}: the watch was broken")
        content = np.load(file)
        streams = {
            "ppg": Stream("ppg", content["ppg"], ("green",), "a.u.", rate_hz=32.0),
            "accel": Stream("accel", content["accel"], ("x", "y", "z"), "g", rate_hz=32.0),
        }
        return Recording(file.stem, Participant(file.stem), f"My watch, {wrist}", "my_watch", 1.7e9, streams)
"""


def write_reader(package, text):
    """Writes the reader into the copy, whose files are links: a user's own reader of that name stays as it is."""
    path = package / "data/recordings/my_watch.py"
    path.unlink(missing_ok=True)
    path.write_text(text)


@pytest.fixture
def package(tmp_path, repository):
    """Folder with a copy of the package, of links, and the new file in it."""
    copy = tmp_path / "elsewhere/accdistill_jax"
    shutil.copytree(
        repository / "accdistill_jax", copy, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__")
    )
    write_reader(copy, textwrap.dedent(READER).lstrip())
    return copy.parent


def run(package, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "accdistill_jax.data.prepare", *map(str, arguments)],
        cwd=package,
        capture_output=True,
        text=True,
        timeout=120,
    )


def write(file, seed):
    rng = np.random.default_rng(seed)
    time_s = np.arange(32 * 65) / 32
    ppg = 50 * np.sin(2 * np.pi * 1.2 * time_s) + rng.normal(0, 2, len(time_s))
    file.parent.mkdir(exist_ok=True)
    np.savez(file, ppg=ppg[:, None], accel=rng.normal([0, 0, 1], 0.01, (len(time_s), 3)))


def test_its_command_has_its_help_flags_and_texts(package):
    listed = run(package, "--help").stdout
    assert "my_watch" in listed and "My watch: an arrays' file (.npz) for each recording." in listed
    shown = " ".join(run(package, "my_watch", "--help").stdout.split())
    assert "--wrist WRIST the wrist that wore the watch, left or right. (default: left)" in shown


def test_it_prepares_a_store_in_two_workers(package, tmp_path):
    for seed, name in enumerate(("anna", "ben", "bad")):
        write(tmp_path / "in" / f"{name}.npz", seed)
    arguments = [
        "my_watch",
        tmp_path / "in",
        "--out",
        tmp_path / "store",
        "--workers",
        2,
        "--wrist",
        "right",
        "--quiet",
    ]
    refused = run(package, *arguments)
    assert refused.returncode == 2 and f"recording bad: {tmp_path}/in/bad.npz: the watch was broken" in refused.stderr
    done = run(package, *arguments, "--skip-bad")
    assert (done.returncode, done.stderr) == (0, "")
    store = Store.open(tmp_path / "store", verify=True)
    assert store.manifest["source"] == "my_watch" and store.manifest["source_settings"] == {"wrist": "right"}
    assert store.participants["participant"].to_pylist() == ["anna", "ben"]
    assert set(store.segments["device"]) == {"My watch, right"}


def test_a_module_without_find_is_named(package):
    write_reader(package / "accdistill_jax", "x = 1\n")
    refused = run(package, "troika", "in", "--out", "out")
    assert refused.returncode == 2 and refused.stderr.startswith("error: ")
    assert "recordings/my_watch.py: a reader needs a docstring and a function find(tree, *, options)" in refused.stderr
