"""encoder.embed and encoder.predict: signals as they were recorded, and wrong ones, which are refused or warned of."""

import dataclasses
import warnings

import numpy as np
import pytest

import accdistill_jax as ad
from accdistill_jax.data.preprocessing.preprocess import preprocess
from accdistill_jax.data.recording import Participant, Recording, Stream
from accdistill_jax.errors import SignalWarning, UserError
from accdistill_jax.readouts.label_probe import LabelProbe, LinearScores

RATE_HZ = 50.0


@pytest.fixture(scope="module")
def student(finished):
    return ad.load(finished)


@pytest.fixture(scope="module")
def teacher(finished):
    return ad.load(finished, part="teacher")


def wrist(seconds=150, rate_hz=RATE_HZ, seed=0):
    """A still wrist with a heartbeat, [time, 3] float64 in g."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    beat = 0.004 * np.sin(2 * np.pi * 8 * time) * np.exp(-10 * (time % 0.9))
    noise = np.random.default_rng(seed).normal(0, 0.001, (len(time), 3))
    return noise + np.array([0.0, 0.6, 0.8]) + beat[:, None] * np.array([0.2, 0.5, 0.8])


def pulse(seconds=130, rate_hz=64.0):
    """A PPG of two channels, [time, 2]."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    wave = np.exp(-((((time % 0.9) - 0.2) / 0.1) ** 2)) + 0.3 * np.exp(-((((time % 0.9) - 0.5) / 0.15) ** 2))
    return 100 * np.stack([wave, 0.7 * wave], axis=1)


def test_embedding_a_signal_is_preparing_and_embedding_it(student):
    signal = wrist()
    stream = Stream("accel", signal, ("x", "y", "z"), "g", rate_hz=RATE_HZ)
    recording = Recording("one", Participant("anna"), "watch", "test", 0.0, {"accel": stream})
    prepared = preprocess(recording, student.contract.settings)
    assert len(prepared.accel) == 2
    np.testing.assert_allclose(student.embed(signal, RATE_HZ), student.encode(prepared.accel), atol=1e-5)


@pytest.mark.parametrize(("unit", "scale"), [("g", 1.0), ("mg", 1000.0), ("m/s2", 9.80665)])
def test_units_give_the_same_embedding(student, unit, scale):
    np.testing.assert_allclose(
        student.embed(wrist() * scale, RATE_HZ, unit=unit), student.embed(wrist(), RATE_HZ), atol=1e-4
    )


def test_batches_types_and_rates(student):
    two = np.stack([wrist(seed=1), wrist(seed=2)])
    rows = student.embed(two, RATE_HZ)
    assert rows.shape == (4, student.embedding_size) and rows.dtype == np.float32
    np.testing.assert_allclose(rows[2:], student.embed(two[1], RATE_HZ), atol=1e-5)
    counts = np.round(wrist() * 2048).astype(np.int16)
    assert student.embed(counts / 2048.0, RATE_HZ).shape == student.embed(wrist(rate_hz=100), 100).shape


def test_a_teacher_embeds_ppg(teacher):
    rows = teacher.embed(pulse(), 64, polarity="systole_up")
    assert rows.shape == (2, teacher.embedding_size) and np.isfinite(rows).all()


@pytest.mark.parametrize("scale", [1e-4, 1e-7, 1e-11])
def test_a_ppg_in_amperes_is_read_as_one_in_counts(teacher, scale):
    expected = teacher.embed(pulse(), 64, polarity="systole_up")
    faint = teacher.embed(pulse() * scale * [1.0, 0.1], 64, polarity="systole_up")
    np.testing.assert_allclose(faint, expected, atol=1e-3)
    minutes = np.stack([pulse()[:3840], pulse()[100:3940]]).astype(np.float32)
    np.testing.assert_allclose(teacher.encode(minutes * np.float32(scale)), teacher.encode(minutes), atol=1e-3)


