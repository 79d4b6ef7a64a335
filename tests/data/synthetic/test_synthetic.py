"""Synthetic segments and stores: reproducible, true to their beats, as hard as they should be."""

import dataclasses
import functools
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy import signal

from accdistill_jax.data.prepare.preparation import PreparationSettings
from accdistill_jax.data.preprocessing.measures import pulse_rises
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.data.synthetic import synthetic, waveforms
from accdistill_jax.data.synthetic.health_targets import HEALTH_TARGETS
from accdistill_jax.data.synthetic.wrist import sample_wrist
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.classical import ballistocardiogram as bcg

PREPROCESS = PreprocessSettings()
# Samples 0, 960, 1920 and 2880 of participant 7, minute 3, in population 4.
GOLDEN_ACCEL = [
    [0.16967773, 0.55444336, -0.8161621],
    [0.17016602, 0.5510254, -0.81762695],
    [0.17358398, 0.5498047, -0.81933594],
    [0.16967773, 0.55249023, -0.81640625],
]
GOLDEN_PPG = [
    [0.3517739, 0.5906482],
    [-0.46546835, -1.1889315],
    [0.48069295, 0.8603451],
    [-0.31630647, -0.08487454],
]
OVERWRITE = PreparationSettings(workers=1, overwrite=True)


def _spectral_rate(x):
    """[N, T] at 64 Hz -> [N] bpm of the highest spectral peak between 36 and 130 bpm."""
    power = np.abs(np.fft.rfft((x - x.mean(1, keepdims=True)) * np.hanning(x.shape[1]), 1 << 15, axis=1))
    frequency = np.fft.rfftfreq(1 << 15, 1 / 64)
    band = (frequency > 0.6) & (frequency < 130 / 60)
    return 60 * frequency[band][power[:, band].argmax(1)]


@pytest.fixture(scope="module")
def batches():
    settings = synthetic.SyntheticSettings(participants=90, segments_per_participant=10, seed=11)
    return [synthetic.generate_batch(settings, index, PREPROCESS) for index in settings.participant_indices]


def _wrist(seed, index):
    return sample_wrist(seed, index, synthetic.sample_participant(seed, index))


def _column(batches, name):
    return np.concatenate([batch.columns[name] for batch in batches])


@pytest.mark.parametrize("generator", [1, 2])
def test_a_segment_depends_on_seed_participant_and_index_alone(generator):
    generate = functools.partial(synthetic.generate_segments, wrist=_wrist(4, 7) if generator == 2 else None)
    many = generate(4, 7, range(12))
    some = generate(4, 7, [9, 2], ppg_channels=3)
    for row, segment in enumerate([9, 2]):
        np.testing.assert_array_equal(some.ppg[row][:, :2], many.ppg[segment])
        np.testing.assert_array_equal(some.accel[row], many.accel[segment])
        np.testing.assert_array_equal(some.beats[row], many.beats[segment])
        np.testing.assert_array_equal(some.intervals[row], many.intervals[segment])
        assert some.resp_bpm[row] == many.resp_bpm[segment]
        assert some.start_unix_s[row] == many.start_unix_s[segment]
    assert np.all(np.diff(many.start_unix_s) >= 60)
    for other in (generate(5, 7, [9]), generate(4, 8, [9])):
        assert np.abs(other.ppg[0] - many.ppg[9]).max() > 0.1
        assert np.abs(other.accel[0] - many.accel[9]).max() > 0.01


def test_intervals_end_at_their_beats():
    raw = synthetic.generate_segments(4, 7, range(6))
    for times, lengths in zip(raw.beats, raw.intervals, strict=True):
        np.testing.assert_allclose(np.diff(times), lengths[1:], atol=1e-12)
        assert 0 <= times[0] < lengths[0] and times[-1] <= 60 < times[-1] + 2


