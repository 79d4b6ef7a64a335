"""The command that measures the sensors of stores."""

import numpy as np
import pytest

from accdistill_jax.data.prepare import __main__ as command
from accdistill_jax.data.prepare.measure import measure_store, measures_tables
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.synthetic import synthetic
from accdistill_jax.data.synthetic.wrist import sample_wrist


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Stores of both generators."""
    root = tmp_path_factory.mktemp("measure")
    settings = (synthetic.SyntheticSettings(participants=6, segments_per_participant=4, generator=g) for g in (1, 2))
    return [synthetic.write_store(root / f"g{number}", s) for number, s in enumerate(settings, start=1)]


def test_noise_of_a_store_is_that_of_its_sensors(stores):
    first = measure_store(stores[0], np.arange(stores[0].num_segments))
    assert 0.08 < np.median(first.noise_mg) < 0.16
    second = stores[1]
    for index in range(6):
        wrist = sample_wrist(0, index, synthetic.sample_participant(0, index))
        rows = np.flatnonzero(second.segments["participant"] == wrist.person.participant_id)
        assert set(second.segments["device"][rows]) == {f"synthetic {wrist.device.rate_hz} Hz"}
        if wrist.device.rate_hz in (64, 100) and len(rows):
            falls = np.sqrt(1 + (25 / 0.47 / wrist.device.rate_hz) ** 2)
            measured = np.median(measure_store(second, rows).noise_mg)
            assert measured == pytest.approx(wrist.noise_mg / falls, rel=0.15, abs=0.03)


def test_a_column_for_each_device_or_participant(stores):
    def titles(by):
        return [
            column.header.plain.splitlines()[1]
            for table in measures_tables(stores, by=by, segments=2)
            for column in table.columns[1:]
        ]

    assert titles("device")[0] == "synthetic" and len(titles("device")) == 1 + len(set(stores[1].segments["device"]))
    assert len(titles("participant")) == len({*stores[0].segments["participant"]}) + len(
        {*stores[1].segments["participant"]}
    )


def test_command_prints_the_measures_side_by_side(stores, capsys):
    assert command.main(["measure", *(store.path for store in stores), "--segments", "3"]) == 0
    printed = capsys.readouterr().out
    for text in ("noise, mg/sqrt(Hz)", "mean beat, mg", "breathing, mg", "3 segments"):
        assert text in printed
    assert command.main(["measure", stores[0].path, "--segments", "0"]) == 2
    assert "--segments 0: must be at least 1" in capsys.readouterr().err


def test_slow_segments_are_refused(make_store, capsys):
    settings = PreprocessSettings(rate_hz=32.0, segment_s=10.0, hop_s=10.0)
    store = make_store("slow", {"a": 2}, settings=settings)
    assert command.main(["measure", store.path]) == 2
    assert "more than 60 Hz, and these have 32 Hz" in capsys.readouterr().err
