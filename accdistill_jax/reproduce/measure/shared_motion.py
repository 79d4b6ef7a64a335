"""Measures joint training where both sensors record the same motion: what the PPG side still knows, step by step."""

from typing import NamedTuple

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.probing.probes import MEAN
from accdistill_jax.evaluation.report.style import BLUE, GREEN, RED
from accdistill_jax.labels import HEART_RATE
from accdistill_jax.reproduce.measure.formatting import (
    NONE,
    decimal,
    joined_words,
    measurable_encoders,
    percent,
    ranged,
    score_number,
)
from accdistill_jax.reproduce.measure.probe_claims import increase, unmeasured
from accdistill_jax.reproduce.measure.probe_scores import Score
from accdistill_jax.reproduce.measure.probe_sweep import expected_retrieval
from accdistill_jax.reproduce.measure.probing import Probing, ppg_side
from accdistill_jax.reproduce.measure.results import Bench, ReportPart
from accdistill_jax.reproduce.plan import regimes
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.report.document import Claim, Picture, ReportTable, Section, Statement
from accdistill_jax.reproduce.report.regime_figures import AmountLine, against_amount

INCREASE = 0.95
FIRST = 0
STATEMENT = Statement(
    "joint-drift-shared-motion",
    "In joint training the PPG side drifts to trivial solutions, where sensors share something easier than the heart",
    "drifts to trivial solutions; the paper gives no number, so the increase of the accelerometer's error is used",
)
_COLOURS = dict(zip(regimes.SHARED_SCALES, (GREEN, BLUE, RED), strict=True))


class SharedRow(NamedTuple):
    """An encoder in a population with shared motion.

    Attributes:
        scale: of the motion.
        name, title: of its variant.
        steps: of its training.
        accel, ppg: HR error of probes of its embedding, and of the PPG projections that retrieval compares it with.
        constant: HR error of the mean of the labels.
        top1: of 1 000 (or of all test minutes, if there are fewer).
        ratio: of its PPG side's error to that of the frozen teacher's projections; None for the student.
    """

    scale: int
    name: str
    title: str
    steps: int
    accel: Score
    ppg: Score | None
    constant: Score | None
    top1: Estimate | None
    ratio: Score | None


