"""The result in plain words, computed from the numbers: what a reader must know after a minute, good or bad."""

from __future__ import annotations

import dataclasses
import math

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.evaluate import STUDENT, TEACHER, UNTRAINED, Evaluation
from accdistill_jax.evaluation.probing.probes import MEAN, MEDIAN, TargetResult
from accdistill_jax.labels import HEART_RATE, LABELS

MODALITY = {TEACHER: "PPG", STUDENT: "acceleration"}
_WORST_FIRST = ("worse", "same", "unknown", "better")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Words of the report's head.

    Attributes:
        headline: one sentence.
        summary: the paragraph below it.
        answers: (question, answer) rows.
        cautions: what limits the result; empty when nothing does.
    """

    headline: str
    summary: str
    answers: list[tuple[str, str]]
    cautions: list[str]


def verdict(evaluation: Evaluation) -> Verdict:
    """Puts an evaluation into words."""
    main = evaluation.main
    who = "The student" if main == STUDENT else "The PPG teacher" if main == TEACHER else f"The encoder {main}"
    heart_rate = evaluation.targets[HEART_RATE]
    return Verdict(
        headline=_headline(who, main, heart_rate),
        summary=" ".join(s for s in (_read_out(who, main, heart_rate), _found(evaluation)) if s),
        answers=_answers(evaluation, main),
        cautions=_cautions(evaluation),
    )


def against_constant(result: TargetResult, encoder: str) -> tuple[str, str]:
    """(outcome, constant): compares with the train mean and the train median; better only if better than both.

    The constant to name is the mean, or the median where its error is lower by more than 1 %.

    The outcome is "better", "same", "worse" or "unknown" (no interval).
    """
    pairs = {c: result.difference(encoder, c) for c in (MEAN, MEDIAN)}
    outcome = min((p.outcome for p in pairs.values()), key=_WORST_FIRST.index)
    mean, median = (result.probes[c].mae.value for c in (MEAN, MEDIAN))
    return outcome, MEDIAN if median < 0.99 * mean else MEAN


def number(value: float | None, unit: str = "") -> str:
    """A number as a person writes it; a dash where it is undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    text = f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")
    return f"{text} {unit}".strip()


def with_interval(estimate: Estimate, unit: str = "") -> str:
    """ "2.72 bpm (95 % CI 2.60 to 2.83)", or the number alone."""
    text = number(estimate.value, unit)
    if estimate.has_interval:
        text += f" (95 % CI {number(estimate.low)} to {number(estimate.high)})"
    return text


def _headline(who: str, main: str, result: TargetResult) -> str:
    if result.reason:
        return f"No heart-rate result: {result.reason}."
    outcome, constant = against_constant(result, main)
    ratio = result.probes[main].mae.value / max(result.probes[constant].mae.value, 1e-12)
    if outcome == "unknown":
        return f"{who}'s heart-rate error is {100 * ratio:.0f} % of the {constant} predictor's, on too few people for an interval."
    if outcome != "better":
        return f"{who} does not read heart rate: it is {'worse' if outcome == 'worse' else 'no better'} than the {constant} predictor."
    untrained = result.difference(main, UNTRAINED)
    if main == STUDENT and untrained is not None and untrained.outcome != "better":
        return f"{who} reads some heart rate, but no better than an untrained encoder of the same shape."
    if ratio > 0.5:
        return f"{who} reads some heart rate: its error is {100 * ratio:.0f} % of the {constant} predictor's."
    return f"{who} reads heart rate from {MODALITY.get(main, 'its signal')}: its error is {100 * ratio:.0f} % of the {constant} predictor's."


def _read_out(who: str, main: str, result: TargetResult) -> str:
    if result.reason:
        return ""
    probes = result.probes
    text = (
        f"Estimating heart rate from {MODALITY.get(main, 'its signal')}, {who[0].lower()}{who[1:]} is off by "
        f"{with_interval(probes[main].mae, 'bpm')} on average, on {_count(result.test_segments, 'segment')} of {_count(result.test_participants, 'unseen participant')}; "
        f"the mean predictor by {number(probes[MEAN].mae.value, 'bpm')}"
    )
    if UNTRAINED in probes:
        text += f", an untrained encoder by {number(probes[UNTRAINED].mae.value, 'bpm')}"
    if main != TEACHER and TEACHER in probes:
        text += f", the PPG teacher by {number(probes[TEACHER].mae.value, 'bpm')}"
    outcome, constant = against_constant(result, main)
    difference = result.difference(main, constant).difference
    interval = f"{number(difference.low)} to {number(difference.high)} bpm"
    tail = {
        "better": f"The 95 % interval of the difference from the {constant} predictor, {interval}, excludes zero.",
        "same": f"That is no better than the {constant} predictor: the 95 % interval of the difference, {interval}, includes zero.",
        "worse": f"That is worse than the {constant} predictor by {number(difference.value, 'bpm')} (95 % CI {interval}).",
        "unknown": "With one test participant there is no interval: this says nothing about other people.",
    }[outcome]
    return f"{text}. {tail}"


