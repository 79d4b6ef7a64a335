"""Measured by labels of the minute: probes by share of the labels, and agreement with the reference."""

from collections.abc import Mapping, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.probing.agreement import Agreement, bland_altman
from accdistill_jax.evaluation.probing.boosting import gradient_boosting
from accdistill_jax.evaluation.probing.probes import Probe, TargetResult
from accdistill_jax.evaluation.report.comparison_plots import bland_altman_panels
from accdistill_jax.evaluation.report.style import capital
from accdistill_jax.labels import LABELS
from accdistill_jax.reproduce.measure.label_claims import SUPERVISED, label_claims
from accdistill_jax.reproduce.measure.probe_scores import Score, Scores
from accdistill_jax.reproduce.measure.probing import CONSTANTS, LabelCounts, Probing
from accdistill_jax.reproduce.measure.results import Bench, ReportPart
from accdistill_jax.reproduce.measure.wording import (
    NONE,
    decimal,
    mean_and_std,
    measurable_encoders,
    ranged,
    report_number,
    signed,
    thousands,
)
from accdistill_jax.reproduce.plan import variants as v
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.plan.scales import VALIDATIONS
from accdistill_jax.reproduce.report.document import Number, Picture, ReportTable, Section
from accdistill_jax.reproduce.report.probe_figures import by_fraction
from accdistill_jax.runtime.progress import format_seconds

CLASSICAL, RIDGE, BOOSTING = "classical", "classical-ridge", "classical-boosting"
STUDENT = "student"
OWN_TITLES = {
    RIDGE: "hand-made features, ridge",
    BOOSTING: "hand-made features, gradient boosting",
    SUPERVISED: "acceleration, supervised on the target",
    "mean": "mean of the labels",
    "median": "median of the labels",
}


def measure_label_fractions(bench: Bench, experiment: Experiment) -> ReportPart:
    """Errors of all encoders by share of the labels, the student's over each other's, and what the paper claims of them."""
    with threadpool_limits(1):  # more threads gain nothing on so little, and cost much on a busy machine
        probing, names, notes = _probe_all(bench, experiment)
        scores, titles = probing.scores, OWN_TITLES | {n: bench.variant(n).title for n in names if n not in OWN_TITLES}
        claims = label_claims(bench, probing, titles)
    tables = [_errors(scores, target, names, titles) for target in probing.targets]
    if STUDENT in names:
        tables += [
            _against_student(scores, target, names, titles, by=by)
            for by in ("ratio", "difference")
            for target in probing.targets
        ]
    tables += [_label_counts(probing.labels), _training(bench, names, titles)]
    caption = (
        "Mean absolute error by share of the labels (both axes logarithmic): means over training seeds, bars are their standard "
        "deviation. Encoders that are only in the tables: without augmentation, joint, untrained, ridge on hand-made features."
    )
    text = (
        f"Linear probes of frozen encoders on {', '.join(f'{100 * f:g} %' for f in v.FRACTIONS)} of the labelled training minutes "
        "(participants kept together, drawn by the training seed, for supervised training the same ones), judged on all test "
        "minutes. Cells: mean over training seeds ± their standard deviation [95 % interval over test participants].",
        "Seeds are combined within each draw of test participants: the error is averaged over the seeds first, a ratio is the "
        "quotient of two such averages over the seeds that both encoders have, and the interval is that of the average.",
        "The strength of the ridge and the loss of the boosting are chosen on all labelled validation minutes at every fraction, for "
        f"all encoders alike. Supervised training keeps the best of {VALIDATIONS} steps, judged by labelled validation minutes too: by "
        f"{_validation(bench)}.",
    )
    pictures = (
        (Picture("label-fractions", caption, by_fraction(scores, titles, v.FRACTIONS)),) if probing.targets else ()
    )
    section = Section(experiment.id, experiment.title, text, tuple(tables), pictures, (*notes, *probing.notes))
    return ReportPart(section, _numbers(experiment.id, scores, names), claims)


def _validation(bench: Bench) -> str:
    """Number of validation minutes that judge a step of supervised training."""
    orders = [
        job.order["config"]["student"] for job in bench.plan.jobs if job.order.get("variant", "").startswith(SUPERVISED)
    ]
    most = [own["train"]["validation_batches"] * own["train"]["batch_size"] for own in orders]
    return f"at most {thousands(max(most))}" if most else "none here"


def _probe_all(bench: Bench, experiment: Experiment) -> tuple[Probing, list[str], list[str]]:
    found, notes = measurable_encoders(bench, experiment.variants)
    probing = Probing(bench, targets=LABELS, fractions=v.FRACTIONS)
    names = []
    for name, seeds in found.items():
        if bench.variant(name).rows == "none":
            continue
        if bench.variant(name).kind == CLASSICAL:
            probe_classical(bench, probing, name, seeds[0])
            names += [RIDGE, BOOSTING]
        else:
            probing.encoder(name, seeds)
            names.append(name)
    for target in v.TARGETS:
        for fraction in v.FRACTIONS:
            name = v.supervised_variant(target, fraction).name
            for seed in found.get(name, ()):
                prediction = bench.arrays(name, seed)["test/prediction"]
                probing.prediction(SUPERVISED, seed, target, fraction, prediction)
    if any(probing.scores.seeds(t, f, SUPERVISED) for t in probing.targets for f in v.FRACTIONS):
        names.append(SUPERVISED)
    return probing, [*names, *CONSTANTS], notes