def measure_shared_motion(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures frozen and joint training by scale of the shared motion and by steps."""
    _, notes = measurable_encoders(bench, experiment.variants)
    rows = [row for scale in regimes.SHARED_SCALES for row in _rows(bench, scale)]
    text = (
        "Regime: the generator adds one to three short bursts of motion to each minute, at the same times in both sensors. Their height is "
        "the scale, in pulse waves (PPG) and in 5 mg (acceleration). They tell nothing of the heart, but which two signals belong together. "
        "Teacher, student and joint encoders are trained on such people, with one training seed. Probes of the PPG side are fitted on "
        "validation people, since projections of training minutes are not kept.",
    )
    cells = tuple(
        (
            str(row.scale),
            row.title,
            str(row.steps),
            ranged(row.accel.estimate),
            NONE if row.ppg is None else ranged(row.ppg.estimate),
            NONE if row.constant is None else decimal(row.constant.value),
            NONE if row.ratio is None else ranged(row.ratio.estimate),
            NONE if row.top1 is None else percent(row.top1.value),
        )
        for row in rows
    )
    columns = (
        "scale",
        "encoder",
        "steps",
        "HR error of the acceleration side, bpm",
        "of the PPG side, bpm",
        "of the mean of the labels, bpm",
        "PPG side over the frozen teacher's",
        "top-1",
    )
    caption = "Joint training and a frozen teacher, by scale of the shared motion [95 % interval over test people]"
    tables = (ReportTable(caption, columns, cells),) if cells else ()
    numbers = {}
    for row in rows:
        numbers[f"{experiment.id}/{row.name}/accel/mae"] = score_number(row.accel, unit="bpm")
        if row.ppg is not None:
            numbers[f"{experiment.id}/{row.name}/ppg/mae"] = score_number(row.ppg, unit="bpm")
        if row.ratio is not None:
            numbers[f"{experiment.id}/{row.name}/ppg/over-frozen"] = score_number(row.ratio)
    section = Section(experiment.id, experiment.title, text, tables, _pictures(experiment, rows), tuple(notes))
    return ReportPart(section, numbers, (_claim(rows),))


def _rows(bench: Bench, scale: int) -> list[SharedRow]:
    _, student, *joint = regimes.SHARED[scale]
    finished = [variant for variant in (student, *joint) if bench.seeds(variant.name)]
    if not finished:
        return []
    people = bench.on(regimes.shared_population(scale))
    own, sides = Probing(people, targets=(HEART_RATE,), some=True), Probing(people, targets=(HEART_RATE,))
    rows = []
    for variant in finished:
        own.encoder(variant.name, [FIRST])
        side = ppg_side(people, variant.name, FIRST)
        if side is not None:
            sides.features(variant.name, FIRST, side)
        accel = own.scores.error(HEART_RATE, 1.0, variant.name) if own.targets else None
        if accel is None:
            continue
        pair = people.pair(variant.name, FIRST)
        top1 = None if pair is None else expected_retrieval(*pair, people.columns("test").participant).top1
        rows.append(
            SharedRow(
                scale,
                variant.name,
                variant.title,
                bench.facts(variant.name, FIRST)["steps"],
                accel,
                sides.scores.error(HEART_RATE, 1.0, variant.name),
                own.scores.error(HEART_RATE, 1.0, MEAN),
                top1,
                None if variant is student else sides.scores.ratio(HEART_RATE, 1.0, variant.name, student.name),
            )
        )
    return rows


def _pictures(experiment: Experiment, rows: list[SharedRow]) -> tuple[Picture, ...]:
    lines = []
    for scale in regimes.SHARED_SCALES:
        joint = [row for row in rows if row.scale == scale and row.ratio is not None and row.ppg is not None]
        if joint:
            errors = [row.ppg.value for row in joint if row.ppg is not None]
            lines.append(
                AmountLine(
                    f"shared motion {scale}", [row.steps for row in joint], errors, [0.0] * len(joint), _COLOURS[scale]
                )
            )
            frozen = [row.ppg.value for row in rows if row.scale == scale and row.ratio is None and row.ppg is not None]
            if frozen:
                ends = [min(row.steps for row in joint), max(row.steps for row in joint)]
                lines.append(
                    AmountLine(
                        f"frozen teacher, shared motion {scale}",
                        ends,
                        2 * frozen[:1],
                        [0.0, 0.0],
                        _COLOURS[scale],
                        "--",
                    )
                )
    if not lines:
        return ()
    figure = against_amount(lines, amount="steps", error="HR error of the PPG side (bpm)")
    return (
        Picture(
            experiment.id,
            "HR error of probes of the jointly trained PPG side by steps; dashed: the frozen teacher's.",
            figure,
        ),
    )


def _claim(rows: list[SharedRow]) -> Claim:
    judged = [
        row for row in rows if row.ratio is not None and row.steps == max(r.steps for r in rows if r.scale == row.scale)
    ]
    if not judged:
        return unmeasured(STATEMENT, "no jointly trained encoder has a result")
    worst = max(judged, key=lambda row: row.ratio.value if row.ratio else 0.0)
    others = joined_words(
        [f"{decimal(row.ratio.value)} at {row.scale}" for row in judged if row.ratio and row is not worst]
    )
    claim = increase(
        worst.ratio,
        paper_increase=INCREASE,
        statement=STATEMENT,
        of=f"HR error of a probe of the joint encoder's PPG side divided by that of the frozen teacher's, shared motion {worst.scale}",
        why=f"At the other scales: {others}." if len(judged) > 1 else "",
    )
    return claim._replace(rule=f"{claim.rule} Judged at the scale with the largest ratio, after all steps.")