def _found(evaluation: Evaluation) -> str:
    result = evaluation.find_retrieval()
    if result is None:
        return ""
    top, chance = result.top[1].mean, result.chance_top[1]
    text = (
        f"Among {_thousands(result.pool_size)} minutes of PPG, the acceleration of a minute puts the right one first in "
        f"{number(100 * top)} % of cases ({_times(result.times_chance)} chance, mean rank {number(result.mean_rank.mean)} against "
        f"{number(result.chance_rank)} for guessing)"
    )
    if result.top1.has_interval and result.top1.low <= chance:
        return f"{text}: not distinguishable from chance." if result.top1.high >= chance else f"{text}: below chance."
    return f"{text}."


def _answers(evaluation: Evaluation, main: str) -> list[tuple[str, str]]:
    name = "student" if main == STUDENT else "teacher" if main == TEACHER else main
    rows = []
    for target, result in evaluation.targets.items():
        label, unit, *_ = LABELS[target]
        question = f"Does the {name} read {label}?"
        if result.reason:
            rows.append((question, f"not available: {result.reason}"))
            continue
        outcome, constant = against_constant(result, main)
        ratio = result.probes[main].mae.value / max(result.probes[constant].mae.value, 1e-12)
        word = {
            "better": "**yes**" if ratio <= 0.5 else "**partly**",
            "same": "**no**",
            "worse": "**no**",
            "unknown": "open",
        }
        answer = f"{word[outcome]}: error {with_interval(result.probes[main].mae, unit)}, {constant} predictor {number(result.probes[constant].mae.value, unit)}"
        rows.append((question, answer))
        untrained = result.difference(main, UNTRAINED)
        if target == HEART_RATE and untrained is not None:
            word = {
                "better": "**yes**",
                "same": "**no**, the interval includes zero",
                "worse": "**no**, worse",
                "unknown": "open",
            }
            rows.append(
                (
                    "Is it better than an untrained encoder?",
                    f"{word[untrained.outcome]}: untrained encoder {number(result.probes[UNTRAINED].mae.value, unit)}, "
                    f"difference {with_interval(untrained.difference, unit)}",
                )
            )
    if main == STUDENT:
        rows += _retrieval_answers(evaluation)
    teacher = evaluation.targets[HEART_RATE].probes.get(TEACHER)
    if main != TEACHER and teacher is not None:
        rows.append(("How well does its teacher read heart rate from PPG?", with_interval(teacher.mae, "bpm")))
    return rows


def _retrieval_answers(evaluation: Evaluation) -> list[tuple[str, str]]:
    question = "Does acceleration find the PPG of the same minute?"
    result = evaluation.find_retrieval()
    if result is None:
        return [(question, f"not available: {evaluation.retrieval_reason}")]
    word = _above_chance(result.top1, result.chance_top[1])
    rows = [
        (
            question,
            f"{word}: first among {_thousands(result.pool_size)} in {number(100 * result.top[1].mean)} % of cases, "
            f"{_times(result.times_chance)} chance",
        )
    ]
    for within in evaluation.within:
        if (within.encoder, within.direction) == (evaluation.main, result.direction):
            share, chance = within.top1, within.chance_top1
            word = _above_chance(share, chance)
            rows.append(
                (
                    "Even among minutes of the same person?",
                    f"{word}: first among {number(within.mean_pool_size)} on average in {number(100 * share.value)} % of cases, "
                    f"{_times(share.value / chance)} chance",
                )
            )
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
    if not share.has_interval:
        return "open"
    if share.low <= chance:
        return "**no**, at chance" if share.high >= chance else "**no**, below chance"
    return "**yes**" if share.value >= min(10 * chance, 0.5) else "**weakly**"


def _count(count: int, noun: str) -> str:
    return f"{_thousands(count)} {noun}{'' if count == 1 else 's'}"


def _thousands(count: int) -> str:
    return f"{count:,}".replace(",", " ")


def _times(multiple: float) -> str:
    return f"{multiple:,.0f} ×".replace(",", " ") if multiple >= 10 else f"{multiple:.1f} ×"