def test_batch_accounts_for_every_minute(batches):
    for batch in batches:
        assert batch.examined == 10 == len(batch.ppg) + sum(batch.rejected.values())
        assert batch.ppg.shape[1:] == (3840, 2) and batch.accel.shape[1:] == (3840, 3)
        assert len(batch.columns["hr_bpm"]) == len(batch.ppg)
    kept = sum(len(batch.ppg) for batch in batches) / 900
    assert 0.7 < kept < 1.0
    conditions = batches[0].participant.conditions
    assert set(conditions) == {*synthetic.sample_participant(0, 0).conditions, *(t.name for t in HEALTH_TARGETS)}


def test_labels_come_from_the_beats(batches):
    settings = synthetic.SyntheticSettings(participants=90, segments_per_participant=10, seed=11)
    raw = synthetic.generate_segments(11, 3, range(10))
    by_start = dict(zip(raw.start_unix_s, raw.intervals, strict=True))
    columns = synthetic.generate_batch(settings, 3, PREPROCESS).columns
    assert set(_column(batches, "hr_source")) == {"beats"}
    for start, hr, resp in zip(columns["start_unix_s"], columns["hr_bpm"], columns["resp_bpm"], strict=True):
        assert hr == pytest.approx(60 / by_start[start].mean(), rel=0.02)
        assert resp == raw.resp_bpm[raw.start_unix_s == start]


def test_population_spreads(batches):
    hr, sdnn, rmssd = (_column(batches, name) for name in ("hr_bpm", "sdnn_ms", "rmssd_ms"))
    assert 62 < hr.mean() < 76 and 10 < hr.std() < 14
    assert hr.min() > 35 and hr.max() < 130
    assert 30 < np.nanmedian(sdnn) < 55 and 22 < np.nanmedian(rmssd) < 50
    within = np.sqrt(np.mean([b.columns["hr_bpm"].var() for b in batches if len(b.ppg) > 4]))
    assert 5 < within < 10
    age = np.repeat([b.participant.age_years for b in batches], [len(b.ppg) for b in batches])
    assert np.nanmedian(rmssd[age > 60]) < 0.85 * np.nanmedian(rmssd[age < 40])
    assert 12 < _column(batches, "resp_bpm").mean() < 18


def test_pulse_and_acceleration_show_the_heart_rate_no_easier_than_they_should(batches):
    hr = _column(batches, "hr_bpm")
    pulse = np.concatenate([_spectral_rate(batch.ppg[..., 0]) for batch in batches])
    sos = signal.butter(3, (4, 12), "bandpass", fs=64, output="sos")
    envelope = [np.sqrt((signal.sosfiltfilt(sos, b.accel, axis=1) ** 2).sum(-1)) for b in batches]
    wrist = np.concatenate([_spectral_rate(np.log(e + 1e-4)) for e in envelope])
    guess = np.abs(hr - hr.mean()).mean()
    pulse_error, wrist_error = np.abs(pulse - hr), np.abs(wrist - hr)
    assert pulse_error.mean() < 1.3 and np.median(pulse_error) < 0.6
    assert 0.8 < wrist_error.mean() < 3.5 < guess / 2
    assert np.median(wrist_error) < 0.7
    assert wrist_error.mean() > 1.2 * pulse_error.mean()


def test_beta_blocker_slows_the_heart_and_steadies_it():
    hr, sdnn = [], []
    for index in range(12):
        pair = []
        for taken in (False, True):
            person = synthetic.sample_participant(
                2, index, conditions={"beta_blocker": taken, "ectopic_beats": False, "sleep_apnea": False}
            )
            raw = synthetic.generate_segments(2, index, range(6), participant=person)
            pair.append([(60 / i.mean(), i.std() * i.mean() ** -2) for i in raw.intervals])
        before, after = np.array(pair)
        hr.append(after[:, 0].mean() - before[:, 0].mean())
        sdnn.append(after[:, 1].mean() / before[:, 1].mean())
    assert -16 < np.mean(hr) < -6 and max(hr) < 0
    assert np.mean(sdnn) < 0.85 and max(sdnn) < 1.0


