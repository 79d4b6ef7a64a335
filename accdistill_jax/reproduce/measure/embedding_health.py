"""Use of encoders' embedding spaces, their similarity to the teacher, and the drift of a PPG side that learns along."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from accdistill_jax.config.registry import OBJECTIVES
from accdistill_jax.evaluation import embedding_health as healths
from accdistill_jax.evaluation.embedding_health import Health, Similarity
from accdistill_jax.evaluation.retrieval.retrieval import unit_rows
from accdistill_jax.objectives.registered import PPG
from accdistill_jax.reproduce.measure import wording
from accdistill_jax.reproduce.measure.results import Bench, ReportPart, over_seeds
from accdistill_jax.reproduce.measure.wording import decimal, mean_and_std, percent, percent_mean_and_std
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.plan.variants import MAE_TEACHER
from accdistill_jax.reproduce.report import pictures
from accdistill_jax.reproduce.report.document import Number, Picture, ReportTable, Section

STUDENT, JOINT = "student", "joint"
DRIFTED = 0.5  # of the frozen teacher's effective rank or variance share: below it a PPG side tells minutes less apart


class EncoderHealth(NamedTuple):
    """One encoder with one training seed on the test split.

    Attributes:
        own: health of its embeddings.
        ppg: of the PPG projections that it is compared with in retrieval; None without.
        alignment: of the two projections; None without.
        like_teacher: similarity of its embeddings to the teacher's; None for the teacher, and without one.
    """

    own: Health
    ppg: Health | None
    alignment: float | None
    like_teacher: Similarity | None


def measure_health(bench: Bench, experiment: Experiment) -> ReportPart:
    """Effective rank, spread, uniformity, alignment and similarity to the teacher of all encoders; alarms for constant outputs."""
    seeds, notes = wording.measurable_encoders(bench, experiment.variants)
    if len(bench.columns("test").participant) < 2:
        notes.append("Fewer than two test minutes: embeddings of one minute have no spread.")
        seeds = {}
    with threadpool_limits(1):
        seen = {name: [_look(bench, seeds, name, seed) for seed in own] for name, own in seeds.items()}
    text = _words(bench, seen)
    tables = (_embedding_table(bench, seen), _ppg_table(bench, seen))
    numbers: dict[str, Number] = {}
    for name, own in seen.items():
        numbers |= _numbers(f"{experiment.id}/{name}", own)
    shown = (_picture(bench, seen),) if seen else ()
    notes.append(
        "Effective rank: exponent of the entropy of the singular values, after the mean embedding is removed. Variance share: variance over "
        "minutes by mean squared norm, 0 for a constant output. Uniformity: 0 constant, −4 spread out. Alignment: mean squared distance "
        "of paired unit vectors, 0 the same, 2 unrelated. CKA is debiased: about 0 for unrelated embeddings, 1 for the same up to "
        "rotation and scale. None of these says that an embedding knows something: an untrained encoder can look healthy."
    )
    section = Section(
        experiment.id, experiment.title, tuple(text), tuple(t for t in tables if t.rows), shown, tuple(notes)
    )
    return ReportPart(section, numbers)


def _look(bench: Bench, seeds: Mapping[str, Sequence[int]], name: str, seed: int) -> EncoderHealth:
    arrays = bench.arrays(name, seed)
    embedding, pair = arrays["test/embedding"], bench.pair(name, seed)
    accel, ppg = (None, None) if pair is None else map(unit_rows, pair)
    like = None
    if name != MAE_TEACHER and MAE_TEACHER in seeds:
        teacher = seed if seed in seeds[MAE_TEACHER] else seeds[MAE_TEACHER][0]
        like = healths.linear_cka(bench.arrays(MAE_TEACHER, teacher)["test/embedding"], embedding)
    return EncoderHealth(
        healths.health_of(embedding, accel),
        None if ppg is None else healths.health_of(ppg, ppg),
        None if ppg is None else healths.alignment(accel, ppg),
        like,
    )


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and np.isfinite(value)]


def _similar(own: Sequence[EncoderHealth]) -> list[float]:
    return _known([one.like_teacher.debiased for one in own if one.like_teacher is not None])


def _embedding_table(bench: Bench, seen: Mapping[str, Sequence[EncoderHealth]]) -> ReportTable:
    rows = [
        (
            bench.variant(name).title,
            str(own[0].own.width),
            mean_and_std([one.own.effective_rank_centred for one in own], 1),
            mean_and_std([one.own.effective_rank for one in own], 1),
            percent_mean_and_std([one.own.variance_share for one in own]),
            str(max(one.own.dead_dimensions for one in own)),
            mean_and_std(_known([one.own.uniformity for one in own])),
            mean_and_std(_similar(own)),
            _alarms([one.own for one in own]),
        )
        for name, own in seen.items()
    ]
    columns = (
        "encoder",
        "width",
        "effective rank",
        "with its mean",
        "variance share",
        "dead dimensions",
        "uniformity of projections",
        "CKA with the teacher",
        "alarm",
    )
    return ReportTable("Embeddings of test minutes (± over training seeds)", columns, tuple(rows))


def _ppg_table(bench: Bench, seen: Mapping[str, Sequence[EncoderHealth]]) -> ReportTable:
    rows = []
    for name, own in seen.items():
        ppg = [one.ppg for one in own if one.ppg is not None]
        if ppg:
            rows.append(
                (
                    bench.variant(name).title,
                    "trained along" if _learns_along(bench, name) else "frozen",
                    str(ppg[0].width),
                    mean_and_std([one.effective_rank_centred for one in ppg], 1),
                    percent_mean_and_std([one.variance_share for one in ppg]),
                    mean_and_std(_known([one.uniformity for one in ppg])),
                    mean_and_std(_known([one.alignment for one in own])),
                    _alarms(ppg),
                )
            )
    columns = (
        "encoder",
        "PPG encoder",
        "width",
        "effective rank",
        "variance share",
        "uniformity",
        "alignment",
        "alarm",
    )
    return ReportTable("The PPG side: the projections that acceleration is compared with", columns, tuple(rows))


def _learns_along(bench: Bench, name: str) -> bool:
    objective = bench.variant(name).changes.get("student.objective")
    return objective is not None and OBJECTIVES.get(objective).ppg is PPG.TRAINED


def _alarms(own: Sequence[Health]) -> str:
    return "; ".join(dict.fromkeys(one.alarm for one in own if one.alarm)) or "none"


def _words(bench: Bench, seen: Mapping[str, Sequence[EncoderHealth]]) -> list[str]:
    if not seen:
        return ["Not measured: no encoder has test embeddings of two minutes."]
    said = []
    rank = {name: over_seeds([one.own.effective_rank_centred for one in own])[0] for name, own in seen.items()}
    most, least = max(rank, key=rank.get), min(rank, key=rank.get)
    said.append(
        f"Effective rank runs from {decimal(rank[least], 1)} ({bench.variant(least).title}) to {decimal(rank[most], 1)} "
        f"({bench.variant(most).title})."
    )
    like = {name: over_seeds(_similar(own))[0] for name, own in seen.items() if _similar(own)}
    if like:
        order = sorted(like, key=like.get, reverse=True)
        told = wording.listed([f"{bench.variant(name).title} {decimal(like[name])}" for name in order])
        said.append(f"Most like the teacher (CKA): {told}.")
    alarmed = [
        f"{bench.variant(n).title}: {_alarms(found)}"
        for n, own in seen.items()
        for found in [[one.own for one in own] + [one.ppg for one in own if one.ppg is not None]]
        if _alarms(found) != "none"
    ]
    said.append(
        "Alarms: " + "; ".join(alarmed) + "." if alarmed else "No encoder gives a constant or collapsed output."
    )
    if all(name in seen and seen[name][0].ppg is not None for name in (STUDENT, JOINT)):
        said.append(_drift(seen))
    return said


def _drift(seen: Mapping[str, Sequence[EncoderHealth]]) -> str:
    """Says in words whether the PPG side of joint training has drifted to a trivial solution."""
    rank, share = (
        {name: over_seeds([getattr(one.ppg, what) for one in seen[name]])[0] for name in (JOINT, STUDENT)}
        for what in ("effective_rank_centred", "variance_share")
    )
    said = (
        f"Joint training: the projections of its PPG side have an effective rank of {decimal(rank[JOINT], 1)} and a variance share of "
        f"{percent(share[JOINT])}; those of the frozen teacher, as the student sees them, {decimal(rank[STUDENT], 1)} and "
        f"{percent(share[STUDENT])}. "
    )
    less = any(of[JOINT] < DRIFTED * of[STUDENT] for of in (rank, share))
    said += "By spread it separates minutes " + ("less than" if less else "as well as")
    return said + " the frozen one; the claim that it drifts is judged by what a probe still reads from it."


def _picture(bench: Bench, seen: Mapping[str, Sequence[EncoderHealth]]) -> Picture:
    titles = {name: bench.variant(name).title for name in seen}
    measures = {
        "Effective rank of embeddings": {n: [one.own.effective_rank_centred for one in own] for n, own in seen.items()},
        "CKA with the teacher": {n: _similar(own) for n, own in seen.items()},
        "Effective rank of the PPG side": {
            n: [o.ppg.effective_rank_centred for o in own if o.ppg] for n, own in seen.items()
        },
    }
    drawn = {what: {n: over_seeds(values) for n, values in own.items() if values} for what, own in measures.items()}
    figure = pictures.bars({what: own for what, own in drawn.items() if own}, titles)
    caption = "Health of the embeddings of test minutes; lines: standard deviation over training seeds."
    return Picture("embedding-health", caption, figure)


def _numbers(prefix: str, own: Sequence[EncoderHealth]) -> dict[str, Number]:
    found = {
        "effective-rank": [one.own.effective_rank_centred for one in own],
        "variance-share": [one.own.variance_share for one in own],
        "cka": _similar(own),
        "uniformity": _known([one.own.uniformity for one in own]),
        "alignment": _known([one.alignment for one in own]),
        "ppg-side/effective-rank": _known([one.ppg and one.ppg.effective_rank_centred for one in own]),
        "ppg-side/variance-share": _known([one.ppg and one.ppg.variance_share for one in own]),
    }
    return {
        f"{prefix}/{name}": wording.report_number(values, share=not name.endswith("effective-rank"))
        for name, values in found.items()
        if values
    }