def probe_classical(bench: Bench, probing: Probing, name: str, seed: int) -> None:
    """Probes hand-made features with ridge and trees: the same for all training seeds but for the choice of labels."""
    splits = bench.splits(name, seed)
    for label_seed in range(bench.plan.seeds):
        for fraction in v.FRACTIONS:
            if fraction == 1.0 and label_seed:
                for one in (RIDGE, BOOSTING):
                    probing.repeat(one, 0, label_seed, fraction)
            else:
                probing.features(RIDGE, label_seed, splits, fractions=(fraction,), others={BOOSTING: gradient_boosting})


def _there(scores: Scores, target: str, fraction: float, names: list[str]) -> list[str]:
    return [name for name in names if scores.seeds(target, fraction, name)]


def _errors(scores: Scores, target: str, names: list[str], titles: dict[str, str]) -> ReportTable:
    label, unit, *_ = LABELS[target]
    rows = []
    for name in names:
        errors = [scores.error(target, fraction, name) for fraction in v.FRACTIONS]
        if any(errors):
            r = [scores.correlation(target, 1.0, name, within=within) for within in (False, True)]
            rows.append((titles[name], *map(_cell, errors), *(ranged(one.estimate) if one else NONE for one in r)))
    return ReportTable(
        f"{capital(label)}: mean absolute error ({unit}) by share of the labels; correlation (all minutes, and after each "
        "participant's mean is removed) with all labels",
        ("encoder", *(f"{100 * f:g} %" for f in v.FRACTIONS), "r", "r within"),
        tuple(rows),
    )


def _cell(score: Score | None) -> str:
    if score is None:
        return NONE
    ends = score.estimate
    return mean_and_std(score.seeds) + (f" [{decimal(ends.low)}, {decimal(ends.high)}]" if ends.has_interval else "")


def _against_student(scores: Scores, target: str, names: list[str], titles: dict[str, str], *, by: str) -> ReportTable:
    """The student's errors compared in pairs with each other encoder's, by their "ratio" or "difference"."""
    label, unit, *_ = LABELS[target]
    compare, show = {"ratio": (scores.ratio, ranged), "difference": (scores.difference, signed)}[by]
    rows = []
    for name in names:
        found = [compare(target, fraction, STUDENT, name) for fraction in v.FRACTIONS]
        if name != STUDENT and any(found):
            rows.append((titles[name], *(show(one.estimate) if one else NONE for one in found)))
    words = {"ratio": ("divided by", "", 1), "difference": ("less", f" ({unit})", 0)}[by]
    return ReportTable(
        f"{capital(label)}: error of the {titles[STUDENT]} {words[0]} that of the encoder in the row{words[1]}, in pairs on the same test "
        f"participants (below {words[2]}: the student is better)",
        ("compared with", *(f"{100 * f:g} %" for f in v.FRACTIONS)),
        tuple(rows),
    )


def _label_counts(labels: dict[tuple[str, float], LabelCounts]) -> ReportTable:
    targets = dict.fromkeys(target for target, _ in labels)
    rows = [
        (
            LABELS[t].words,
            *(
                f"{thousands(own.segments)} of {own.participants}" if (own := labels.get((t, f))) else NONE
                for f in v.FRACTIONS
            ),
        )
        for t in targets
    ]
    return ReportTable(
        "Labelled training minutes, and the participants they are of (first seed)",
        ("target", *(f"{100 * f:g} %" for f in v.FRACTIONS)),
        tuple(rows),
    )


def _training(bench: Bench, names: Sequence[str], titles: Mapping[str, str]) -> ReportTable:
    """Cost of each encoder: steps, minutes presented, time."""
    rows = []
    for name in names:
        seeds = bench.seeds(name)
        own = bench.facts(name, seeds[0]) if seeds else {}
        if own.get("steps"):
            times = [bench.facts(name, seed).get("train_s", 0.0) for seed in seeds]
            rows.append(
                (
                    titles[name],
                    thousands(own["parameters"]),
                    thousands(own["steps"]),
                    thousands(own["batch_size"]),
                    thousands(own["steps"] * own["batch_size"]),
                    format_seconds(sum(times) / len(times)),
                )
            )
    columns = ("encoder", "parameters", "steps", "batch", "minutes presented", "time in the loop")
    return ReportTable(
        "What training took: time is the mean over training seeds, as it ran, with another run beside it where there were "
        "several workers, and without compiling",
        columns,
        tuple(rows),
    )


