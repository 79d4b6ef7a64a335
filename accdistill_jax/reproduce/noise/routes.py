"""Reads a finished distillation and its test people's minutes, and runs the classical routes on them."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from accdistill_jax.api.loading import load
from accdistill_jax.config.schema import Config
from accdistill_jax.data.prepare.measure import measure_store
from accdistill_jax.data.preprocessing.measures import NOISE_HZ
from accdistill_jax.data.preprocessing.sensors import sensor_rows
from accdistill_jax.data.store.opening import choose_rows, hold_out, open_configured_store, segment_columns
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.synthetic.wrist import DEVICES
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation import evaluate
from accdistill_jax.evaluation.classical.classical import FEATURES, classical_features
from accdistill_jax.evaluation.classical.matcher import accel_curves, best_lag, ppg_curves
from accdistill_jax.evaluation.probing.boosting import gradient_boosting
from accdistill_jax.evaluation.probing.probes import ProbeSplit, ProbeSplits, own_mean, too_few_labels
from accdistill_jax.evaluation.retrieval.ranks import paired_ranks, unit_rows
from accdistill_jax.files import open_regular
from accdistill_jax.labels import HEART_RATE
from accdistill_jax.reproduce.measure.search import first_places
from accdistill_jax.reproduce.noise.levels import (
    BOOSTING,
    ENVELOPE,
    MATCHER,
    MEAN,
    OWN_MEAN,
    STUDENT,
    TEACHER,
    TestMinutes,
    calm_minutes,
    noise_of_people,
)
from accdistill_jax.reproduce.wearers.compare import read_rates
from accdistill_jax.reproduce.wearers.trainings import finished_distillation
from accdistill_jax.runtime.progress import ProgressLine
from accdistill_jax.storage.checked_npz import DamagedNpz, read_npz, verify_npz

POOL = 1000
TRAIN_MINUTES, VALIDATION_MINUTES = 6000, 2000
"""Most minutes that the boosting is fitted on, and that choose its loss and the matcher's lag."""
_AT_ONCE = 256


class MeasuredRun(NamedTuple):
    """Results of every route.

    Attributes:
        minutes: of the test people.
        pool: number of candidates of the search.
        train_minutes: number of minutes that the boosting was fitted on.
    """

    minutes: TestMinutes
    pool: int
    train_minutes: int


class SplitSignals(NamedTuple):
    """Signal processing of M minutes.

    Attributes:
        features: [M, F] float32, see `classical_features`.
        accel: [M, n] float32, curves of the acceleration; None where they were not asked for.
        ppg: [M, n] float32, curves of the PPG; None likewise.
    """

    features: np.ndarray
    accel: np.ndarray | None
    ppg: np.ndarray | None


def measure_run(folder: Path) -> MeasuredRun:
    """Runs every route on the minutes of a run's test people; nothing is written.

    Args:
        folder: work directory of a finished distillation.

    Raises:
        UserError: no finished distillation with a report, other stores than those it was trained on, or too few labels.
    """
    config = finished_distillation(folder)
    stores = training_stores(folder, config)
    limits = {"train": TRAIN_MINUTES, "validation": VALIDATION_MINUTES, "test": None}
    rows = {split: choose_rows(stores, split, limit, seed=config.seed) for split, limit in limits.items()}
    counts = {split: sum(map(len, of_stores)) for split, of_stores in rows.items()}
    if counts["test"] < 2:
        raise UserError(f"{folder}: its stores have {counts['test']} test minutes; a search needs two")
    embedded = _test_arrays(folder, counts["test"])
    splits = {
        split: segment_columns(stores, of_stores, same_names=config.data.same_names)
        for split, of_stores in rows.items()
    }
    labels = {split: np.asarray(columns[HEART_RATE], np.float64) for split, columns in splits.items()}
    _check_labels(folder, splits, labels)
    noise = _noise(stores, rows["test"], splits["test"])
    signals = {split: _process(stores, rows[split], split) for split in rows}
    pool = min(POOL, counts["test"])
    pairs = {
        STUDENT: (embedded[evaluate.STUDENT, "projection"], embedded[evaluate.TEACHER, "projection"]),
        MATCHER: _lagged(signals["test"], signals["validation"]),
    }
    first = {
        route: first_places(paired_ranks(unit_rows(accel), unit_rows(ppg))[0], pool)
        for route, (accel, ppg) in pairs.items()
    }
    boosted, train_minutes = _boosted(signals, splits, labels)
    train_mean = float(np.nanmean(labels["train"]))
    predicted = {
        STUDENT: read_rates(folder, "student", embedded[evaluate.STUDENT, "embedding"]),
        TEACHER: read_rates(folder, "teacher", embedded[evaluate.TEACHER, "embedding"]),
        BOOSTING: boosted,
        ENVELOPE: signals["test"].features[:, FEATURES.index("rate_bpm")].astype(np.float64),
        MEAN: np.full(counts["test"], train_mean),
        OWN_MEAN: _own_means(labels["test"], splits["test"]["participant"], otherwise=train_mean),
    }
    minutes = TestMinutes(splits["test"]["participant"], noise, labels["test"], first, predicted)
    return MeasuredRun(minutes, pool, train_minutes)


