"""Retrieval of the PPG of a minute from its acceleration and the other way round, and what it fails on."""

from collections.abc import Mapping, Sequence

import numpy as np

from accdistill_jax.evaluation.report.comparison_plots import retrieval_failures_figure
from accdistill_jax.evaluation.report.style import capital
from accdistill_jax.evaluation.retrieval.failures import Failures
from accdistill_jax.evaluation.retrieval.retrieval import ACCEL_TO_PPG
from accdistill_jax.reproduce.measure import wording
from accdistill_jax.reproduce.measure.results import Bench, ReportPart, over_seeds
from accdistill_jax.reproduce.measure.search import (
    POOLS,
    QUANTITIES,
    WAYS,
    EncoderRetrieval,
    explain,
    failures_of,
    first_places,
    retrieve_pairs,
    top1_difference,
)
from accdistill_jax.reproduce.measure.wording import (
    decimal,
    mean_and_std,
    percent,
    percent_mean_and_std,
    points,
    ranged,
    ranged_share,
    scaled,
    signed,
    thousands,
)
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.report import pictures
from accdistill_jax.reproduce.report.document import Claim, Number, Picture, ReportTable, Section

CLAIMED_POOL, CLAIMED_TOP1, PARTLY_TOP1 = 1000, 0.99, 0.90
STUDENT, BETTER = "student", ("student-best", "student-long")
_SHORT = dict(zip(WAYS, ("accel-ppg", "ppg-accel"), strict=True))


def measure_retrieval(bench: Bench, experiment: Experiment) -> ReportPart:
    """Retrieval both ways in pools of several sizes and within each person; the paper's claim about it is judged."""
    seeds, notes = wording.measurable_encoders(bench, experiment.variants)
    found = {}
    for name, own in seeds.items():
        paired = [seed for seed in own if bench.pair(name, seed) is not None]
        if paired and len(bench.columns("test").participant) > 1:
            found[name] = retrieve_pairs(bench, name, paired)
    text, numbers, shown = [], {}, ()
    tables = [_pools_table(bench, found, way) for way in WAYS]
    if found:
        tables += [_within_table(bench, found), _pairs_table(bench, found)]
        total = len(bench.columns("test").participant)
        people = len(np.unique(bench.columns("test").participant))
        text = _words(bench, found)
        beyond = [thousands(size) for size in POOLS if size != "all" and size > total]
        if beyond:
            notes.append(
                f"The test split has {thousands(total)} minutes of {people} people: pools of {wording.listed(beyond)} cannot be drawn from it."
            )
        notes += _protocol(bench)
        shown = (_picture(bench, found),)
        for name, own in found.items():
            numbers |= _numbers(f"{experiment.id}/{name}", own)
    else:
        text = ["Nothing was retrieved: no encoder has both projections, or there are fewer than two test minutes."]
    section = Section(
        experiment.id, experiment.title, tuple(text), tuple(t for t in tables if t.rows), shown, tuple(notes)
    )
    return ReportPart(section, numbers, (_claim(bench, found),))


def _pools_table(bench: Bench, found: dict[str, EncoderRetrieval], way: str) -> ReportTable:
    rows = []
    for name, own in found.items():
        for one in (r for r in own.results if r.direction == way):
            top1, mean = own.over_seeds(way, one.pool_size)
            all_of = " (all)" if one.pool_size == len(own.first_ranks[way]) else ""
            drawn = [f"{percent(one.top[k].mean)} ± {100 * one.top[k].std:.2g}" for k in (1, 3, 5)]
            rows.append(
                (
                    bench.variant(name).title,
                    thousands(one.pool_size) + all_of,
                    *drawn,
                    ranged_share(one.top1),
                    *(f"{decimal(rank.mean)} ± {decimal(rank.std)}" for rank in (one.mean_rank, one.median_rank)),
                    percent_mean_and_std(top1),
                    mean_and_std(mean),
                    f"{percent(one.chance_top[1])}, rank {decimal(one.chance_rank, 1)}",
                )
            )
    columns = (
        "encoder",
        "candidates",
        "top-1",
        "top-3",
        "top-5",
        "top-1, interval over people",
        "mean rank",
        "median rank",
        "top-1 over seeds",
        "mean rank over seeds",
        "guessing: top-1, mean rank",
    )
    return ReportTable(f"{WAYS[way]} (± over draws of the pool, first training seed)", columns, tuple(rows))


