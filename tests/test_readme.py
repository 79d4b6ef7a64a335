"""The README's own promises: two commands of a line each, its Python example, its example recording.

tests/test_guides.py checks the commands, links and keys of all guides; .ci/run runs the two commands.
"""

import re

import numpy as np
import yaml

from accdistill_jax.data import recordings
from tests.guides import README, blocks, text_of

TEXT = text_of(README)


def test_one_line_installs_and_runs_and_one_installs_and_tests():
    run, test = blocks(README, "bash")[:2]
    for block in (run, test):
        assert block.count("\n") == 1 and block.startswith("python3 -m venv .venv && ")
    assert run.endswith(" && python -m accdistill_jax.main --config=configs/distill.py\n")
    assert test.endswith(' && python -m pytest -n 2 -m "not slow" tests\n')


def test_the_pictures_are_there():
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", TEXT)
    assert len(pictures) >= 2 and all(20_000 < (README.parent / path).stat().st_size < 400_000 for _, path in pictures)


def test_the_python_example_runs(finished, smoke_store, tmp_path, monkeypatch):
    run = tmp_path / "runs" / "distill"
    (run / "data").mkdir(parents=True)
    for part in ("config.json", "student", "teacher"):
        (run / part).symlink_to(finished / part)
    (run / "data" / "synthetic").symlink_to(smoke_store)
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(README, "python")
    names: dict = {}
    exec(block, names)
    assert names["embeddings"].shape == (len(names["rows"]), names["encoder"].embedding_size)
    assert names["heart_rate"].shape == names["rows"].shape


def test_the_example_recording_loads(tmp_path):
    (block,) = blocks(README, "yaml")
    (tmp_path / "recording.yaml").write_text(block)
    described = yaml.safe_load(block)
    assert described["streams"].keys() == {"ppg", "accel"}
    for part in [*described["streams"].values(), described["beats"]]:
        columns = [part[key] for key in ("time", "interval") if key in part] + list(part.get("columns", []))
        seconds = np.arange(120.0) / 10
        scale = {"ms": 1000.0}.get(part.get("time_unit"), 1.0)
        table = np.stack(
            [seconds * scale if name == part.get("time") else 800 + np.sin(seconds) for name in columns], axis=1
        )
        np.savetxt(tmp_path / part["file"], table, delimiter=",", header=",".join(columns), comments="")
    (source,) = recordings.find("generic", tmp_path)
    loaded = source.load()
    assert loaded.streams.keys() >= {"ppg", "accel"} and loaded.participant.participant_id == "p01"