def test_minutes_that_cannot_be_embedded_are_nan_and_told(student):
    signal = wrist(seconds=190)
    signal[:1500] = np.nan
    signal[6000:] = signal[6000]
    with pytest.warns(SignalWarning, match="2 of 3 minutes cannot be embedded"):
        rows = student.embed(signal, RATE_HZ)
    assert np.isnan(rows).all(axis=1).tolist() == [True, False, True]
    with pytest.warns(SignalWarning):
        predictions = student.predict(signal, RATE_HZ)
    for prediction in predictions.values():
        assert len(prediction.value) == 3 and np.isnan(prediction.value[[0, 2]]).all()
        assert prediction.reason[0] == "gap" and prediction.reason[2] in ("flat", "gap")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_signal_of_a_batch_without_a_sample_has_rows_of_nan(student, number):
    batch = np.stack([wrist(seed=seed) for seed in range(3)])
    expected = student.embed(batch, RATE_HZ).reshape(3, 2, -1)
    batch[number] = np.nan
    with pytest.warns(SignalWarning, match="2 of 6 minutes cannot be embedded, their rows are NaN: 2 gap"):
        rows = student.embed(batch, RATE_HZ).reshape(3, 2, -1)
    others = np.delete(np.arange(3), number)
    assert np.isnan(rows[number]).all()
    np.testing.assert_allclose(rows[others], expected[others], atol=1e-5)
    with pytest.warns(SignalWarning):
        rate = student.predict(batch, RATE_HZ)["hr_bpm"]
    assert [bool(reason == "gap") for reason in rate.reason] == [k // 2 == number for k in range(6)]


def test_masked_samples_are_missing_ones(student):
    signal = wrist(seconds=190)
    masked = np.ma.masked_array(signal.copy(), mask=np.zeros(signal.shape, bool))
    masked[:1500] = np.ma.masked
    signal[:1500] = np.nan
    with pytest.warns(SignalWarning, match="1 of 3 minutes cannot be embedded"):
        rows = student.embed(masked, RATE_HZ)
    with pytest.warns(SignalWarning):
        np.testing.assert_array_equal(rows, student.embed(signal, RATE_HZ))
    with pytest.raises(UserError, match="has NaN or infinite values, first in segment 0"):
        student.encode(np.ma.masked_array(np.ones((1, 3840, 3)), mask=np.arange(3840)[None, :, None] < [9, 9, 9]))


def test_a_label_per_person_has_one_prediction_with_one_usable_minute_too(student):
    model = LinearScores(np.zeros((student.embedding_size, 1)), np.array([5.4]))
    about = {"half_width": 1.0, "level": 0.9, "people": 10, "fingerprint": student.fingerprint, "measured": {}}
    domain = dataclasses.replace(student.readouts.domain, distance_limit=np.inf, motion_limit_g=np.inf)
    probe = LabelProbe("hba1c", "%", "number", "person", (), model, domain=domain, **about)
    signal = wrist(seconds=130)
    signal[:1500] = np.nan
    with pytest.warns(SignalWarning, match="1 of 2 minutes cannot be embedded"):
        predictions = dataclasses.replace(student, probes={"hba1c": probe}).predict(signal, RATE_HZ)
    assert predictions["hba1c"].value.tolist() == [5.4] and len(predictions["hr_bpm"].value) == 2


def test_predictions_are_those_of_the_embeddings(student):
    signal = wrist()
    predictions = student.predict(signal, RATE_HZ)
    assert {"hr_bpm", "sdnn_ms", "rmssd_ms"} <= set(predictions)
    expected = student.readouts.predict(student.embed(signal, RATE_HZ))
    for name in expected:
        known = predictions[name].known
        np.testing.assert_allclose(predictions[name].value[known], expected[name].value[known])


def test_an_untrained_encoder_embeds_and_has_no_read_outs(student):
    untrained = student.untrained()
    assert untrained.embed(wrist(), RATE_HZ).shape == (2, student.embedding_size)
    assert np.abs(untrained.embed(wrist(), RATE_HZ) - student.embed(wrist(), RATE_HZ)).max() > 1e-3
    with pytest.raises(UserError, match="no read-outs"):
        untrained.predict(wrist(), RATE_HZ)


INF = wrist()
INF[3] = np.inf
WRONG = {
    "rate of nothing": ((wrist(), 0), {}, "rate_hz = 0 must be a positive number"),
    "negative rate": ((wrist(), -50), {}, "must be a positive number"),
    "rate as text": ((wrist(), "50"), {}, "must be a positive number"),
    "rate not a number": ((wrist(), float("nan")), {}, "must be a positive number"),
    "rate true": ((wrist(), True), {}, "must be a positive number"),
    "period for rate": ((wrist(), 0.02), {}, "if samples are 0.02 s apart, give rate_hz=50"),
    "rate in kHz": ((wrist(), 1e6), {}, "is outside 1 to 100000 Hz"),
    "too short": ((wrist(5), 50), {}, "lasts 5 s .250 samples at 50 Hz., but a row needs 60 s"),
    "a wrong rate makes it short": ((wrist(), 200), {}, "or the right rate_hz"),
    "unknown unit": ((wrist(), 50), {"unit": "counts"}, "unit = 'counts' is unknown"),
    "m/s2 taken for g": ((wrist() * 9.81, 50), {}, 'give unit="m/s2"'),
    "mg taken for g": ((wrist() * 1000, 50), {}, 'give unit="mg"'),
    "g taken for m/s2": ((wrist(), 50), {"unit": "m/s2"}, 'give unit="g"'),
    "counts": ((wrist() * 16384, 50), {}, "counts per g"),
    "without gravity": ((wrist() - [0, 0.6, 0.8], 50), {}, "total acceleration if this is without gravity"),
    "without gravity, in mg": (
        ((wrist() - [0, 0.35, 0.5]) * 1000, 50),
        {"unit": "mg"},
        "total acceleration if this is without gravity",
    ),
    "with gravity, said removed": ((wrist(), 50), {"gravity": "removed"}, "so gravity is in it"),
    "unknown gravity": ((wrist(), 50), {"gravity": "no"}, 'must be "included" or "removed"'),
    "axes first": ((wrist().T, 50), {}, "its axes are the other way round"),
    "time column": ((np.column_stack([np.arange(7500), wrist()]), 50), {}, "leave out the column of time stamps"),
    "length of the vector": ((np.linalg.norm(wrist(), axis=1), 50), {}, "give its three axes"),
    "two axes": ((wrist()[:, :2], 50), {}, "give its 3 channels"),
    "four axes of arrays": ((wrist()[None, None], 50), {}, "has shape"),
    "empty": ((np.zeros((0, 3)), 50), {}, "is empty"),
    "texts": ((np.full((7500, 3), "1"), 50), {}, "has dtype"),
    "complex": ((wrist() + 0j, 50), {}, "has dtype complex128"),
    "objects": ((np.full((7500, 3), None), 50), {}, "has dtype object"),
    "unequal parts": (([[1, 2, 3], [1, 2]], 50), {}, "sequence of unequal parts"),
    "infinite": ((INF, 50), {}, "infinite values; write NaN"),
    "only NaN": ((np.full((7500, 3), np.nan), 50), {}, "NaN"),
    "constant": ((np.tile([0.0, 0.6, 0.8], (7500, 1)), 50), {}, "no minute can be embedded"),
    "zeros": ((np.zeros((7500, 3)), 50), {}, "accel"),
    "polarity of acceleration": ((wrist(), 50), {"polarity": "systole_up"}, "acceleration has none"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_signal_is_refused_with_the_reason(student, name):
    (signal, rate), options, message = WRONG[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SignalWarning)
        with pytest.raises(UserError, match=message) as raised:
            student.embed(signal, rate, **options)
    assert "\n" not in str(raised.value)


WRONG_PPG = {
    "unit": ({"unit": "g"}, 'reads PPG, which is in "a.u."'),
    "gravity": ({"gravity": "removed"}, "reads PPG; leave it out"),
    "polarity": ({"polarity": "up"}, "polarity = 'up' must be one of"),
}


@pytest.mark.parametrize("name", WRONG_PPG)
def test_wrong_words_about_ppg_are_refused(teacher, name):
    options, message = WRONG_PPG[name]
    with pytest.raises(UserError, match=message):
        teacher.embed(pulse(), 64, **options)
    with pytest.raises(UserError, match="give its 2 channels"):
        teacher.embed(pulse()[:, :1], 64)


def test_unusual_signals_are_warned_of(student, teacher):
    with pytest.warns(SignalWarning, match="lacks most of the heartbeat"):
        student.embed(wrist(rate_hz=10), 10)
    moving = wrist() + 0.5 * np.sin(np.arange(7500)[:, None] / 7)
    with pytest.warns(SignalWarning, match="move more than"):
        student.embed(moving, RATE_HZ)
    with pytest.warns(SignalWarning, match="without gravity it is not validated"):
        student.embed(wrist() - [0, 0.6, 0.8], RATE_HZ, gravity="removed")
    noise = np.random.default_rng(0).normal(size=(64 * 70, 2))
    with pytest.warns(SignalWarning, match="no clean pulse"):
        teacher.embed(noise, 64, polarity="systole_up")
