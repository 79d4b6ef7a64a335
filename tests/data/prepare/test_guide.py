"""The guide to recordings and stores: its commands run, and its tables name everything."""

import re
import shutil
import zipfile

import numpy as np
import pytest
import yaml

from accdistill_jax.data.preprocessing.segments import REASONS, Origin, finish_segments
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant
from accdistill_jax.data.recordings import generic, names
from accdistill_jax.data.store.store import Store
from tests.bad_inputs.bases import pulse, write_e4, write_troika
from tests.guides import REPOSITORY, blocks, commands, run

GUIDE = REPOSITORY / "accdistill_jax/data/README.md"
TEXT = GUIDE.read_text(encoding="utf-8")
RATE_HZ, SECONDS = 50, 130


def write_example(folder, seed=0, **changes):
    """The guide's example of the generic layout, with its data files."""
    example, *_ = blocks(GUIDE, "yaml")
    described = yaml.safe_load(example)
    described["participant"]["id"] = folder.name
    described |= changes
    folder.mkdir(parents=True)
    (folder / "recording.yaml").write_text(yaml.safe_dump(described))
    rng, time_s = np.random.default_rng(seed), np.arange(RATE_HZ * SECONDS) / RATE_HZ
    tables = {
        "ppg.csv": ("green", (pulse(time_s) + rng.normal(0, 0.01, len(time_s)))[:, None]),
        "accel.csv": ("t,x,y,z", np.column_stack([1000 * time_s, rng.normal([0, 0, 1000], 5, (len(time_s), 3))])),
        "hr.csv": ("t,bpm", np.column_stack([2 * np.arange(60), 72 + np.arange(60) % 3])),
    }
    for name, (header, table) in tables.items():
        np.savetxt(folder / name, table, fmt="%.4f", delimiter=",", header=header, comments="")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the inputs of the guide's commands."""
    root = tmp_path_factory.mktemp("guide")
    for seed, name in enumerate(("p01", "p02")):
        write_example(root / "recordings" / name, seed)
    write_example(root / "more_recordings/p03", 2)
    write_example(root / "other_recordings/p04", 3)
    shutil.copytree(root / "recordings", root / "recordings_with_a_bad_one")
    (root / "recordings_with_a_bad_one/p02/ppg.csv").write_text("")
    write_e4(root / "e4/S01")
    with zipfile.ZipFile(root / "e4/S02.zip", "w") as archive:
        for name in ("BVP.csv", "ACC.csv"):
            start, rate, *samples = (
                (root / "e4/S01" / name).read_text().replace("1594149654", "1594249654").splitlines()
            )
            archive.writestr(name, "\n".join([start, rate, *reversed(samples)]) + "\n")  # another signal
    write_troika(root / "troika")
    (root / "split.csv").write_text("participant,split\np01,train\np02,test\n")
    reader, *_ = blocks(GUIDE, "python")
    (root / "my_reader.py").write_text(reader)
    (root / "my_watch").mkdir()
    for name in ("anna", "ben"):
        values = np.loadtxt(root / "recordings" / {"anna": "p01", "ben": "p02"}[name] / "ppg.csv", skiprows=1)
        accel = np.random.default_rng(len(name)).normal([0, 0, 1000], 5, (len(values), 3))
        table = np.column_stack([values, accel])
        np.savetxt(
            root / f"my_watch/{name}.mywatch", table, fmt="%.4f", delimiter=",", header="green,x,y,z", comments=""
        )
    return root


@pytest.mark.slow
def test_every_command_runs_in_order(folder):
    assert len(commands(GUIDE)) >= 9
    for command in commands(GUIDE):
        assert command[:3] == ["python", "-m", "accdistill_jax.data.prepare"]
        done = run(command, folder)
        assert (done.returncode, done.stderr.replace("\r", "").strip("\n").count("error:")) == (0, 0), done.stderr
    stores = {path.name: Store.open(path, verify=True) for path in (folder / "stores").iterdir()}
    assert stores["mine"].num_segments == 4 and np.isfinite(stores["mine"].segments["hr_bpm"]).all()
    assert stores["mine"].participants["age_years"].to_pylist() == [34, 34]
    assert stores["found"].manifest["source"] == "generic"
    assert stores["my_watch"].participants["participant"].to_pylist() == ["anna", "ben"]
    assert stores["e4"].participants["participant"].to_pylist() == ["S01", "S02"]
    assert stores["troika"].num_segments == 2
    assert list(stores["rest"].manifest["skipped"]) == ["p02"]
    assert stores["by_file"].participants["split"].to_pylist() == ["train", "test"]
    assert stores["all"].parts == tuple(str(folder / "stores" / part) for part in ("mine", "mine-2/added", "other"))
    assert stores["all"].num_segments == 8
    assert (folder / "segments.png").stat().st_size > 10_000


def test_every_reader_key_reason_and_limit_is_named():
    words = set(re.findall(r"`([\w-]+)`", TEXT)) | set(re.findall(r"^### (\w+):", TEXT, re.MULTILINE))
    assert set(names()) <= words
    assert {key for keys in generic.KEYS.values() for key in keys} <= words
    assert set(REASONS) <= words
    limits = [
        field for field in PreprocessSettings.__dataclass_fields__ if field.startswith(("max_", "min_ppg", "held"))
    ]
    assert {f"--{field.replace('_', '-')}" for field in limits} <= words


def test_every_column_of_a_store_is_named(make_store, people):
    one_segment = (np.zeros((1, 3840, 1), np.float32), np.zeros((1, 3840, 3), np.float32))
    origin = Origin(Participant("p"), "watch", "r", np.zeros(1))
    columns = finish_segments(*one_segment, settings=PreprocessSettings(), origin=origin).columns
    words = set(re.findall(r"`(\w+)`", TEXT))
    assert {*columns, "crc32", *make_store("s", people).participants.column_names} <= words
