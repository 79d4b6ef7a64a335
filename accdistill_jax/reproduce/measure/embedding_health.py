"""Health of embeddings: use of the space, similarity to the teacher, and drift of a PPG encoder that is trained jointly."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from accdistill_jax.config.registry import OBJECTIVES
from accdistill_jax.evaluation import embedding_health as healths
from accdistill_jax.evaluation.embedding_health import Health, Similarity
from accdistill_jax.evaluation.retrieval.ranks import unit_rows
from accdistill_jax.objectives.registered import PPG
from accdistill_jax.reproduce.measure import formatting
from accdistill_jax.reproduce.measure.formatting import decimal, mean_and_std, percent, percent_mean_and_std
from accdistill_jax.reproduce.measure.results import Bench, ReportPart, over_seeds
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.plan.variants import MAE_TEACHER
from accdistill_jax.reproduce.report import pictures
from accdistill_jax.reproduce.report.document import Number, Picture, ReportTable, Section

STUDENT, JOINT = "student", "joint"
DRIFTED = (
    0.5  # a PPG side separates minutes less if its rank or variance share is below this share of the frozen teacher's
)


class EncoderHealth(NamedTuple):
    """One encoder with one training seed on the test split.

    Attributes:
        embedding: health of its embeddings.
        ppg: health of the PPG projections that retrieval compares it with; None if there are none.
        alignment: of the two projections; None if there are none.
        teacher_similarity: of its embeddings to the teacher's; None for the teacher itself, and without a teacher.
    """

    embedding: Health
    ppg: Health | None
    alignment: float | None
    teacher_similarity: Similarity | None


def measure_health(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures effective rank, spread, uniformity, alignment and similarity to the teacher; raises alarms for constant outputs."""
    seeds, notes = formatting.measurable_encoders(bench, experiment.variants)
    if len(bench.columns("test").participant) < 2:
        notes.append("Fewer than two test minutes: embeddings of one minute have no spread.")
        seeds = {}
    with threadpool_limits(1):
        health_of = {
            name: [_encoder_health(bench, seeds, name, seed) for seed in seeds_health]
            for name, seeds_health in seeds.items()
        }
    text = _words(bench, health_of)
    tables = (_embedding_table(bench, health_of), _ppg_table(bench, health_of))
    numbers: dict[str, Number] = {}
    for name, seeds_health in health_of.items():
        numbers |= _numbers(f"{experiment.id}/{name}", seeds_health)
    shown = (_picture(bench, health_of),) if health_of else ()
    notes.append(
        "Effective rank: exponential of the entropy of the singular values, after the mean embedding is removed. Variance share: variance "
        "over minutes divided by the mean squared norm; 0 means a constant output. Uniformity: 0 means constant, −4 spread out. "
        "Alignment: mean squared distance of paired unit vectors; 0 means equal, 2 unrelated. CKA is debiased: about 0 for unrelated "
        "embeddings, 1 for equal ones up to rotation and scale. None of these shows that an embedding holds information: an untrained "
        "encoder can look healthy."
    )
    section = Section(
        experiment.id, experiment.title, tuple(text), tuple(t for t in tables if t.rows), shown, tuple(notes)
    )
    return ReportPart(section, numbers)


def _encoder_health(bench: Bench, seeds: Mapping[str, Sequence[int]], name: str, seed: int) -> EncoderHealth:
    arrays = bench.arrays(name, seed)
    embedding, pair = arrays["test/embedding"], bench.pair(name, seed)
    similarity = None
    if name != MAE_TEACHER and MAE_TEACHER in seeds:
        teacher = seed if seed in seeds[MAE_TEACHER] else seeds[MAE_TEACHER][0]
        similarity = healths.linear_cka(bench.arrays(MAE_TEACHER, teacher)["test/embedding"], embedding)
    if pair is None:
        return EncoderHealth(healths.health_of(embedding, None), None, None, similarity)
    accel, ppg = map(unit_rows, pair)
    return EncoderHealth(
        healths.health_of(embedding, accel), healths.health_of(ppg, ppg), healths.alignment(accel, ppg), similarity
    )


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and np.isfinite(value)]


def _similar(seeds_health: Sequence[EncoderHealth]) -> list[float]:
    return _known(
        [health.teacher_similarity.debiased for health in seeds_health if health.teacher_similarity is not None]
    )


def _embedding_table(bench: Bench, health_of: Mapping[str, Sequence[EncoderHealth]]) -> ReportTable:
    rows = [
        (
            bench.variant(name).title,
            str(seeds_health[0].embedding.width),
            mean_and_std([health.embedding.effective_rank_centred for health in seeds_health], 1),
            mean_and_std([health.embedding.effective_rank for health in seeds_health], 1),
            percent_mean_and_std([health.embedding.variance_share for health in seeds_health]),
            str(max(health.embedding.dead_dimensions for health in seeds_health)),
            mean_and_std(_known([health.embedding.uniformity for health in seeds_health])),
            mean_and_std(_similar(seeds_health)),
            _alarms([health.embedding for health in seeds_health]),
        )
        for name, seeds_health in health_of.items()
    ]
    columns = (
        "encoder",
        "width",
        "effective rank",
        "effective rank with the mean",
        "variance share",
        "dead dimensions",
        "uniformity of projections",
        "CKA with the teacher",
        "alarm",
    )
    return ReportTable("Embeddings of test minutes (± over training seeds)", columns, tuple(rows))


