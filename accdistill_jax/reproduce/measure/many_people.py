"""Measures probes and supervised training on few labels that come from many people, one minute each."""

from collections.abc import Mapping, Sequence

from threadpoolctl import threadpool_limits

from accdistill_jax.evaluation.probing.boosting import gradient_boosting
from accdistill_jax.evaluation.report.style import capital
from accdistill_jax.labels import LABELS
from accdistill_jax.reproduce.measure.formatting import (
    NONE,
    decimal,
    mean_and_std,
    measurable_encoders,
    percent,
    report_number,
)
from accdistill_jax.reproduce.measure.probe_claims import (
    LEAST,
    MostLabels,
    against,
    collapse,
    lower_everywhere,
    naming_baselines,
)
from accdistill_jax.reproduce.measure.probe_scores import Score, Scores
from accdistill_jax.reproduce.measure.probing import CONSTANTS, Probing
from accdistill_jax.reproduce.measure.results import Bench, ReportPart
from accdistill_jax.reproduce.plan import regimes
from accdistill_jax.reproduce.plan import variants as v
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.plan.regimes import PEOPLE
from accdistill_jax.reproduce.plan.scales import SCALES
from accdistill_jax.reproduce.report.document import Claim, Number, Picture, ReportTable, Section, Statement
from accdistill_jax.reproduce.report.probe_figures import by_fraction

CLASSICAL, RIDGE, BOOSTING, SUPERVISED = "classical", "classical-ridge", "classical-boosting", "supervised"
STUDENT = "student"
BASELINES = ("accel-mae", "accel-contrastive", SUPERVISED)
TITLES = {
    RIDGE: "hand-made features, ridge",
    BOOSTING: "hand-made features, gradient boosting",
    SUPERVISED: "acceleration, supervised on the target",
    "mean": "mean of the labels",
    "median": "median of the labels",
}
LOWER = Statement(
    "student-below-baselines-many-people",
    "The student's HR, SDNN and RMSSD errors are at least 23 % lower than those of each baseline that has the accelerometer only, with few "
    "labels of many people",
    "at least 23 % to 49 % lower, from 0.1 % of the labels on",
)
COLLAPSE = Statement(
    "supervised-collapse-many-people",
    "Supervised accelerometer encoders collapse at 0.1 % of the labels, also if these labels are of many people",
    "collapse at 0.1 %",
)


