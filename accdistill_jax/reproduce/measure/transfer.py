"""Students on sensors and in stores that they were not trained on, without and with a few labelled people."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.evaluate import SPLITS, SplitEmbeddings
from accdistill_jax.evaluation.probing.few_people import few_people
from accdistill_jax.evaluation.probing.probes import (
    FEW_PARTICIPANTS,
    MEAN,
    ProbeSplit,
    ProbeSplits,
    TargetResult,
    probe_target,
)
from accdistill_jax.evaluation.report.style import capital
from accdistill_jax.evaluation.retrieval.retrieval import ACCEL_TO_PPG
from accdistill_jax.labels import HEART_RATE, LABELS
from accdistill_jax.reproduce.measure import wording
from accdistill_jax.reproduce.measure.results import Bench, ReportPart
from accdistill_jax.reproduce.measure.search import WAYS, retrieve_pairs
from accdistill_jax.reproduce.measure.wording import (
    decimal,
    percent,
    percent_mean_and_std,
    ranged,
    ranged_share,
    signed,
    thousands,
)
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.plan.variants import TARGETS
from accdistill_jax.reproduce.report import pictures
from accdistill_jax.reproduce.report.document import Number, Picture, ReportTable, Section

STUDENT = "student"
ZERO, ALL = "0", "all"
SENSOR_PEOPLE, STORE_PEOPLE = (2, 5, 10), (1, 2, 5)
REPEATS = 20  # choices of the labelled people
E4, E4_NOTE = (
    "Empatica E4",
    (
        "An Empatica E4 quantises acceleration at 1/64 g (15.6 mg), coarser than a ballistocardiogram at the wrist (some mg): what is read "
        "from it at rest comes from larger movements, posture and breathing rather than from single beats."
    ),
)
CARRIED = 1.1  # of the error with all labels: below it a probe has carried over
BEYOND = 99  # percentile of the training rates above which a rate counts as beyond them


class PeopleErrors(NamedTuple):
    """Errors of one encoder or constant on one target.

    Attributes:
        errors: labelled people ("0", "2", ..., "all") -> mean absolute error, with its interval over test people.
        std: the same -> standard deviation over the choices of these people.
    """

    errors: dict[str, Estimate]
    std: dict[str, float]


ErrorsByTarget = dict[str, dict[str, PeopleErrors]]  # target -> encoder or "mean" -> its errors


def measure_transfer(bench: Bench, experiment: Experiment) -> ReportPart:
    """The student of the full sensor on lesser ones: with its probe as it is, and fitted anew on some people of these."""
    seeds, notes = wording.measurable_encoders(bench, experiment.variants)
    sensors = [name for name in seeds if bench.variant(name).of == STUDENT]
    if STUDENT not in seeds or not sensors:
        text = "Not measured: needs the student and its embeddings of another sensor's signals."
        return ReportPart(Section(experiment.id, experiment.title, (text,), notes=tuple(notes)))
    seed = next((one for one in seeds[STUDENT] if all(one in seeds[name] for name in sensors)), None)
    if seed is None:
        text = "Not measured: the student and the other sensors' embeddings have no training seed in common."
        return ReportPart(Section(experiment.id, experiment.title, (text,), notes=tuple(notes)))
    own = {name: bench.splits(name, seed if seed in seeds[name] else seeds[name][0], some=True) for name in seeds}
    moved = {name: {**own[STUDENT], "test": own[name]["test"]} for name in sensors}
    found: ErrorsByTarget = {}
    with threadpool_limits(1):
        for target in TARGETS:
            whole = _splits(own, target)
            refitted = probe_target(target, whole)
            if refitted.reason:
                notes.append(f"{LABELS[target].words}: {refitted.reason}.")
                continue
            as_it_is = probe_target(target, _splits(moved, target))
            found[target] = _errors(refitted, ALL) | {MEAN: PeopleErrors({ALL: refitted.probes[MEAN].mae}, {})}
            for name in sensors:
                found[target][name].errors[ZERO] = as_it_is.probes[name].mae
            _add_few(found[target], whole.train, whole.test, SENSOR_PEOPLE)
    titles = {name: _sensor_title(bench, name) for name in seeds} | {MEAN: "mean of the labels"}
    columns = (ZERO, *map(str, SENSOR_PEOPLE), ALL)
    text = [_transfer_words(target, own_target, sensors, titles) for target, own_target in found.items()]
    notes += [
        "0: the probe is fitted on the full sensor's embeddings of the training people and reads the other sensor's. Other columns: "
        f"fitted on that many training people's embeddings of the sensor itself (mean over {REPEATS} choices of them, strength by "
        "cross-validation over them), or on all. Test people are always the same.",
        "One training seed. The other sensors are made from the full one's recordings: coarser steps and fewer samples, no other "
        "device's noise, place or strap.",
    ]
    section = Section(
        experiment.id,
        experiment.title,
        tuple(text),
        (_table("Mean absolute error by number of labelled people of the sensor", found, titles, columns),)
        if found
        else (),
        _pictures(experiment.id, "Error of the student on another sensor", found, titles, columns),
        tuple(notes),
    )
    return ReportPart(section, _numbers(experiment.id, found))


def measure_unseen(bench: Bench, experiment: Experiment) -> ReportPart:
    """Every encoder in each store that nothing was trained on: probes of the training stores, and of a few people of the store."""
    seeds, notes = wording.measurable_encoders(bench, experiment.variants, elsewhere=True)
    text, tables, shown, numbers = [], [], [], {}
    if not bench.opened.unseen or not seeds:
        text.append("Not measured: there is no unseen store, or no encoder has a result.")
    for store in bench.opened.unseen:
        part = _store(bench, f"{experiment.id}/{store}", store, seeds)
        text += part.section.text
        tables += part.section.tables
        shown += part.section.pictures
        notes += part.section.notes
        numbers |= part.numbers
    notes = tuple(dict.fromkeys(notes))  # several stores of one device have some in common
    section = Section(experiment.id, experiment.title, tuple(text), tuple(tables), tuple(shown), notes)
    return ReportPart(section, numbers)


def _store(bench: Bench, prefix: str, store: str, seeds: Mapping[str, Sequence[int]]) -> ReportPart:
    some = len({len(bench.arrays(name, own[0])["train_rows"]) for name, own in seeds.items()}) > 1
    titles = {name: bench.variant(name).title for name in seeds} | {MEAN: "mean of the labels"}
    columns = (ZERO, *map(str, STORE_PEOPLE))
    found, by_seed, tests, notes = {}, {}, {}, _store_notes(bench, store)
    with threadpool_limits(1):
        for target in TARGETS:
            for k in range(max(map(len, seeds.values()))):
                own = {n: bench.splits(n, s[k], some=some, unseen=store) for n, s in seeds.items() if len(s) > k}
                whole = _splits(own, target)
                first = k == 0
                pairs = [(STUDENT, name) for name in (*own, MEAN) if name != STUDENT] if first else []
                result = probe_target(target, whole, comparisons=pairs, draws=2000 if first else 2)
                if result.reason:
                    notes.append(f"{store}, {LABELS[target].words}: {result.reason}.")
                    break
                for name, probe in result.probes.items():
                    by_seed.setdefault((target, name), []).append(probe.mae.value)
                if first:
                    tests[target] = result
                    found[target] = _errors(result, ZERO) | {MEAN: PeopleErrors({ZERO: result.probes[MEAN].mae}, {})}
                    _add_few(found[target], whole.test, whole.test, STORE_PEOPLE)
        retrieved, first_numbers = _retrieval(bench, prefix, store, seeds)
    for target, own in found.items():
        if missing := [column for column in columns if column not in own[MEAN].errors]:
            notes.append(
                f"{store}, {LABELS[target].words}: too few people with labels to fit on {wording.listed(missing)} of them."
            )
    tables = [
        _table(f"{store}: mean absolute error by number of labelled people of the store", found, titles, columns),
        _against(store, tests, titles),
        retrieved,
    ]
    text = [_store_words(store, target, found[target], tests[target], titles) for target in found]
    text = text or [f"{store}: no target has enough labels."]
    shown = _pictures(f"unseen-{_slug(store)}", f"Errors in {store}", found, titles, columns)
    section = Section("unseen", store, tuple(text), tuple(t for t in tables if t.rows), shown, tuple(notes))
    return ReportPart(section, _numbers(prefix, found, by_seed) | first_numbers)


def _splits(own: Mapping[str, Mapping[str, SplitEmbeddings]], target: str) -> ProbeSplits:
    first = next(iter(own.values()))
    return ProbeSplits(
        *(
            ProbeSplit(
                {name: splits[split].embedding for name, splits in own.items()},
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


def _add_few(found: dict[str, PeopleErrors], labelled: ProbeSplit, test: ProbeSplit, counts: Sequence[int]) -> None:
    for people in counts:
        for name, one in few_people(labelled, test, people=people, repeats=REPEATS).items():
            if name in found:
                found[name].errors[str(people)] = one.mae
                found[name].std[str(people)] = one.mae_std


def _sensor_title(bench: Bench, name: str) -> str:
    variant = bench.variant(name)
    return (
        f"student of the full sensor, {variant.title.split(':')[0]}" if variant.of else f"{variant.title}, full sensor"
    )


def _table(caption: str, found: ErrorsByTarget, titles: Mapping[str, str], columns: Sequence[str]) -> ReportTable:
    rows = []
    for target, own in found.items():
        words, unit, *_ = LABELS[target]
        for name, one in own.items():
            cells = []
            for column in columns:
                cell = ranged(one.errors.get(column))
                cells.append(cell + (f" ± {decimal(one.std[column])}" if column in one.std else ""))
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
    name: str, caption: str, found: ErrorsByTarget, titles: Mapping[str, str], columns: Sequence[str]
) -> tuple[Picture, ...]:
    if not found:
        return ()
    lines = {
        target: [pictures.ErrorLine(n, titles[n], one.errors) for n, one in own.items()]
        for target, own in found.items()
    }
    label = "people with labels (0: probe from training)"
    caption += " by number of labelled people the probe was fitted on; bars: 95 % intervals over test people."
    return (Picture(f"{name}-people", caption, pictures.by_people(lines, columns, label)),)


def _numbers(
    prefix: str, found: ErrorsByTarget, by_seed: Mapping[tuple[str, str], Sequence[float]] | None = None
) -> dict[str, Number]:
    numbers = {}
    for target, own in found.items():
        for name, one in own.items():
            for column, estimate in one.errors.items():
                values = (by_seed or {}).get((target, name), []) if column == ZERO else []
                numbers[f"{prefix}/{name}/{target}/{column}"] = wording.report_number(
                    values or [estimate.value], estimate=estimate, unit=LABELS[target].unit
                )
    return numbers


def _transfer_words(
    target: str, own: Mapping[str, PeopleErrors], sensors: Sequence[str], titles: Mapping[str, str]
) -> str:
    words, unit, *_ = LABELS[target]
    full, mean = own[STUDENT].errors[ALL].value, own[MEAN].errors[ALL].value
    said = [
        f"**{words}**: on the full sensor the student errs by {decimal(full)} {unit} (mean of the labels {decimal(mean)})."
    ]
    for name in sensors:
        errors = own[name].errors
        few = max((c for c in errors if c not in (ZERO, ALL)), key=int, default=None)
        also = f", fitted on {few} people of it {decimal(errors[few].value)}" if few else ""
        zero = errors[ZERO].value
        carried = zero < CARRIED * errors[ALL].value
        verdict = "it does not carry over" if zero >= mean else f"it carries over{'' if carried else ' in part'}"
        said.append(
            f"{capital(titles[name])}: with the probe as it is {decimal(zero)}{also}, on all {decimal(errors[ALL].value)}; {verdict}."
        )
    return " ".join(said)


def _store_words(
    store: str, target: str, own: Mapping[str, PeopleErrors], result: TargetResult, titles: Mapping[str, str]
) -> str:
    words, unit, *_ = LABELS[target]
    zero = {name: one.errors[ZERO].value for name, one in own.items()}
    best = min((name for name in zero if name != MEAN), key=zero.get)
    said = (
        f"**{store}, {words}**: with probes from the training stores {titles[best]} errs least, {decimal(zero[best])} {unit}; "
        f"the mean of the training labels {decimal(zero[MEAN])}."
    )
    against = result.difference(STUDENT, MEAN)
    if against:
        said += f" The student ({decimal(zero[STUDENT])}) is {_OUTCOMES[against.outcome]} that mean."
    few = [column for column in own[MEAN].errors if column != ZERO]
    if few:
        most = few[-1]
        after = {name: one.errors[most].value for name, one in own.items() if most in one.errors}
        best = min((name for name in after if name != MEAN), key=after.get)
        student = f"the student to {decimal(after[STUDENT])}, " if STUDENT in after and best != STUDENT else ""
        said += (
            f" With labels of {most} {'person' if most == '1' else 'people'} of the store {titles[best]} comes to {decimal(after[best])}, "
            f"{student}the mean of the same labels to {decimal(after[MEAN])}."
        )
    return said


_OUTCOMES = {
    "better": "better than",
    "worse": "worse than",
    "same": "not distinguishable from",
    "unknown": "not comparable with",
}


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
        f"{store}: the student's error less that of another, probes from the training stores",
        ("target, encoder", "difference", "ratio", "student is"),
        tuple(rows),
    )


def _retrieval(
    bench: Bench, prefix: str, store: str, seeds: Mapping[str, Sequence[int]]
) -> tuple[ReportTable, dict[str, Number]]:
    split, rows, numbers = f"unseen-{store}", [], {}
    total = len(bench.columns(split).participant)
    for name, own in seeds.items():
        paired = [seed for seed in own if bench.pair(name, seed, split=split) is not None]
        if not paired or total < 2:
            continue
        found = retrieve_pairs(bench, name, paired, split=split)
        for one in (r for r in found.results if r.direction == ACCEL_TO_PPG):
            top1, _ = found.over_seeds(ACCEL_TO_PPG, one.pool_size)
            size = "all" if one.pool_size == total else one.pool_size
            numbers[f"{prefix}/{name}/retrieval/{size}/top-1"] = wording.report_number(
                top1, estimate=one.top1, share=True
            )
            rows.append(
                (
                    bench.variant(name).title,
                    thousands(one.pool_size),
                    ranged_share(one.top1),
                    percent_mean_and_std(top1),
                    decimal(one.mean_rank.mean, 1),
                    f"{percent(one.chance_top[1])}, rank {decimal(one.chance_rank, 1)}",
                )
            )
    columns = ("encoder", "candidates", "top-1", "over seeds", "mean rank", "guessing")
    return ReportTable(
        f"{store}: {WAYS[ACCEL_TO_PPG][0].lower()}{WAYS[ACCEL_TO_PPG][1:]}", columns, tuple(rows)
    ), numbers


def _store_notes(bench: Bench, store: str) -> list[str]:
    columns, notes = bench.columns(f"unseen-{store}"), []
    people = len(np.unique(columns.participant))
    devices = {
        str(d)
        for own in (*bench.opened.stores, bench.opened.unseen[store])
        for d in np.unique(own.segments["device"].astype(str))
    }
    if E4 in devices:
        notes.append(E4_NOTE)
    ours, theirs = (
        own[np.isfinite(own)] for own in (bench.columns("train").labels[HEART_RATE], columns.labels[HEART_RATE])
    )
    if len(ours) and len(theirs):
        highest = float(np.percentile(ours, BEYOND))
        notes.append(
            f"{store}: heart rates of {theirs.mean():.0f} ± {theirs.std():.0f} bpm (training {ours.mean():.0f} ± {ours.std():.0f}); "
            f"{percent(float(np.mean(theirs > highest)))} of its minutes lie above {highest:.0f} bpm, the {BEYOND}th percentile "
            "of training: a linear probe has to extrapolate there."
        )
    if people < FEW_PARTICIPANTS:
        notes.append(f"{store} has {people} people: the intervals are rough.")
    notes.append(
        f"{store}: its labelled people are left out of the test; errors are means over {REPEATS} choices of them, with the strength by "
        "cross-validation over these people (over minutes for one). No choice was made on the rest of the store."
    )
    return notes


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "store"
