"""Health targets of people, read from the mean embedding of their minutes by a linear probe."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from accdistill_jax.data.store.separation import names_among
from accdistill_jax.data.synthetic.health_targets import CONTROL, HEALTH_TARGETS
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import TEACHER
from accdistill_jax.evaluation.people.ceilings import drawn_ceilings, store_truth
from accdistill_jax.evaluation.people.participant_targets import NUMBER
from accdistill_jax.evaluation.people.participants import evaluate_participants
from accdistill_jax.evaluation.report.participant_plots import auc_forest
from accdistill_jax.evaluation.report.style import capital
from accdistill_jax.reproduce.measure import wording
from accdistill_jax.reproduce.measure.people_tables import DEMOGRAPHIC, PeopleProbes, kind_of, shown, tables
from accdistill_jax.reproduce.measure.results import Bench, ReportPart, over_seeds
from accdistill_jax.reproduce.measure.wording import decimal, listed, mean_and_std, ranged
from accdistill_jax.reproduce.plan.experiments import LEARNED_BASELINES, Experiment
from accdistill_jax.reproduce.report.document import Claim, Number, Picture, Section
from accdistill_jax.reproduce.report.encoder_styles import style_of

STUDENT = "student"
PER_FIGURE = 5  # encoders in a forest
AIM = 40  # yes/no targets from which on the paper's 46 are taken to be matched in breadth
_CONTROLS = {f"condition_{target.name}" for target in HEALTH_TARGETS if target.kind == CONTROL}
_DRAWS, _NO_DRAWS = 2000, 2


def measure_participants(bench: Bench, experiment: Experiment) -> ReportPart:
    """Age, sex, body mass index and all yes/no targets by mean embeddings, all encoders side by side, with ceilings."""
    seeds, notes = wording.measurable_encoders(bench, experiment.variants)
    if not seeds:
        return ReportPart(
            Section(experiment.id, experiment.title, ("Not measured: no encoder has a result.",), notes=tuple(notes))
        )
    main = STUDENT if STUDENT in seeds else next(iter(seeds))
    table = people_table(bench)
    ceilings, problem = _ceilings(bench)
    notes += [problem] if problem else []
    by_seed = [
        ask(
            bench,
            {name: own[k] for name, own in seeds.items() if len(own) > k},
            table,
            ceilings=ceilings,
            main=main,
            draws=draws,
        )
        for k, draws in zip(range(len(seeds[main])), [_DRAWS] + [_NO_DRAWS] * len(seeds[main]), strict=False)
    ]
    first = by_seed[0]
    titles = {name: bench.variant(name).title for name in seeds}
    notes += _unscored(first)
    text = _words(first, by_seed, titles, main)
    parts = tables(first, by_seed, titles, main)
    section = Section(
        experiment.id, experiment.title, tuple(text), parts, _forests(first, list(seeds), titles), tuple(notes)
    )
    return ReportPart(section, _numbers(experiment.id, by_seed, seeds), (_claim(first, by_seed, titles),))


def people_table(bench: Bench) -> pa.Table:
    """Known properties of the people of the stores that were trained on, named as in `Bench.columns`, each in one row."""
    stores = bench.opened.stores
    if len(stores) == 1:
        return stores[0].participants
    merged: dict[str, dict] = {}
    for store, names in zip(stores, names_among(stores, same_names=bench.plan.base.data.same_names), strict=True):
        for row in store.participants.to_pylist():
            known = merged.setdefault(names[row["participant"]], {})
            known |= {key: value for key, value in row.items() if known.get(key) is None}
    schema = pa.unify_schemas([store.participants.schema for store in stores], promote_options="permissive")
    return pa.Table.from_pylist([row | {"participant": name} for name, row in merged.items()], schema=schema)


def ask(
    bench: Bench,
    seeds: Mapping[str, int],
    table: pa.Table,
    *,
    main: str,
    ceilings: Mapping[str, float | None] | None = None,
    draws: int = _DRAWS,
) -> PeopleProbes:
    """Probes encoders, each with one training seed, on the training people that all of them have embedded."""
    some = len({len(bench.arrays(name, seed)["train_rows"]) for name, seed in seeds.items()}) > 1
    encoders = {shown(name): bench.splits(name, seed, some=some) for name, seed in seeds.items()}
    controls = [name for name in table.column_names if name in _CONTROLS]
    how = {"main": shown(main), "ceilings": ceilings, "draws": draws}
    questions = evaluate_participants(encoders, table.drop_columns(controls), **how)
    if not controls:
        return PeopleProbes(questions, None)
    found = evaluate_participants(encoders, table.select(["participant", *controls]), **how)
    kept = {name: one for name, one in found.targets.items() if kind_of(name) == CONTROL}
    return PeopleProbes(questions, dataclasses.replace(found, targets=kept))


def _ceilings(bench: Bench) -> tuple[dict[str, float | None] | None, str]:
    if not bench.synthetic:
        return None, "Recordings of real people have no known ceilings."
    people = sorted(set(map(str, bench.columns("test").participant)))
    try:
        return drawn_ceilings(store_truth(bench.opened.stores[0].manifest, people)), ""
    except UserError as error:
        return None, f"No ceilings: {error}."


def _unscored(first: PeopleProbes) -> list[str]:
    every = first.questions.targets | (first.controls.targets if first.controls else {})
    why: dict[str, list[str]] = {}
    for one in every.values():
        if one.reason:
            why.setdefault(one.reason, []).append(one.label)
    notes = [f"Not scored ({reason}): {listed(labels)}." for reason, labels in why.items()]
    rough = sum(bool(one.notes) for one in every.values() if not one.reason)
    notes += (
        [f"Of {rough} targets fewer than 10 test people say yes, or no: their intervals are rough."] if rough else []
    )
    return notes


def _words(first: PeopleProbes, by_seed: Sequence[PeopleProbes], titles: Mapping[str, str], main: str) -> list[str]:
    scored = {name: one for name, one in first.scored().items() if kind_of(name) != CONTROL}
    counts = first.questions.participants
    text = [
        f"{counts['train']} people to fit on, {counts['validation']} to choose the strength on, {counts['test']} to test on. "
        f"{len(scored)} yes/no targets could be scored; the paper has 46. AUC with 95 % intervals over test people, first training seed."
    ]
    if not scored:
        return text
    means = {
        name: [
            auc
            for one in by_seed
            if shown(name) in one.questions.encoders and (auc := one.mean_auc(shown(name))) is not None
        ]
        for name in titles
    }
    told = [
        f"{titles[name]} {mean_and_std(values, 3)}"
        for name, values in sorted(means.items(), key=lambda item: -over_seeds(item[1])[0])
    ]
    ceilings = [one.ceiling for one in scored.values() if one.ceiling is not None]
    text.append(
        f"Mean AUC over these targets (± over training seeds): {listed(told)}"
        + (
            f"; the mean ceiling of the {len(ceilings)} that have one, which age and size raise that no sensor sees, is {np.mean(ceilings):.3f}."
            if ceilings
            else "."
        )
    )
    own = {name: one.scores[shown(main)].auc for name, one in scored.items()}
    above = [name for name, auc in own.items() if auc.has_interval and auc.low > 0.5]
    best = sorted(scored, key=lambda name: -(own[name].value or 0.0))[:3]
    text.append(
        f"{capital(titles[main])}: the interval lies above chance for {len(above)} of {len(own)} targets; read best are "
        f"{listed([f'{scored[name].label} ({decimal(own[name].value)})' for name in best])}."
    )
    return text + _control_words(first, titles)


def _control_words(first: PeopleProbes, titles: Mapping[str, str]) -> list[str]:
    """Controls must be at chance: whether they are."""
    controls = [one for name, one in first.scored().items() if kind_of(name) == CONTROL]
    areas = [one.scores[shown(name)].auc for one in controls for name in titles]
    judged = [auc for auc in areas if auc.has_interval]
    if not judged:
        return []
    out = sum(not auc.low <= 0.5 <= auc.high for auc in judged)
    expected = 0.05 * len(judged)
    # encoders read the same people, so one odd control may stand out for all of them at once
    fine = out <= max(2 * expected, len(titles))
    said = (
        "they are at chance, as they must be"
        if fine
        else "**more than chance explains: something leaks, do not trust this section**"
    )
    return [
        f"{len(controls)} controls, which nothing in a signal or person decides: of {len(judged)} intervals {out} leave out 0.5 "
        f"(expected: {expected:.1f}); {said}. Their mean AUC is {np.mean([auc.value for auc in judged]):.3f}."
    ]


def _forests(first: PeopleProbes, names: Sequence[str], titles: Mapping[str, str]) -> tuple[Picture, ...]:
    whole = dataclasses.replace(
        first.questions, targets=first.questions.targets | (first.controls.targets if first.controls else {})
    )
    groups = [list(names[:PER_FIGURE])]
    if rest := list(names[PER_FIGURE:]):
        groups.append([*([STUDENT] if STUDENT in names else []), *rest][:PER_FIGURE])
    drawn = []
    for k, group in enumerate(groups, 1):
        figure = auc_forest(
            whole,
            encoders=[shown(name) for name in group],
            names={shown(name): titles[name] for name in group},
            colours={shown(name): style_of(name).colour for name in group},
        )
        if figure is not None:
            caption = f"ROC AUC of yes/no targets of people: {listed([titles[name] for name in group])}; black marks are ceilings."
            drawn.append(Picture(f"participants-{k}", caption, figure))
    return tuple(drawn)


def _numbers(prefix: str, by_seed: Sequence[PeopleProbes], seeds: Mapping[str, Sequence[int]]) -> dict[str, Number]:
    first, numbers = by_seed[0], {}
    for name in seeds:
        own = [one for one in by_seed if shown(name) in one.questions.encoders]
        mean = first.questions.mean_auc
        if mean is not None:
            numbers[f"{prefix}/{name}/mean-auc"] = wording.report_number(
                [one.mean_auc(shown(name)) for one in own], estimate=mean.auc[shown(name)], share=True
            )
        for target, one in first.questions.targets.items():
            if one.reason or not (one.kind == NUMBER or name == STUDENT or kind_of(target) == DEMOGRAPHIC):
                continue
            unit = one.label if one.kind == NUMBER else ""
            for measure in ("mae", "r") if one.kind == NUMBER else ("auc", "partial_auc"):
                values = [getattr(every.questions.targets[target].scores[shown(name)], measure) for every in own]
                numbers[f"{prefix}/{name}/{target}/{measure}"] = wording.report_number(
                    [v.value for v in values],
                    estimate=values[0],
                    unit=unit if measure == "mae" else "",
                    share=measure != "mae",
                )
    return numbers


def _claim(first: PeopleProbes, by_seed: Sequence[PeopleProbes], titles: Mapping[str, str]) -> Claim:
    claim, paper = (
        "Breadth: health targets by linear probe of people's mean embeddings",
        "46 health targets by linear probe",
    )
    mean = first.questions.mean_auc
    if mean is None or STUDENT not in titles:
        why = "the student has no result" if STUDENT not in titles else "no yes/no target is known of every test person"
        return Claim(claim, paper, "P", "", "not measured", f"Not judged: {why}.")
    own = mean.auc[STUDENT]
    against = {d.reference: d for d in mean.differences if d.reference in LEARNED_BASELINES}
    better = [name for name, d in against.items() if d.outcome == "better"]
    values = [one.mean_auc(STUDENT) for one in by_seed]
    count = len([name for name in first.scored() if kind_of(name) != CONTROL])
    teacher = f", teacher {ranged(mean.auc[TEACHER], 3)}" if TEACHER in mean.auc else ""
    others = "".join(f", {titles[name]} {ranged(mean.auc[name], 3)}" for name in against)
    measured = f"mean AUC over {count} yes/no targets: student {ranged(own, 3)} (over seeds {mean_and_std(values, 3)}){teacher}{others}"
    chance = own.has_interval and own.low > 0.5
    complete = bool(against) and len(better) == len(against) and count >= AIM
    why = [
        f"The student is better than {len(better)} of {len(against)} learned acceleration encoders by the paired interval"
    ]
    why += [f"{titles[name]}: {wording.signed(d.difference, 3)}" for name, d in against.items()]
    why += [] if count >= AIM else [f"only {count} targets have enough people"]
    why += [] if chance else ["its interval does not lie above chance"]
    rule = (
        f"holds where the student's mean AUC (first training seed) lies above chance by its interval over at least {AIM} targets, and is "
        "better than each learned acceleration encoder's by the paired interval; in part where only the former is so."
    )
    return Claim(
        claim,
        paper,
        "P",
        measured,
        "yes" if chance and complete else "partly" if chance else "no",
        "; ".join(why) + ".",
        rule,
    )