def test_both_generators_have_the_same_people_beats_and_labels():
    first, second = (synthetic.generate_segments(4, 7, range(6), wrist=wrist) for wrist in (None, _wrist(4, 7)))
    for one, other in zip((*first.beats, *first.intervals), (*second.beats, *second.intervals), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first.resp_bpm, second.resp_bpm)
    np.testing.assert_array_equal(first.start_unix_s, second.start_unix_s)
    assert np.abs(first.accel - second.accel).max() > 1e-3 and np.abs(first.ppg - second.ppg).max() > 0.01
    settings = synthetic.SyntheticSettings(participants=1, segments_per_participant=12, seed=11)
    batches = [
        synthetic.generate_batch(dataclasses.replace(settings, generator=generator), 0, PREPROCESS)
        for generator in (1, 2)
    ]
    assert batches[0].participant == batches[1].participant
    both = np.intersect1d(*(batch.columns["start_unix_s"] for batch in batches))
    assert len(both) >= 9
    rows = [np.flatnonzero(np.isin(batch.columns["start_unix_s"], both)) for batch in batches]
    for name in ("hr_bpm", "sdnn_ms", "rmssd_ms", "resp_bpm"):
        one, other = (batch.columns[name][row] for batch, row in zip(batches, rows, strict=True))
        np.testing.assert_array_equal(one, other)


def test_the_second_generators_pulse_still_shows_its_labels():
    settings = synthetic.SyntheticSettings(participants=30, segments_per_participant=5, seed=11, generator=2)
    batches = [synthetic.generate_batch(settings, index, PREPROCESS) for index in settings.participant_indices]
    hr, sdnn = _column(batches, "hr_bpm"), _column(batches, "sdnn_ms")
    pulse = np.concatenate([_spectral_rate(batch.ppg[..., 0]) for batch in batches])
    assert 110 < len(hr) <= 150 and np.median(np.abs(pulse - hr)) < 0.6 and np.abs(pulse - hr).mean() < 1.5
    rises = [pulse_rises(minute, rate_hz=64.0) for batch in batches for minute in batch.ppg]
    spread = np.array(
        [1000 * np.std(np.diff(times)[np.abs(np.diff(times) / np.median(np.diff(times)) - 1) < 0.2]) for times in rises]
    )
    assert np.median(np.abs(spread - sdnn)) < 5


def test_the_second_generator_is_harder_for_signal_processing():
    error = {}
    for generator in (1, 2):
        settings = synthetic.SyntheticSettings(
            participants=40, segments_per_participant=4, seed=11, generator=generator
        )
        batches = [synthetic.generate_batch(settings, index, PREPROCESS) for index in settings.participant_indices]
        accel = np.concatenate([batch.accel for batch in batches])
        curves = np.stack(
            [
                bcg.flatten_envelope(bcg.envelope(bcg.spectrum(accel), band, samples=3840, rate_hz=64.0))
                for band in bcg.BANDS_HZ
            ],
            axis=1,
        )
        error[generator] = np.abs(bcg.pulse_rate(curves).rate_bpm - _column(batches, "hr_bpm")).mean()
    assert error[2] > 3 * error[1]


def test_the_first_generator_gives_the_minutes_of_its_version():
    raw = synthetic.generate_segments(4, 7, [3])
    np.testing.assert_allclose(raw.accel[0, ::960], GOLDEN_ACCEL, atol=1e-6)
    np.testing.assert_allclose(raw.ppg[0, ::960], GOLDEN_PPG, rtol=1e-4)
    plain = synthetic.SyntheticSettings(participants=2).to_json()
    assert set(plain) == {
        "participants",
        "segments_per_participant",
        "seed",
        "ppg_channels",
        "first_participant",
        "generator",
    }
    assert plain["generator"] == synthetic.GENERATOR_VERSION
    second = synthetic.SyntheticSettings(participants=2, generator=2).to_json()
    assert second == plain | {"signals": 2, "signals_version": synthetic.WRIST_VERSION}


