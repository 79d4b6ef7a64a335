"""The result in plain words, computed from the numbers. A reader sees it first, whether it is good or bad."""

from __future__ import annotations

import dataclasses
import math

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.evaluate import STUDENT, TEACHER, UNTRAINED, Evaluation
from accdistill_jax.evaluation.probing.probes import MEAN, MEDIAN, TargetResult
from accdistill_jax.evaluation.probing.scoring import Difference
from accdistill_jax.labels import HEART_RATE, LABELS

MODALITY = {TEACHER: "PPG", STUDENT: "acceleration"}
_WORST_FIRST = ("worse", "same", "unknown", "better")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Text at the top of the report.

    Attributes:
        headline: one sentence.
        summary: the paragraph below it.
        answers: (question, answer) rows.
        cautions: limits of the result; empty if there are none.
    """

    headline: str
    summary: str
    answers: list[tuple[str, str]]
    cautions: list[str]


def verdict(evaluation: Evaluation) -> Verdict:
    """Puts an evaluation into words."""
    main = evaluation.main
    subject = {STUDENT: "The student", TEACHER: "The PPG teacher"}.get(main, f"The encoder {main}")
    heart_rate = evaluation.targets[HEART_RATE]
    sentences = (_heart_rate_summary(subject, main, heart_rate), _retrieval_summary(evaluation))
    return Verdict(
        headline=_headline(subject, main, heart_rate),
        summary=" ".join(sentence for sentence in sentences if sentence),
        answers=_answers(evaluation, main),
        cautions=_cautions(evaluation),
    )


def against_constant(result: TargetResult, encoder: str) -> tuple[str, str]:
    """Compares an encoder with the train mean and the train median.

    Returns:
        (outcome, constant). The outcome is "better" (than both constants), "same", "worse" or "unknown" (no interval). The
        constant is the one to name in a text: the one that the outcome is of; if both have it, the mean, or the median if its
        error is lower by more than 1 %.
    """
    outcomes = {constant: _compared(result, encoder, constant).outcome for constant in (MEAN, MEDIAN)}
    outcome = min(outcomes.values(), key=_WORST_FIRST.index)
    if outcomes[MEAN] != outcomes[MEDIAN]:
        return outcome, MEAN if outcomes[MEAN] == outcome else MEDIAN
    mean, median = (result.probes[c].mae.number for c in (MEAN, MEDIAN))
    return outcome, MEDIAN if median < 0.99 * mean else MEAN


def format_number(value: float | None, unit: str = "") -> str:
    """A number with two decimals, fewer if it is large (0.12, 12.3, 123); a dash if it is undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    text = f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
    return f"{text} {unit}".strip()


def with_interval(estimate: Estimate, unit: str = "") -> str:
    """A number with its interval, for example "2.72 bpm (95 % CI 2.60 to 2.83)", or the number alone without one."""
    text = format_number(estimate.value, unit)
    if estimate.has_interval:
        text += f" (95 % CI {format_number(estimate.low)} to {format_number(estimate.high)})"
    return text


def count_of(count: int, noun: str) -> str:
    """A count with its noun, for example "1 segment" or "12 000 segments"."""
    return f"{spaced(count)} {noun}{'' if count == 1 else 's'}"


def spaced(count: int) -> str:
    """A count with spaces between the thousands."""
    return f"{count:,}".replace(",", " ")


def _compared(result: TargetResult, encoder: str, reference: str) -> Difference:
    """The comparison of two encoders of a target that has probes."""
    difference = result.difference(encoder, reference)
    if difference is None:
        raise ValueError(f"{result.target}: {encoder} was not compared with {reference}")
    return difference


def _share_of_constant(result: TargetResult, encoder: str, constant: str) -> float:
    """Error of an encoder divided by the error of a constant."""
    return result.probes[encoder].mae.number / max(result.probes[constant].mae.number, 1e-12)


def _headline(subject: str, main: str, result: TargetResult) -> str:
    if result.reason:
        return f"No heart-rate result: {result.reason}."
    outcome, constant = against_constant(result, main)
    ratio = _share_of_constant(result, main, constant)
    error = f"{100 * ratio:.0f} % of the {constant} predictor's"
    if outcome == "unknown":
        return f"{subject}'s heart-rate error is {error}; there are too few people for an interval."
    if outcome != "better":
        comparison = "worse" if outcome == "worse" else "no better"
        return f"{subject} does not read heart rate: it is {comparison} than the {constant} predictor."
    untrained = result.difference(main, UNTRAINED)
    if main == STUDENT and untrained is not None and untrained.outcome != "better":
        return f"{subject} reads some heart rate, but no better than an untrained encoder of the same shape."
    if ratio > 0.5:
        return f"{subject} reads some heart rate: its error is {error}."
    return f"{subject} reads heart rate from {MODALITY.get(main, 'its signal')}: its error is {error}."


def _heart_rate_summary(subject: str, main: str, result: TargetResult) -> str:
    if result.reason:
        return ""
    probes = result.probes
    errors = [f"the mean predictor {format_number(probes[MEAN].mae.value, 'bpm')}"]
    if UNTRAINED in probes:
        errors.append(f"an untrained encoder {format_number(probes[UNTRAINED].mae.value, 'bpm')}")
    if main != TEACHER and TEACHER in probes:
        errors.append(f"the PPG teacher {format_number(probes[TEACHER].mae.value, 'bpm')}")
    test = f"{count_of(result.test_segments, 'segment')} of {count_of(result.test_participants, 'unseen participant')}"
    outcome, constant = against_constant(result, main)
    difference = _compared(result, main, constant).difference
    interval = f"{format_number(difference.low)} to {format_number(difference.high)} bpm"
    conclusion = {
        "better": f"The 95 % interval of the difference from the {constant} predictor, {interval}, excludes zero.",
        "same": f"This is no better than the {constant} predictor: the 95 % interval of the difference, {interval}, "
        "includes zero.",
        "worse": f"This is worse than the {constant} predictor by {format_number(difference.value, 'bpm')} "
        f"(95 % CI {interval}).",
        "unknown": "With one test participant there is no interval: the result says nothing about other people.",
    }[outcome]
    return (
        f"{subject} estimates heart rate from {MODALITY.get(main, 'its signal')} with a mean absolute error of "
        f"{with_interval(probes[main].mae, 'bpm')} on {test}. For comparison: {', '.join(errors)}. {conclusion}"
    )


