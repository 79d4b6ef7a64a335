"""Applies, saves and loads read-outs of a user's label. `evaluation/probing/own_label.py` fits them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from accdistill_jax.errors import UserError
from accdistill_jax.files import open_regular, write_atomically
from accdistill_jax.labels import LABELS
from accdistill_jax.readouts.readout import Domain
from accdistill_jax.storage.checked_npz import DamagedNpz, encode_npz, read_npz, verify_npz

FOLDER = "probes"  # in the export folder of the encoder
LABEL_PROBE_VERSION = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,59}")
_TAKEN = ("participant", "recording", "start", "quality", "motion", "motion_g", "embedding")  # other columns of tables
_ENDINGS = ("", "_low", "_high", "_unknown", "_reference")  # columns of each label
Kind = Literal["number", "classes"]
Per = Literal["minute", "person"]
Model = Literal["linear", "boosted"]
MODELS: tuple[Model, ...] = ("linear", "boosted")


@dataclasses.dataclass(frozen=True, eq=False)
class LinearScores:
    """Linear scores of embeddings.

    Attributes:
        weights: [D, K] float64.
        intercept: [K] float64.
    """

    weights: np.ndarray
    intercept: np.ndarray

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Scores [n, K] float64 of embeddings [n, D]."""
        return np.asarray(embeddings, np.float64) @ self.weights + self.intercept


@dataclasses.dataclass(frozen=True, eq=False)
class TreeScores:
    """Sum of regression trees. A row goes left at a node if its feature is at most the threshold.

    Attributes:
        feature: [T, M] int32, feature of each node; -1 in a leaf.
        threshold: [T, M] float64.
        left: [T, M] int32, left child.
        right: [T, M] int32, right child.
        value: [T, M] float64, contribution of a leaf.
        output: [T] int32, score that a tree adds to.
        intercept: [K] float64.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    output: np.ndarray
    intercept: np.ndarray

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Scores [n, K] float64 of embeddings [n, D]."""
        x = np.asarray(embeddings, np.float32)
        total = np.tile(self.intercept, (len(x), 1))
        rows = np.arange(len(x))
        for tree, output in enumerate(self.output):
            node = np.zeros(len(x), np.int32)
            feature = self.feature[tree]
            while (inner := feature[node] >= 0).any():
                goes_left = x[rows, feature[node]] <= self.threshold[tree][node]
                child = np.where(goes_left, self.left[tree][node], self.right[tree][node])
                node = np.where(inner, child, node)
            total[:, output] += self.value[tree][node]
        return total


_SCORES = {"linear": LinearScores, "boosted": TreeScores}


class LabelPrediction(NamedTuple):
    """Predictions of a user's label.

    Attributes:
        value: [n] float64 numbers, or [n] str classes; NaN or "" where unknown.
        low: [n] float64, lower end of the interval of a number; for classes the probability of the class. NaN where unknown.
        high: [n] float64, upper end of the interval; NaN for classes.
        probability: [n, classes] float64, of all classes; None for a number.
        reason: [n] str; "" for a prediction, else why it is unknown (see `Prediction`).
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    probability: np.ndarray | None
    reason: np.ndarray

    @property
    def known(self) -> np.ndarray:
        """[n] bool, True where there is a prediction."""
        return self.reason == ""


@dataclasses.dataclass(frozen=True, eq=False)
class LabelProbe:
    """A read-out of a user's label.

    Attributes:
        name: name of the label.
        unit: of a number; "" if it is not given.
        kind: "number", or "classes" for two or more answers.
        per: "minute", or "person" for one value for all minutes of a person.
        classes: the answers, in the order of the scores; () for a number.
        model: linear or boosted.
        half_width: half-width of the interval of a number; infinite with too few people.
        level: nominal coverage of the interval.
        people: number of people behind the fit.
        domain: minutes that the probe was fitted on.
        fingerprint: content hash of the encoder's parameters.
        measured: results on people who were left out of the fit: words -> text.
    """

    name: str
    unit: str
    kind: Kind
    per: Per
    classes: tuple[str, ...]
    model: LinearScores | TreeScores
    half_width: float
    level: float
    people: int
    domain: Domain
    fingerprint: str
    measured: Mapping[str, str]

    def predict(self, embeddings: np.ndarray, *, motion_g: np.ndarray | None = None) -> LabelPrediction:
        """Predicts the label.

        Args:
            embeddings: [n, D], as the encoder gives them. For a label per person: of the minutes of one person.
            motion_g: [n] motion level of each minute in g; None, or NaN for a minute: the motion rule is not applied.

        Returns:
            A prediction for each minute; a single one for a label per person, from the mean of the usable minutes.

        Raises:
            UserError: the embeddings have another width or are not finite, or `motion_g` is not [n].
        """
        embeddings = self.domain.checked(embeddings)
        reason = self.domain.reasons(embeddings, motion_g)
        if self.per == "person":
            usable = reason == ""
            if usable.any():
                embeddings, reason = embeddings[usable].mean(axis=0, keepdims=True), reason[usable][:1]
            else:
                embeddings, reason = embeddings[:1], reason[:1]
        scores, known = self.model.scores(embeddings), reason == ""
        nothing = np.full(len(scores), np.nan)
        if self.kind == "number":
            value = np.where(known, scores[:, 0], np.nan)
            return LabelPrediction(value, value - self.half_width, value + self.half_width, None, reason)
        probability = np.where(known[:, None], probabilities(scores), np.nan)
        best = np.argmax(np.where(known[:, None], probability, 0.0), axis=1)
        value = np.where(known, np.array(self.classes)[best], "")
        return LabelPrediction(value, probability[np.arange(len(best)), best], nothing, probability, reason)


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Probabilities [n, K] of scores [n, K], or [n, 2] of the log-odds [n, 1]."""
    if scores.shape[1] == 1:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def probe_path(export: str | os.PathLike[str], name: str) -> Path:
    """File of a probe.

    Raises:
        UserError: the name does not fit a file, or belongs to another column of the tables of predictions.
    """
    if name in _TAKEN or any(name == f"{label}{ending}" for label in LABELS for ending in _ENDINGS):
        raise UserError(
            f"name {name!r} of the probe: predictions have a column of this name already; give another --name"
        )
    if not NAME.fullmatch(name):
        raise UserError(
            f"name {name!r} of the probe: use letters, digits, '.', '_' and '-', at most 60, and begin with a letter or digit"
        )
    return Path(export) / FOLDER / f"{name}.npz"


