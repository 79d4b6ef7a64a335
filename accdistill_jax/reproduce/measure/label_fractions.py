"""Measures probes by share of the labels, and their agreement with the reference."""

from collections.abc import Mapping, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.probing.agreement import Agreement, bland_altman
from accdistill_jax.evaluation.probing.boosting import gradient_boosting
from accdistill_jax.evaluation.probing.probes import OWN_MEAN, Probe, TargetResult
from accdistill_jax.evaluation.report.comparison_plots import bland_altman_panels
from accdistill_jax.evaluation.report.style import capital
from accdistill_jax.labels import HEART_RATE, LABELS
from accdistill_jax.reproduce.measure.formatting import (
    NONE,
    correlation_number,
    decimal,
    mean_and_std,
    measurable_encoders,
    ranged,
    report_number,
    score_number,
    signed,
    thousands,
)
from accdistill_jax.reproduce.measure.label_claims import SUPERVISED, label_claims, ppg_drift
from accdistill_jax.reproduce.measure.probe_scores import Score, Scores
from accdistill_jax.reproduce.measure.probing import CONSTANTS, LabelCounts, Probing
from accdistill_jax.reproduce.measure.results import Bench, ReportPart
from accdistill_jax.reproduce.plan import variants as v
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.plan.scales import VALIDATIONS
from accdistill_jax.reproduce.report.document import Number, Picture, ReportTable, Section
from accdistill_jax.reproduce.report.probe_figures import by_fraction
from accdistill_jax.runtime.progress import format_seconds

CLASSICAL, RIDGE, BOOSTING = "classical", "classical-ridge", "classical-boosting"
STUDENT = "student"
PROBE_TITLES = {
    RIDGE: "hand-made features, ridge",
    BOOSTING: "hand-made features, gradient boosting",
    SUPERVISED: "acceleration, supervised on the target",
    "mean": "mean of the labels",
    "median": "median of the labels",
    OWN_MEAN: "mean of the person's other minutes (needs reference labels of the person)",
}