def _retrieval_summary(evaluation: Evaluation) -> str:
    result = evaluation.find_retrieval()
    if result is None:
        return ""
    top, chance = result.top[1].mean, result.chance_top[1]
    text = (
        f"Among {spaced(result.pool_size)} minutes of PPG, a search by acceleration puts the right minute first in "
        f"{format_number(100 * top)} % of cases ({_times(result.times_chance)} chance), with a mean rank of "
        f"{format_number(result.mean_rank.mean)} (chance: {format_number(result.chance_rank)})"
    )
    interval = result.top1.interval
    if interval is not None and interval[0] <= chance:
        return f"{text}: not distinguishable from chance." if interval[1] >= chance else f"{text}: below chance."
    return f"{text}."


def _answers(evaluation: Evaluation, main: str) -> list[tuple[str, str]]:
    rows = []
    for target, result in evaluation.targets.items():
        label = LABELS[target]
        question = f"Does the {main} read {label.words}?"
        if result.reason:
            rows.append((question, f"not available: {result.reason}"))
            continue
        outcome, constant = against_constant(result, main)
        word = {
            "better": "**yes**" if _share_of_constant(result, main, constant) <= 0.5 else "**partly**",
            "same": "**no**",
            "worse": "**no**",
            "unknown": "open",
        }[outcome]
        error = with_interval(result.probes[main].mae, label.unit)
        reference = format_number(result.probes[constant].mae.value, label.unit)
        rows.append((question, f"{word}: error {error}, {constant} predictor {reference}"))
        if target == HEART_RATE:
            rows += _untrained_answer(result, main)
    if main == STUDENT:
        rows += _retrieval_answers(evaluation)
    teacher = evaluation.targets[HEART_RATE].probes.get(TEACHER)
    if main != TEACHER and teacher is not None:
        rows.append(
            ("How well does its teacher read heart rate from PPG?", f"error {with_interval(teacher.mae, 'bpm')}")
        )
    return rows


def _untrained_answer(result: TargetResult, main: str) -> list[tuple[str, str]]:
    untrained = result.difference(main, UNTRAINED)
    if untrained is None:
        return []
    word = {
        "better": "**yes**",
        "same": "**no**, the interval includes zero",
        "worse": "**no**, worse",
        "unknown": "open",
    }[untrained.outcome]
    unit = LABELS[result.target].unit
    error = format_number(result.probes[UNTRAINED].mae.value, unit)
    answer = f"{word}: untrained encoder {error}, difference {with_interval(untrained.difference, unit)}"
    return [("Is it better than an untrained encoder?", answer)]


def _retrieval_answers(evaluation: Evaluation) -> list[tuple[str, str]]:
    question = "Does acceleration find the PPG of the same minute?"
    result = evaluation.find_retrieval()
    if result is None:
        return [(question, f"not available: {evaluation.retrieval_reason}")]
    answer = _above_chance(result.top1, result.chance_top[1])
    share = f"{format_number(100 * result.top[1].mean)} % of cases, {_times(result.times_chance)} chance"
    rows = [(question, f"{answer}: first among {spaced(result.pool_size)} in {share}")]
    for within in evaluation.within:
        if (within.encoder, within.direction) == (evaluation.main, result.direction):
            answer = _above_chance(within.top1, within.chance_top1)
            top1 = within.top1.number
            share = f"{format_number(100 * top1)} % of cases, {_times(top1 / within.chance_top1)} chance"
            pool = format_number(within.mean_pool_size)
            rows.append(("Even among minutes of the same person?", f"{answer}: first among {pool} (mean) in {share}"))
    return rows


def _cautions(evaluation: Evaluation) -> list[str]:
    cautions = [f"{name}: {h.alarm}" for name, h in evaluation.health.items() if h.alarm]
    notes: dict[str, list[str]] = {}
    for target, result in evaluation.targets.items():
        label = LABELS[target].words
        if result.reason:
            notes.setdefault(f"not available: {result.reason}", []).append(label)
        for note in result.notes:
            notes.setdefault(note, []).append(label)
        for name, probe in result.probes.items():
            if probe.note and name != UNTRAINED:
                notes.setdefault(f"{name} probe: {probe.note}", []).append(label)
    cautions += [f"{', '.join(labels)}: {note}" for note, labels in notes.items()]
    if evaluation.retrieval_reason and evaluation.main != TEACHER:
        cautions.append(f"retrieval: {evaluation.retrieval_reason}")
    for note in dict.fromkeys(r.note for r in evaluation.retrieval if r.note):
        cautions.append(f"retrieval: {note}; all of them are used")
    return cautions


def _above_chance(share: Estimate, chance: float) -> str:
    if share.interval is None:
        return "open"
    low, high = share.interval
    if low <= chance:
        return "**no**, at chance" if high >= chance else "**no**, below chance"
    return "**yes**" if share.number >= min(10 * chance, 0.5) else "**weakly**"


def _times(multiple: float) -> str:
    return f"{multiple:,.0f} ×".replace(",", " ") if multiple >= 10 else f"{multiple:.1f} ×"
