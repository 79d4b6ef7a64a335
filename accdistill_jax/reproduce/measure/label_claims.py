"""The paper's claims on the student's probes, each with the measured result."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from accdistill_jax.evaluation.embedding_health import singular_value_rank
from accdistill_jax.labels import HEART_RATE
from accdistill_jax.reproduce.measure.formatting import decimal, measurable_encoders, thousands
from accdistill_jax.reproduce.measure.probe_claims import (
    LEAST,
    against,
    collapse,
    increase,
    lower_everywhere,
    naming_baselines,
)
from accdistill_jax.reproduce.measure.probe_scores import Score
from accdistill_jax.reproduce.measure.probing import Probing, ppg_side
from accdistill_jax.reproduce.measure.results import Bench, over_seeds
from accdistill_jax.reproduce.plan import variants as v
from accdistill_jax.reproduce.plan.experiments import LEARNED_BASELINES
from accdistill_jax.reproduce.report.document import Claim, Statement

SUPERVISED = "supervised"
BASELINES = (*LEARNED_BASELINES, SUPERVISED)
BESIDE = ("student-mean", "student-best", "student-long")

LOWER = Statement(
    "student-below-baselines",
    "The student's HR, SDNN and RMSSD errors are at least 23 % to 49 % lower than those of each learned baseline that "
    "has the accelerometer only, at every share of labels from 0.1 % to 100 %",
    "at least 23 % to 49 % lower",
)
COLLAPSE = Statement(
    "supervised-collapse", "Supervised accelerometer encoders collapse at 0.1 % of the labels", "collapse at 0.1 %"
)
NO_AUGMENTATION = Statement("no-augmentation", "Distillation without augmentation has a higher HR error", "+45 %")
JOINT = Statement(
    "joint-training",
    "Training both encoders jointly has a much higher accelerometer HR error",
    "more than 95 % worse",
)
DRIFT = Statement(
    "joint-drift",
    "In joint training the PPG side drifts to trivial solutions",
    "drifts to trivial solutions; the paper gives no number, so the increase of the accelerometer's error is used",
)
SMALLER = Statement(
    "smaller-student",
    "A student with 5x fewer parameters than its teacher still beats the accelerometer-only baselines",
    "5x fewer parameters, still better than the unimodal baselines",
)


class PpgDrift(NamedTuple):
    """The PPG side of joint training, compared with the frozen teacher.

    Attributes:
        ratio: HR error of probes of the joint encoder's PPG projections over that of the teacher's; None if one has no result.
        why: their effective ranks, in words.
    """

    ratio: Score | None
    why: str


def label_claims(bench: Bench, probing: Probing, titles: Mapping[str, str], drift: PpgDrift) -> tuple[Claim, ...]:
    """Judges the claims on errors by share of labels, on augmentation, on joint training and on compression.

    Args:
        bench: gives the sizes of the encoders.
        probing: finished probes of all encoders; those of supervised encoders are called "supervised".
        titles: of the encoders.
        drift: from `ppg_drift`.
    """
    scores, targets = probing.scores, [target for target in v.TARGETS if target in probing.targets]
    # A target without labels counts as missing at every fraction. A fraction that draws the same labels as a smaller fraction is skipped.
    fractions = {t: probing.distinct(t) if t in targets else v.FRACTIONS for t in v.TARGETS}

    # a preset may leave a baseline out; one that failed is missing
    baselines = [name for name in BASELINES if name == SUPERVISED or bench.jobs(name)]
    known = {variant.name: variant.title for variant in v.MAIN} | dict(titles)
    named, left_out = (
        [known[name] for name in BASELINES if (name in baselines) == planned and name in known]
        for planned in (True, False)
    )

    def compared(name: str, title: str):
        return against(scores, name, title, baselines, fractions=fractions)

    student = compared("student", "the distilled student")
    small = compared("student-small", "the smaller student")
    beside = [compared(name, titles[name]) for name in BESIDE if name in titles]
    plain = scores.ratio(HEART_RATE, 1.0, "no-augmentation", "student") if targets else None
    joint = scores.ratio(HEART_RATE, 1.0, "joint", "student") if targets else None
    smaller = lower_everywhere(small, scores, titles, statement=SMALLER)
    return (
        naming_baselines(
            lower_everywhere(student, scores, titles, statement=LOWER, least=LEAST, beside=beside), named, left_out
        ),
        collapse(scores, SUPERVISED, targets, few=v.FRACTIONS[0], statement=COLLAPSE),
        increase(
            plain,
            paper_increase=0.45,
            statement=NO_AUGMENTATION,
            of="HR error without augmentation divided by that with augmentation",
        ),
        increase(
            joint,
            paper_increase=0.95,
            statement=JOINT,
            of="HR error of the joint encoder divided by the student's",
        ),
        increase(
            drift.ratio,
            paper_increase=0.95,
            statement=DRIFT,
            of="HR error of a probe of the joint encoder's PPG projections divided by that of a probe of the frozen teacher's (both "
            "probes fitted on validation participants)",
            why=drift.why,
        ),
        smaller if smaller.holds == "not measured" else smaller._replace(measured=f"{_sizes(bench)}{smaller.measured}"),
    )


def ppg_drift(bench: Bench) -> PpgDrift:
    """Compares probes of the joint encoder's PPG projections with probes of the frozen teacher's."""
    seeds_of, _ = measurable_encoders(bench, ("joint", "student"))
    probing = Probing(bench, targets=(HEART_RATE,))
    ranks = {}
    for name, seeds in seeds_of.items():
        sides = {seed: side for seed in seeds if (side := ppg_side(bench, name, seed)) is not None}
        for seed, side in sides.items():
            probing.features(name, seed, side)
        if sides:
            of_seeds = [singular_value_rank(side["test"].embedding, centred=True) for side in sides.values()]
            ranks[name] = over_seeds(of_seeds)[0]
    ratio = probing.scores.ratio(HEART_RATE, 1.0, "joint", "student") if probing.targets else None
    why = ""
    if len(ranks) == 2:
        why = (
            f"The effective rank of the PPG projections is {decimal(ranks['joint'], 1)} in joint training and "
            f"{decimal(ranks['student'], 1)} with the frozen teacher."
        )
    return PpgDrift(ratio, why)


def _sizes(bench: Bench) -> str:
    """States the parameters of the small student and of its teacher."""
    seeds = {name: bench.seeds(name) for name in ("student-small", v.MAE_TEACHER)}
    if not all(seeds.values()):
        return ""
    small, teacher = (bench.facts(name, seeds[name][0]).get("parameters") for name in seeds)
    if not small or not teacher:
        return ""
    return f"{thousands(small)} parameters, {np.round(teacher / small, 1):g}x fewer than the teacher's; "
