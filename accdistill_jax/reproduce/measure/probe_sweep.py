"""Measures a sweep: many encoders, each with one change, compared with a reference of equal duration.

All numbers are from the first training seed, as most variants have no other. The reference has several seeds, which give the
noise of training; smaller differences do not count.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t
from threadpoolctl import threadpool_limits

from accdistill_jax.evaluation.bootstrap import Estimate, ParticipantBootstrap
from accdistill_jax.evaluation.probing.boosting import gradient_boosting
from accdistill_jax.evaluation.probing.probes import MEAN, OWN_MEAN
from accdistill_jax.evaluation.retrieval.ranks import paired_ranks, unit_rows
from accdistill_jax.evaluation.retrieval.retrieval import share
from accdistill_jax.labels import HEART_RATE, LABELS
from accdistill_jax.reproduce.measure.formatting import (
    NONE,
    decimal,
    measurable_encoders,
    percent,
    ranged,
    ranged_share,
    report_number,
)
from accdistill_jax.reproduce.measure.probe_scores import DRAWS, Score, Scores
from accdistill_jax.reproduce.measure.probing import Probing
from accdistill_jax.reproduce.measure.results import Bench, over_seeds
from accdistill_jax.reproduce.measure.search import first_places, mean_rank
from accdistill_jax.reproduce.measure.tolerance import share_scale
from accdistill_jax.reproduce.plan import variants as v
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.report.document import Number, ReportTable

FIRST, POOL = 0, 1000
CLASSICAL, BOOSTING = "classical", "classical-boosting"
HR, FULL, SHORT_ONE = HEART_RATE, "student", v.REFERENCE.name


class Retrieval(NamedTuple):
    """Retrieval of the PPG of a minute from acceleration in a random pool, computed from the ranks among all test segments.

    Attributes:
        pool: number of candidates.
        top1: share of first places, with its interval over participants.
        mean_rank: in the pool.
        first: [N] probability that the right segment comes first.
    """

    pool: int
    top1: Estimate
    mean_rank: float
    first: np.ndarray


class SweepRow(NamedTuple):
    """An encoder of a sweep.

    Attributes:
        name: of its variant.
        title: of its variant.
        errors: target -> mean absolute error with all labels.
        reference: variant that it is compared with; "" for none.
        ratio: HR error divided by the reference's.
        verdict: "lower", "higher", "not distinguishable", or "" without a ratio.
        retrieval: None if it has no projections.
    """

    name: str
    title: str
    errors: dict[str, Score]
    reference: str
    ratio: Score | None
    verdict: str
    retrieval: Retrieval | None


class Sweep(NamedTuple):
    """The encoders of a sweep, and the noise of training.

    Attributes:
        rows: encoders with a result, in the order of the experiment.
        scores: all probes, including the constants.
        noise: reference -> target -> standard deviation of the error over its training seeds, as a share of the error.
        top1_noise: reference -> standard deviation of top-1 over its seeds, in units of `tolerance.share_scale`.
        rank_noise: reference -> standard deviation of the mean rank over its seeds, as a share of the rank.
        reach: reference -> largest expected difference of the HR errors of two seeds, as a share; see `reach_of`.
        notes: caveats for the reader.
        beside: title -> target -> error, of predictions without a learned encoder.
    """

    rows: dict[str, SweepRow]
    scores: Scores
    noise: dict[str, dict[str, float]]
    top1_noise: dict[str, float]
    rank_noise: dict[str, float]
    reach: dict[str, float]
    notes: tuple[str, ...]
    beside: dict[str, dict[str, Score]] = {}

    @property
    def pool(self) -> int:
        """Number of candidates of the retrieval; 0 if no encoder has projections."""
        return max((row.retrieval.pool for row in self.rows.values() if row.retrieval), default=0)


def sweep(bench: Bench, experiment: Experiment, *, every_seed: bool = False) -> Sweep:
    """Measures probes and retrieval of all encoders of an experiment; of the first seed, or `every_seed`."""
    seeds_of, notes = measurable_encoders(bench, experiment.variants)
    with threadpool_limits(1):  # the problems are small: more threads gain nothing, and cost much on a busy machine
        probing = Probing(bench, targets=v.TARGETS, some=True)
        references = {name: seeds for name in (FULL, SHORT_ONE) if len(seeds := seeds_of.get(name, ())) > 1}
        retrieved: dict[str, dict[int, Retrieval]] = {}
        for name, seeds in seeds_of.items():
            used = [seed for seed in seeds if every_seed or name in references or seed == FIRST]
            if FIRST not in used:
                notes.append(f"Left out: {bench.variant(name).title}, because its first training seed has no result.")
            probing.encoder(name, used)
            pairs = {seed: pair for seed in used if (pair := bench.pair(name, seed)) is not None}
            people = bench.columns("test").participant
            retrieved[name] = {
                seed: expected_retrieval(*pair, people) for seed, pair in pairs.items() if len(people) > 1
            }
        beside = _beside(bench, probing)
    scores = probing.scores
    noise = {name: _noise(scores, name) for name in references}
    reach = {name: reach_of(of[HR], len(references[name])) for name, of in noise.items() if HR in of}
    retrieved_references = {name: results for name in references if len(results := list(retrieved[name].values())) > 1}
    rows = {}
    for name in seeds_of:
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
        {
            name: _share_noise([result.top1.value or 0.0 for result in results])
            for name, results in retrieved_references.items()
        },
        {
            name: _share_of_mean([result.mean_rank for result in results])
            for name, results in retrieved_references.items()
        },
        reach,
        (*notes, *probing.notes, *_noise_notes(noise, reach, rows)),
        beside,
    )


def _beside(bench: Bench, probing: Probing) -> dict[str, dict[str, Score]]:
    """Errors of hand-made features, where their run has a result, and of means: title -> target -> error."""
    titles = {MEAN: "mean of the labels", OWN_MEAN: "mean of the person's other minutes"}
    if seeds := bench.seeds(CLASSICAL):
        splits = bench.splits(CLASSICAL, seeds[0], some=True)
        probing.features(CLASSICAL, FIRST, splits, others={BOOSTING: gradient_boosting})
        titles |= {CLASSICAL: "hand-made features, ridge", BOOSTING: "hand-made features, gradient boosting"}
    return {
        title: {t: score for t in probing.targets if (score := probing.scores.error(t, 1.0, name, seeds=[FIRST]))}
        for name, title in titles.items()
    }


def reference_of(bench: Bench, name: str, experiment: Experiment) -> str:
    """The student of equal duration among the experiment's variants; "" for this student itself, for PPG, and if there is none."""
    variant = bench.variant(name)
    reference = SHORT_ONE if variant.short else FULL
    return "" if variant.kind == "teacher" or name == reference or reference not in experiment.variants else reference


