"""The paper's claims on the student's probes beside the measured results."""

from collections.abc import Mapping

import numpy as np

from accdistill_jax.evaluation.embedding_health import singular_value_rank
from accdistill_jax.labels import HEART_RATE
from accdistill_jax.reproduce.measure.probe_claims import LEAST, against, collapse, increase, lower_everywhere
from accdistill_jax.reproduce.measure.probing import Probing, ppg_side
from accdistill_jax.reproduce.measure.results import Bench, over_seeds
from accdistill_jax.reproduce.measure.wording import decimal, measurable_encoders, thousands
from accdistill_jax.reproduce.plan import variants as v
from accdistill_jax.reproduce.plan.experiments import LEARNED_BASELINES
from accdistill_jax.reproduce.report.document import Claim

SUPERVISED = "supervised"
BASELINES = (*LEARNED_BASELINES, SUPERVISED)


def label_claims(bench: Bench, probing: Probing, titles: Mapping[str, str]) -> tuple[Claim, ...]:
    """The claims on errors by share of labels, on augmentation, on joint training and on compression.

    Args:
        bench: with the PPG sides of the joint encoder and of the student, which are probed here.
        probing: done for all encoders, supervised ones as "supervised".
        titles: of the encoders.
    """
    scores, targets = probing.scores, [target for target in v.TARGETS if target in probing.targets]
    # a target that nobody knows lacks everywhere; a fraction that takes the same labels as a smaller one says nothing more
    options = {
        "baselines": BASELINES,
        "fractions": {t: probing.distinct(t) if t in targets else v.FRACTIONS for t in v.TARGETS},
    }
    student = against(scores, "student", "the distilled student", **options)
    small = against(scores, "student-small", "the smaller student", **options)
    beside = [
        against(scores, name, titles[name], **options) for name in ("student-best", "student-long") if name in titles
    ]
    plain = scores.ratio(HEART_RATE, 1.0, "no-augmentation", "student") if targets else None
    joint = scores.ratio(HEART_RATE, 1.0, "joint", "student") if targets else None
    smaller = lower_everywhere(
        small,
        scores,
        titles,
        claim="A student with 5x fewer parameters than its teacher still beats the accelerometer-only baselines",
        paper="5x fewer parameters, still better than the unimodal baselines",
    )
    return (
        lower_everywhere(
            student,
            scores,
            titles,
            least=LEAST,
            beside=beside,
            claim="The student's HR, SDNN and RMSSD errors are at least 23 % to 49 % lower than those of each learned baseline that "
            "has the accelerometer only, at every share of labels from 0.1 % to 100 %",
            paper="at least 23 % to 49 % lower",
        ),
        collapse(
            scores,
            SUPERVISED,
            targets,
            few=v.FRACTIONS[0],
            claim="Supervised accelerometer encoders collapse at 0.1 % of the labels",
            paper="collapse at 0.1 %",
        ),
        increase(
            plain,
            paper_increase=0.45,
            claim="Distillation without augmentation has a higher HR error",
            paper="+45 %",
            of="HR error without augmentation over that with it",
            noise=plain and plain.std,
        ),
        increase(
            joint,
            paper_increase=0.95,
            claim="Training both encoders jointly has a much higher accelerometer HR error",
            paper="more than 95 % worse",
            of="HR error of the joint encoder over the student's",
            noise=joint and joint.std,
        ),
        _drift(bench),
        smaller if smaller.holds == "not measured" else smaller._replace(measured=f"{_sizes(bench)}{smaller.measured}"),
    )


def _drift(bench: Bench) -> Claim:
    """The PPG projections of the joint encoder against those of the frozen teacher, by what a probe reads from them."""
    found, _ = measurable_encoders(bench, ("joint", "student"))
    probing = Probing(bench, targets=(HEART_RATE,))
    ranks = {}
    for name, seeds in found.items():
        sides = {seed: side for seed in seeds if (side := ppg_side(bench, name, seed)) is not None}
        for seed, side in sides.items():
            probing.features(name, seed, side)
        if sides:
            ranks[name] = over_seeds(
                [singular_value_rank(side["test"].embedding, centred=True) for side in sides.values()]
            )[0]
    ratio = probing.scores.ratio(HEART_RATE, 1.0, "joint", "student") if probing.targets else None
    why = ""
    if len(ranks) == 2:
        why = (
            f"The effective rank of the PPG projections is {decimal(ranks['joint'], 1)} in joint training and "
            f"{decimal(ranks['student'], 1)} with the frozen teacher."
        )
    return increase(
        ratio,
        paper_increase=0.95,
        claim="In joint training the PPG side drifts to trivial solutions",
        paper="drifts to trivial solutions; no number, judged here as the accelerometer's error is",
        of="HR error read from the joint encoder's PPG projections over that read from the frozen teacher's (both probes fitted on "
        "validation participants)",
        noise=ratio and ratio.std,
        why=why,
    )


def _sizes(bench: Bench) -> str:
    """Parameters of the small student beside its teacher's."""
    seeds = {name: bench.seeds(name) for name in ("student-small", v.MAE_TEACHER)}
    if not all(seeds.values()):
        return ""
    small, teacher = (bench.facts(name, own[0]).get("parameters") for name, own in seeds.items())
    if not small or not teacher:
        return ""
    return f"{thousands(small)} parameters, {np.round(teacher / small, 1):g}x fewer than the teacher's; "
