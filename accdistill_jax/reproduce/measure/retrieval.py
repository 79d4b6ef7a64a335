"""Measures retrieval of a minute's PPG from its acceleration and vice versa, and analyses its failures."""

from collections.abc import Mapping, Sequence

import numpy as np

from accdistill_jax.evaluation.report.comparison_plots import retrieval_failures_figure
from accdistill_jax.evaluation.report.style import capital
from accdistill_jax.evaluation.retrieval.failures import Failures
from accdistill_jax.evaluation.retrieval.retrieval import ACCEL_TO_PPG
from accdistill_jax.reproduce.measure import formatting
from accdistill_jax.reproduce.measure.formatting import (
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
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.report import pictures
from accdistill_jax.reproduce.report.document import Claim, Number, Picture, ReportTable, Section, Statement

CLAIMED_POOL, CLAIMED_TOP1, PARTLY_TOP1 = 1000, 0.99, 0.90
STUDENT, BETTER = "student", ("student-mean", "student-best", "student-long")
_SHORT = dict(zip(WAYS, ("accel-ppg", "ppg-accel"), strict=True))


def measure_retrieval(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures retrieval in both directions, in pools of several sizes and within each person, and judges the paper's claim."""
    seeds, notes = formatting.measurable_encoders(bench, experiment.variants)
    results_of = {}
    for name, encoder_seeds in seeds.items():
        paired = [seed for seed in encoder_seeds if bench.pair(name, seed) is not None]
        if paired and len(bench.columns("test").participant) > 1:
            results_of[name] = retrieve_pairs(bench, name, paired)
    text, numbers, shown = [], {}, ()
    tables = [_pools_table(bench, results_of, way) for way in WAYS]
    if results_of:
        tables += [_within_table(bench, results_of), _pairs_table(bench, results_of)]
        total = len(bench.columns("test").participant)
        people = len(np.unique(bench.columns("test").participant))
        text = _words(bench, results_of)
        beyond = [thousands(size) for size in POOLS if size != "all" and size > total]
        if beyond:
            notes.append(
                f"The test split has {thousands(total)} minutes of {people} people, too few for pools of {formatting.joined_words(beyond)}."
            )
        notes += _protocol(bench)
        shown = (_picture(bench, results_of),)
        for name, results in results_of.items():
            numbers |= _numbers(f"{experiment.id}/{name}", results)
    else:
        text = ["Not measured: no encoder has both projections, or there are fewer than two test minutes."]
    section = Section(
        experiment.id, experiment.title, tuple(text), tuple(t for t in tables if t.rows), shown, tuple(notes)
    )
    return ReportPart(section, numbers, (_claim(bench, results_of),))


def _pools_table(bench: Bench, results_of: dict[str, EncoderRetrieval], way: str) -> ReportTable:
    rows = []
    for name, results in results_of.items():
        for result in (r for r in results.results if r.direction == way):
            top1, mean = results.over_seeds(way, result.pool_size)
            all_of = " (all)" if result.pool_size == len(results.first_ranks[way]) else ""
            drawn = [f"{percent(result.top[k].mean)} ± {100 * result.top[k].std:.2g}" for k in (1, 3, 5)]
            rows.append(
                (
                    bench.variant(name).title,
                    thousands(result.pool_size) + all_of,
                    *drawn,
                    ranged_share(result.top1),
                    *(f"{decimal(rank.mean)} ± {decimal(rank.std)}" for rank in (result.mean_rank, result.median_rank)),
                    percent_mean_and_std(top1),
                    mean_and_std(mean),
                    f"{percent(result.chance_top[1])}, rank {decimal(result.chance_rank, 1)}",
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
        "by chance: top-1, mean rank",
    )
    return ReportTable(f"{WAYS[way]} (± over draws of the pool, first training seed)", columns, tuple(rows))


def _within_table(bench: Bench, results_of: dict[str, EncoderRetrieval]) -> ReportTable:
    rows = [
        (
            bench.variant(name).title,
            WAYS[result.direction],
            thousands(result.queries),
            decimal(result.mean_pool_size, 1),
            ranged_share(result.top1),
            percent(result.chance_top1),
            ranged(result.relative_rank, 3),
        )
        for name, results in results_of.items()
        for result in next(iter(results.within.values()))
    ]
    columns = (
        "encoder",
        "direction",
        "queries",
        "candidates",
        "top-1",
        "top-1 by chance",
        "relative rank (0 best, 0.5 by chance)",
    )
    return ReportTable("All candidates are minutes of the same person (first training seed)", columns, tuple(rows))


def _pairs_table(bench: Bench, results_of: dict[str, EncoderRetrieval]) -> ReportTable:
    """Compares every encoder with the student on the same queries."""
    rows, people = [], bench.columns("test").participant
    size = _claim_size(results_of[STUDENT]) if STUDENT in results_of else 0
    for name, results in results_of.items() if size else ():
        seeds = sorted(results.ranks.keys() & results_of[STUDENT].ranks.keys())
        if name == STUDENT or not seeds:
            continue
        cells = []
        for way in WAYS:
            ours, theirs = (
                np.mean([first_places(compared.ranks[seed][way], size) for seed in seeds], 0)
                for compared in (results, results_of[STUDENT])
            )
            gap = top1_difference(ours, theirs, people)
            cells.append(signed(points(gap), 1))
        rows.append((bench.variant(name).title, formatting.joined_words([str(seed) for seed in seeds]), *cells))
    columns = ("encoder", "training seeds", *(f"{words}, points" for words in WAYS.values()))
    return ReportTable(
        f"Top-1 among {thousands(size)} minus that of the {bench.variant(STUDENT).title if size else ''}, on the same queries, in "
        "percentage points [95 % interval over test participants]",
        columns,
        tuple(rows),
    )


def _claim_size(results: EncoderRetrieval) -> int:
    """The pool size nearest to the size of the claim."""
    return min((result.pool_size for result in results.results), key=lambda size: abs(np.log(size / CLAIMED_POOL)))


def _words(bench: Bench, results_of: dict[str, EncoderRetrieval]) -> list[str]:
    paragraphs = []
    for name, results in results_of.items():
        size = _claim_size(results)
        result = next(r for r in results.results if (r.direction, r.pool_size) == (ACCEL_TO_PPG, size))
        top1, mean = results.over_seeds(ACCEL_TO_PPG, size)
        text = (
            f"**{bench.variant(name).title}**: among {thousands(size)} minutes of unseen people the PPG of the same minute ranks "
            f"first in {percent_mean_and_std(top1)} of queries, its mean rank is {mean_and_std(mean)} "
        )
        text += f"(by chance: {percent(result.chance_top[1])}, {decimal(result.chance_rank, 1)})"
        within = results.within_one(ACCEL_TO_PPG)
        if within:
            text += (
                f"; among the {decimal(within[0].mean_pool_size, 0)} minutes of one person in "
                f"{percent_mean_and_std([r.top1.value or 0.0 for r in within])} (by chance {percent(within[0].chance_top1)})"
            )
        paragraphs.append(text + ".")
    return paragraphs


def _protocol(bench: Bench) -> list[str]:
    draws = bench.plan.base.evaluation.bootstrap_draws
    return [
        f"A smaller pool is drawn {draws} times, each time of distinct minutes; each minute is query and candidate. With the pool of all "
        "minutes each draw resamples the queries. Columns over seeds are exact expectations from the ranks among all minutes. Ties "
        "count against an encoder.",
        "The paper states no pool size, and top-1 depends on it. The claim is judged in a pool of "
        f"{thousands(CLAIMED_POOL)}.",
    ]


def _picture(bench: Bench, results_of: dict[str, EncoderRetrieval]) -> Picture:
    first = {name: results.first_ranks[ACCEL_TO_PPG] for name, results in results_of.items()}
    titles = {name: bench.variant(name).title for name in results_of}
    drawn = {
        name: [(r.pool_size, r.top[1].mean) for r in results.results if r.direction == ACCEL_TO_PPG]
        for name, results in results_of.items()
    }
    caption = (
        "Acceleration finds PPG: top-1 by number of candidates (lines: exact, from the ranks among all minutes; "
        "marks: drawn pools), and ranks among all test minutes. First training seed."
    )
    return Picture("retrieval-pools", caption, pictures.pools(first, titles, drawn))


def _numbers(prefix: str, results: EncoderRetrieval) -> dict[str, Number]:
    numbers = {}
    for result in results.results:
        top1, mean = results.over_seeds(result.direction, result.pool_size)
        size = "all" if result.pool_size == len(results.first_ranks[result.direction]) else result.pool_size
        name = f"{prefix}/{_SHORT[result.direction]}/{size}"
        numbers[f"{name}/top-1"] = formatting.report_number(
            top1, estimate=results.top1(result.direction, result.pool_size), share=True
        )
        numbers[f"{name}/mean-rank"] = formatting.report_number(mean)
        numbers |= {f"{name}/top-{k}": formatting.report_number([result.top[k].mean], share=True) for k in (3, 5)}
        numbers[f"{name}/median-rank"] = formatting.report_number([result.median_rank.mean])
    for way, short in _SHORT.items():
        if within := results.within_one(way):
            top1 = [result.top1.value for result in within]
            numbers[f"{prefix}/{short}/one-person/top-1"] = formatting.report_number(
                top1, estimate=results.top1_within_one(way), share=True
            )
    return numbers


def _claim(bench: Bench, results_of: dict[str, EncoderRetrieval]) -> Claim:
    statement = Statement(
        "retrieval",
        "The student's acceleration finds the PPG of the same minute",
        "top-1 99.2 %, mean rank 1.02 (pool size not stated), std over 100 bootstrap draws",
    )
    claimed = results_of[STUDENT].result(ACCEL_TO_PPG, CLAIMED_POOL) if STUDENT in results_of else None
    if claimed is None:
        why = (
            "the student has no result"
            if STUDENT not in results_of
            else f"the test split has fewer than {thousands(CLAIMED_POOL)} minutes"
        )
        return Claim(*statement, "P", measured="", holds="not measured", why=f"Not judged: {why}.")
    top1, mean = results_of[STUDENT].over_seeds(ACCEL_TO_PPG, CLAIMED_POOL)
    value = over_seeds(top1)[0]
    measured = (
        f"top-1 {percent_mean_and_std(top1)}, mean rank {mean_and_std(mean)} in a pool of {thousands(CLAIMED_POOL)} "
        f"(std over {claimed.draws} draws {100 * claimed.top[1].std:.2g} %)"
    )
    for name in BETTER:
        if name in results_of:
            top1, mean = results_of[name].over_seeds(ACCEL_TO_PPG, CLAIMED_POOL)
            measured += f"; {bench.variant(name).title}: {percent_mean_and_std(top1)}, {mean_and_std(mean)}"
    holds = "yes" if value >= CLAIMED_TOP1 else "partly" if value >= PARTLY_TOP1 else "no"
    why = " ".join(explain(failures_of(bench, STUDENT, next(iter(results_of[STUDENT].ranks)))))
    rule = (
        f"the student's mean top-1 over seeds in a pool of {thousands(CLAIMED_POOL)} decides: the claim holds from {percent(CLAIMED_TOP1)}, and "
        f"holds in part from {percent(PARTLY_TOP1)}. The mean rank does not decide."
    )
    return Claim(*statement, "P", measured=measured, holds=holds, why=why, rule=rule)


def measure_failures(bench: Bench, experiment: Experiment) -> ReportPart:
    """Analyses failures of retrieval among all test minutes: motion, signal quality, similar minutes."""
    seeds, notes = formatting.measurable_encoders(bench, experiment.variants)
    name = next((name for name, own_seeds in seeds.items() if bench.pair(name, own_seeds[0]) is not None), None)
    if name is None or len(bench.columns("test").participant) < 2:
        text = "Not measured: no encoder has both projections, or there are fewer than two test minutes."
        return ReportPart(Section(experiment.id, experiment.title, (text,), notes=tuple(notes)))
    by_seed = [failures_of(bench, name, seed) for seed in seeds[name]]
    both = {way: by_seed[0] if way == ACCEL_TO_PPG else failures_of(bench, name, seeds[name][0], way) for way in WAYS}
    first = by_seed[0]
    text = [f"{capital(bench.variant(name).title)}, acceleration finds PPG. {' '.join(explain(first))}"]
    if len(by_seed) > 1:
        text.append(
            f"Over {len(by_seed)} training seeds {percent_mean_and_std([f.rate.value or 0.0 for f in by_seed])} of queries fail."
        )
    text.append("AUC: probability that a failure has a higher value than a success; 0.5 means no relation.")
    figure = retrieval_failures_figure(first)
    caption = "Share of queries that fail, by motion, PPG quality and heart rate (fifths of the minutes), and the wrong minutes that rank first."
    shown = (Picture("retrieval-failures", caption, figure),) if figure else ()
    notes += [f"{WAYS[way]}: {note}." for way, analysis in both.items() for note in analysis.notes]
    section = Section(experiment.id, experiment.title, tuple(text), _failure_tables(both), shown, tuple(notes))
    return ReportPart(section, _failure_numbers(f"{experiment.id}/{name}", by_seed))


def _failure_tables(both: Mapping[str, Failures]) -> tuple[ReportTable, ...]:
    contrasts, winners, bins = [], [], []
    for way, analysis in both.items():
        for quantity, contrast in analysis.contrasts.items():
            words, _, _, scale, unit = QUANTITIES[quantity]
            medians = [
                decimal(v * scale) if v is not None else formatting.NONE
                for v in (contrast.median_failed, contrast.median_succeeded)
            ]
            contrasts.append(
                (
                    f"{words} ({unit})",
                    WAYS[way],
                    *medians,
                    ranged(scaled(contrast.difference, scale)),
                    decimal(contrast.auc),
                )
            )
        winners.append(
            (
                WAYS[way],
                f"{thousands(analysis.failures)} of {thousands(analysis.queries)}",
                ranged_share(analysis.rate),
                ranged_share(analysis.same_participant),
                percent(analysis.chance_same_participant),
                ranged_share(analysis.near),
                percent(analysis.chance_near),
                decimal(analysis.winner_difference_bpm, 1),
            )
        )
    for quantity, ranges in both[ACCEL_TO_PPG].hazards.items():
        words, _, _, scale, unit = QUANTITIES[quantity]
        for fifth in ranges:
            between = f"{decimal(fifth.low * scale)} to {decimal(fifth.high * scale)} {unit}"
            bins.append(
                (f"{words}, {between}", thousands(fifth.queries), thousands(fifth.failures), ranged_share(fifth.share))
            )
    tables = (
        ReportTable(
            "The wrong minutes that rank first",
            (
                "direction",
                "failures",
                "share of queries",
                "same person",
                "same person by chance",
                f"heart rate within {both[ACCEL_TO_PPG].near_bpm:g} bpm",
                f"within {both[ACCEL_TO_PPG].near_bpm:g} bpm by chance",
                "median difference of heart rates, bpm",
            ),
            tuple(winners),
        ),
        ReportTable(
            "Failures compared with successes",
            ("quantity", "direction", "median of failures", "median of successes", "difference of means", "AUC"),
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
        f"{prefix}/failed": formatting.report_number(
            [analysis.rate.value for analysis in by_seed], estimate=first.rate, share=True
        )
    }
    for kind in ("same_participant", "near"):
        estimates = [getattr(analysis, kind) for analysis in by_seed]
        values = [None if estimate is None else estimate.value for estimate in estimates]
        numbers[f"{prefix}/winner-{kind.replace('_', '-')}"] = formatting.report_number(
            values, estimate=estimates[0], share=True
        )
    for quantity in first.contrasts:
        values = [analysis.contrasts[quantity].auc for analysis in by_seed]
        numbers[f"{prefix}/auc-{QUANTITIES[quantity][0].lower().replace(' ', '-')}"] = formatting.report_number(
            values, share=True
        )
    return numbers