def reach_of(noise: float, seeds: int) -> float:
    """Difference of the errors of two seeds that 95 % of pairs stay below, as a share of the error.

    Args:
        noise: standard deviation over the seeds, as a share of the error.
        seeds: number of seeds (at least 2). Few seeds estimate the noise badly, so Student's distribution is used.
    """
    return math.sqrt(2) * float(student_t.ppf(0.975, seeds - 1)) * noise


def judge(ratio: Score | None, reach: float | None) -> str:
    """Judges if a ratio of errors of one seed each shows a difference: "lower", "higher" or "not distinguishable".

    Args:
        ratio: with its interval over participants; None gives "".
        reach: see `reach_of`; None if it is not known.
    """
    if ratio is None:
        return ""
    if not (ratio.below_1 or ratio.above_1) or abs(ratio.value - 1) <= (reach or 0.0):
        return "not distinguishable"
    return "lower" if ratio.value < 1 else "higher"


def expected_retrieval(accel: np.ndarray, ppg: np.ndarray, participant: np.ndarray, *, pool: int = POOL) -> Retrieval:
    """Computes the exact expectation of retrieval in random pools, from the ranks among all N segments.

    Args:
        accel: [N, P] float, projections; row i belongs to the same segment as row i of `ppg`.
        ppg: [N, P] float.
        participant: [N] str.
        pool: number of candidates, at most N.
    """
    n = len(accel)
    pool = min(pool, n)
    ranks, _ = paired_ranks(unit_rows(accel), unit_rows(ppg))
    first = first_places(ranks, pool)
    people = ParticipantBootstrap(participant, draws=DRAWS, seed=0)
    top1 = share(people, np.stack([first, np.ones(n)], axis=1))
    return Retrieval(pool, top1, mean_rank(ranks, pool), first)


