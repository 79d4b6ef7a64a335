"""Applies, saves and loads the read-outs of an encoder. `evaluation/predictions.py` fits them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accdistill_jax.errors import UserError
from accdistill_jax.files import open_regular, write_atomically
from accdistill_jax.storage.checked_npz import DamagedNpz, encode_npz, read_npz, verify_npz

FILE_NAME = "readouts.npz"  # in the export folder of the encoder
FORMAT_VERSION = 2  # 1 had no test for a heart
FAR, MOTION, NO_HEART = "unlike the training data", "more motion than in training", "no heartbeat found"
WIDE = "uncertain"


class Estimated(NamedTuple):
    """Estimates of one target before abstention, in the target's unit; each [n] float64.

    Attributes:
        value: estimate of the label.
        half_width: half of the interval's width; infinite where there were too few people to calibrate it.
    """

    value: np.ndarray
    half_width: np.ndarray


class Prediction(NamedTuple):
    """Predictions of one target, in the target's unit.

    Attributes:
        value: [n] float64, not below 0; NaN where it is unknown.
        low: [n] float64, lower end of the interval, not below 0; NaN where value is unknown, -inf without a calibrated interval.
        high: [n] float64, upper end of the interval.
        reason: [n] str; "" for a prediction, else why it is unknown: "unlike the training data" (the embedding is far from
            those that the read-out was fitted on), "more motion than in training" (than in any of those minutes), "no heartbeat
            found" (the embedding is like those of minutes without a heart) or "uncertain" (the interval is no narrower than that of a
            constant).
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    reason: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """[n] bool, True where there is a prediction."""
        return self.reason == ""


@dataclasses.dataclass(frozen=True, eq=False)
class Readout:
    """A linear read-out of one label, and a linear model of the size of its error.

    Attributes:
        unit: unit of the label.
        weights: [D] float64, on embeddings.
        intercept: in `unit`.
        spread_weights: [D] float64; the logarithm of the expected absolute error is linear in the embedding.
        spread_intercept: of the same.
        spread_limits: lowest and highest expected absolute error, in `unit`.
        quantile: half-width of the interval, in expected absolute errors; infinite without calibration.
        constant_half_width: half-width of the interval around the best constant, in `unit`: an interval that wide is no
            prediction. Infinite without calibration; 0 if the read-out is not better than the constant on train people left out in turn.
    """

    unit: str
    weights: np.ndarray
    intercept: float
    spread_weights: np.ndarray
    spread_intercept: float
    spread_limits: tuple[float, float]
    quantile: float
    constant_half_width: float

    def spread(self, embeddings: np.ndarray) -> np.ndarray:
        """Expected absolute error [n] of the estimates from embeddings [n, D]."""
        low, high = np.log(self.spread_limits)
        logarithm = np.asarray(embeddings, np.float64) @ self.spread_weights + self.spread_intercept
        return np.exp(np.clip(logarithm, low, high))

    def estimate(self, embeddings: np.ndarray) -> Estimated:
        """Estimates from embeddings [n, D]."""
        value = np.asarray(embeddings, np.float64) @ self.weights + self.intercept
        return Estimated(value, self.quantile * self.spread(embeddings))


@dataclasses.dataclass(frozen=True, eq=False)
class Domain:
    """Region of embeddings and motion that the read-outs were fitted on.

    Attributes:
        mean: [D] float64, mean embedding.
        directions: [D, K] float64; a difference to the mean times this matrix has unit variance in each column.
        distance_limit: root mean square of these columns up to which an embedding is like the training data.
        motion_limit_g: highest motion level of the training minutes, in g; infinite if it is unknown.
    """

    mean: np.ndarray
    directions: np.ndarray
    distance_limit: float
    motion_limit_g: float

    def checked(self, embeddings: np.ndarray) -> np.ndarray:
        """The embeddings as an array.

        Raises:
            UserError: they have another width, or are not finite.
        """
        embeddings, width = np.asarray(embeddings), len(self.mean)
        if embeddings.ndim != 2 or embeddings.shape[1] != width:
            raise UserError(f"embeddings have shape {list(embeddings.shape)}; the read-outs need [minutes, {width}]")
        if not np.isfinite(embeddings).all():
            raise UserError("embeddings have NaN or infinite values; leave such minutes out")
        return embeddings

    def distance(self, embeddings: np.ndarray) -> np.ndarray:
        """Distance [n] of embeddings [n, D] to the training data, about 1 for its own."""
        columns = (np.asarray(embeddings, np.float64) - self.mean) @ self.directions
        return np.sqrt(np.mean(columns**2, axis=1))

    def reasons(self, embeddings: np.ndarray, motion_g: np.ndarray | None) -> np.ndarray:
        """Reason [n] str why a minute is outside the region; "" inside it.

        Args:
            embeddings: [n, D].
            motion_g: [n], in g; None, or NaN for a minute: the motion rule is not applied.

        Raises:
            UserError: `motion_g` has another shape.
        """
        count = len(embeddings)
        if motion_g is not None and np.shape(motion_g) != (count,):
            raise UserError(
                f"motion_g has shape {list(np.shape(motion_g))}; {count} embeddings need [{count}], one level per minute"
            )
        reason = np.full(count, "", dtype="U32")
        reason[self.distance(embeddings) > self.distance_limit] = FAR
        if motion_g is not None:
            with np.errstate(invalid="ignore"):
                reason[np.asarray(motion_g, np.float64) > self.motion_limit_g] = MOTION
        return reason