def _within_table(bench: Bench, found: dict[str, EncoderRetrieval]) -> ReportTable:
    rows = [
        (
            bench.variant(name).title,
            WAYS[one.direction],
            thousands(one.queries),
            decimal(one.mean_pool_size, 1),
            ranged_share(one.top1),
            percent(one.chance_top1),
            ranged(one.relative_rank, 3),
        )
        for name, own in found.items()
        for one in next(iter(own.within.values()))
    ]
    columns = (
        "encoder",
        "direction",
        "queries",
        "candidates",
        "top-1",
        "guessing",
        "relative rank (0 best, 0.5 guessing)",
    )
    return ReportTable(
        "The hard case: all candidates are minutes of the same person (first training seed)", columns, tuple(rows)
    )


def _pairs_table(bench: Bench, found: dict[str, EncoderRetrieval]) -> ReportTable:
    """Every encoder against the student on the same queries."""
    rows, people = [], bench.columns("test").participant
    size = _claim_size(found[STUDENT]) if STUDENT in found else 0
    for name, own in found.items() if size else ():
        seeds = sorted(own.ranks.keys() & found[STUDENT].ranks.keys())
        if name == STUDENT or not seeds:
            continue
        cells = []
        for way in WAYS:
            ours, theirs = (
                np.mean([first_places(one.ranks[seed][way], size) for seed in seeds], 0)
                for one in (own, found[STUDENT])
            )
            gap = top1_difference(ours, theirs, people)
            cells.append(signed(points(gap), 1))
        rows.append((bench.variant(name).title, wording.listed([str(seed) for seed in seeds]), *cells))
    columns = ("encoder", "training seeds", *(f"{words}, points" for words in WAYS.values()))
    return ReportTable(
        f"Top-1 among {thousands(size)} less that of the {bench.variant(STUDENT).title if size else ''}, in pairs on the same queries "
        "[95 % interval over test participants]",
        columns,
        tuple(rows),
    )


def _claim_size(own: EncoderRetrieval) -> int:
    """The pool size nearest to the claimed one."""
    return min((one.pool_size for one in own.results), key=lambda size: abs(np.log(size / CLAIMED_POOL)))


def _words(bench: Bench, found: dict[str, EncoderRetrieval]) -> list[str]:
    paragraphs = []
    for name, own in found.items():
        size = _claim_size(own)
        one = own.result(ACCEL_TO_PPG, size)
        top1, mean = own.over_seeds(ACCEL_TO_PPG, size)
        said = (
            f"**{bench.variant(name).title}**: among {thousands(size)} minutes of unseen people the PPG of the same minute comes "
            f"first in {percent_mean_and_std(top1)} of queries, its mean rank is {mean_and_std(mean)} "
        )
        said += f"(guessing: {percent(one.chance_top[1])}, {decimal(one.chance_rank, 1)})"
        within = own.within_one(ACCEL_TO_PPG)
        if within:
            said += (
                f"; among the {decimal(within[0].mean_pool_size, 0)} minutes of one person in "
                f"{percent_mean_and_std([one.top1.value for one in within])} (guessing {percent(within[0].chance_top1)})"
            )
        paragraphs.append(said + ".")
    return paragraphs


def _protocol(bench: Bench) -> list[str]:
    draws = bench.plan.base.evaluation.bootstrap_draws
    return [
        f"A smaller pool is {draws} draws of distinct minutes, each of them query and candidate; with the pool of all minutes a draw "
        "resamples the queries. Columns over seeds are exact expectations from the ranks among all. Ties count against an encoder.",
        "The paper states no pool size; without one a top-1 share says little, so the claim is judged in a pool of "
        f"{thousands(CLAIMED_POOL)}.",
    ]


