"""Measures how much augmentation helps, by how often training minutes repeat."""

from typing import NamedTuple

from accdistill_jax.data.store.caps import capped_rows
from accdistill_jax.evaluation.report.style import BLUE, GREEN, ORANGE, PURPLE
from accdistill_jax.labels import HEART_RATE
from accdistill_jax.reproduce.measure.formatting import decimal, mean_and_std, ranged, score_number, thousands
from accdistill_jax.reproduce.measure.probe_claims import increase, unmeasured
from accdistill_jax.reproduce.measure.probe_scores import Score
from accdistill_jax.reproduce.measure.probe_sweep import HR, Sweep, sweep
from accdistill_jax.reproduce.measure.results import Bench, ReportPart
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.plan.regimes import DISTINCT_MINUTES, repeats_variant
from accdistill_jax.reproduce.report.document import Claim, Number, Picture, ReportTable, Section, Statement
from accdistill_jax.reproduce.report.regime_figures import AmountLine, against_amount

OFTEN = 30  # epochs from which minutes count as repeating often
INCREASE = 0.45


class StudentForm(NamedTuple):
    """A form of the student, which the experiment measures by itself.

    Attributes:
        literal: True for the paper's literal form.
        words: added to titles.
        prefix: of the names of its numbers.
        statement: the claim.
        colours: of the lines with and without augmentation.
        style: of both lines, as in matplotlib.
    """

    literal: bool
    words: str
    prefix: str
    statement: Statement
    colours: tuple[str, str]
    style: str


FORMS = (
    StudentForm(
        False,
        "",
        "",
        Statement(
            "no-augmentation-repeats",
            "Distillation without augmentation has a higher HR error, where each minute is seen again and again",
            "+45 %",
        ),
        (ORANGE, BLUE),
        "-",
    ),
    StudentForm(
        True,
        ", paper's literal form",
        "literal/",
        Statement("no-augmentation-repeats-literal", "The same for students in the paper's literal form", "+45 %"),
        (PURPLE, GREEN),
        "--",
    ),
)


class RepeatsPoint(NamedTuple):
    """One number of distinct minutes.

    Attributes:
        minutes: distinct training minutes of all stores, at most those of the data.
        epochs: times that each is seen.
        plain, augmented: HR error without and with augmentation.
        ratio: the first divided by the second, on the same test people.
    """

    minutes: int
    epochs: float
    plain: Score
    augmented: Score
    ratio: Score


def measure_repeats(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures students on few to many distinct minutes, with and without augmentation, at equal numbers of steps."""
    swept = sweep(bench, experiment, every_seed=True)
    measured = [(form, _points(bench, swept, literal=form.literal)) for form in FORMS]
    text = (
        "Regime: all students have the same number of steps; they differ in how many distinct minutes they see, and so in how often each "
        "minute repeats. The teacher is the same, trained on all minutes, and runs in every step, so that augmentation of the PPG is never "
        "a stored view. A student with windows and tokens has one target for each second; in the paper's literal form it has one for each minute.",
    )
    tables = tuple(_table(points, form) for form, points in measured if points)
    pictures = ()
    if lines := [line for form, points in measured if points for line in _lines(points, form)]:
        figure = against_amount(lines, amount="epochs", error="HR error (bpm)")
        pictures = (
            Picture(
                experiment.id,
                "HR error by how often a training minute repeats; bars: standard deviation over seeds.",
                figure,
            ),
        )
    numbers = {
        name: number
        for form, points in measured
        for name, number in _numbers(f"{experiment.id}/{form.prefix}", points).items()
    }
    claims = tuple(_claim(points, form.statement) for form, points in measured)
    section = Section(experiment.id, experiment.title, text, tables, pictures, swept.notes)
    return ReportPart(section, numbers, claims)


def _table(points: list[RepeatsPoint], form: StudentForm) -> ReportTable:
    rows = tuple(
        (
            thousands(point.minutes),
            decimal(point.epochs, 1),
            mean_and_std(point.augmented.seeds),
            mean_and_std(point.plain.seeds),
            ranged(point.ratio.estimate),
            f"{100 * (point.ratio.value - 1):+.0f} %".replace("-", "−"),
        )
        for point in points
    )
    columns = ("distinct minutes", "epochs", "HR error with, bpm", "HR error without, bpm", "ratio", "change")
    caption = (
        f"Without augmentation against with it{form.words} (± over training seeds, [95 % interval over test people])"
    )
    return ReportTable(caption, columns, rows)


def _lines(points: list[RepeatsPoint], form: StudentForm) -> list[AmountLine]:
    of_each = (("with", [point.augmented for point in points]), ("without", [point.plain for point in points]))
    return [
        AmountLine(
            f"{title} augmentation{form.words}",
            [point.epochs for point in points],
            [score.value for score in scores],
            [score.std for score in scores],
            colour,
            form.style,
        )
        for (title, scores), colour in zip(of_each, form.colours, strict=True)
    ]


def _points(bench: Bench, swept: Sweep, *, literal: bool) -> list[RepeatsPoint]:
    points: dict[int, RepeatsPoint] = {}
    for wanted in DISTINCT_MINUTES:
        names = [repeats_variant(wanted, augmented=on, literal=literal).name for on in (False, True)]
        scores = [swept.scores.error(HEART_RATE, 1.0, name) if name in bench.plan.variants else None for name in names]
        ratio = swept.scores.ratio(HR, 1.0, *names)
        plain, augmented = scores
        if plain is None or augmented is None or ratio is None:
            continue
        facts = bench.facts(names[1], bench.seeds(names[1])[0])
        minutes = _distinct_minutes(bench, wanted)
        points[minutes] = RepeatsPoint(minutes, facts["steps"] * facts["batch_size"] / minutes, plain, augmented, ratio)
    return list(points.values())


def _distinct_minutes(bench: Bench, cap: int) -> int:
    """Number of minutes that training sees with this cap, which holds for each store by itself."""
    people = bench.plan.base.data.participant_cap
    return sum(
        len(capped_rows(store, store.indices("train"), participant_cap=people, store_cap=cap, seed=0))
        for store in bench.opened.stores
    )


def _numbers(prefix: str, points: list[RepeatsPoint]) -> dict[str, Number]:
    numbers = {}
    for point in points:
        base = f"{prefix}{point.minutes}"
        for name, score, unit in (
            ("with/mae", point.augmented, "bpm"),
            ("without/mae", point.plain, "bpm"),
            ("ratio", point.ratio, ""),
        ):
            numbers[f"{base}/{name}"] = score_number(score, unit=unit)
    return numbers


def _claim(points: list[RepeatsPoint], statement: Statement) -> Claim:
    often = [point for point in points if point.epochs >= OFTEN]
    if not often:
        return unmeasured(statement, f"no pair of students saw its minutes {OFTEN} times")
    judged = min(often, key=lambda point: point.epochs)
    claim = increase(
        judged.ratio,
        paper_increase=INCREASE,
        statement=statement,
        of=f"HR error without augmentation divided by that with it, at {decimal(judged.epochs, 0)} epochs of "
        f"{thousands(judged.minutes)} minutes",
        why="; ".join(
            f"{decimal(point.epochs, 0)} epochs: {decimal(point.ratio.value)}"
            for point in points
            if point is not judged
        ),
    )
    rule = f"{claim.rule} Judged at the fewest epochs from {OFTEN} on; the paper does not say how often its minutes repeat."
    return claim._replace(rule=rule)
