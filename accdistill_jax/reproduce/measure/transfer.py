"""Measures students on other sensors and in other stores than those of training, with and without a few labelled people."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from accdistill_jax.evaluation.evaluate import SPLITS
from accdistill_jax.evaluation.probing.few_people import few_people
from accdistill_jax.evaluation.probing.probes import (
    FEW_PARTICIPANTS,
    MEAN,
    ProbeSplit,
    ProbeSplits,
    TargetResult,
    probe_target,
)
from accdistill_jax.evaluation.retrieval.retrieval import ACCEL_TO_PPG
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings
from accdistill_jax.labels import HEART_RATE, LABELS
from accdistill_jax.reproduce.measure import formatting
from accdistill_jax.reproduce.measure.formatting import (
    decimal,
    percent,
    percent_mean_and_std,
    ranged,
    ranged_share,
    signed,
    thousands,
)
from accdistill_jax.reproduce.measure.probe_scores import Scores, TestLabels
from accdistill_jax.reproduce.measure.results import Bench, ReportPart
from accdistill_jax.reproduce.measure.search import WAYS, retrieve_pairs
from accdistill_jax.reproduce.measure.transfer_text import ALL, STUDENT, ZERO, PeopleErrors, store_text, transfer_text
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.plan.variants import TARGETS
from accdistill_jax.reproduce.report import pictures
from accdistill_jax.reproduce.report.document import Number, Picture, ReportTable, Section

SENSOR_PEOPLE, STORE_PEOPLE = (2, 5, 10), (1, 2, 5)
REPEATS = 20  # choices of the labelled people
E4, E4_NOTE = (
    "Empatica E4",
    (
        "An Empatica E4 quantises acceleration at 1/64 g (15.6 mg), which is coarser than a ballistocardiogram at the wrist (a few mg). At "
        "rest, predictions from it rely on larger movements, posture and breathing rather than on single beats."
    ),
)
BEYOND = 99  # percentile of the training heart rates above which a probe has to extrapolate


ErrorsByTarget = dict[str, dict[str, PeopleErrors]]  # target -> encoder or "mean" -> its errors


def measure_transfer(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures the full sensor's student on coarser sensors: with the full sensor's probe, and with probes fitted on some people."""
    seeds, notes = formatting.measurable_encoders(bench, experiment.variants)
    sensors = [name for name in seeds if bench.variant(name).of == STUDENT]
    if STUDENT not in seeds or not sensors:
        text = "Not measured: needs the student and its embeddings of another sensor's signals."
        return ReportPart(Section(experiment.id, experiment.title, (text,), notes=tuple(notes)))
    seed = next((k for k in seeds[STUDENT] if all(k in seeds[name] for name in sensors)), None)
    if seed is None:
        text = "Not measured: the student and the embeddings of the other sensors share no training seed."
        return ReportPart(Section(experiment.id, experiment.title, (text,), notes=tuple(notes)))
    splits_of = {name: bench.splits(name, seed if seed in seeds[name] else seeds[name][0], some=True) for name in seeds}
    moved = {name: {**splits_of[STUDENT], "test": splits_of[name]["test"]} for name in sensors}
    errors: ErrorsByTarget = {}
    with threadpool_limits(1):
        for target in TARGETS:
            splits = _splits(splits_of, target)
            refitted = probe_target(target, splits)
            if refitted.reason:
                notes.append(f"{LABELS[target].words}: {refitted.reason}.")
                continue
            not_refitted = probe_target(target, _splits(moved, target))
            errors[target] = _errors(refitted, ALL) | {MEAN: PeopleErrors({ALL: refitted.probes[MEAN].mae}, {})}
            for name in sensors:
                errors[target][name].errors[ZERO] = not_refitted.probes[name].mae
            _add_few(errors[target], splits.train, splits.test, SENSOR_PEOPLE)
    titles = {name: _sensor_title(bench, name) for name in seeds} | {MEAN: "mean of the labels"}
    columns = (ZERO, *map(str, SENSOR_PEOPLE), ALL)
    text = [transfer_text(target, errors[target], sensors, titles) for target in errors]
    notes += [
        "No people: the probe is fitted on the full sensor's embeddings of the training people and applied to the other sensor's. Other "
        f"columns: the probe is fitted on the sensor's own embeddings of that many training people (mean over {REPEATS} choices of people, "
        "strength by cross-validation over them), or of all. Test people are always the same.",
        "One training seed. The other sensors are simulated from the full sensor's recordings, with coarser steps and fewer samples; noise, "
        "place and strap of another device are not simulated.",
    ]
    section = Section(
        experiment.id,
        experiment.title,
        tuple(text),
        (_table("Mean absolute error by number of people with labels from the sensor", errors, titles, columns),)
        if errors
        else (),
        _pictures(experiment.id, "Error of the student on another sensor", errors, titles, columns),
        tuple(notes),
    )
    return ReportPart(section, _numbers(experiment.id, errors))


