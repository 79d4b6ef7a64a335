"""Hand-made features of signals with known heart beats, breathing and posture; boosting against scikit-learn."""

import dataclasses
import time

import numpy as np
import pytest
from scipy import signal
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from accdistill_jax.data.preprocessing.quality import motion_g
from accdistill_jax.data.synthetic.synthetic import generate_segments
from accdistill_jax.evaluation.classical import ballistocardiogram as bcg
from accdistill_jax.evaluation.classical.classical import FEATURES, POWER_BANDS_HZ, classical_features
from accdistill_jax.evaluation.probing import boosting
from accdistill_jax.evaluation.probing.probes import MEAN, ProbeSplit, ProbeSplits, data_of_choice, fit_probes

RATE = 64.0
TIME = np.arange(3840) / RATE


def _column(features, name):
    return features[:, FEATURES.index(name)]


def _beating(intervals_s, *, size_g=0.004, ring_hz=6.0, noise_g=0.0005, seed=0, start_s=0.4):
    """A minute of a ringing wrist, and the start times of its beats."""
    rng = np.random.default_rng(seed)
    beats = start_s + np.concatenate([[0.0], np.cumsum(intervals_s)])
    beats = beats[beats < 59.5]
    accel = np.tile([0.1, -0.3, 0.9], (3840, 1)) + noise_g * rng.standard_normal((3840, 3))
    for beat in beats:
        t = np.maximum(TIME - beat, 0.0)
        wave = size_g * (t / 0.05) * np.exp(1 - t / 0.05)
        accel += np.stack([wave * np.sin(2 * np.pi * ring_hz * t + p) for p in (0.0, 1.0, 2.0)], axis=1)
    return accel.astype(np.float32), beats


@pytest.fixture(scope="module")
def synthetic():
    """Calm minutes of ten participants, with heart rates and participants."""
    accel, rate, who = [], [], []
    for person in range(10):
        raw = generate_segments(5, person, range(8))
        accel.append(raw.accel)
        rate += [60 / np.mean(i) for i in raw.intervals]
        who += [person] * 8
    accel = np.concatenate(accel)
    calm = motion_g(accel, rate_hz=RATE) < 0.1
    return accel[calm], np.array(rate)[calm], np.array(who)[calm]


@pytest.fixture(scope="module")
def features(synthetic):
    return classical_features(synthetic[0])


def test_names_belong_to_columns(features):
    assert features.shape[1] == len(FEATURES) == len(set(FEATURES))
    assert features.dtype == np.float32 and np.isfinite(features).all()
    assert (features.std(axis=0) > 0).all()


def test_heart_rate_of_unseen_minutes_is_read(synthetic, features):
    rate = synthetic[1]
    for name, typical in (("rate_bpm", 0.9), ("envelope_hr_bpm", 0.3), ("template_hr_bpm", 0.2)):
        error = np.abs(_column(features, name) - rate)
        assert np.median(error) < typical
        assert np.mean(error > 5) < 0.1


def test_fast_enough_on_one_core(synthetic):
    accel = np.tile(synthetic[0], (2, 1, 1))
    classical_features(accel[:8])
    with threadpool_limits(1):
        started = time.process_time()
        classical_features(accel)
        assert len(accel) / (time.process_time() - started) > 150  # about 600 on an idle core


@pytest.mark.parametrize("bpm", [42, 60, 75, 100, 120, 150])
def test_steady_pulse_has_no_harmonic_ambiguity(bpm):
    accel, beats = _beating(np.full(200, 60 / bpm))
    row = classical_features(accel[None])
    for name in ("rate_bpm", "envelope_hr_bpm", "template_hr_bpm"):
        assert _column(row, name)[0] == pytest.approx(bpm, rel=0.01)
    assert _column(row, "envelope_count")[0] == pytest.approx(len(beats), abs=2)
    assert _column(row, "template_sdnn_ms")[0] < 6
    assert _column(row, "acf_height")[0] > 0.8


def test_every_other_beat_stronger_does_not_halve_the_rate():
    accel, _ = _beating(np.full(200, 0.8), size_g=0.003)
    stronger, _ = _beating(np.full(100, 1.6), size_g=0.0015, noise_g=0.0)
    row = classical_features((accel + stronger - np.float32([0.1, -0.3, 0.9]))[None])
    assert _column(row, "rate_bpm")[0] == pytest.approx(75, rel=0.01)


def test_a_second_smaller_wave_is_no_beat_of_its_own():
    accel, beats = _beating(np.full(100, 1.1))
    echo, _ = _beating(np.full(100, 1.1), size_g=0.002, noise_g=0.0, start_s=0.8)
    row = classical_features((accel + echo - np.float32([0.1, -0.3, 0.9]))[None])
    assert _column(row, "rate_bpm")[0] == pytest.approx(60 / 1.1, rel=0.01)
    assert _column(row, "envelope_count")[0] == pytest.approx(len(beats), abs=2)