def training_stores(folder: Path, config: Config) -> tuple[Store, ...]:
    """Opens the stores that a run was trained on, with its splits.

    Raises:
        UserError: a store is missing, or has other content than at the training.
    """
    synthetic = folder / "data" / "synthetic"
    if not config.data.stores and not synthetic.is_dir():
        raise UserError(
            f"{folder}: its synthetic store {synthetic} is missing; repeat the run's command, which writes it"
        )
    paths = config.data.stores or (str(synthetic),)
    opened = [open_configured_store(path, key="data.stores", data=config.data) for path in paths]
    stores = hold_out(opened, config.data.held_out)
    trained_on = load(folder, part="student").data
    if trained_on and trained_on != "+".join(store.fingerprint for store in stores):
        raise UserError(f"{folder}: {', '.join(paths)} changed since the student was trained on it; train again")
    return stores


def _test_arrays(folder: Path, count: int) -> dict[tuple[str, str], np.ndarray]:
    """(encoder, "embedding" or "projection") -> rows of all test minutes, as the run's evaluation kept them."""
    path = folder / "embeddings" / "main.npz"
    mend = "repeat the run's command, whose evaluation writes it"
    try:
        with open_regular(path) as file:
            verify_npz(file)
            arrays = read_npz(file)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {mend}") from None
    except (OSError, DamagedNpz) as error:
        raise UserError(f"{path} is damaged ({error}); {mend}") from None
    found = {}
    for encoder in (evaluate.STUDENT, evaluate.TEACHER):
        for what in ("embedding", "projection"):
            values = arrays.get(f"{encoder}/test/{what}")
            if values is None:
                raise UserError(
                    f"{path}: there is no {what} of the {encoder}; a search needs a student that is compared with its teacher"
                )
            if len(values) != count:
                raise UserError(f"{path}: {len(values)} test minutes, but the stores have {count}; {mend}")
            found[encoder, what] = values
    return found


def _check_labels(
    folder: Path, splits: Mapping[str, Mapping[str, np.ndarray]], labels: Mapping[str, np.ndarray]
) -> None:
    """Raises UserError if the heart rate is known of too few minutes."""
    numbers = {}
    for split in ("train", "test"):
        known = np.isfinite(labels[split])
        numbers[f"{split}_segments"] = int(known.sum())
        numbers[f"{split}_participants"] = len(np.unique(splits[split]["participant"][known]))
    if reason := too_few_labels(**numbers):
        raise UserError(f"{folder}: heart rate is known of too few minutes: {reason}")