def measure_label_fractions(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures the errors of all encoders by share of the labels, compares the student with each, and judges the paper's claims."""
    with threadpool_limits(1):  # the problems are small: more threads gain nothing, and cost much on a busy machine
        probing, names, notes = _probe_all(bench, experiment)
        scores, titles = (
            probing.scores,
            PROBE_TITLES | {n: bench.variant(n).title for n in names if n not in PROBE_TITLES},
        )
        drift = ppg_drift(bench)
        claims = label_claims(bench, probing, titles, drift)
    tables = [_errors(scores, target, [*names, OWN_MEAN], titles) for target in probing.targets]
    if STUDENT in names:
        tables += [
            _against_student(scores, target, names, titles, by=by)
            for by in ("ratio", "difference")
            for target in probing.targets
        ]
    tables += [_label_counts(probing.labels), _training(bench, names, titles)]
    caption = (
        "Mean absolute error by share of the labels (both axes logarithmic): means over training seeds, bars are their standard "
        "deviation. Only in the tables: the encoders without augmentation, joint and untrained, and ridge on hand-made features."
    )
    text = (
        f"Linear probes of frozen encoders on {', '.join(f'{100 * f:g} %' for f in v.FRACTIONS)} of the labelled training minutes "
        "(whole participants, drawn by the training seed; supervised training uses the same ones), tested on all test "
        "minutes. Cells: mean over training seeds ± their standard deviation [95 % interval over test participants].",
        "The error of each draw of test participants is averaged over the seeds first. A ratio is the quotient of two such averages, over "
        "the seeds that both encoders have. An interval is that of the average.",
        "At every fraction the strength of the ridge and the loss of the boosting are chosen on all labelled validation minutes, for all "
        "encoders alike. Validation labels are not subsampled. Supervised training keeps the best of "
        f"{VALIDATIONS} steps, chosen on {_validation(bench)} labelled validation minutes.",
    )
    pictures = (
        (Picture("label-fractions", caption, by_fraction(scores, titles, {share: share for share in v.FRACTIONS})),)
        if probing.targets
        else ()
    )
    section = Section(experiment.id, experiment.title, text, tuple(tables), pictures, (*notes, *probing.notes))
    numbers = _numbers(experiment.id, scores, names)
    if drift.ratio is not None:
        numbers[f"{experiment.id}/{HEART_RATE}/1/joint/ppg-side-over-frozen"] = score_number(drift.ratio)
    return ReportPart(section, numbers, claims)


def _validation(bench: Bench) -> str:
    """Number of validation minutes that judge a step of supervised training, in words."""
    orders = [
        job.order["config"]["student"] for job in bench.plan.jobs if job.order.get("variant", "").startswith(SUPERVISED)
    ]
    minutes = [student["train"]["validation_batches"] * student["train"]["batch_size"] for student in orders]
    return f"at most {thousands(max(minutes))}" if minutes else "no"


def _probe_all(bench: Bench, experiment: Experiment) -> tuple[Probing, list[str], list[str]]:
    seeds_of, notes = measurable_encoders(bench, experiment.variants)
    probing = Probing(bench, targets=tuple(LABELS), fractions=v.FRACTIONS)
    names = []
    for name, seeds in seeds_of.items():
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
            for seed in seeds_of.get(name, ()):
                prediction = bench.arrays(name, seed)["test/prediction"]
                probing.prediction(SUPERVISED, seed, target, fraction, prediction)
    if any(probing.scores.seeds(t, f, SUPERVISED) for t in probing.targets for f in v.FRACTIONS):
        names.append(SUPERVISED)
    return probing, [*names, *CONSTANTS], notes


def probe_classical(bench: Bench, probing: Probing, name: str, seed: int) -> None:
    """Fits ridge and boosting on hand-made features; only the draw of labels depends on the training seed."""
    splits = bench.splits(name, seed)
    for label_seed in range(bench.plan.seeds):
        for fraction in v.FRACTIONS:
            if fraction == 1.0 and label_seed:
                for regressor in (RIDGE, BOOSTING):
                    probing.repeat(regressor, 0, label_seed, fraction)
            else:
                probing.features(RIDGE, label_seed, splits, fractions=(fraction,), others={BOOSTING: gradient_boosting})


def _with_predictions(scores: Scores, target: str, fraction: float, names: list[str]) -> list[str]:
    return [name for name in names if scores.seeds(target, fraction, name)]


def _errors(scores: Scores, target: str, names: list[str], titles: dict[str, str]) -> ReportTable:
    label, unit, *_ = LABELS[target]
    rows = []
    for name in names:
        errors = [scores.error(target, fraction, name) for fraction in v.FRACTIONS]
        if any(errors):
            # a person's other minutes fall where the minute rises: -1 within a person by construction
            ways = (False,) if name == OWN_MEAN else (False, True)
            r = [scores.correlation(target, 1.0, name, within=within) for within in ways]
            r += [None] * (2 - len(r))
            rows.append(
                (titles[name], *map(_cell, errors), *(ranged(score.estimate) if score else NONE for score in r))
            )
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
    """Compares the student's error with that of each other encoder, by their "ratio" or "difference"."""
    label, unit, *_ = LABELS[target]
    compare, show = {"ratio": (scores.ratio, ranged), "difference": (scores.difference, signed)}[by]
    rows = []
    for name in names:
        scores_of = [compare(target, fraction, STUDENT, name) for fraction in v.FRACTIONS]
        if name != STUDENT and any(scores_of):
            rows.append((titles[name], *(show(score.estimate) if score else NONE for score in scores_of)))
    words = {"ratio": ("divided by", "", 1), "difference": ("minus", f" ({unit})", 0)}[by]
    return ReportTable(
        f"{capital(label)}: error of the {titles[STUDENT]} {words[0]} that of the encoder in the row{words[1]}, on the same test "
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
                f"{thousands(size.segments)} from {size.participants}" if (size := labels.get((t, f))) else NONE
                for f in v.FRACTIONS
            ),
        )
        for t in targets
    ]
    return ReportTable(
        "Number of labelled training minutes, and of participants they are from (first seed)",
        ("target", *(f"{100 * f:g} %" for f in v.FRACTIONS)),
        tuple(rows),
    )


def _training(bench: Bench, names: Sequence[str], titles: Mapping[str, str]) -> ReportTable:
    """Makes the table of training costs: steps, minutes, time."""
    rows = []
    for name in names:
        seeds = bench.seeds(name)
        facts = bench.facts(name, seeds[0]) if seeds else {}
        if facts.get("steps"):
            times = [bench.facts(name, seed).get("train_s", 0.0) for seed in seeds]
            rows.append(
                (
                    titles[name],
                    thousands(facts["parameters"]),
                    thousands(facts["steps"]),
                    thousands(facts["batch_size"]),
                    thousands(facts["steps"] * facts["batch_size"]),
                    format_seconds(sum(times) / len(times)),
                )
            )
    columns = (
        "encoder",
        "parameters",
        "steps",
        "batch",
        "training minutes seen (with repeats)",
        "time in the training loop",
    )
    return ReportTable(
        "Cost of training. Time is the mean over training seeds, without compilation; other runs may have used the same machine at "
        "the same time",
        columns,
        tuple(rows),
    )


