"""Runs all methods of leave-one-wearer-out and scores them."""

import sys
from pathlib import Path

import numpy as np

from accdistill_jax.api.encoder import Part
from accdistill_jax.api.loading import load
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.labels import HEART_RATE
from accdistill_jax.reproduce.wearers import scores
from accdistill_jax.reproduce.wearers.scores import Classical, WearerMinutes
from accdistill_jax.reproduce.wearers.table import Results
from accdistill_jax.reproduce.wearers.trainings import (
    ALONE,
    FINE_TUNED,
    WearerTraining,
    open_start,
    trained_on_others,
    wearers_of,
    zero_shot,
    zero_shot_lags,
)

TEACHER = "PPG teacher, zero shot"
ZERO_SHOT, ZERO_SHOT_RIDGE = "student, zero shot", "student, zero shot, read-out of the other wearers"
ZERO_SHOT_LAG = "student, zero shot, PPG's lag of the other wearers"
TITLES = {FINE_TUNED: "student, fine-tuned on the other wearers", ALONE: "student, trained on the other wearers alone"}
CLASSICAL = "acceleration's envelope, no learning"
TOGETHER = "student, zero shot, and the envelope: both similarities added"


def compare_methods(
    store_path: Path,
    start: Path,
    out: Path,
    training: WearerTraining,
    *,
    hours: tuple[float, float] | None = None,
    utc_offset_h: float = 0.0,
) -> Results:
    """Scores of every method for every wearer.

    Args:
        store_path: store of the wearers.
        start: work directory of the finished run that students start from.
        out: folder of the trainings.
        training: of the students.
        hours: first and last hour of the day that is measured; None: all.
        utc_offset_h: of the wearers' clock.

    Raises:
        UserError: a run or a store that does not fit, or hours without minutes.
    """
    basis = open_start(start, store_path)
    store = basis.store
    wearers = wearers_of(store)
    places = {who: place for place, who in enumerate(wearers, 1)}  # name folders, whatever the hours
    minutes = _minutes(store, hours, utc_offset_h)
    wearers = [who for who in wearers if len(minutes.of(who)) > 1]
    if not wearers:
        raise UserError(f"{store.path}: no wearer has two minutes in these hours")
    start_embedded = zero_shot(basis, out / "00-zero-shot")
    query, galleries = zero_shot_lags(basis)
    classical = Classical.of(store)
    rates: dict[str, dict] = {}
    searches: dict[str, dict] = {}

    def rate(method: str, wearer: str, predicted: np.ndarray) -> None:
        score = scores.rate_score(predicted, minutes, wearer)
        if score is not None:
            rates.setdefault(method, {})[wearer] = score

    def search(method: str, wearer: str, score: scores.SearchScore) -> None:
        searches.setdefault(method, {})[wearer] = score

    read = read_rates(start, "student", start_embedded.embedding)
    teacher_read = read_rates(start, "teacher", start_embedded.teacher_embedding)
    for number, wearer in enumerate(wearers, 1):
        print(f"wearer {number} of {len(wearers)}: {wearer}, {len(minutes.of(wearer))} minutes", file=sys.stderr)
        rate(TEACHER, wearer, teacher_read)
        rate(ZERO_SHOT, wearer, read)
        rate(ZERO_SHOT_RIDGE, wearer, scores.ridge_on_others(start_embedded.embedding, minutes, wearer))
        pair = start_embedded.projection, start_embedded.teacher_projection
        search(ZERO_SHOT, wearer, scores.search_score(*pair, minutes, wearer))
        of_student = query, galleries[scores.lag_of_others(query, galleries, minutes, wearer)]
        search(ZERO_SHOT_LAG, wearer, scores.search_score(*of_student, minutes, wearer))
        for variant in training.variants:
            embedded = trained_on_others(
                wearer,
                variant,
                start=basis,
                training=training,
                folder=out / f"{places[wearer]:02d}-{variant}",
            )
            rate(TITLES[variant], wearer, scores.ridge_on_others(embedded.embedding, minutes, wearer))
            pair = embedded.projection, embedded.teacher_projection
            search(TITLES[variant], wearer, scores.search_score(*pair, minutes, wearer))
        rate(CLASSICAL, wearer, classical.rate_bpm)
        of_envelope = classical.rows(minutes, wearer)
        search(CLASSICAL, wearer, scores.search_score(*of_envelope, minutes, wearer))
        search(TOGETHER, wearer, scores.search_together([of_student, of_envelope], minutes, wearer))
        for name, constant in scores.constants(minutes, wearer).items():
            rate(name, wearer, constant)
    return Results(rates, searches, wearers)


def _minutes(store: Store, hours: tuple[float, float] | None, utc_offset_h: float) -> WearerMinutes:
    shown = np.ones(store.num_segments, bool)
    if hours is not None:
        hour = (store.segments["start_unix_s"] / 3600 + utc_offset_h) % 24
        first, last = hours
        shown = (hour >= first) & (hour < last) if first <= last else (hour >= first) | (hour < last)
    names = np.asarray(store.segments["participant"]).astype(str)
    return WearerMinutes(names, np.asarray(store.segments[HEART_RATE], np.float64), shown)


def read_rates(start: Path, part: Part, embedding: np.ndarray) -> np.ndarray:
    """Heart rate [N] of every minute by the read-out that a run saved beside an encoder.

    Args:
        start: work directory of the run.
        part: the encoder.
        embedding: [N, D] float32, of that encoder.

    Raises:
        UserError: the encoder has no read-out of the heart rate.
    """
    encoder = load(start, part=part)
    if encoder.readouts is None or HEART_RATE not in encoder.readouts.targets:
        raise UserError(
            f"{start}: its {part} has no read-out of the heart rate; repeat the run's command, whose evaluation writes it"
        )
    # every minute counts, also those that the read-out would not answer: the other methods answer all
    return encoder.readouts.targets[HEART_RATE].estimate(embedding).value