@dataclasses.dataclass(frozen=True, eq=False)
class HeartTest:
    """Tells embeddings of minutes with a heart from those of minutes without, such as noise or a device on a table.

    Attributes:
        weights: [D] float64; the score of an embedding is its product with them.
        limit: score that hardly any minute without a heart exceeds.
    """

    weights: np.ndarray
    limit: float

    def passes(self, embeddings: np.ndarray) -> np.ndarray:
        """[n] bool, True where embeddings [n, D] show a heart."""
        return np.asarray(embeddings, np.float64) @ self.weights > self.limit


@dataclasses.dataclass(frozen=True, eq=False)
class Readouts:
    """The read-outs of one encoder.

    Attributes:
        fingerprint: content hash of the encoder's parameters.
        level: nominal coverage of the intervals, such as 0.9.
        calibration_people: label -> number of people behind its intervals.
        domain: where the read-outs hold.
        targets: label -> read-out.
        heart: refuses minutes without a heart; None for embeddings that come from a table, which has none.
    """

    fingerprint: str
    level: float
    calibration_people: Mapping[str, int]
    domain: Domain
    targets: Mapping[str, Readout]
    heart: HeartTest | None = None

    def predict(self, embeddings: np.ndarray, *, motion_g: np.ndarray | None = None) -> dict[str, Prediction]:
        """Predicts every label from embeddings.

        Args:
            embeddings: [n, D], as the encoder gives them.
            motion_g: [n] motion level of each minute in g, as stores hold it; None, or NaN for a minute: the motion rule is not applied.

        Returns:
            Label -> predictions of the n minutes.

        Raises:
            UserError: the embeddings have another width or are not finite, or `motion_g` is not [n].
        """
        embeddings = self.domain.checked(embeddings)
        outside = self.domain.reasons(embeddings, motion_g)
        if self.heart is not None:
            outside = np.where((outside == "") & ~self.heart.passes(embeddings), NO_HEART, outside)
        return {name: _with_reasons(readout, embeddings, outside) for name, readout in self.targets.items()}


def _with_reasons(readout: Readout, embeddings: np.ndarray, outside: np.ndarray) -> Prediction:
    value, half_width = readout.estimate(embeddings)
    reason = np.where(
        (outside == "") & np.isfinite(half_width) & (half_width >= readout.constant_half_width), WIDE, outside
    )
    value = np.where(reason == "", value, np.nan)
    low, high = value - half_width, value + half_width
    # labels are rates and durations: the part of an interval below 0 holds no possible value
    low = np.where(np.isfinite(low), np.maximum(low, 0.0), low)
    return Prediction(np.maximum(value, 0.0), low, np.maximum(high, 0.0), reason)