def save_label_probe(export: str | os.PathLike[str], probe: LabelProbe) -> Path:
    """Writes a probe beside the encoder's export, atomically; a probe of the same name is replaced.

    Raises:
        UserError: the name does not fit a file, or the file cannot be written.
    """
    path = probe_path(export, probe.name)
    kind = next(name for name, model in _SCORES.items() if isinstance(probe.model, model))
    simple = ("name", "unit", "kind", "per", "classes", "half_width", "level", "people", "fingerprint")
    about = {name: getattr(probe, name) for name in simple}
    about |= {"format_version": LABEL_PROBE_VERSION, "model": kind, "measured": dict(probe.measured)}
    about |= {"distance_limit": probe.domain.distance_limit, "motion_limit_g": probe.domain.motion_limit_g}
    arrays = {f"model/{field.name}": getattr(probe.model, field.name) for field in dataclasses.fields(probe.model)}
    arrays |= {"mean": probe.domain.mean, "directions": probe.domain.directions}
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, encode_npz({"about": np.array(json.dumps(about)), **arrays}))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def load_label_probes(export: str | os.PathLike[str], *, fingerprint: str) -> dict[str, LabelProbe]:
    """Reads all probes beside an encoder's export.

    Args:
        export: export folder of the encoder.
        fingerprint: content hash of the encoder's parameters.

    Returns:
        Name -> probe, sorted by name.

    Raises:
        UserError: a probe is damaged, of a newer version, or was fitted on another encoder; names the file.
    """
    found = sorted(Path(export, FOLDER).glob("*.npz"))
    probes = [_load(path, fingerprint) for path in found if NAME.fullmatch(path.stem)]
    return {probe.name: probe for probe in probes}


def _load(path: Path, fingerprint: str) -> LabelProbe:
    again = f"delete {path}, and repeat accdistill probe"
    try:
        with open_regular(path) as file:
            if not verify_npz(file):
                raise DamagedNpz("it has no checksum")
            arrays = read_npz(file)
        about: dict[str, Any] = json.loads(str(arrays.pop("about")))
        if about.pop("format_version") > LABEL_PROBE_VERSION:
            raise UserError(f"{path}: a newer version of accdistill_jax wrote this probe; update accdistill_jax")
        if about["fingerprint"] != fingerprint:
            raise UserError(f"{path}: this probe was fitted on an encoder that was trained otherwise; {again}")
        model = _SCORES[about.pop("model")]
        scores = model(**{field.name: arrays[f"model/{field.name}"] for field in dataclasses.fields(model)})
        domain = Domain(arrays["mean"], arrays["directions"], about.pop("distance_limit"), about.pop("motion_limit_g"))
        about["classes"] = tuple(about["classes"])
        probe = LabelProbe(**about, model=scores, domain=domain)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (DamagedNpz, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); {again}") from error
    try:
        probe_path(path.parent.parent, probe.name)
    except UserError as error:
        raise UserError(f"{path}: {error}: {again}") from error
    return probe