def measure_unseen(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures every encoder in each unseen store, with probes of the training stores and with probes of a few people of the store."""
    seeds, notes = formatting.measurable_encoders(bench, experiment.variants, unseen=True)
    text, tables, shown, numbers = [], [], [], {}
    if not bench.opened.unseen or not seeds:
        text.append("Not measured: no unseen store is given, or no encoder has a result.")
    for store in bench.opened.unseen:
        part = _store(bench, f"{experiment.id}/{store}", store, seeds)
        text += part.section.text
        tables += part.section.tables
        shown += part.section.pictures
        notes += part.section.notes
        numbers |= part.numbers
    notes = list(dict.fromkeys(notes))  # stores of the same device share notes
    section = Section(experiment.id, experiment.title, tuple(text), tuple(tables), tuple(shown), tuple(notes))
    return ReportPart(section, numbers)


def _store(bench: Bench, prefix: str, store: str, seeds: Mapping[str, Sequence[int]]) -> ReportPart:
    some = len({len(bench.arrays(name, own_seeds[0])["train_rows"]) for name, own_seeds in seeds.items()}) > 1
    titles = {name: bench.variant(name).title for name in seeds} | {MEAN: "mean of the labels"}
    columns = (ZERO, *map(str, STORE_PEOPLE))
    scores: dict[str, Scores] = {}
    errors: ErrorsByTarget = {}
    tests: dict[str, TargetResult] = {}
    notes = _store_notes(bench, store)
    with threadpool_limits(1):
        for target in TARGETS:
            for k in range(max(map(len, seeds.values()))):
                splits_of = {n: bench.splits(n, s[k], some=some, unseen=store) for n, s in seeds.items() if len(s) > k}
                splits = _splits(splits_of, target)
                first = k == 0
                pairs = [(STUDENT, name) for name in (*splits_of, MEAN) if name != STUDENT] if first else []
                result = probe_target(target, splits, comparisons=pairs, draws=2000 if first else 2)
                if result.reason:
                    notes.append(f"{store}, {LABELS[target].words}: {result.reason}.")
                    break
                if first and result.truth is not None and result.participant is not None:
                    scores[target] = Scores({target: TestLabels(result.truth, result.participant)})
                for name, probe in result.probes.items():
                    scores[target].add(target, 1.0, name, k, probe.prediction)
                if first:
                    tests[target] = result
                    errors[target] = _errors(result, ZERO) | {MEAN: PeopleErrors({ZERO: result.probes[MEAN].mae}, {})}
                    _add_few(errors[target], splits.test, splits.test, STORE_PEOPLE)
        retrieved, first_numbers = _retrieval(bench, prefix, store, seeds)
    for target in errors:
        if missing := [column for column in columns if column not in errors[target][MEAN].errors]:
            notes.append(
                f"{store}, {LABELS[target].words}: too few people with labels to fit on {formatting.joined_words(missing)} of them."
            )
    tables = [
        _table(f"{store}: mean absolute error by number of people of the store with labels", errors, titles, columns),
        _against(store, tests, titles),
        retrieved,
    ]
    text = [store_text(store, target, errors[target], tests[target], titles) for target in errors]
    text = text or [f"{store}: no target has enough labels."]
    shown = _pictures(f"unseen-{_slug(store)}", f"Errors in {store}", errors, titles, columns)
    section = Section("unseen", store, tuple(text), tuple(t for t in tables if t.rows), shown, tuple(notes))
    return ReportPart(section, _numbers(prefix, errors, scores) | first_numbers)


def _splits(splits_of: Mapping[str, Mapping[str, SplitEmbeddings]], target: str) -> ProbeSplits:
    first = next(iter(splits_of.values()))
    return ProbeSplits(
        *(
            ProbeSplit(
                {name: splits[split].embedding for name, splits in splits_of.items()},
                first[split].labels[target],
                first[split].participant,
            )
            for split in SPLITS
        )
    )


def _errors(result: TargetResult, column: str) -> dict[str, PeopleErrors]:
    return {
        name: PeopleErrors({column: probe.mae}, {})
        for name, probe in result.probes.items()
        if probe.strength is not None
    }


def _add_few(errors: dict[str, PeopleErrors], labelled: ProbeSplit, test: ProbeSplit, counts: Sequence[int]) -> None:
    for people in counts:
        for name, result in few_people(labelled, test, people=people, repeats=REPEATS).items():
            if name in errors:
                errors[name].errors[str(people)] = result.mae
                if result.mae_std is not None:
                    errors[name].std[str(people)] = result.mae_std


def _sensor_title(bench: Bench, name: str) -> str:
    variant = bench.variant(name)
    return (
        f"student trained on the full sensor, {variant.title.split(':')[0]}"
        if variant.of
        else f"{variant.title}, full sensor"
    )


def _table(caption: str, errors: ErrorsByTarget, titles: Mapping[str, str], columns: Sequence[str]) -> ReportTable:
    rows = []
    for target, errors_of in errors.items():
        words, unit, *_ = LABELS[target]
        for name, people_errors in errors_of.items():
            cells = []
            for column in columns:
                cell = ranged(people_errors.errors.get(column))
                cells.append(cell + (f" ± {decimal(people_errors.std[column])}" if column in people_errors.std else ""))
            rows.append((f"{words} ({unit}), {titles[name]}", *cells))
    heads = tuple(
        "all people" if c == ALL else "no people" if c == ZERO else f"{c} {'person' if c == '1' else 'people'}"
        for c in columns
    )
    return ReportTable(
        f"{caption} [95 % interval over test people] ± over the choice of people",
        ("target, encoder", *heads),
        tuple(rows),
    )


def _pictures(
    name: str, caption: str, errors: ErrorsByTarget, titles: Mapping[str, str], columns: Sequence[str]
) -> tuple[Picture, ...]:
    if not errors:
        return ()
    lines = {
        target: [pictures.ErrorLine(n, titles[n], people_errors.errors) for n, people_errors in errors_of.items()]
        for target, errors_of in errors.items()
    }
    label = "people with labels (0: probe from training)"
    caption += ", by number of labelled people that the probe was fitted on. Bars: 95 % intervals over test people."
    return (Picture(f"{name}-people", caption, pictures.by_people(lines, columns, label)),)


def _numbers(prefix: str, errors: ErrorsByTarget, scores: Mapping[str, Scores] | None = None) -> dict[str, Number]:
    """Makes the numbers. Those of probes without people of the store are over the seeds in `scores`, the others of the first seed."""
    numbers = {}
    for target, errors_of in errors.items():
        for name, people_errors in errors_of.items():
            for column, estimate in people_errors.errors.items():
                score = scores[target].error(target, 1.0, name) if scores and column == ZERO else None
                numbers[f"{prefix}/{name}/{target}/{column}"] = (
                    formatting.report_number([estimate.value], estimate=estimate, unit=LABELS[target].unit)
                    if score is None
                    else formatting.score_number(score, unit=LABELS[target].unit)
                )
    return numbers


def _against(store: str, tests: Mapping[str, TargetResult], titles: Mapping[str, str]) -> ReportTable:
    rows = [
        (
            f"{LABELS[target].words} ({LABELS[target].unit}), {titles[d.reference]}",
            signed(d.difference),
            ranged(d.ratio),
            d.outcome,
        )
        for target, result in tests.items()
        for d in result.differences
    ]
    return ReportTable(
        f"{store}: the student's error minus that of another encoder, with probes from the training stores",
        ("target, encoder", "difference", "ratio", "student is"),
        tuple(rows),
    )


def _retrieval(
    bench: Bench, prefix: str, store: str, seeds: Mapping[str, Sequence[int]]
) -> tuple[ReportTable, dict[str, Number]]:
    split, rows, numbers = f"unseen-{store}", [], {}
    total = len(bench.columns(split).participant)
    for name, encoder_seeds in seeds.items():
        paired = [seed for seed in encoder_seeds if bench.pair(name, seed, split=split) is not None]
        if not paired or total < 2:
            continue
        results = retrieve_pairs(bench, name, paired, split=split)
        for result in (r for r in results.results if r.direction == ACCEL_TO_PPG):
            top1, _ = results.over_seeds(ACCEL_TO_PPG, result.pool_size)
            size = "all" if result.pool_size == total else result.pool_size
            numbers[f"{prefix}/{name}/retrieval/{size}/top-1"] = formatting.report_number(
                top1, estimate=results.top1(ACCEL_TO_PPG, result.pool_size), share=True
            )
            rows.append(
                (
                    bench.variant(name).title,
                    thousands(result.pool_size),
                    ranged_share(result.top1),
                    percent_mean_and_std(top1),
                    decimal(result.mean_rank.mean, 1),
                    f"{percent(result.chance_top[1])}, rank {decimal(result.chance_rank, 1)}",
                )
            )
    columns = ("encoder", "candidates", "top-1, first seed", "top-1 over seeds", "mean rank", "by chance")
    return ReportTable(
        f"{store}: {WAYS[ACCEL_TO_PPG][0].lower()}{WAYS[ACCEL_TO_PPG][1:]}", columns, tuple(rows)
    ), numbers


def _store_notes(bench: Bench, store: str) -> list[str]:
    columns, notes = bench.columns(f"unseen-{store}"), []
    people = len(np.unique(columns.participant))
    devices = {
        str(d)
        for opened in (*bench.opened.stores, bench.opened.unseen[store])
        for d in np.unique(opened.segments["device"].astype(str))
    }
    if E4 in devices:
        notes.append(E4_NOTE)
    ours, theirs = (
        rates[np.isfinite(rates)] for rates in (bench.columns("train").labels[HEART_RATE], columns.labels[HEART_RATE])
    )
    if len(ours) and len(theirs):
        highest = float(np.percentile(ours, BEYOND))
        notes.append(
            f"{store}: heart rates of {theirs.mean():.0f} ± {theirs.std():.0f} bpm (training {ours.mean():.0f} ± {ours.std():.0f}); "
            f"{percent(float(np.mean(theirs > highest)))} of its minutes are above {highest:.0f} bpm, the {BEYOND}th percentile "
            "of training, where a linear probe has to extrapolate."
        )
    if people < FEW_PARTICIPANTS:
        notes.append(f"{store} has {people} people: its intervals are rough.")
    notes.append(
        f"{store}: labelled people are excluded from the test. Errors are means over {REPEATS} choices of these people; the strength is chosen by "
        "cross-validation over them (over minutes for a single person). The rest of the store is used for testing only."
    )
    return notes


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "store"
