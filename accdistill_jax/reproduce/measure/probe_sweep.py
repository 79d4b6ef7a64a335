"""A sweep: many encoders, each with one thing changed, beside a reference of equal duration.

All numbers are of the first training seed, the only one that most variants have. How far apart two seeds of one variant
come is known from the reference, and no difference below that counts.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t
from threadpoolctl import threadpool_limits

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.probing.probes import MEAN
from accdistill_jax.evaluation.retrieval.retrieval import paired_ranks, share, unit_rows
from accdistill_jax.labels import HEART_RATE, LABELS
from accdistill_jax.reproduce.measure.probe_scores import DRAWS, Score, Scores
from accdistill_jax.reproduce.measure.probing import Probing
from accdistill_jax.reproduce.measure.results import Bench, over_seeds
from accdistill_jax.reproduce.measure.search import first_places, mean_rank
from accdistill_jax.reproduce.measure.wording import (
    NONE,
    decimal,
    measurable_encoders,
    percent,
    ranged,
    ranged_share,
    report_number,
)
from accdistill_jax.reproduce.plan import variants as v
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.report.document import Number, ReportTable

FIRST, POOL = 0, 1000
HR, FULL, SHORT_ONE = HEART_RATE, "student", v.REFERENCE.name


class Retrieval(NamedTuple):
    """Acceleration finds the PPG of its minute in a random pool, as expected from the ranks among all test segments.

    Attributes:
        pool: candidates.
        top1: share of first places, with its interval over participants.
        mean_rank: in the pool.
        first: [N] probability that each query comes first.
    """

    pool: int
    top1: Estimate
    mean_rank: float
    first: np.ndarray


class SweepRow(NamedTuple):
    """An encoder of a sweep.

    Attributes:
        name, title: of its variant.
        errors: target -> mean absolute error with all labels.
        reference: what it is compared with, "" for nothing.
        ratio: of the HR error to the reference's.
        verdict: "lower", "higher", "not distinguishable", or "" without a ratio.
        retrieval: None without projections.
    """

    name: str
    title: str
    errors: dict[str, Score]
    reference: str
    ratio: Score | None
    verdict: str
    retrieval: Retrieval | None


class Sweep(NamedTuple):
    """A sweep's encoders and what a difference must exceed.

    Attributes:
        rows: in the order of the experiment, those with a result.
        scores: behind them, the constants among them.
        noise: reference -> target -> standard deviation of the error over its training seeds, as a share of the error.
        top1_noise, rank_noise: reference -> the same of the retrieval, in top-1 absolute.
        reach: reference -> how far apart the HR errors of two of its seeds come, as a share; see `reach_of`.
        notes: what a reader must know.
    """

    rows: dict[str, SweepRow]
    scores: Scores
    noise: dict[str, dict[str, float]]
    top1_noise: dict[str, float]
    rank_noise: dict[str, float]
    reach: dict[str, float]
    notes: tuple[str, ...]

    @property
    def pool(self) -> int:
        """Candidates of the retrieval; 0 where nothing has projections."""
        return max((row.retrieval.pool for row in self.rows.values() if row.retrieval), default=0)


def sweep(bench: Bench, experiment: Experiment) -> Sweep:
    """Probes and retrieval of all encoders of an experiment."""
    found, notes = measurable_encoders(bench, experiment.variants)
    with threadpool_limits(1):  # more threads gain nothing on so little, and cost much on a busy machine
        probing = Probing(bench, targets=v.TARGETS, some=True)
        references = {name: seeds for name in (FULL, SHORT_ONE) if len(seeds := found.get(name, ())) > 1}
        retrieved: dict[str, dict[int, Retrieval]] = {}
        for name, seeds in found.items():
            used = [seed for seed in seeds if name in references or seed == FIRST]
            if FIRST not in used:
                notes.append(f"Without {bench.variant(name).title}: its first training seed has no result.")
            probing.encoder(name, used)
            pairs = {seed: pair for seed in used if (pair := bench.pair(name, seed)) is not None}
            people = bench.columns("test").participant
            retrieved[name] = {
                seed: expected_retrieval(*pair, people) for seed, pair in pairs.items() if len(people) > 1
            }
    scores = probing.scores
    noise = {name: _noise(scores, name) for name in references}
    reach = {name: reach_of(own[HR], len(references[name])) for name, own in noise.items() if HR in own}
    seen = {name: own for name in references if len(own := list(retrieved[name].values())) > 1}
    rows = {}
    for name in found:
        errors = {t: score for t in probing.targets if (score := scores.error(t, 1.0, name, seeds=[FIRST])) is not None}
        if errors:
            reference = reference_of(bench, name, experiment)
            ratio = scores.ratio(HR, 1.0, name, reference, seeds=[FIRST]) if reference and HR in errors else None
            verdict = judge(ratio, reach.get(reference))
            rows[name] = SweepRow(
                name, bench.variant(name).title, errors, reference, ratio, verdict, retrieved[name].get(FIRST)
            )
    return Sweep(
        rows,
        scores,
        noise,
        {name: over_seeds([one.top1.value for one in own])[1] for name, own in seen.items()},
        {name: _share_of_mean([one.mean_rank for one in own]) for name, own in seen.items()},
        reach,
        (*notes, *probing.notes, *_noise_notes(noise, reach, rows)),
    )


def reference_of(bench: Bench, name: str, experiment: Experiment) -> str:
    """The student of equal duration among the experiment's variants; "" for it itself, for PPG, and where there is none."""
    variant = bench.variant(name)
    reference = SHORT_ONE if variant.short else FULL
    return "" if variant.kind == "teacher" or name == reference or reference not in experiment.variants else reference