def measure_many_people(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures all encoders on shares of the labels of a corpus of 100 000 people, each with one labelled minute."""
    seeds_of, notes = measurable_encoders(bench, experiment.variants)
    people, shares = bench.on(PEOPLE), SCALES[bench.preset].people
    with threadpool_limits(1):
        probing = Probing(people, targets=v.TARGETS, fractions=tuple(dict.fromkeys(shares.values())))
        names = _probe_all(people, probing, seeds_of, shares)
        titles = {name: TITLES.get(name) or bench.variant(f"{name}-{PEOPLE}").title for name in (*names, *CONSTANTS)}
        claims = _claims(people, probing, titles, shares)
    columns = {
        share: f"{100 * share:g} % ({probing.labels[next(iter(probing.targets)), fraction].participants} people)"
        for share, fraction in shares.items()
        if probing.targets and (next(iter(probing.targets)), fraction) in probing.labels
    }
    tables = tuple(_errors(probing.scores, target, titles, columns, shares) for target in probing.targets)
    text = (
        "Regime: a corpus of 100 000 people, each with one labelled minute. A share of its labels is therefore as many people as minutes; only "
        "the people with labels are generated. Encoders were trained on the minutes of the plan, which have none of these people; supervised "
        "training sees the labelled minutes alone. Tested on further people of this corpus, one minute each.",
        "Cells: mean absolute error, mean over training seeds ± their standard deviation [95 % interval over test people]. The strength of a "
        "probe, the loss of the boosting and the step of a supervised training are chosen on validation people of the corpus.",
    )
    pictures = ()
    if probing.targets:
        caption = "Mean absolute error by share of the corpus's labels (both axes logarithmic)."
        figure = by_fraction(probing.scores, titles, shares)
        pictures = (Picture(experiment.id, caption, figure),)
    section = Section(experiment.id, experiment.title, text, tables, pictures, (*notes, *probing.notes))
    return ReportPart(section, _numbers(experiment.id, probing.scores, titles, shares), claims)


def _probe_all(
    people: Bench, probing: Probing, seeds_of: Mapping[str, Sequence[int]], shares: Mapping[float, float]
) -> list[str]:
    """Fits all probes; returns the names of their predictions."""
    names = []
    for variant, seeds in seeds_of.items():
        name = variant.removesuffix(f"-{PEOPLE}")
        kind = people.variant(variant).kind
        if people.variant(variant).rows == "none":
            continue
        for seed in seeds if kind != CLASSICAL else range(people.plan.seeds):
            splits = people.splits(variant, seeds[0] if kind == CLASSICAL else seed)
            others = {BOOSTING: gradient_boosting} if kind == CLASSICAL else {}
            probing.features(RIDGE if kind == CLASSICAL else name, seed, splits, others=others)
        names += [RIDGE, BOOSTING] if kind == CLASSICAL else [name]
    for target in v.TARGETS:
        for share, fraction in shares.items():
            variant = regimes.people_supervised(target, share).name
            for seed in seeds_of.get(variant, ()):
                prediction = people.arrays(variant, seed)["test/prediction"]
                probing.prediction(SUPERVISED, seed, target, fraction, prediction)
                names += [SUPERVISED] if SUPERVISED not in names else []
    return names


def _claims(
    people: Bench, probing: Probing, titles: Mapping[str, str], shares: Mapping[float, float]
) -> tuple[Claim, ...]:
    # a preset may leave a baseline out; one that failed is missing
    baselines = [name for name in BASELINES if any(people.jobs(variant) for variant in _variants_of(name, shares))]
    known = {variant.name: variant.title for variant in regimes.PEOPLE_ENCODERS}
    named, left_out = (
        [TITLES.get(name) or known[f"{name}-{PEOPLE}"] for name in BASELINES if (name in baselines) == planned]
        for planned in (True, False)
    )
    corpus_shares = {fraction: share for share, fraction in shares.items()}
    fractions = dict.fromkeys(v.TARGETS, tuple(corpus_shares))
    student = against(
        probing.scores,
        STUDENT,
        "the distilled student",
        baselines,
        fractions=fractions,
        corpus_shares=corpus_shares,
    )
    targets = [target for target in v.TARGETS if target in probing.targets]
    few, most = min(shares.values()), MostLabels(max(shares.values()), f"{percent(max(shares))} of the labels")
    return (
        naming_baselines(
            lower_everywhere(student, probing.scores, titles, statement=LOWER, least=LEAST), named, left_out
        ),
        collapse(probing.scores, SUPERVISED, targets, few=few, statement=COLLAPSE, most=most),
    )


def _variants_of(baseline: str, shares: Mapping[float, float]) -> list[str]:
    """Names of the variants behind a baseline's predictions."""
    if baseline != SUPERVISED:
        return [f"{baseline}-{PEOPLE}"]
    return [regimes.people_supervised(target, share).name for target in v.TARGETS for share in shares]


def _errors(
    scores: Scores, target: str, titles: Mapping[str, str], columns: Mapping[float, str], shares: Mapping[float, float]
) -> ReportTable:
    words, unit, *_ = LABELS[target]
    rows = []
    for name, title in titles.items():
        errors = [scores.error(target, shares[share], name) for share in columns]
        if any(errors):
            rows.append((title, *map(_cell, errors)))
    return ReportTable(
        f"{capital(words)}: mean absolute error ({unit}) by share of the corpus's labels",
        ("encoder", *columns.values()),
        tuple(rows),
    )


def _cell(score: Score | None) -> str:
    if score is None:
        return NONE
    ends = score.estimate
    interval = f" [{decimal(ends.low)}, {decimal(ends.high)}]" if ends.has_interval else ""
    return mean_and_std(score.seeds) + interval


def _numbers(
    section: str, scores: Scores, titles: Mapping[str, str], shares: Mapping[float, float]
) -> dict[str, Number]:
    numbers = {}
    for target in scores.truth:
        for share, fraction in shares.items():
            for name in titles:
                if (score := scores.error(target, fraction, name)) is not None:
                    numbers[f"{section}/{target}/{share:g}/{name}/mae"] = report_number(
                        score.seeds, unit=LABELS[target].unit, estimate=score.estimate
                    )
    return numbers
