"""Measures retrieval among ten thousand minutes of new people, beside a classical matcher; also by heart rate and within one person."""

from collections.abc import Mapping

import numpy as np
from threadpoolctl import threadpool_limits

from accdistill_jax.evaluation.bootstrap import ParticipantBootstrap
from accdistill_jax.evaluation.retrieval.retrieval import ACCEL_TO_PPG, mean_over_queries
from accdistill_jax.labels import HEART_RATE
from accdistill_jax.reproduce.measure.formatting import (
    decimal,
    joined_words,
    measurable_encoders,
    percent,
    percent_mean_and_std,
    ranged_share,
    report_number,
    thousands,
)
from accdistill_jax.reproduce.measure.probe_scores import DRAWS
from accdistill_jax.reproduce.measure.results import Bench, ReportPart
from accdistill_jax.reproduce.measure.search import POOLS, EncoderRetrieval, first_places, retrieve_pairs
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.plan.regimes import POOL
from accdistill_jax.reproduce.report.document import Claim, Number, ReportTable, Section, Statement

STUDENT = f"student-{POOL}"
FIFTHS = 5
BY_RATE_POOL = 1000
HOLDS, PARTLY = 0.99, 0.90

STATEMENT = Statement(
    "retrieval-large-pool",
    "The student's acceleration finds the PPG of the same minute in a pool of any size up to 10 000",
    "top-1 99.2 % (pool size not stated)",
)