def reach_of(noise: float, seeds: int) -> float:
    """Distance that the errors of two seeds stay within, but for 5 % of such pairs.

    Args:
        noise: standard deviation over so many seeds (at least 2), as a share of the error. Few seeds tell it badly, so that
            Student's distribution counts.
    """
    return math.sqrt(2) * float(student_t.ppf(0.975, seeds - 1)) * noise


def judge(ratio: Score | None, reach: float | None) -> str:
    """Says in words whether a ratio of errors of one seed each tells two variants apart.

    Args:
        ratio: with its interval over participants.
        reach: what two seeds of the reference differ by, as a share; None where it is not known.
    """
    if ratio is None:
        return ""
    if not (ratio.below_1 or ratio.above_1) or abs(ratio.value - 1) <= (reach or 0.0):
        return "not distinguishable"
    return "lower" if ratio.value < 1 else "higher"


def expected_retrieval(accel: np.ndarray, ppg: np.ndarray, participant: np.ndarray, *, pool: int = POOL) -> Retrieval:
    """Exact expectation of retrieval in random pools, from the ranks among all N segments.

    Args:
        accel: [N, P] float, projections; row i of the same segment as row i of `ppg`.
        ppg: [N, P] float.
        participant: [N] str.
        pool: candidates; N where there are fewer.
    """
    n = len(accel)
    pool = min(pool, n)
    ranks, _ = paired_ranks(unit_rows(accel), unit_rows(ppg))
    first = first_places(ranks, pool)
    people = ParticipantBootstrap(participant, draws=DRAWS, seed=0)
    top1 = share(people, np.stack([first, np.ones(n)], axis=1))
    return Retrieval(pool, top1, mean_rank(ranks, pool), first)


def sweep_table(
    found: Sweep,
    caption: str,
    names: Sequence[str] | None = None,
    *,
    more: Mapping[str, Mapping[str, str]] | None = None,
    compared: bool = True,
) -> ReportTable:
    """A row for each encoder.

    Args:
        found: the sweep.
        caption: of the table.
        names: fewer than all.
        more: further columns after the first: heading -> encoder -> cell.
        compared: whether there are the columns of the ratio and of the retrieval.
    """
    rows = [found.rows[name] for name in (found.rows if names is None else names) if name in found.rows]
    more, targets = more or {}, list(found.scores.truth)
    columns = ["encoder", *more, *(f"{LABELS[t].short} error, {LABELS[t].unit}" for t in targets)]
    columns += ["HR error over the reference's", "HR error is", "top-1", "mean rank"] if compared else []
    cells = []
    for row in rows:
        own = [row.title, *(column.get(row.name, NONE) for column in more.values())]
        own += [ranged(row.errors[t].estimate if t in row.errors else None) for t in targets]
        if compared:
            ratio = ranged(row.ratio.estimate) if row.ratio else "reference" if row.name in (FULL, SHORT_ONE) else NONE
            found_1, rank = (row.retrieval.top1, row.retrieval.mean_rank) if row.retrieval else (None, None)
            own += [ratio, row.verdict, ranged_share(found_1), decimal(rank, 2)]
        cells.append(tuple(own))
    return ReportTable(caption, tuple(columns), tuple(cells))