def _ppg_table(bench: Bench, health_of: Mapping[str, Sequence[EncoderHealth]]) -> ReportTable:
    rows = []
    for name, seeds_health in health_of.items():
        ppg = [health.ppg for health in seeds_health if health.ppg is not None]
        if ppg:
            rows.append(
                (
                    bench.variant(name).title,
                    "trained jointly" if _trains_ppg(bench, name) else "frozen",
                    str(ppg[0].width),
                    mean_and_std([health.effective_rank_centred for health in ppg], 1),
                    percent_mean_and_std([health.variance_share for health in ppg]),
                    mean_and_std(_known([health.uniformity for health in ppg])),
                    mean_and_std(_known([health.alignment for health in seeds_health])),
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
    return ReportTable(
        "The PPG side: projections that retrieval compares with those of acceleration", columns, tuple(rows)
    )


def _trains_ppg(bench: Bench, name: str) -> bool:
    objective = bench.variant(name).changes.get("student.objective")
    return objective is not None and OBJECTIVES.get(objective).ppg is PPG.TRAINED


def _alarms(seeds_health: Sequence[Health]) -> str:
    return "; ".join(dict.fromkeys(health.alarm for health in seeds_health if health.alarm)) or "none"


def _words(bench: Bench, health_of: Mapping[str, Sequence[EncoderHealth]]) -> list[str]:
    if not health_of:
        return ["Not measured: no encoder has test embeddings of two minutes."]
    sentences = []
    rank = {
        name: over_seeds([health.embedding.effective_rank_centred for health in seeds_health])[0]
        for name, seeds_health in health_of.items()
    }
    most, least = max(rank, key=lambda name: rank[name]), min(rank, key=lambda name: rank[name])
    sentences.append(
        f"The effective rank ranges from {decimal(rank[least], 1)} ({bench.variant(least).title}) to {decimal(rank[most], 1)} "
        f"({bench.variant(most).title})."
    )
    similarity = {
        name: over_seeds(_similar(seeds_health))[0]
        for name, seeds_health in health_of.items()
        if _similar(seeds_health)
    }
    if similarity:
        order = sorted(similarity, key=lambda name: similarity[name], reverse=True)
        ranking = formatting.joined_words(
            [f"{bench.variant(name).title} {decimal(similarity[name])}" for name in order]
        )
        sentences.append(f"Similarity to the teacher (CKA), highest first: {ranking}.")
    alarmed = []
    for name, seeds_health in health_of.items():
        sides = [health.embedding for health in seeds_health]
        sides += [health.ppg for health in seeds_health if health.ppg is not None]
        if (alarms := _alarms(sides)) != "none":
            alarmed.append(f"{bench.variant(name).title}: {alarms}")
    sentences.append(
        "Alarms: " + "; ".join(alarmed) + "." if alarmed else "No encoder has a constant or collapsed output."
    )
    if all(name in health_of and health_of[name][0].ppg is not None for name in (STUDENT, JOINT)):
        sentences.append(_drift(health_of))
    return sentences


def _drift(health_of: Mapping[str, Sequence[EncoderHealth]]) -> str:
    """Compares the PPG side of joint training with the frozen teacher's, in words."""
    rank, share = (
        {name: over_seeds([getattr(health.ppg, measure) for health in health_of[name]])[0] for name in (JOINT, STUDENT)}
        for measure in ("effective_rank_centred", "variance_share")
    )
    text = (
        f"Joint training: the projections of its PPG side have an effective rank of {decimal(rank[JOINT], 1)} and a variance share of "
        f"{percent(share[JOINT])}; the projections of the frozen teacher have {decimal(rank[STUDENT], 1)} and "
        f"{percent(share[STUDENT])}. "
    )
    less = any(of[JOINT] < DRIFTED * of[STUDENT] for of in (rank, share))
    text += "By these measures it separates minutes " + ("less than" if less else "as well as")
    return text + " the frozen teacher. A probe of the PPG side decides the claim on drift."


def _picture(bench: Bench, health_of: Mapping[str, Sequence[EncoderHealth]]) -> Picture:
    titles = {name: bench.variant(name).title for name in health_of}
    measures = {
        "Effective rank of embeddings": {
            n: [health.embedding.effective_rank_centred for health in seeds_health]
            for n, seeds_health in health_of.items()
        },
        "CKA with the teacher": {n: _similar(seeds_health) for n, seeds_health in health_of.items()},
        "Effective rank of the PPG side": {
            n: [health.ppg.effective_rank_centred for health in seeds_health if health.ppg]
            for n, seeds_health in health_of.items()
        },
    }
    drawn = {
        title: {name: over_seeds(values) for name, values in values_of.items() if values}
        for title, values_of in measures.items()
    }
    figure = pictures.bars({title: values_of for title, values_of in drawn.items() if values_of}, titles)
    caption = "Health of the embeddings of test minutes; lines: standard deviation over training seeds."
    return Picture("embedding-health", caption, figure)


def _numbers(prefix: str, seeds_health: Sequence[EncoderHealth]) -> dict[str, Number]:
    ppg = [health.ppg for health in seeds_health if health.ppg is not None]
    values_of = {
        "effective-rank": [health.embedding.effective_rank_centred for health in seeds_health],
        "variance-share": [health.embedding.variance_share for health in seeds_health],
        "cka": _similar(seeds_health),
        "uniformity": _known([health.embedding.uniformity for health in seeds_health]),
        "alignment": _known([health.alignment for health in seeds_health]),
        "ppg-side/effective-rank": _known([health.effective_rank_centred for health in ppg]),
        "ppg-side/variance-share": _known([health.variance_share for health in ppg]),
    }
    return {
        f"{prefix}/{name}": formatting.correlation_number(values)
        if name in ("cka", "uniformity", "alignment")
        else formatting.report_number(values, share=name.endswith("variance-share"))
        for name, values in values_of.items()
        if values
    }