def _picture(bench: Bench, found: dict[str, EncoderRetrieval]) -> Picture:
    first = {name: own.first_ranks[ACCEL_TO_PPG] for name, own in found.items()}
    titles = {name: bench.variant(name).title for name in found}
    drawn = {
        name: [(r.pool_size, r.top[1].mean) for r in own.results if r.direction == ACCEL_TO_PPG]
        for name, own in found.items()
    }
    caption = (
        "Acceleration finds PPG: share of first places by the number of candidates (lines: exactly from the ranks among all; "
        "marks: drawn pools) and ranks among all test minutes, first training seed."
    )
    return Picture("retrieval-pools", caption, pictures.pools(first, titles, drawn))


def _numbers(prefix: str, own: EncoderRetrieval) -> dict[str, Number]:
    numbers = {}
    for one in own.results:
        top1, mean = own.over_seeds(one.direction, one.pool_size)
        size = "all" if one.pool_size == len(own.first_ranks[one.direction]) else one.pool_size
        name = f"{prefix}/{_SHORT[one.direction]}/{size}"
        numbers[f"{name}/top-1"] = wording.report_number(top1, estimate=one.top1, share=True)
        numbers[f"{name}/mean-rank"] = wording.report_number(mean)
        numbers |= {f"{name}/top-{k}": wording.report_number([one.top[k].mean], share=True) for k in (3, 5)}
        numbers[f"{name}/median-rank"] = wording.report_number([one.median_rank.mean])
    for way, short in _SHORT.items():
        if within := own.within_one(way):
            top1 = [one.top1.value for one in within]
            numbers[f"{prefix}/{short}/one-person/top-1"] = wording.report_number(
                top1, estimate=within[0].top1, share=True
            )
    return numbers


def _claim(bench: Bench, found: dict[str, EncoderRetrieval]) -> Claim:
    claim = "The student's acceleration finds the PPG of the same minute"
    paper = "top-1 99.2 %, mean rank 1.02 (pool size not stated), std over 100 bootstrap draws"
    one = found[STUDENT].result(ACCEL_TO_PPG, CLAIMED_POOL) if STUDENT in found else None
    if one is None:
        why = (
            "the student has no result"
            if STUDENT not in found
            else f"the test split has fewer than {thousands(CLAIMED_POOL)} minutes"
        )
        return Claim(claim, paper, "P", "", "not measured", f"Not judged: {why}.")
    top1, mean = found[STUDENT].over_seeds(ACCEL_TO_PPG, CLAIMED_POOL)
    value = over_seeds(top1)[0]
    measured = (
        f"top-1 {percent_mean_and_std(top1)}, mean rank {mean_and_std(mean)} in a pool of {thousands(CLAIMED_POOL)} "
        f"(std over {one.draws} draws {100 * one.top[1].std:.2g} %)"
    )
    for name in BETTER:
        if name in found:
            own = found[name].over_seeds(ACCEL_TO_PPG, CLAIMED_POOL)
            measured += f"; {bench.variant(name).title}: {percent_mean_and_std(own[0])}, {mean_and_std(own[1])}"
    holds = "yes" if value >= CLAIMED_TOP1 else "partly" if value >= PARTLY_TOP1 else "no"
    why = " ".join(explain(failures_of(bench, STUDENT, next(iter(found[STUDENT].ranks)))))
    rule = (
        f"judged by the student's mean top-1 over seeds in a pool of {thousands(CLAIMED_POOL)}: holds from {percent(CLAIMED_TOP1)}, in part "
        f"from {percent(PARTLY_TOP1)}. The mean rank is shown, and not judged."
    )
    return Claim(claim, paper, "P", measured, holds, why, rule)