def sweep_table(
    measured: Sweep,
    caption: str,
    names: Sequence[str] | None = None,
    *,
    more: Mapping[str, Mapping[str, str]] | None = None,
    compared: bool = True,
) -> ReportTable:
    """Makes a table with a row for each encoder.

    Args:
        measured: the sweep.
        caption: of the table.
        names: encoders; None for all.
        more: further columns after the first: heading -> encoder -> cell.
        compared: True adds the columns of the ratio and of the retrieval.
    """
    rows = [measured.rows[name] for name in (measured.rows if names is None else names) if name in measured.rows]
    more, targets = more or {}, list(measured.scores.truth)
    columns = ["encoder", *more, *(f"{LABELS[t].short} error, {LABELS[t].unit}" for t in targets)]
    columns += ["HR error divided by that of the reference", "HR error is", "top-1", "mean rank"] if compared else []
    cells = []
    for row in rows:
        row_cells = [row.title, *(column.get(row.name, NONE) for column in more.values())]
        row_cells += [ranged(row.errors[t].estimate if t in row.errors else None) for t in targets]
        if compared:
            ratio = ranged(row.ratio.estimate) if row.ratio else "reference" if row.name in (FULL, SHORT_ONE) else NONE
            top1, rank = (row.retrieval.top1, row.retrieval.mean_rank) if row.retrieval else (None, None)
            row_cells += [ratio, row.verdict, ranged_share(top1), decimal(rank, 2)]
        cells.append(tuple(row_cells))
    if compared:
        for title, errors in measured.beside.items():
            known = [ranged(errors[t].estimate if t in errors else None) for t in targets]
            cells.append((title, *(NONE for _ in more), *known, *(NONE for _ in range(4))))
    return ReportTable(caption, tuple(columns), tuple(cells))


def sweep_numbers(section: str, measured: Sweep) -> dict[str, Number]:
    """Makes the numbers: errors, ratios, top-1 and mean ranks. Their tolerance comes from the reference's seeds."""
    numbers = {}
    noise = next(iter(measured.noise.values()), {})
    for name, row in measured.rows.items():
        row_noise = measured.noise.get(row.reference or name, noise)
        for target, score in row.errors.items():
            std = row_noise[target] * score.value if target in row_noise else None
            numbers[f"{section}/{name}/{target}/mae"] = report_number(
                score.seeds, unit=LABELS[target].unit, estimate=score.estimate, std=std
            )
        if row.ratio is not None:
            std = math.sqrt(2) * row_noise[HR] * row.ratio.value if HR in row_noise else None  # noise of two errors
            numbers[f"{section}/{name}/{HR}/ratio"] = report_number(
                row.ratio.seeds, estimate=row.ratio.estimate, std=std
            )
        if row.retrieval is not None:
            retrieved, base = row.retrieval, row.reference or name
            std = None
            if base in measured.top1_noise:
                std = measured.top1_noise[base] * share_scale(retrieved.top1.number)
            numbers[f"{section}/{name}/top1"] = report_number(
                [retrieved.top1.value], estimate=retrieved.top1, share=True, std=std
            )
            std = measured.rank_noise[base] * retrieved.mean_rank if base in measured.rank_noise else None
            numbers[f"{section}/{name}/mean_rank"] = report_number([retrieved.mean_rank], std=std)
    return numbers


def method(measured: Sweep) -> str:
    """Describes the method of a sweep."""
    constant = measured.scores.error(HR, 1.0, MEAN, seeds=[FIRST]) if HR in measured.scores.truth else None
    text = (
        "Linear probes are fitted on the training minutes that every encoder has embedded, with all their labels. Numbers are from the "
        "first training seed. HR errors are compared with those of the student of equal duration, on the same test participants. "
    )
    if constant:
        text += f"The HR error of the mean of the labels is {decimal(constant.value)} bpm. "
    if measured.pool:
        text += (
            f"Retrieval is from acceleration to PPG in random pools of {measured.pool} test minutes, from the ranks among all of them "
            f"(by chance: top-1 {percent(1 / measured.pool)}, mean rank {decimal((measured.pool + 1) / 2, 1)})."
        )
    return text.strip()


def _noise(scores: Scores, name: str) -> dict[str, float]:
    errors = {target: scores.error(target, 1.0, name) for target in scores.truth}
    return {
        target: score.std / score.value
        for target, score in errors.items()
        if score is not None and len(score.seeds) > 1
    }


def _share_noise(values: Sequence[float]) -> float:
    mean, std = over_seeds(values)
    return std / share_scale(mean)


def _share_of_mean(values: Sequence[float]) -> float:
    mean, std = over_seeds(values)
    return std / mean


def _noise_notes(
    noise: Mapping[str, Mapping[str, float]], reach: Mapping[str, float], rows: Mapping[str, SweepRow]
) -> list[str]:
    notes = []
    for reference in dict.fromkeys(row.reference for row in rows.values() if row.reference):
        reference_noise = noise.get(reference, {}).get(HR)
        if reference_noise is None:
            notes.append(
                f"{reference} has fewer than two training seeds, so the noise of a seed is not known: differences from it count "
                "if their interval over test participants excludes 1."
            )
        else:
            notes.append(
                f"The HR error of {reference} has a standard deviation of {percent(reference_noise)} over its training seeds. A difference from it "
                f"is not distinguishable if it is below {percent(reach[reference])} (the difference of two of its seeds, 95 % of Student's "
                "distribution), or if its interval over test participants includes 1."
            )
    return notes