def _numbers(section: str, scores: Scores, names: list[str]) -> dict[str, Number]:
    numbers = {}
    for target in scores.truth:
        unit = LABELS[target].unit
        for fraction in v.FRACTIONS:
            for name in _with_predictions(scores, target, fraction, names):
                base = f"{section}/{target}/{fraction:g}/{name}"
                if (error := scores.error(target, fraction, name)) is not None:
                    numbers[f"{base}/mae"] = score_number(error, unit=unit)
                if fraction == 1.0 and (r := scores.correlation(target, fraction, name)) is not None:
                    numbers[f"{base}/r"] = correlation_number(r.seeds, estimate=r.estimate)
                ratio = None if name == STUDENT else scores.ratio(target, fraction, STUDENT, name)
                if ratio is not None:
                    numbers[f"{base}/student-over-this"] = score_number(ratio)
    return numbers


def measure_agreement(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures bias and limits of agreement of probes on all labels, for each encoder of the experiment."""
    seeds_of, notes = measurable_encoders(bench, experiment.variants)
    titles = {name: bench.variant(name).title for name in seeds_of}
    tables, pictures, numbers = [], [], {}
    with threadpool_limits(1):
        probing = Probing(bench, targets=v.TARGETS)
        for name, seeds in seeds_of.items():
            probing.encoder(name, seeds)
        for target in probing.targets:
            agreements = {
                name: _agreements(probing.scores, target, name)
                for name in seeds_of
                if probing.scores.seeds(target, 1.0, name)
            }
            tables.append(_agreement_table(target, agreements, titles))
            pictures += _agreement_picture(probing.scores, target, agreements, titles)
            for name, several in agreements.items():
                numbers |= _agreement_numbers(f"{experiment.id}/{target}/{name}", several, LABELS[target].unit)
    text = (
        "Bland-Altman analysis of the linear probes on all labels: prediction minus reference, for test participants. The limits contain "
        "95 % of the differences for one minute of a new participant: they include the spread within participants and between "
        "participants (Bland and Altman 2007, repeated measurements with a varying true value). Values are means over training seeds; "
        "the ends of an interval are means of the seeds' ends. A negative slope means that the probe shrinks towards the mean.",
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


def _agreement_table(target: str, agreements: dict[str, dict[int, Agreement]], titles: dict[str, str]) -> ReportTable:
    label, unit, *_ = LABELS[target]
    rows = []
    for name, several in agreements.items():
        cells = [
            _mean_estimate([getattr(agreement, part) for agreement in several.values()])
            for part in ("bias", "low", "high", "slope")
        ]
        parts = [[getattr(agreement, part) for agreement in several.values()] for part in ("sd_within", "sd_between")]
        parts = [decimal(float(np.mean(values))) if None not in values else NONE for values in parts]
        rows.append((titles[name], *map(ranged, cells[:3]), *parts, ranged(cells[3])))
    return ReportTable(
        f"{capital(label)}: bias, 95 % limits of agreement, standard deviation within and between participants ({unit}), slope",
        ("encoder", "bias", "lower limit", "upper limit", "SD within", "SD between", "slope"),
        tuple(rows),
    )


def _mean_estimate(estimates: list[Estimate]) -> Estimate:
    ends = [[getattr(estimate, end) for estimate in estimates] for end in ("value", "low", "high")]
    return Estimate(*(None if None in values else float(np.mean(values)) for values in ends))


def _agreement_picture(
    scores: Scores, target: str, agreements: dict[str, dict[int, Agreement]], titles: dict[str, str]
) -> list[Picture]:
    first = {name: min(several) for name, several in agreements.items()}
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
    figure = bland_altman_panels(
        result, {titles[name]: agreements[name][seed] for name, seed in first.items()}, list(probes)
    )
    caption = (
        f"{capital(LABELS[target].words)}: prediction minus reference against their mean, first training seed. Lines show "
        "the bias and the limits of agreement, bands their 95 % intervals over participants."
    )
    return [] if figure is None else [Picture(f"agreement-{target.split('_')[0]}", caption, figure)]


def _agreement_numbers(base: str, several: dict[int, Agreement], unit: str) -> dict[str, Number]:
    """Makes the numbers. A bias is near 0, so tolerances are a share of the standard deviation of the differences."""
    scale = float(np.mean([agreement.sd.value or 0.0 for agreement in several.values()]))
    numbers = {}
    for part in ("bias", "low", "high", "sd"):
        estimates = [getattr(agreement, part) for agreement in several.values()]
        values = [estimate.value for estimate in estimates]
        numbers[f"{base}/{part}"] = report_number(values, unit=unit, estimate=_mean_estimate(estimates), scale=scale)
    return numbers