def _numbers(section: str, scores: Scores, names: list[str]) -> dict[str, Number]:
    found = {}
    for target in scores.truth:
        unit = LABELS[target].unit
        for fraction in v.FRACTIONS:
            for name in _there(scores, target, fraction, names):
                base = f"{section}/{target}/{fraction:g}/{name}"
                error = scores.error(target, fraction, name)
                found[f"{base}/mae"] = report_number(error.seeds, unit=unit, estimate=error.estimate)
                if fraction == 1.0 and (r := scores.correlation(target, fraction, name)) is not None:
                    found[f"{base}/r"] = report_number(r.seeds, estimate=r.estimate, share=True)
                ratio = None if name == STUDENT else scores.ratio(target, fraction, STUDENT, name)
                if ratio is not None:
                    found[f"{base}/student-over-this"] = report_number(
                        ratio.seeds, value=ratio.value, estimate=ratio.estimate
                    )
    return found


def measure_agreement(bench: Bench, experiment: Experiment) -> ReportPart:
    """Bias and limits of agreement of probes on all labels, for each encoder of the experiment."""
    found, notes = measurable_encoders(bench, experiment.variants)
    titles = {name: bench.variant(name).title for name in found}
    tables, pictures, numbers = [], [], {}
    with threadpool_limits(1):
        probing = Probing(bench, targets=v.TARGETS)
        for name, seeds in found.items():
            probing.encoder(name, seeds)
        for target in probing.targets:
            own = {
                name: _agreements(probing.scores, target, name)
                for name in found
                if probing.scores.seeds(target, 1.0, name)
            }
            tables.append(_agreement_table(target, own, titles))
            pictures += _agreement_picture(probing.scores, target, own, titles)
            for name, several in own.items():
                numbers |= _agreement_numbers(f"{experiment.id}/{target}/{name}", several, LABELS[target].unit)
    text = (
        "Bland-Altman analysis of the linear probes on all labels, prediction minus reference, test participants. The limits hold 95 % "
        "of the differences of one minute of a new participant: they count the spread within a participant and that between "
        "participants (Bland and Altman 2007, repeated measurements, true value varying). Means over training seeds; the ends of "
        "an interval are means of the seeds' ends. A negative slope means that the probe shrinks towards the mean.",
    )
    return ReportPart(
        Section(experiment.id, experiment.title, text, tuple(tables), tuple(pictures), (*notes, *probing.notes)),
        numbers,
    )


def _agreements(scores: Scores, target: str, name: str) -> dict[int, Agreement]:
    truth = scores.truth[target]
    return {
        seed: bland_altman(truth.label, scores.prediction(target, 1.0, name, seed), truth.participant)
        for seed in scores.seeds(target, 1.0, name)
    }


def _agreement_table(target: str, own: dict[str, dict[int, Agreement]], titles: dict[str, str]) -> ReportTable:
    label, unit, *_ = LABELS[target]
    rows = []
    for name, several in own.items():
        cells = [
            _mean_estimate([getattr(one, what) for one in several.values()])
            for what in ("bias", "low", "high", "slope")
        ]
        parts = [[getattr(one, what) for one in several.values()] for what in ("sd_within", "sd_between")]
        parts = [decimal(float(np.mean(values))) if None not in values else NONE for values in parts]
        rows.append((titles[name], *map(ranged, cells[:3]), *parts, ranged(cells[3])))
    return ReportTable(
        f"{capital(label)}: bias, 95 % limits of agreement, standard deviation within and between participants ({unit}), slope",
        ("encoder", "bias", "lower limit", "upper limit", "SD within", "SD between", "slope"),
        tuple(rows),
    )


def _mean_estimate(estimates: list[Estimate]) -> Estimate:
    ends = [[getattr(one, what) for one in estimates] for what in ("value", "low", "high")]
    return Estimate(*(None if None in values else float(np.mean(values)) for values in ends))


def _agreement_picture(
    scores: Scores, target: str, own: dict[str, dict[int, Agreement]], titles: dict[str, str]
) -> list[Picture]:
    first = {name: min(several) for name, several in own.items()}
    probes = {
        titles[name]: Probe(
            titles[name],
            None,
            *scores.estimates(target, 1.0, name, seed),
            prediction=scores.prediction(target, 1.0, name, seed),
        )
        for name, seed in first.items()
    }
    truth = scores.truth[target]
    people = len(np.unique(truth.participant))
    result = TargetResult(
        target, "", 0, 0, len(truth.label), people, probes=probes, truth=truth.label, participant=truth.participant
    )
    figure = bland_altman_panels(result, {titles[name]: own[name][seed] for name, seed in first.items()}, list(probes))
    caption = (
        f"{capital(LABELS[target].words)}: difference of prediction and reference against their mean, of the first training seed; lines are "
        "the bias and the limits of agreement, bands their 95 % intervals over participants."
    )
    return [] if figure is None else [Picture(f"agreement-{target.split('_')[0]}", caption, figure)]


def _agreement_numbers(base: str, several: dict[int, Agreement], unit: str) -> dict[str, Number]:
    """A bias is near 0, so that what it may differ by is a share of the standard deviation of the differences."""
    scale = float(np.mean([one.sd.value for one in several.values()]))
    found = {}
    for what in ("bias", "low", "high", "sd"):
        estimates = [getattr(one, what) for one in several.values()]
        values = [one.value for one in estimates]
        found[f"{base}/{what}"] = report_number(values, unit=unit, estimate=_mean_estimate(estimates), scale=scale)
    return found
