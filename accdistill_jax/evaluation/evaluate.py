"""Evaluates embeddings of unseen participants: probes, retrieval and embedding health."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.by_sensor import SensorResult, errors_by_sensor
from accdistill_jax.evaluation.embedding_health import Health, alignment, health_of
from accdistill_jax.evaluation.predictions import PredictionResult, measure_predictions
from accdistill_jax.evaluation.probing import probes
from accdistill_jax.evaluation.retrieval import retrieval
from accdistill_jax.evaluation.retrieval.ranks import unit_rows
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings
from accdistill_jax.labels import LABELS
from accdistill_jax.readouts.readout import Readouts

TEACHER, STUDENT, UNTRAINED = "teacher", "student", "untrained"
SPLITS = ("train", "validation", "test")
_FEW_SEGMENTS = 10_000  # more threads gain nothing on fewer


Encoders = Mapping[str, Mapping[str, SplitEmbeddings]]
"""Encoder name -> split -> embeddings."""


@dataclasses.dataclass(frozen=True)
class SplitSummary:
    """Size of a split.

    Attributes:
        segments: number of segments.
        participants: number of people.
        labelled: label -> segments with a known value.
    """

    segments: int
    participants: int
    labelled: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All numbers of a report.

    Attributes:
        encoders: names, in the order given.
        main: the encoder that the report is about: "student", or "teacher" if only pretraining ran.
        splits: split -> its size.
        targets: target -> probes and comparisons, or the reason why there are none.
        predictions: target -> intervals and abstention of the main encoder's read-outs; {} without read-outs.
        retrieval: one result per accelerometer encoder, direction and pool size.
        within: retrieval among the minutes of one person.
        retrieval_reason: why there is no retrieval, or "".
        health: encoder -> health of its test embeddings.
        alignment: mean squared distance of the main encoder's and the teacher's projections, None without projections.
        ranks: direction -> [N] rank of each test segment in the pool of all (not in the JSON).
        test: encoder -> test embeddings (not in the JSON).
        settings: seed, draws, strengths.
        seconds: duration of the evaluation.
        sensors: errors of the main encoder's probes by device; [] if all test segments are of one device.
    """

    encoders: list[str]
    main: str
    splits: dict[str, SplitSummary]
    targets: dict[str, probes.TargetResult]
    predictions: dict[str, PredictionResult]
    retrieval: list[retrieval.RetrievalResult]
    within: list[retrieval.WithinResult]
    retrieval_reason: str
    health: dict[str, Health]
    alignment: float | None
    ranks: Mapping[str, np.ndarray] = dataclasses.field(repr=False, metadata={"json": False})
    test: dict[str, SplitEmbeddings] = dataclasses.field(repr=False, metadata={"json": False})
    settings: dict = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    sensors: list[SensorResult] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists; numbers that are not finite become None."""
        return json_value(self)

    def find_retrieval(self) -> retrieval.RetrievalResult | None:
        """The main encoder's search from acceleration to PPG, pool size closest to 1000; None without retrieval."""
        results = [r for r in self.retrieval if (r.direction, r.encoder) == (retrieval.ACCEL_TO_PPG, self.main)]
        return min(results, key=lambda r: abs(math.log(r.pool_size / 1000)), default=None)


class _Retrieval(NamedTuple):
    results: list[retrieval.RetrievalResult]
    within: list[retrieval.WithinResult]
    reason: str
    ranks: Mapping[str, np.ndarray]


def evaluate(
    encoders: Encoders,
    *,
    pool_sizes: Sequence[int | str] = (100, 1000, "all"),
    bootstrap_draws: int = 100,
    interval_draws: int = 2000,
    seed: int = 0,
    readouts: Readouts | None = None,
) -> Evaluation:
    """Measures retrieval, probes and embedding health on the test participants.

    Args:
        encoders: name -> split -> embeddings, for the splits "train", "validation" and "test". "teacher" reads PPG, every
            other encoder reads acceleration. "untrained" has the shape of the student. Without "student" the report is
            about the teacher (only pretraining ran). All encoders have the same rows.
        pool_sizes: candidates per retrieval query; "all" means all test segments.
        bootstrap_draws: draws of the retrieval pool.
        interval_draws: draws of participants behind each 95 % interval.
        seed: seed of all random draws.
        readouts: of the main encoder, to measure; None leaves them out.

    Returns:
        The numbers and the test embeddings behind them.

    Raises:
        UserError: embeddings that are not finite, or no test segments.
        ValueError: encoders whose rows are not the same segments.
    """
    started = time.perf_counter()
    _check(encoders)
    # With few segments a second BLAS thread gains nothing, and on a busy machine it takes ten times longer.
    with threadpool_limits(1 if len(next(iter(encoders.values()))["test"]) < _FEW_SEGMENTS else None):
        main = STUDENT if STUDENT in encoders else next(iter(encoders))
        first = next(iter(encoders.values()))
        retrieved = _retrieval(encoders, main, pool_sizes=pool_sizes, draws=bootstrap_draws, seed=seed)
        test = {name: splits["test"] for name, splits in encoders.items()}
        paired = _paired_projections(test, main)
        targets = _targets(encoders, main, draws=interval_draws, seed=seed)
        return Evaluation(
            encoders=list(encoders),
            main=main,
            splits={split: _summary(first[split]) for split in SPLITS},
            targets=targets,
            predictions={}
            if readouts is None
            else measure_predictions(readouts, test[main], draws=interval_draws, seed=seed),
            retrieval=retrieved.results,
            within=retrieved.within,
            retrieval_reason=retrieved.reason,
            health={name: health_of(e.embedding, e.projection, seed=seed) for name, e in test.items()},
            alignment=alignment(*(unit_rows(p) for p in paired)) if paired else None,
            ranks=retrieved.ranks,
            test=test,
            settings={
                "seed": seed,
                "pool_draws": bootstrap_draws,
                "interval_draws": interval_draws,
                "ridge_strengths": list(probes.STRENGTHS),
            },
            seconds=time.perf_counter() - started,
            sensors=errors_by_sensor(targets, main, test[main], draws=interval_draws, seed=seed),
        )