@pytest.mark.parametrize("generator", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_store_is_the_same_for_any_workers_and_after_an_interruption(tmp_path, monkeypatch, generator):
    settings = synthetic.SyntheticSettings(participants=5, segments_per_participant=3, seed=1, generator=generator)
    one = synthetic.write_store(tmp_path / "one", settings, PREPROCESS, preparation=PreparationSettings(workers=1))
    two = synthetic.write_store(tmp_path / "two", settings, PREPROCESS, preparation=PreparationSettings(workers=2))

    generate = synthetic.generate_batch

    def fail(settings, index, preprocess):
        if index == 2:
            raise KeyboardInterrupt
        return generate(settings, index, preprocess)

    monkeypatch.setattr(synthetic, "generate_batch", fail)
    with pytest.raises(KeyboardInterrupt):
        synthetic.write_store(tmp_path / "three", settings, PREPROCESS)
    assert not (tmp_path / "three").exists()
    made = []
    monkeypatch.setattr(synthetic, "generate_batch", lambda s, i, p: made.append(i) or generate(s, i, p))
    three = synthetic.write_store(tmp_path / "three", settings, PREPROCESS)
    assert made == [2, 3, 4]
    assert one.fingerprint == two.fingerprint == three.fingerprint
    assert one.num_segments == len(one.segments["participant"]) <= 15
    assert one.manifest["counts"]["total"]["examined"] == 15

    batch = generate(settings, 0, PREPROCESS)
    rows = np.arange(len(batch.ppg))
    read = one.read(rows)
    for name in ("ppg", "accel"):
        restored = read[name] * read[f"{name}_scale"][:, None] + read[f"{name}_offset"][:, None]
        np.testing.assert_allclose(restored, getattr(batch, name), atol=2e-4 * np.ptp(getattr(batch, name)))


def test_some_minutes_are_of_large_movement_and_the_others_do_not_depend_on_it(monkeypatch):
    settings = synthetic.SyntheticSettings(participants=20, segments_per_participant=20, seed=7)
    moved = [synthetic.generate_batch(settings, index, PREPROCESS) for index in settings.participant_indices]
    monkeypatch.setattr(waveforms, "LARGE_MOVEMENT", dict.fromkeys(waveforms.LARGE_MOVEMENT, 0.0))
    calm = [synthetic.generate_batch(settings, index, PREPROCESS) for index in settings.participant_indices]
    rejected = sum(batch.examined - len(batch.ppg) for batch in moved) / 400
    assert 0.05 < rejected < 0.15 and sum(batch.rejected["motion"] for batch in moved) > 0.8 * rejected * 400
    assert sum(batch.examined - len(batch.ppg) for batch in calm) < 6
    for with_movement, without in zip(moved, calm, strict=True):
        rows = np.flatnonzero(np.isin(without.columns["start_unix_s"], with_movement.columns["start_unix_s"]))
        assert len(rows) == len(with_movement.ppg)
        np.testing.assert_array_equal(with_movement.ppg, without.ppg[rows])
        np.testing.assert_array_equal(with_movement.accel, without.accel[rows])
        for name, values in with_movement.columns.items():
            np.testing.assert_array_equal(values, without.columns[name][rows])


def test_large_movement_can_be_kept():
    settings = synthetic.SyntheticSettings(participants=90, segments_per_participant=10, seed=11)
    loose = PreprocessSettings(max_motion_g=np.inf, min_ppg_quality=0.0)
    every = [synthetic.generate_batch(settings, index, loose) for index in range(20)]
    motion = _column(every, "motion_g")
    pulse = np.concatenate([_spectral_rate(batch.ppg[..., 0]) for batch in every])
    error = np.abs(pulse - _column(every, "hr_bpm"))
    large = motion > 0.1
    assert len(motion) == 200 and 6 < large.sum() < 30
    assert 0.13 < motion[large].min() and motion[large].max() < 0.8  # a gap to the calm minutes
    assert np.median(error[large]) > 8 and np.median(error[~large]) < 0.6  # the pulse drowns in it
    assert np.abs(np.concatenate([b.accel for b in every])).max() <= waveforms.ACCEL_RANGE_G


def test_a_complete_store_is_opened_and_another_one_refused(tmp_path, monkeypatch):
    settings = synthetic.SyntheticSettings(participants=2, segments_per_participant=2)
    first = synthetic.write_store(tmp_path / "store", settings, PREPROCESS)
    monkeypatch.setattr(synthetic, "generate_batch", None)
    again = synthetic.write_store(tmp_path / "store", settings, PREPROCESS)
    assert again.fingerprint == first.fingerprint and not (tmp_path / "store.partial").exists()
    other = dataclasses.replace(settings, participants=3)
    with pytest.raises(UserError, match="source_settings.participants: 2 there, 3 now.; choose another folder"):
        synthetic.write_store(tmp_path / "store", other, PREPROCESS)
    monkeypatch.undo()
    replaced = synthetic.write_store(tmp_path / "store", other, PREPROCESS, preparation=OVERWRITE)
    assert replaced.manifest["counts"]["total"]["examined"] == 6


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [False, True])
def test_two_processes_do_not_make_the_same_store(tmp_path, overwrite):
    settings = synthetic.SyntheticSettings(participants=2, segments_per_participant=2)
    request = {"source": "synthetic", "source_settings": settings.to_json()}
    writer = StoreWriter(tmp_path / "store", settings=PREPROCESS, **request)
    other = dataclasses.replace(settings, participants=3) if overwrite else settings
    with writer.exclusive(), pytest.raises(UserError, match="another process is preparing this store"):
        writer.add("kept", synthetic.generate_batch(settings, 0, PREPROCESS))
        synthetic.write_store(
            tmp_path / "store", other, PREPROCESS, preparation=PreparationSettings(workers=1, overwrite=overwrite)
        )
    assert writer.has("kept")