def save_readouts(folder: str | os.PathLike[str], readouts: Readouts, *, key: str) -> None:
    """Writes the read-outs of the encoder whose export is in `folder`, atomically.

    Args:
        folder: export folder of the encoder.
        readouts: its read-outs.
        key: hash of the inputs that they were fitted on.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(folder) / FILE_NAME
    about = {
        "format_version": FORMAT_VERSION,
        "key": key,
        "fingerprint": readouts.fingerprint,
        "level": readouts.level,
        "calibration_people": dict(readouts.calibration_people),
        "distance_limit": readouts.domain.distance_limit,
        "motion_limit_g": readouts.domain.motion_limit_g,
        "targets": {name: _numbers(readout) for name, readout in readouts.targets.items()},
    }
    arrays = {"mean": readouts.domain.mean, "directions": readouts.domain.directions}
    if readouts.heart is not None:
        about["heart_limit"], arrays["heart_weights"] = readouts.heart.limit, readouts.heart.weights
    for name, readout in readouts.targets.items():
        arrays |= {f"{name}/weights": readout.weights, f"{name}/spread_weights": readout.spread_weights}
    try:
        write_atomically(path, encode_npz({"about": np.array(json.dumps(about)), **arrays}))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _numbers(readout: Readout) -> dict:
    values = dataclasses.asdict(readout)
    return {name: value for name, value in values.items() if not name.endswith("weights")}


class FoundReadouts(NamedTuple):
    """Read-outs beside an export, or the reason why there are none.

    Attributes:
        readouts: the read-outs, or None.
        missing: why there are none, and what to do; "" if there are.
    """

    readouts: Readouts | None
    missing: str


def find_readouts(
    folder: str | os.PathLike[str], *, fingerprint: str, key: str | None = None, size: int | None = None
) -> FoundReadouts:
    """Reads the read-outs that belong to an exported encoder.

    Args:
        folder: export folder of the encoder.
        fingerprint: content hash of the encoder's parameters.
        key: hash of the inputs that they must have been fitted on; None: any.
        size: numbers of the embedding that they must read; None: any.

    Raises:
        UserError: the file is damaged, or a newer version wrote it.
    """
    path = Path(folder) / FILE_NAME
    again = "repeat the run's command, whose stage evaluation writes it"
    try:
        with open_regular(path) as file:
            if not verify_npz(file):
                raise DamagedNpz("it has no checksum")
            arrays = read_npz(file)
        about = json.loads(str(arrays.pop("about")))
        if about["format_version"] > FORMAT_VERSION:
            raise UserError(
                f"{path}: the read-outs have format version {about['format_version']}, this program reads version "
                f"{FORMAT_VERSION}; update accdistill_jax"
            )
        if about["fingerprint"] != fingerprint:
            return FoundReadouts(
                None,
                f"{path} belongs to another encoder (fingerprint {about['fingerprint'][:12]}, this one has {fingerprint[:12]}); put "
                f"back this encoder's file, or {again}",
            )
        if about["format_version"] < FORMAT_VERSION:
            return FoundReadouts(
                None, f"{path} is of an earlier version, which predicted from noise, too; {again} anew"
            )
        if key not in (None, about["key"]):
            return FoundReadouts(None, f"{path} was fitted on other data; {again} anew")
        if size not in (None, arrays["mean"].size):
            return FoundReadouts(
                None,
                f"{path} reads embeddings of {arrays['mean'].size} numbers, this encoder gives {size}; {again} anew",
            )
        return FoundReadouts(_readouts(about, arrays), "")
    except FileNotFoundError:
        return FoundReadouts(None, f"{path} is missing; {again}")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (DamagedNpz, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it, and repeat the run's command, which fits the read-outs again"
        ) from error


def load_readouts(folder: str | os.PathLike[str], *, fingerprint: str, key: str | None = None) -> Readouts | None:
    """The read-outs that `find_readouts` finds; None if there are none."""
    return find_readouts(folder, fingerprint=fingerprint, key=key).readouts


def _readouts(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Readouts:
    targets = {name: _readout(name, numbers, arrays) for name, numbers in about["targets"].items()}
    domain = Domain(arrays["mean"], arrays["directions"], about["distance_limit"], about["motion_limit_g"])
    heart = HeartTest(arrays["heart_weights"], about["heart_limit"]) if "heart_limit" in about else None
    people = about["calibration_people"]
    if isinstance(people, int):  # of an earlier version, which counted people without the label, too
        people = dict.fromkeys(targets, people)
    return Readouts(about["fingerprint"], about["level"], people, domain, targets, heart)


def _readout(name: str, numbers: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Readout:
    low, high = numbers["spread_limits"]
    return Readout(
        unit=numbers["unit"],
        weights=arrays[f"{name}/weights"],
        intercept=numbers["intercept"],
        spread_weights=arrays[f"{name}/spread_weights"],
        spread_intercept=numbers["spread_intercept"],
        spread_limits=(low, high),
        quantile=numbers["quantile"],
        constant_half_width=numbers["constant_half_width"],
    )
