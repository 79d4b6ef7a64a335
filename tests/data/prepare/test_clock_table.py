"""`prepare clocks`: a row for each recording, and a line for each whose clocks differ from those of its device."""

import numpy as np
import pytest

from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, generate_batch

SETTINGS = PreprocessSettings(max_motion_g=0.02)


@pytest.fixture
def store(tmp_path):
    """Recordings of five people with one kind of device; the acceleration of one is 0.5 s early, that of another from someone else."""
    people = SyntheticSettings(participants=5, segments_per_participant=20)
    batches = [generate_batch(people, number, SETTINGS) for number in range(5)]
    batches[1].accel = np.roll(batches[1].accel, -32, axis=1)
    batches[2].accel = np.roll(batches[2].accel, 1, axis=0)
    writer = StoreWriter(tmp_path / "store", settings=SETTINGS, source="bench")
    for number, batch in enumerate(batches):
        batch.columns["recording"] = np.full(len(batch.ppg), f"r{number}")
        writer.add(f"r{number}", batch)
    return writer.commit([f"r{number}" for number in range(5)])


def test_the_recording_whose_clocks_differ_is_named(store, capsys):
    assert main(["clocks", store.path]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split("│")[2].strip(): line for line in lines if line.count("│") == 9}
    assert rows.keys() == {f"r{number}" for number in range(5)}
    assert "not sure" in rows["r2"] and all("not sure" not in rows[f"r{number}"] for number in (0, 1, 3, 4))
    said = " ".join(" ".join(lines).split())
    assert said.count("warning: recording") == 1 and "add +0.5" in said.partition("warning: recording r1: ")[2][:200]
    assert "1 recording of 5 not sure" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--minutes", "7"), "--minutes 7: must be at least 8"),
        (("--largest", "nan"), "--largest nan: must be at least 0.5 s"),
        (("--largest", "30"), "--largest 30 must be below half a segment, 30 s"),
    ],
)
def test_wrong_arguments_get_one_line(smoke_store, capsys, arguments, message):
    assert main(["clocks", str(smoke_store), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