def sweep_numbers(section: str, found: Sweep) -> dict[str, Number]:
    """Errors, ratios, first places and mean ranks; those of one seed may differ by what the reference's seeds do."""
    numbers = {}
    noise = next(iter(found.noise.values()), {})
    for name, row in found.rows.items():
        own = found.noise.get(row.reference or name, noise)
        for target, score in row.errors.items():
            std = own[target] * score.value if target in own else None
            numbers[f"{section}/{name}/{target}/mae"] = report_number(
                score.seeds, unit=LABELS[target].unit, estimate=score.estimate, std=std
            )
        if row.ratio is not None:
            std = math.sqrt(2) * own[HR] * row.ratio.value if HR in own else None  # both of its errors move
            numbers[f"{section}/{name}/{HR}/ratio"] = report_number(
                row.ratio.seeds, estimate=row.ratio.estimate, std=std
            )
        if row.retrieval is not None:
            retrieved, base = row.retrieval, row.reference or name
            std = found.top1_noise.get(base)
            numbers[f"{section}/{name}/top1"] = report_number(
                [retrieved.top1.value], estimate=retrieved.top1, share=True, std=std
            )
            std = found.rank_noise[base] * retrieved.mean_rank if base in found.rank_noise else None
            numbers[f"{section}/{name}/mean_rank"] = report_number([retrieved.mean_rank], std=std)
    return numbers


def method(found: Sweep) -> str:
    """Method behind a sweep's numbers, in words."""
    constant = found.scores.error(HR, 1.0, MEAN, seeds=[FIRST]) if HR in found.scores.truth else None
    text = (
        "Linear probes on those training minutes that every encoder has embedded, with all their labels; the first training seed of "
        "each. HR errors are compared in pairs on the same test participants with the student of equal duration. "
    )
    if constant:
        text += f"The mean of the labels errs by {decimal(constant.value)} bpm in HR. "
    if found.pool:
        text += (
            f"Retrieval is from acceleration to PPG in random pools of {found.pool} test minutes, from the ranks among all of them "
            f"(guessing: top-1 {percent(1 / found.pool)}, mean rank {decimal((found.pool + 1) / 2, 1)})."
        )
    return text.strip()


def _noise(scores: Scores, name: str) -> dict[str, float]:
    errors = {target: scores.error(target, 1.0, name) for target in scores.truth}
    return {
        target: score.std / score.value
        for target, score in errors.items()
        if score is not None and len(score.seeds) > 1
    }


def _share_of_mean(values: Sequence[float]) -> float:
    mean, std = over_seeds(values)
    return std / mean


def _noise_notes(
    noise: Mapping[str, Mapping[str, float]], reach: Mapping[str, float], rows: Mapping[str, SweepRow]
) -> list[str]:
    notes = []
    for reference in dict.fromkeys(row.reference for row in rows.values() if row.reference):
        own = noise.get(reference, {}).get(HR)
        if own is None:
            notes.append(
                f"{reference} has fewer than two training seeds, so that the noise of a seed is not known: differences from it count "
                "where their interval over test participants excludes 1."
            )
        else:
            notes.append(
                f"The HR error of {reference} has a standard deviation of {percent(own)} over its training seeds. Differences from it "
                f"below {percent(reach[reference])} (what two of its seeds may differ by, 95 % of Student's distribution), or whose interval "
                "over test participants includes 1, are not distinguishable."
            )
    return notes