def test_another_first_participant_gives_the_next_participants():
    settings = synthetic.SyntheticSettings(participants=2, segments_per_participant=2, first_participant=40)
    assert list(settings.participant_indices) == [40, 41]
    batch = synthetic.generate_batch(settings, 41, PREPROCESS)
    assert batch.participant.participant_id == synthetic.sample_participant(0, 41).participant_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"participants": 0}, "participants must be within 1 to 1000000"),
        ({"segments_per_participant": 2.5}, "segments_per_participant must be a whole number"),
        ({"participants": 10**30}, "participants must be within 1 to 1000000, got 10"),
        ({"segments_per_participant": 10**6}, "segments_per_participant must be within 1 to 10000"),
        ({"ppg_channels": 9}, "ppg_channels must be within 1 to 8"),
        ({"seed": -1}, "seed must be within 0"),
        ({"generator": 3}, "generator must be within 1 to 2, got 3"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(UserError, match=message):
        synthetic.SyntheticSettings(**change)


def test_other_rates_and_no_workers_are_refused(tmp_path):
    settings = synthetic.SyntheticSettings(participants=1, segments_per_participant=1)
    with pytest.raises(UserError, match="64 Hz"):
        synthetic.generate_batch(settings, 0, PreprocessSettings(rate_hz=32.0))
    with pytest.raises(UserError, match="setting of the population"):
        synthetic.generate_batch(settings, 0, PreprocessSettings(ppg_channels=("ppg0",)))
    with pytest.raises(UserError, match="workers 0: at least 1"):
        synthetic.write_store(tmp_path / "store", settings, PREPROCESS, preparation=PreparationSettings(workers=0))


def test_importing_it_leaves_jax_alone(repository):
    code = "import sys, accdistill_jax.data.synthetic.synthetic; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository).returncode == 0


@pytest.mark.parametrize(("generator", "least"), [(1, 150), (2, 50)])
def test_generation_is_fast(generator, least):
    generate = functools.partial(synthetic.generate_segments, 0, 0, wrist=_wrist(0, 0) if generator == 2 else None)
    generate(range(4))
    best = 0.0
    for _ in range(3):
        start = time.process_time()
        generate(range(60))
        best = max(best, 60 / (time.process_time() - start))
    assert best > least  # minutes per second of one core; about 700 and 240 on an idle one
