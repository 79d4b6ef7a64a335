"""Judges the paper's claims on probes by the measured ratios of errors.

The value of a ratio decides a claim. The text also counts the ratios whose interval over test participants excludes 1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.evaluation.probing.probes import MEAN
from accdistill_jax.labels import LABELS
from accdistill_jax.reproduce.measure.formatting import NONE, decimal, joined_words, percent, ranged
from accdistill_jax.reproduce.measure.probe_scores import Score, Scores
from accdistill_jax.reproduce.report.document import Claim, Statement

FEW_PEOPLE = "At 0.1 % of the labels each seed has labels of only one or two people; the intervals do not include this choice of people."
LEAST, AIM = 0.23, 0.49  # the paper's smallest and largest reduction of the error by the student


class ErrorRatio(NamedTuple):
    """Error of an encoder divided by that of a baseline, for one target at one fraction of the labels.

    Attributes:
        target: column of the label.
        fraction: of the labels, by which the scores are kept.
        share: the same, as texts state it.
        baseline: the encoder in the denominator.
        ratio: the quotient.
    """

    target: str
    fraction: float
    share: float
    baseline: str
    ratio: Score


class MostLabels(NamedTuple):
    """The largest share of the labels that a claim on few labels is compared with.

    Attributes:
        fraction: of the labels, by which the scores are kept.
        words: the share in texts.
    """

    fraction: float
    words: str


ALL_LABELS = MostLabels(1.0, "all labels")


class BaselineComparison(NamedTuple):
    """An encoder compared with baselines.

    Attributes:
        name: variant of the encoder.
        title: the encoder in words.
        cells: the measured ratios.
        expected: number of ratios if nothing is missing.
        caution: sentence about the labels, for the rule.
    """

    name: str
    title: str
    cells: list[ErrorRatio]
    expected: int
    caution: str


def against(
    scores: Scores,
    name: str,
    title: str,
    baselines: Sequence[str],
    *,
    fractions: Mapping[str, Sequence[float]],
    corpus_shares: Mapping[float, float] | None = None,
) -> BaselineComparison:
    """Compares one encoder with each baseline, at the given fractions of the labels of each target.

    Args:
        scores: errors of all encoders.
        name: the encoder.
        title: the encoder in words.
        baselines: the encoders that it is compared with.
        fractions: target -> fractions of its labels.
        corpus_shares: fraction -> share of a corpus that has more labels than were generated, one of each person; texts state
            this share. None: texts state the fraction.
    """
    wanted = [
        (target, fraction, baseline)
        for target, target_fractions in fractions.items()
        for fraction in target_fractions
        for baseline in baselines
    ]
    cells = [
        ErrorRatio(target, fraction, (corpus_shares or {}).get(fraction, fraction), baseline, ratio)
        for target, fraction, baseline in wanted
        if (ratio := scores.ratio(target, fraction, name, baseline)) is not None
    ]
    caution = "Each label is of another person." if corpus_shares else FEW_PEOPLE
    return BaselineComparison(name, title, cells, len(wanted), caution)


def lower_everywhere(
    comparison: BaselineComparison,
    scores: Scores,
    titles: Mapping[str, str],
    *,
    statement: Statement,
    least: float = 0.0,
    beside: Sequence[BaselineComparison] = (),
) -> Claim:
    """Judges if an encoder's error is lower than each baseline's in every comparison.

    Args:
        comparison: the encoder that is judged.
        scores: probes behind it.
        titles: of the encoders.
        statement: of the paper.
        least: smallest reduction of the error, as a share.
        beside: further encoders; they are reported, not judged.
    """
    if not comparison.cells:
        return unmeasured(statement, f"no pair of {comparison.title} and a baseline has results")
    reached = [cell for cell in comparison.cells if _reaches(cell, least)]
    complete = len(reached) == len(comparison.cells) == comparison.expected
    holds = "yes" if complete else "no" if 2 * len(reached) < len(comparison.cells) else "partly"
    worst = max(comparison.cells, key=lambda cell: cell.ratio.value)
    total, words = len(comparison.cells), f"at least {percent(least)} lower" if least else "lower"
    measured = f"{words} in {len(reached)} of {total} comparisons (target, fraction, baseline)"
    if least:
        measured += f", at least {percent(AIM)} lower in {sum(_reaches(c, AIM) for c in comparison.cells)}"
    measured += (
        f"; the interval is below 1 in {sum(c.ratio.below_1 for c in comparison.cells)} and above 1 in "
        f"{sum(c.ratio.above_1 for c in comparison.cells)}; worst ratio {ranged(worst.ratio.estimate)} "
        f"({_where(worst, titles)})"
    )
    if absent := comparison.expected - total:
        measured += f"; {absent} more comparisons are missing (a run without a result, or too few labels)"
    for other in beside:
        if other.cells:
            reaching = sum(_reaches(cell, least) for cell in other.cells)
            measured += f". {other.title[:1].upper()}{other.title[1:]}: {words} in {reaching} of {len(other.cells)}"
    rule = (
        f"holds if the mean over seeds is {words} in every comparison; holds in part if it is in at least half of them. Intervals "
        f"are counted, but do not decide. {comparison.caution}"
    )
    why = _why(comparison, reached, scores, titles)
    return Claim(*statement, "P", measured=measured, holds=holds, why=why, rule=rule)


def naming_baselines(claim: Claim, baselines: Sequence[str], left_out: Sequence[str]) -> Claim:
    """Adds the titles of the baselines to a measured claim, and of those that the preset leaves out: they decide what "each" means."""
    if claim.holds == "not measured":
        return claim
    without = f" (this preset leaves out: {'; '.join(left_out)})" if left_out else ""
    return claim._replace(measured=f"{claim.measured}. Baselines: {'; '.join(baselines)}{without}")


def _reaches(cell: ErrorRatio, share: float) -> bool:
    return cell.ratio.value <= 1 - share if share else cell.ratio.value < 1


def _why(
    comparison: BaselineComparison, reached: Sequence[ErrorRatio], scores: Scores, titles: Mapping[str, str]
) -> str:
    missed = [cell for cell in comparison.cells if cell not in reached]
    if not missed:
        ratios = sorted(comparison.cells, key=lambda cell: cell.ratio.value)
        median = float(np.median([cell.ratio.value for cell in ratios]))
        lowest = f"{decimal(ratios[0].ratio.value)} ({_where(ratios[0], titles)})"
        return f"The median ratio is {decimal(median)}; the lowest is {lowest}."
    parts = (
        ("all of them",)
        if len(missed) == len(comparison.cells)
        else (
            "by share of the labels, " + _counted(missed, comparison.cells, lambda cell: percent(cell.share)),
            "by target, " + _counted(missed, comparison.cells, lambda cell: LABELS[cell.target].short),
            "by baseline, " + _counted(missed, comparison.cells, lambda cell: titles[cell.baseline]),
        )
    )
    text = "Missed comparisons: " + "; ".join(parts) + "."
    if blind := [cell for cell in missed if _no_better_than_mean(scores, cell, comparison.name)]:
        text += (
            f" In {len(blind)} of the {len(missed)} missed comparisons {comparison.title} itself is not better than the mean of the "
            "same labels: too few labels, or too little information in the embedding."
        )
    return text


def _counted(missed: Sequence[ErrorRatio], cells: Sequence[ErrorRatio], key: Callable[[ErrorRatio], str]) -> str:
    groups = dict.fromkeys(map(key, cells))
    counts = {group: (sum(key(c) == group for c in missed), sum(key(c) == group for c in cells)) for group in groups}
    return joined_words([f"{group}: {misses} of {total}" for group, (misses, total) in counts.items() if misses])


def _no_better_than_mean(scores: Scores, cell: ErrorRatio, name: str) -> bool:
    ratio = scores.ratio(cell.target, cell.fraction, name, MEAN)
    return ratio is not None and not ratio.below_1


def _labels_share(fraction: float) -> str:
    return f"{percent(fraction)} of the labels"


def _where(cell: ErrorRatio, titles: Mapping[str, str]) -> str:
    return f"{LABELS[cell.target].short}, {_labels_share(cell.share)}, against {titles[cell.baseline]}"


def increase(ratio: Score | None, *, paper_increase: float, statement: Statement, of: str, why: str = "") -> Claim:
    """Judges if an error grows as the paper says; see the rule below.

    Args:
        ratio: of the errors; None if it was not measured.
        paper_increase: 0.45 where the paper says +45 %.
        statement: of the paper.
        of: the ratio in words.
        why: added to the reason.
    """
    if ratio is None:
        return unmeasured(statement, f"{of} was not measured")
    enough = ratio.value >= 1 + paper_increase / 2
    holds = "yes" if enough and ratio.above_1 else "partly" if enough or ratio.above_1 else "no"
    interval = (
        "lies above 1"
        if ratio.above_1
        else "lies below 1"
        if ratio.below_1
        else "includes 1"
        if ratio.estimate.has_interval
        else "is unknown"
    )
    change = f"{100 * (ratio.value - 1):+.0f} %"
    reason = f"The error changes by {change}; half of the paper's change is {50 * paper_increase:+.3g} %. The interval {interval}."
    if ratio.std:
        reason += f" The standard deviation of the ratio over training seeds is {decimal(ratio.std)}."
    measured = f"{of}: ratio {ranged(ratio.estimate)}, {change}".replace("-", "−")
    rule = (
        "holds if the error grows by at least half of the paper's change and the interval of the ratio lies above 1; holds in part "
        "if only one of the two is true."
    )
    reason = f"{reason.replace('-', '−')} {why}".strip()
    return Claim(*statement, "P", measured=measured, holds=holds, why=reason, rule=rule)


def collapse(
    scores: Scores,
    name: str,
    targets: Sequence[str],
    *,
    few: float,
    statement: Statement,
    most: MostLabels = ALL_LABELS,
) -> Claim:
    """Judges if an encoder is no better than the mean of the same labels with few of them, but better with many.

    Args:
        scores: probes.
        name: the encoder.
        targets: that count.
        few: share of few labels.
        statement: of the paper.
        most: many labels.
    """
    known: dict[str, tuple[Score, Score]] = {}
    for target in targets:
        with_few, with_all = (scores.ratio(target, share, name, MEAN) for share in (few, most.fraction))
        if with_few is not None and with_all is not None:
            known[target] = with_few, with_all
    if not known:
        return unmeasured(statement, f"no target was trained with few labels and with {most.words}")
    collapsed = [t for t, (with_few, with_all) in known.items() if not with_few.below_1 and with_all.below_1]
    never_better = [t for t, (_, with_all) in known.items() if not with_all.below_1]
    holds = "yes" if len(collapsed) == len(known) == len(targets) else "partly" if collapsed else "no"
    measured = (
        f"error divided by that of the mean of the same labels, with few labels and with {most.words}: "
        + "; ".join(
            f"{LABELS[t].short} {ranged(with_few.estimate)}, {ranged(with_all.estimate)}"
            for t, (with_few, with_all) in known.items()
        )
    )
    over_constant = []
    for target in known:
        error, constant = scores.error(target, few, name), scores.error(target, most.fraction, MEAN)
        assert error is not None and constant is not None  # both are parts of the ratios above
        over_constant.append(f"{LABELS[target].short} {decimal(error.value / constant.value)}")
    measured += f". Its error with few labels over that of the mean of {most.words}: {', '.join(over_constant)}"
    still_better = [t for t in known if t not in collapsed and t not in never_better]
    reasons = [
        f"{_names(collapsed)}: no better than a constant with few labels, better with {most.words}."
        if collapsed
        else "",
        f"{_names(never_better)}: no better than a constant with {most.words} either, which is no collapse."
        if never_better
        else "",
        f"{_names(still_better)}: still better than a constant with few labels." if still_better else "",
    ]
    rule = (
        "holds if for every target the interval of the ratio (error over that of a constant) does not lie below 1 with few labels, but "
        f"lies below 1 with {most.words}; holds in part if this is true for some targets."
    )
    return Claim(*statement, "P", measured=measured, holds=holds, why=" ".join(filter(None, reasons)), rule=rule)


def unmeasured(statement: Statement, why: str) -> Claim:
    """A claim without a measurement."""
    return Claim(*statement, "P", measured=NONE, holds="not measured", why=why[:1].upper() + why[1:] + ".")


def _names(targets: Sequence[str]) -> str:
    return joined_words([LABELS[target].short for target in targets])