def measure_large_pool(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures retrieval in pools of 100, 1 000 and 10 000 minutes of people that serve for nothing else."""
    seeds_of, notes = measurable_encoders(bench, experiment.variants)
    pool = bench.on(POOL)
    columns = pool.columns("test")
    total, people = len(columns.participant), len(np.unique(columns.participant))
    results: dict[str, EncoderRetrieval] = {}
    with threadpool_limits(None):
        for name, seeds in seeds_of.items():
            paired = [seed for seed in seeds if pool.pair(name, seed) is not None]
            if paired and total > 1:
                results[name] = retrieve_pairs(pool, name, paired)
    titles = {name: bench.variant(name).title for name in results}
    beyond = [thousands(size) for size in POOLS if size != "all" and size > total]
    if beyond:
        notes.append(f"The pool has {thousands(total)} minutes, too few for {joined_words(beyond)}.")
    notes.append(
        "The matcher has no parameters but the pulse's mean lag, fitted on validation people. It compares the acceleration's envelope with "
        "the PPG's upstroke, so it works where the ballistocardiogram is visible."
    )
    text = (
        f"Regime: {thousands(total)} minutes of {people} people who serve for nothing else; encoders are those of the other sections. "
        "Each minute of acceleration searches for its PPG. Top-1 and mean rank are exact expectations in random pools of each size.",
    )
    tables = (
        _pools(results, titles),
        _within(results, titles),
        _by_rate(results, titles, columns.labels[HEART_RATE], columns.participant),
    )
    section = Section(
        experiment.id, experiment.title, text, tuple(table for table in tables if table.rows), notes=tuple(notes)
    )
    return ReportPart(section, _numbers(experiment.id, results), (_claim(results),))


def _sizes(results: Mapping[str, EncoderRetrieval]) -> list[int]:
    first = next(iter(results.values()))
    return sorted({result.pool_size for result in first.results if result.direction == ACCEL_TO_PPG})


def _pools(results: Mapping[str, EncoderRetrieval], titles: Mapping[str, str]) -> ReportTable:
    rows = []
    for name, found in results.items():
        for size in _sizes(results):
            top1, rank = found.over_seeds(ACCEL_TO_PPG, size)
            result = found.result(ACCEL_TO_PPG, size)
            interval = ranged_share(result.top1) if result else ""
            rows.append(
                (
                    titles[name],
                    thousands(size),
                    percent_mean_and_std(top1),
                    interval,
                    decimal(float(np.mean(rank)), 1),
                    f"{percent(1 / size)}, rank {decimal((size + 1) / 2, 1)}",
                )
            )
    columns = (
        "encoder",
        "candidates",
        "top-1 over seeds",
        "first seed, interval over people",
        "mean rank",
        "by chance",
    )
    return ReportTable("Acceleration finds PPG, by number of candidates", columns, tuple(rows))


def _within(results: Mapping[str, EncoderRetrieval], titles: Mapping[str, str]) -> ReportTable:
    rows = [
        (
            titles[name],
            decimal(of_seeds[0].mean_pool_size, 1),
            percent_mean_and_std([result.top1.value or 0.0 for result in of_seeds]),
            ranged_share(of_seeds[0].top1),
            percent(of_seeds[0].chance_top1),
        )
        for name, found in results.items()
        if (of_seeds := found.within_one(ACCEL_TO_PPG))
    ]
    columns = ("encoder", "candidates", "top-1 over seeds", "first seed, interval over people", "by chance")
    return ReportTable("Acceleration finds PPG among the minutes of the same person", columns, tuple(rows))


def _by_rate(
    results: Mapping[str, EncoderRetrieval], titles: Mapping[str, str], rate: np.ndarray, participant: np.ndarray
) -> ReportTable:
    """Top-1 by fifths of the heart rate, in pools of `BY_RATE_POOL` of all minutes."""
    known = rate[np.isfinite(rate)]
    if len(known) < FIFTHS:
        return ReportTable("", (), ())
    edges = np.quantile(known, np.linspace(0, 1, FIFTHS + 1))
    fifth = np.where(np.isfinite(rate), np.clip(np.searchsorted(edges, rate, side="right") - 1, 0, FIFTHS - 1), -1)
    rows, pool = [], min(BY_RATE_POOL, len(rate))
    for name, found in results.items():
        first = first_places(found.first_ranks[ACCEL_TO_PPG], pool)
        cells = []
        for part in range(FIFTHS):
            of_part = fifth == part
            people = ParticipantBootstrap(participant[of_part], draws=DRAWS, seed=0)
            cells.append(ranged_share(mean_over_queries(people, first[of_part])))
        rows.append((titles[name], *cells))
    columns = tuple(f"{decimal(low, 0)} to {decimal(high, 0)} bpm" for low, high in zip(edges, edges[1:], strict=False))
    caption = f"Top-1 by heart rate, among {thousands(pool)} minutes of all rates (first training seed)"
    return ReportTable(caption, ("encoder", *columns), tuple(rows))


def _numbers(section: str, results: Mapping[str, EncoderRetrieval]) -> dict[str, Number]:
    numbers = {}
    for name, found in results.items():
        total = len(found.first_ranks[ACCEL_TO_PPG])
        for size in _sizes(results):
            top1, rank = found.over_seeds(ACCEL_TO_PPG, size)
            label = "all" if size == total else size
            numbers[f"{section}/{name}/{label}/top-1"] = report_number(
                top1, estimate=found.top1(ACCEL_TO_PPG, size), share=True
            )
            numbers[f"{section}/{name}/{label}/mean-rank"] = report_number(rank)
        if within := found.within_one(ACCEL_TO_PPG):
            numbers[f"{section}/{name}/one-person/top-1"] = report_number(
                [result.top1.value for result in within],
                estimate=found.top1_within_one(ACCEL_TO_PPG),
                share=True,
            )
    return numbers


def _claim(results: Mapping[str, EncoderRetrieval]) -> Claim:
    rule = f"the smallest mean top-1 over pool sizes decides: the claim holds from {percent(HOLDS)}, and holds in part from {percent(PARTLY)}."
    wanted = [size for size in POOLS if size != "all"]
    if STUDENT not in results or max(_sizes(results)) < max(wanted):
        why = "the student has no result" if STUDENT not in results else "the pool is smaller than 10 000 minutes"
        return Claim(*STATEMENT, "P", measured="", holds="not measured", why=f"Not judged: {why}.", rule=rule)
    top1 = {size: results[STUDENT].over_seeds(ACCEL_TO_PPG, size)[0] for size in wanted}
    listing = ", ".join(f"{percent_mean_and_std(values)} of {thousands(size)}" for size, values in top1.items())
    least = min(float(np.mean(values)) for values in top1.values())
    others = [name for name in results if name != STUDENT]
    beside = "; ".join(
        f"{name.removesuffix(f'-{POOL}')}: {percent_mean_and_std(results[name].over_seeds(ACCEL_TO_PPG, max(wanted))[0])} of {thousands(max(wanted))}"
        for name in others
    )
    holds = "yes" if least >= HOLDS else "partly" if least >= PARTLY else "no"
    why = f"The smallest top-1 is {percent(least)}." + (f" Beside it: {beside}." if beside else "")
    return Claim(*STATEMENT, "P", measured=f"top-1 {listing}", holds=holds, why=why, rule=rule)
