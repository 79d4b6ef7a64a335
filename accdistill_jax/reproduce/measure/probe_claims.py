"""The paper's claims on probes, judged by the measured ratios of errors.

A claim is judged by the value of a ratio; whether its interval over test participants excludes 1 is counted beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.evaluation.probing.probes import MEAN
from accdistill_jax.labels import LABELS
from accdistill_jax.reproduce.measure.probe_scores import Score, Scores
from accdistill_jax.reproduce.measure.wording import NONE, decimal, listed, percent, ranged
from accdistill_jax.reproduce.report.document import Claim

LEAST, AIM = 0.23, 0.49  # how much lower the student's error is in the paper, at least and at most


class ErrorRatio(NamedTuple):
    """An encoder's error over a baseline's, of one target at one fraction of the labels."""

    target: str
    fraction: float
    baseline: str
    ratio: Score


class BaselineComparison(NamedTuple):
    """An encoder against baselines.

    Attributes:
        name: the encoder.
        title: in words.
        cells: what could be compared.
        expected: how many cells there should be.
    """

    name: str
    title: str
    cells: list[ErrorRatio]
    expected: int


def against(
    scores: Scores, name: str, title: str, baselines: Sequence[str], *, fractions: Mapping[str, Sequence[float]]
) -> BaselineComparison:
    """Compares one encoder with each baseline at these fractions of the labels of each target."""
    wanted = [(target, fraction, one) for target, own in fractions.items() for fraction in own for one in baselines]
    found = [ErrorRatio(*one, ratio) for one in wanted if (ratio := scores.ratio(*one[:2], name, one[2])) is not None]
    return BaselineComparison(name, title, found, len(wanted))


def lower_everywhere(
    one: BaselineComparison,
    scores: Scores,
    titles: Mapping[str, str],
    *,
    claim: str,
    paper: str,
    least: float = 0.0,
    beside: Sequence[BaselineComparison] = (),
) -> Claim:
    """Judges whether an encoder's error is lower by a share `least` than each baseline's in every cell; others `beside` it are only told."""
    if not one.cells:
        return unmeasured(claim, paper, f"there is no pair of {one.title} and a baseline")
    reached = [cell for cell in one.cells if _reaches(cell, least)]
    whole = len(reached) == len(one.cells) == one.expected
    holds = "yes" if whole else "no" if 2 * len(reached) < len(one.cells) else "partly"
    worst = max(one.cells, key=lambda cell: cell.ratio.value)
    total, words = len(one.cells), f"at least {percent(least)} lower" if least else "lower"
    measured = f"{words} in {len(reached)} of {total} comparisons (target, fraction, baseline)"
    if least:
        measured += f", at least {percent(AIM)} lower in {sum(_reaches(c, AIM) for c in one.cells)}"
    measured += (
        f"; the interval is below 1 in {sum(c.ratio.below_1 for c in one.cells)} and above 1 in "
        f"{sum(c.ratio.above_1 for c in one.cells)}; worst ratio {ranged(worst.ratio.estimate)} ({_where(worst, titles)})"
    )
    if absent := one.expected - total:
        measured += f"; {absent} more could not be made (a run without a result, or too few labels)"
    for other in beside:
        if other.cells:
            measured += f". {other.title[:1].upper()}{other.title[1:]}: {words} in {sum(_reaches(c, least) for c in other.cells)} of {len(other.cells)}"
    rule = (
        f"holds where the mean over seeds is {words} in every comparison, in part where it is in half of them at least; intervals are "
        "counted beside it. At 0.1 % of the labels a seed has those of a person or two, and the intervals leave out who these are"
    )
    return Claim(claim, paper, "P", measured, holds, _why(one, reached, scores, titles), f"{rule}.")


def _reaches(cell: ErrorRatio, share: float) -> bool:
    return cell.ratio.value <= 1 - share if share else cell.ratio.value < 1


def _why(one: BaselineComparison, reached: Sequence[ErrorRatio], scores: Scores, titles: Mapping[str, str]) -> str:
    missed = [cell for cell in one.cells if cell not in reached]
    if not missed:
        ratios = sorted(one.cells, key=lambda cell: cell.ratio.value)
        middle = np.median([cell.ratio.value for cell in ratios])
        return f"Half of the ratios are below {decimal(middle)}; the lowest is {decimal(ratios[0].ratio.value)} ({_where(ratios[0], titles)})."
    parts = (
        ("throughout",)
        if len(missed) == len(one.cells)
        else (
            _counted(missed, one.cells, lambda c: f"with {_share(c.fraction)}"),
            _counted(missed, one.cells, lambda c: LABELS[c.target].short),
            _counted(missed, one.cells, lambda c: titles[c.baseline]),
        )
    )
    text = "Missed " + "; ".join(parts) + "."
    if blind := [cell for cell in missed if _blind(scores, cell, one.name)]:
        text += (
            f" In {len(blind)} of the {len(missed)} missed comparisons {one.title} itself is not better than the mean of the same "
            "labels, so that there too few labels, or too little in the embedding, leave nothing to compare."
        )
    return text


def _counted(missed: Sequence[ErrorRatio], cells: Sequence[ErrorRatio], key: Callable[[ErrorRatio], str]) -> str:
    groups = dict.fromkeys(map(key, cells))
    counts = {group: (sum(key(c) == group for c in missed), sum(key(c) == group for c in cells)) for group in groups}
    return listed([f"{group}: {m} of {n}" for group, (m, n) in counts.items() if m])


def _blind(scores: Scores, cell: ErrorRatio, name: str) -> bool:
    ratio = scores.ratio(cell.target, cell.fraction, name, MEAN)
    return ratio is not None and not ratio.below_1


def _share(fraction: float) -> str:
    return f"{percent(fraction)} of the labels"


def _where(cell: ErrorRatio, titles: Mapping[str, str]) -> str:
    return f"{LABELS[cell.target].short}, {_share(cell.fraction)}, against {titles[cell.baseline]}"


def increase(
    ratio: Score | None,
    *,
    paper_increase: float,
    claim: str,
    paper: str,
    of: str,
    noise: float | None = None,
    why: str = "",
) -> Claim:
    """Judges whether an error grows as the paper says.

    See the rule below.

    Args:
        ratio: of the errors; None where it was not measured.
        paper_increase: 0.45 where the paper says +45 %.
        claim, paper: for the report.
        of: the ratio in words.
        noise: standard deviation of the ratio over training seeds, where known.
        why: added to the reason.
    """
    if ratio is None:
        return unmeasured(claim, paper, f"{of} was not measured")
    enough = ratio.value >= 1 + paper_increase / 2
    holds = "yes" if enough and ratio.above_1 else "partly" if enough or ratio.above_1 else "no"
    interval = (
        "above 1"
        if ratio.above_1
        else "below 1"
        if ratio.below_1
        else "not off 1"
        if ratio.estimate.has_interval
        else "unknown"
    )
    reason = f"The error changes by {100 * (ratio.value - 1):+.0f} %, where half of the paper's is {50 * paper_increase:+.3g} %; the interval is {interval}."
    if noise:
        reason += f" Over training seeds the ratio has a standard deviation of {decimal(noise)}."
    measured = f"{of}: ratio {ranged(ratio.estimate)}, {100 * (ratio.value - 1):+.0f} %"
    rule = "holds where it grows by half of the paper's share at least and its interval lies above 1, in part where one of the two is so."
    return Claim(
        claim, paper, "P", measured.replace("-", "−"), holds, f"{reason.replace('-', '−')} {why}".strip(), rule
    )


def collapse(scores: Scores, name: str, targets: Sequence[str], *, few: float, claim: str, paper: str) -> Claim:
    """Judges whether an encoder is no better than the mean of the same labels with few of them, where it is better with all."""
    ratios = {t: (scores.ratio(t, few, name, MEAN), scores.ratio(t, 1.0, name, MEAN)) for t in targets}
    known = {t: both for t, both in ratios.items() if None not in both}
    if not known:
        return unmeasured(claim, paper, "no target was trained with few and with all labels")
    lost = [t for t, (less, whole) in known.items() if not less.below_1 and whole.below_1]
    never = [t for t, (_, whole) in known.items() if not whole.below_1]
    holds = "yes" if len(lost) == len(known) == len(targets) else "partly" if lost else "no"
    measured = "error over that of the mean of the same labels, with few and with all: " + "; ".join(
        f"{LABELS[t].short} {ranged(less.estimate)}, {ranged(whole.estimate)}" for t, (less, whole) in known.items()
    )
    constant = {t: scores.error(t, few, name).value / scores.error(t, 1.0, MEAN).value for t in known}
    measured += ". Its error with few labels over that of the mean of all labels: " + ", ".join(
        f"{LABELS[t].short} {decimal(value)}" for t, value in constant.items()
    )
    still = [t for t in known if t not in lost and t not in never]
    reasons = [
        f"{_names(lost)}: no better than a constant with few labels, better with all." if lost else "",
        f"{_names(never)}: no better than a constant with all labels either, which is no collapse." if never else "",
        f"{_names(still)}: still better than a constant with few labels." if still else "",
    ]
    rule = (
        "holds where, for every target, the interval of the error over that of a constant includes 1 with few labels and lies below it "
        "with all, in part where this is so for some."
    )
    return Claim(claim, paper, "P", measured, holds, " ".join(filter(None, reasons)), rule)


def unmeasured(claim: str, paper: str, why: str, *, trust: str = "P") -> Claim:
    """A claim of which there is no measurement."""
    return Claim(claim, paper, trust, NONE, "not measured", why[:1].upper() + why[1:] + ".")


def _names(targets: Sequence[str]) -> str:
    return listed([LABELS[target].short for target in targets])