def measure_failures(bench: Bench, experiment: Experiment) -> ReportPart:
    """Causes of failure of retrieval among all test minutes: motion, quality, minutes that look alike."""
    seeds, notes = wording.measurable_encoders(bench, experiment.variants)
    name = next((one for one, own in seeds.items() if bench.pair(one, own[0]) is not None), None)
    if name is None or len(bench.columns("test").participant) < 2:
        text = "Nothing was retrieved: no encoder has both projections, or there are fewer than two test minutes."
        return ReportPart(Section(experiment.id, experiment.title, (text,), notes=tuple(notes)))
    by_seed = [failures_of(bench, name, seed) for seed in seeds[name]]
    both = {way: by_seed[0] if way == ACCEL_TO_PPG else failures_of(bench, name, seeds[name][0], way) for way in WAYS}
    first = by_seed[0]
    text = [f"{capital(bench.variant(name).title)}, acceleration finds PPG. {' '.join(explain(first))}"]
    if len(by_seed) > 1:
        text.append(
            f"Over {len(by_seed)} training seeds {percent_mean_and_std([one.rate.value for one in by_seed])} of queries fail."
        )
    text.append("AUC: probability that a failure has more of it than a success, 0.5 where it says nothing.")
    figure = retrieval_failures_figure(first)
    caption = "Share of queries that fail by motion, PPG quality and heart rate (fifths of the minutes), and what wins instead."
    shown = (Picture("retrieval-failures", caption, figure),) if figure else ()
    notes += [f"{WAYS[way]}: {note}." for way, one in both.items() for note in one.notes]
    section = Section(experiment.id, experiment.title, tuple(text), _failure_tables(both), shown, tuple(notes))
    return ReportPart(section, _failure_numbers(f"{experiment.id}/{name}", by_seed))


def _failure_tables(both: Mapping[str, Failures]) -> tuple[ReportTable, ...]:
    contrasts, winners, bins = [], [], []
    for way, found in both.items():
        for quantity, one in found.contrasts.items():
            words, _, _, scale, unit = QUANTITIES[quantity]
            medians = [
                decimal(v * scale) if v is not None else wording.NONE for v in (one.median_failed, one.median_succeeded)
            ]
            contrasts.append(
                (f"{words} ({unit})", WAYS[way], *medians, ranged(scaled(one.difference, scale)), decimal(one.auc))
            )
        winners.append(
            (
                WAYS[way],
                f"{thousands(found.failures)} of {thousands(found.queries)}",
                ranged_share(found.rate),
                ranged_share(found.same_participant),
                percent(found.chance_same_participant),
                ranged_share(found.near),
                percent(found.chance_near),
                decimal(found.winner_difference_bpm, 1),
            )
        )
    for quantity, own in both[ACCEL_TO_PPG].hazards.items():
        words, _, _, scale, unit = QUANTITIES[quantity]
        for one in own:
            between = f"{decimal(one.low * scale)} to {decimal(one.high * scale)} {unit}"
            bins.append(
                (f"{words}, {between}", thousands(one.queries), thousands(one.failures), ranged_share(one.share))
            )
    tables = (
        ReportTable(
            "What wins instead of the right minute",
            (
                "direction",
                "failures",
                "of queries",
                "winner of the same person",
                "any wrong minute",
                f"winner within {both[ACCEL_TO_PPG].near_bpm:g} bpm",
                "any wrong minute",
                "median difference of heart rates, bpm",
            ),
            tuple(winners),
        ),
        ReportTable(
            "Failures against successes",
            ("quantity", "direction", "median of failures", "of successes", "difference of means", "AUC"),
            tuple(contrasts),
        ),
        ReportTable(
            "Acceleration finds PPG: failures by range", ("range", "queries", "failures", "share"), tuple(bins)
        ),
    )
    return tuple(table for table in tables if table.rows)


def _failure_numbers(prefix: str, by_seed: Sequence[Failures]) -> dict[str, Number]:
    first = by_seed[0]
    numbers = {
        f"{prefix}/failed": wording.report_number([one.rate.value for one in by_seed], estimate=first.rate, share=True)
    }
    for what in ("same_participant", "near"):
        found = [getattr(one, what) for one in by_seed]
        values = [None if one is None else one.value for one in found]
        numbers[f"{prefix}/winner-{what.replace('_', '-')}"] = wording.report_number(
            values, estimate=found[0], share=True
        )
    for quantity in first.contrasts:
        values = [one.contrasts[quantity].auc for one in by_seed]
        numbers[f"{prefix}/auc-{QUANTITIES[quantity][0].lower().replace(' ', '-')}"] = wording.report_number(
            values, share=True
        )
    return numbers