@pytest.mark.parametrize("sd_ms", [15, 40, 80])
def test_variability_is_that_of_the_beats(sd_ms):
    intervals = 0.9 + sd_ms / 1000 * np.random.default_rng(1).standard_normal(200)
    accel, beats = _beating(intervals)
    row = classical_features(accel[None])
    intervals_ms = 1000 * np.diff(beats)
    assert _column(row, "template_sdnn_ms")[0] == pytest.approx(intervals_ms.std(ddof=1), abs=5)
    assert _column(row, "template_rmssd_ms")[0] == pytest.approx(np.sqrt(np.mean(np.diff(intervals_ms) ** 2)), abs=7)
    assert _column(row, "envelope_sdnn_ms")[0] == pytest.approx(intervals_ms.std(ddof=1), abs=12)


def test_template_places_beats_exactly():
    accel, beats = _beating(0.85 + 0.05 * np.random.default_rng(3).standard_normal(100), noise_g=0.0003)
    transform = bcg.spectrum(accel[None])
    rough = [beats + 0.03 * np.random.default_rng(4).standard_normal(len(beats))]
    error = bcg.template_beats(transform, rough, samples=3840, rate_hz=RATE)[0] - beats
    assert np.std(error) < 0.004 < 0.02 < np.std(rough[0] - beats)


def test_envelope_equals_scipys():
    accel, _ = _beating(np.full(100, 0.8))
    found = bcg.envelope(bcg.spectrum(accel[None]), (4.0, 12.0), samples=3840, rate_hz=RATE)[0]
    sos = signal.butter(8, (4.0, 12.0), "bandpass", fs=RATE, output="sos")
    reference = np.linalg.norm(np.abs(signal.hilbert(signal.sosfiltfilt(sos, accel, axis=0), axis=0)), axis=1)[::2]
    inner = slice(64, -64)
    assert np.corrcoef(found[inner], reference[inner])[0, 1] > 0.99
    np.testing.assert_allclose(found[inner].mean(), reference[inner].mean(), rtol=0.02)


def test_powers_are_those_of_a_sine():
    for hz in (0.25, 3.0, 5.0, 9.0, 20.0):
        accel = np.zeros((1, 3840, 3), np.float32)
        accel[0, :, 1] = 0.01 * np.sin(2 * np.pi * hz * TIME)
        row = classical_features(accel)
        powers = [10 ** _column(row, f"log_power_{low:g}_{high:g}_hz")[0] for low, high in POWER_BANDS_HZ]
        expected = [0.01**2 / 2 if low <= hz < high else 0.0 for low, high in POWER_BANDS_HZ]
        np.testing.assert_allclose(powers, expected, rtol=1e-3, atol=1e-9)
        jerk = 0.01 * 2 * np.pi * hz / np.sqrt(2)
        assert 10 ** _column(row, "log_jerk_rms")[0] == pytest.approx(jerk, rel=0.2)
        if 4 < hz < 12:
            assert _column(row, "bcg_peak_hz")[0] == pytest.approx(hz, abs=0.5)
            assert _column(row, "bcg_centroid_hz")[0] == pytest.approx(hz, abs=0.05)
            assert _column(row, "bcg_share_y")[0] == pytest.approx(1.0, abs=1e-3)
            assert _column(row, "bcg_peak_share")[0] > 0.95
            assert _column(row, "log_envelope")[0] == pytest.approx(-2, abs=0.01)
            assert _column(row, "envelope_variation")[0] < 0.05


def test_shape_of_a_known_envelope():
    accel = np.zeros((1, 3840, 3), np.float32)
    accel[0, :, 2] = 0.01 * (1 + 0.5 * np.sin(2 * np.pi * TIME)) * np.sin(2 * np.pi * 8 * TIME)
    row = classical_features(accel)
    assert _column(row, "envelope_variation")[0] == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert _column(row, "log_envelope_kurtosis")[0] == pytest.approx(np.log10(1 + 1.5), rel=0.01)
    assert _column(row, "spectral_bpm")[0] == pytest.approx(60, abs=1)


@pytest.mark.parametrize("breaths", [8, 12, 17.5, 25])
def test_respiration_and_posture(breaths):
    accel, _ = _beating(np.full(100, 0.8))
    accel[:, 0] += 0.003 * np.sin(2 * np.pi * breaths / 60 * TIME)
    row = classical_features(accel[None])
    assert _column(row, "respiration_bpm")[0] == pytest.approx(breaths, abs=0.5)
    assert _column(row, "mean_y_g")[0] == pytest.approx(-0.3, abs=1e-3)
    turned = accel.copy()
    turned[1920:] = accel[1920:] @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], np.float32)
    gravity = np.array([0.1, -0.3, 0.9])
    angle = np.degrees(np.arccos(gravity @ [0.3, 0.1, 0.9] / (gravity @ gravity)))
    assert _column(classical_features(turned[None]), "turn_deg")[0] == pytest.approx(angle, abs=1)