def _noise(stores: Sequence[Store], rows: Sequence[np.ndarray], columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Noise density [N] of the person of each minute, in mg/sqrt(Hz); NaN for minutes of slow sensors.

    A slow sensor has no signal at 20 to 30 Hz, so there it would seem quiet.
    """
    ends = np.cumsum([len(of_store) for of_store in rows])
    slow = np.concatenate(
        [
            np.isin(columns["device"][end - len(of_store) : end], list(slow_devices(store)))
            for store, of_store, end in zip(stores, rows, ends, strict=True)
        ]
    )
    noise = np.full(len(slow), np.nan)
    fast = np.flatnonzero(~slow)
    if not len(fast):
        return noise
    people = columns["participant"][fast]
    chosen = calm_minutes(people, columns["motion_g"][fast])
    calm = fast[chosen]
    measured = []
    for store, of_store, end in zip(stores, rows, ends, strict=True):
        places = calm[(calm >= end - len(of_store)) & (calm < end)] - (end - len(of_store))
        if len(places):
            measured.append(measure_store(store, of_store[places]).noise_mg)
    noise[fast] = noise_of_people(people, chosen, np.concatenate(measured))
    return noise


def slow_devices(store: Store) -> set[str]:
    """Devices of a store whose accelerometer has too low a rate for the band of the noise; unknown rates count as high enough."""
    sensors = sensor_rows(unit.get("notes") for unit in store.manifest["prepared"])
    rates = {row.device: row.rate_hz for row in sensors if row.signal == "accel" and row.rate_hz}
    rates |= {device.name: float(device.rate_hz) for device in DEVICES}  # synthetic stores keep no sensors
    return {name for name, rate_hz in rates.items() if rate_hz < 2 * NOISE_HZ[1]}


def _process(stores: Sequence[Store], rows: Sequence[np.ndarray], split: str) -> SplitSignals:
    """Features of a split's minutes, and curves if they are not for training."""
    columns: list[tuple[np.ndarray, ...]] = []
    done, total = 0, sum(map(len, rows))
    if not total:
        return SplitSignals(np.empty((0, len(FEATURES)), np.float32), None, None)
    with ProgressLine(f"signals {split}", total, stream=sys.stderr) as progress:
        for store, of_store in zip(stores, rows, strict=True):
            for start in range(0, len(of_store), _AT_ONCE):
                signals = store.read_signals(of_store[start : start + _AT_ONCE])
                made = [classical_features(signals["accel"], rate_hz=store.rate_hz)]
                if split != "train":
                    made.append(accel_curves(signals["accel"], rate_hz=store.rate_hz))
                    made.append(ppg_curves(signals["ppg"], rate_hz=store.rate_hz))
                columns.append(tuple(made))
                done += len(made[0])
                progress.update(done)
    features, *curves = (np.concatenate(column) for column in zip(*columns, strict=True))
    accel, ppg = curves or (None, None)
    return SplitSignals(features, accel, ppg)


def _lagged(test: SplitSignals, validation: SplitSignals) -> tuple[np.ndarray, np.ndarray]:
    """Curves of the test minutes, the acceleration's moved by the lag of the validation people."""
    if test.accel is None or test.ppg is None or validation.accel is None or validation.ppg is None:
        raise UserError("no validation people: the classical matcher needs them for the lag of the PPG")
    return np.roll(test.accel, best_lag(validation.accel, validation.ppg), axis=1), test.ppg


def _boosted(
    signals: Mapping[str, SplitSignals],
    splits: Mapping[str, Mapping[str, np.ndarray]],
    labels: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, int]:
    """Heart rate [N] of the test minutes by boosting on classical features, and the number of training minutes."""
    train, validation, test = (
        ProbeSplit({BOOSTING: signals[split].features}, labels[split], splits[split]["participant"])
        for split in ("train", "validation", "test")
    )
    train = train.labelled()
    fitted = gradient_boosting(BOOSTING, ProbeSplits(train, validation.labelled(), test), 0)
    return fitted.prediction, len(train.target)


def _own_means(hr_bpm: np.ndarray, participant: np.ndarray, *, otherwise: float) -> np.ndarray:
    """Mean [N] of the person's other minutes with a known heart rate; NaN where it is unknown."""
    known = np.isfinite(hr_bpm)
    means = np.full(len(hr_bpm), np.nan)
    means[known] = own_mean(ProbeSplit({}, hr_bpm[known], participant[known]), otherwise=otherwise)
    return means