def json_value(value: Any) -> Any:
    """Converts results to values that `json` writes: dataclasses, arrays and paths become plain values.

    Fields marked with metadata {"json": False} are left out. Numbers that are not finite become None. Keys become strings.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f for f in dataclasses.fields(value) if f.metadata.get("json", True)]
        return {f.name: json_value(getattr(value, f.name)) for f in fields}
    if isinstance(value, Mapping):
        return {str(k): json_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, np.ndarray)):
        return [json_value(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def _check(encoders: Encoders) -> None:
    if not encoders:
        raise ValueError("evaluate() needs at least one encoder")
    reference = next(iter(encoders.values()))
    for name, splits in encoders.items():
        for split in SPLITS:
            e = splits[split]
            if not np.array_equal(np.asarray(e.participant), np.asarray(reference[split].participant)):
                raise ValueError(
                    f"encoder {name}, split {split}: rows are not the same segments as the other encoders'"
                )
            for noun, array in (("embeddings", e.embedding), ("projections", e.projection)):
                if array is None:
                    continue
                bad = np.count_nonzero(~np.isfinite(array).all(axis=1))
                if bad:
                    raise UserError(
                        f"encoder {name}, split {split}: {bad} of {len(e)} {noun} are not finite; "
                        "the parameters have diverged, train again with a lower learning rate"
                    )
    if len(reference["test"]) == 0:
        raise UserError(
            "the test split has no segments: nothing to evaluate; give the store more participants or a split file"
        )


def _summary(split: SplitEmbeddings) -> SplitSummary:
    labelled = {name: int(np.count_nonzero(np.isfinite(v))) for name, v in split.labels.items()}
    return SplitSummary(len(split), len(np.unique(split.participant)), labelled)


def _paired_projections(test: Mapping[str, SplitEmbeddings], encoder: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Comparable projections of an accelerometer encoder and of the teacher, or None."""
    if encoder == TEACHER or encoder not in test or TEACHER not in test:
        return None
    accel, ppg = test[encoder].projection, test[TEACHER].projection
    if accel is None or ppg is None or accel.shape != ppg.shape:
        return None
    return accel, ppg


def _retrieval(encoders: Encoders, main: str, *, pool_sizes: Sequence[int | str], draws: int, seed: int) -> _Retrieval:
    test = {name: splits["test"] for name, splits in encoders.items()}
    participant = test[main].participant
    if main == TEACHER or TEACHER not in test:
        return _Retrieval([], [], "needs a PPG teacher and an accelerometer student", {})
    if _paired_projections(test, main) is None:
        return _Retrieval([], [], "needs projections of the same width from student and teacher", {})
    if len(participant) < 2:
        return _Retrieval([], [], "needs at least two test segments", {})
    results: list[retrieval.RetrievalResult] = []
    within: list[retrieval.WithinResult] = []
    main_ranks: Mapping[str, np.ndarray] = {}
    for name in test:
        paired = _paired_projections(test, name)
        if paired is None:
            continue
        pairs = retrieval.ProjectionPairs(*paired, participant)
        found, ranks = retrieval.retrieve(
            pairs, encoder=name, pool_sizes=pool_sizes, draws=draws, seed=seed, full_ranks=test[name].ranks or None
        )
        results += found
        within += retrieval.retrieve_within_participants(pairs, encoder=name, seed=seed)
        if name == main:
            main_ranks = ranks
    return _Retrieval(results, within, "", main_ranks)


def _targets(encoders: Encoders, main: str, *, draws: int, seed: int) -> dict[str, probes.TargetResult]:
    references = [probes.MEAN, probes.MEDIAN, probes.OWN_MEAN, *(n for n in encoders if n != main)]
    comparisons = [(main, r) for r in references]
    comparisons += [(TEACHER, r) for r in (probes.MEAN, probes.MEDIAN) if main != TEACHER and TEACHER in encoders]
    first = next(iter(encoders.values()))
    results = {}
    for target, label in LABELS.items():
        if not label.expected and not np.isfinite(first["test"].labels.get(target, np.nan)).any():
            continue

        def probe_split(split: str, target: str = target) -> probes.ProbeSplit:
            labels = first[split].labels.get(target, np.full(len(first[split]), np.nan, np.float32))
            features = {name: splits[split].embedding for name, splits in encoders.items()}
            return probes.ProbeSplit(features, np.asarray(labels), np.asarray(first[split].participant))

        splits = probes.ProbeSplits(*map(probe_split, SPLITS))
        results[target] = probes.probe_target(target, splits, comparisons=comparisons, draws=draws, seed=seed)
    return results