def test_flat_stepped_and_loud_input_stays_finite():
    rng = np.random.default_rng(0)
    step = np.zeros((3840, 3), np.float32)
    step[2000:] = 1.0
    flat = [
        np.zeros((3840, 3)),
        np.full((3840, 3), 1 / 3),
        np.full((3840, 3), -7.9),
        step,
        8 * rng.standard_normal((3840, 3)),
    ]
    spike = np.zeros((3840, 3))
    spike[100] = 8.0
    rows = classical_features(
        np.stack([*flat, spike, 1e-4 * np.round(rng.standard_normal((3840, 3)))]).astype(np.float32)
    )
    assert np.isfinite(rows).all()
    assert classical_features(np.zeros((0, 3840, 3), np.float32)).shape == (0, len(FEATURES))


def test_a_row_depends_on_its_segment_alone(synthetic, features):
    accel = synthetic[0]
    np.testing.assert_array_equal(classical_features(accel), features)
    single = np.concatenate([classical_features(accel[i : i + 1]) for i in (0, 17, 40)])
    np.testing.assert_allclose(single, features[[0, 17, 40]], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(classical_features(accel[::-1], block=13)[::-1], features, rtol=2e-3, atol=2e-3)


def test_other_rates_and_lengths_and_wrong_shapes(synthetic):
    accel, rate, _ = synthetic
    slower = signal.resample_poly(accel[:16], 50, 64, axis=1)
    error = np.abs(_column(classical_features(slower, rate_hz=50.0), "rate_bpm") - rate[:16])
    assert np.median(error) < 1
    assert np.isfinite(classical_features(accel[:4, : 64 * 30])).all()
    for wrong, hz in ((accel[0], 64.0), (accel[:2, :, :2], 64.0), (accel[:2, :640], 64.0), (accel[:2], 25.0)):
        with pytest.raises(ValueError, match="segments"):
            classical_features(wrong, rate_hz=hz)


def _splits(n=400, seed=0, noise=1.0, outliers=0.0):
    rng = np.random.default_rng(seed)
    splits = {}
    for split, rows in (("train", n), ("validation", n // 4), ("test", n // 4)):
        x = rng.standard_normal((rows, 4)).astype(np.float32)
        y = 70 + 10 * np.sign(x[:, 0]) + 5 * np.abs(x[:, 1]) + noise * rng.standard_normal(rows)
        y += 200 * (rng.random(rows) < outliers)
        splits[split] = ProbeSplit({"classical": x}, y, np.array([f"{split}{i % 10}" for i in range(rows)]))
    return ProbeSplits(**splits)


OTHERS = {"classical, boosting": ("classical", boosting.gradient_boosting)}


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(boosting, "ITERATIONS", 60)


def test_boosting_stands_beside_the_ridge_and_reads_what_is_not_linear(short):
    splits = _splits()
    fitted = fit_probes(splits, others=OTHERS)
    assert list(fitted) == ["classical", "classical, boosting", "mean", "median"]
    mae = {name: np.abs(one.prediction - splits.test.target).mean() for name, one in fitted.items()}
    boosted = fitted["classical, boosting"]
    assert mae["classical, boosting"] < min(mae["classical"], 0.5 * mae[MEAN]) and boosted.strength is None
    again = fit_probes(splits, others=OTHERS)["classical, boosting"]
    np.testing.assert_array_equal(boosted.prediction, again.prediction)


@pytest.mark.parametrize(
    ("options", "loss"), [({"outliers": 0.08}, "absolute_error"), ({"noise": 0.0}, "squared_error")]
)
@threadpool_limits.wrap(limits=1)
def test_boosting_is_scikit_learns_with_the_loss_that_validation_prefers(short, options, loss):
    splits, expected = _splits(**options), loss
    train, validation, test = splits
    errors, predictions = [], []
    for loss in boosting.LOSSES:
        model = HistGradientBoostingRegressor(
            loss=loss,
            max_iter=60,
            learning_rate=boosting.LEARNING_RATE,
            max_leaf_nodes=boosting.LEAVES,
            min_samples_leaf=20,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=3,
        ).fit(train.features["classical"], train.target)
        errors.append(np.abs(model.predict(validation.features["classical"]) - validation.target).mean())
        predictions.append(model.predict(test.features["classical"]))
    best = int(np.argmin(errors))
    assert boosting.LOSSES[best] == expected
    fitted = boosting.gradient_boosting("classical", splits, 3)
    np.testing.assert_array_equal(fitted.prediction, predictions[best])
    assert fitted.note == f"loss: {boosting.LOSSES[best].replace('_', ' ')}"
    flipped = splits._replace(test=dataclasses.replace(test, target=-test.target))
    assert boosting.gradient_boosting("classical", flipped, 3).note == fitted.note


def test_boosting_with_ten_segments_of_one_person(short):
    splits = _splits()
    few = dataclasses.replace(splits.train.rows(np.arange(10)), participant=np.array(["a"] * 10))
    splits = ProbeSplits(few, splits.validation.rows(np.arange(0)), splits.test)
    assert data_of_choice(splits.train, splits.validation) == (
        "cross-validation over segments of one train participant"
    )
    fitted = fit_probes(splits, others=OTHERS)
    assert np.isfinite(fitted["classical, boosting"].prediction).all()
