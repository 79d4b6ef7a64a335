"""Measures health targets of people: linear probes of the mean embedding of each person's minutes."""

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
from accdistill_jax.evaluation.people.participants import ParticipantEvaluation, evaluate_participants
from accdistill_jax.evaluation.report.participant_plots import auc_forest
from accdistill_jax.evaluation.report.style import capital
from accdistill_jax.reproduce.measure import formatting
from accdistill_jax.reproduce.measure.formatting import decimal, joined_words, mean_and_std, ranged
from accdistill_jax.reproduce.measure.people_tables import DEMOGRAPHIC, PeopleProbes, kind_of, shown, tables
from accdistill_jax.reproduce.measure.results import Bench, ReportPart, over_seeds
from accdistill_jax.reproduce.plan.experiments import LEARNED_BASELINES, Experiment
from accdistill_jax.reproduce.report.document import Claim, Number, Picture, Section, Statement
from accdistill_jax.reproduce.report.encoder_styles import style_of

STUDENT = "student"
PER_FIGURE = 5  # encoders in a forest
AIM = 40  # number of yes/no targets that counts as the breadth of the paper's 46
_CONTROLS = {f"condition_{target.name}" for target in HEALTH_TARGETS if target.kind == CONTROL}
_DRAWS, _NO_DRAWS = 2000, 2


def measure_participants(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures age, sex, body mass index and all yes/no targets with every encoder, and compares them with ceilings."""
    seeds, notes = formatting.measurable_encoders(bench, experiment.variants)
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
            {name: encoder_seeds[k] for name, encoder_seeds in seeds.items() if len(encoder_seeds) > k},
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
    planned = [name for name in LEARNED_BASELINES if name in experiment.variants]
    return ReportPart(section, _numbers(experiment.id, by_seed, seeds), (_claim(first, by_seed, titles, planned),))


def people_table(bench: Bench) -> pa.Table:
    """Known properties of the people of the training stores, one row each, with names as in `Bench.columns`."""
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
    """Fits probes of encoders, each with one training seed, on the training people that all of them have embedded."""
    some = len({len(bench.arrays(name, seed)["train_rows"]) for name, seed in seeds.items()}) > 1
    encoders = {shown(name): bench.splits(name, seed, some=some) for name, seed in seeds.items()}
    controls = [name for name in table.column_names if name in _CONTROLS]

    def evaluate(properties: pa.Table) -> ParticipantEvaluation:
        return evaluate_participants(encoders, properties, main=shown(main), ceilings=ceilings, draws=draws)

    questions = evaluate(table.drop_columns(controls))
    if not controls:
        return PeopleProbes(questions, None)
    evaluation = evaluate(table.select(["participant", *controls]))
    kept = {name: target for name, target in evaluation.targets.items() if kind_of(name) == CONTROL}
    return PeopleProbes(questions, dataclasses.replace(evaluation, targets=kept))


def _ceilings(bench: Bench) -> tuple[dict[str, float | None] | None, str]:
    if not bench.synthetic:
        return None, "Ceilings are not known for recordings of real people."
    people = sorted(set(map(str, bench.columns("test").participant)))
    try:
        return drawn_ceilings(store_truth(bench.opened.stores[0].manifest, people)), ""
    except UserError as error:
        return None, f"No ceilings: {error}."


def _unscored(first: PeopleProbes) -> list[str]:
    every = first.questions.targets | (first.controls.targets if first.controls else {})
    why: dict[str, list[str]] = {}
    for target in every.values():
        if target.reason:
            why.setdefault(target.reason, []).append(target.label)
    notes = [f"Not scored ({reason}): {joined_words(labels)}." for reason, labels in why.items()]
    rough = sum(bool(target.notes) for target in every.values() if not target.reason)
    notes += (
        [f"{rough} targets have fewer than 10 test people with yes, or with no: their intervals are rough."]
        if rough
        else []
    )
    return notes


def _words(first: PeopleProbes, by_seed: Sequence[PeopleProbes], titles: Mapping[str, str], main: str) -> list[str]:
    scored = {name: target for name, target in first.scored().items() if kind_of(name) != CONTROL}
    counts = first.questions.participants
    text = [
        f"Probes are fitted on {counts['train']} people, their strength is chosen on {counts['validation']}, and they are tested on "
        f"{counts['test']}. {len(scored)} yes/no targets have enough people; the paper has 46. AUC is given with 95 % intervals over test "
        "people, for the first training seed."
    ]
    if not scored:
        return text
    means = {
        name: [
            auc
            for probes in by_seed
            if shown(name) in probes.questions.encoders and (auc := probes.mean_auc(shown(name))) is not None
        ]
        for name in titles
    }
    ranking = [
        f"{titles[name]} {mean_and_std(values, 3)}"
        for name, values in sorted(means.items(), key=lambda item: -over_seeds(item[1])[0])
    ]
    ceilings = [target.ceiling for target in scored.values() if target.ceiling is not None]
    text.append(
        f"Mean AUC over these targets (± over training seeds): {joined_words(ranking)}"
        + (
            f"; the mean ceiling of the {len(ceilings)} targets with a known one is {np.mean(ceilings):.3f}. Ceilings also use age and body "
            "size, which no sensor measures."
            if ceilings
            else "."
        )
    )
    main_auc = {name: first.auc(name, shown(main)) for name in scored}
    above = [name for name, auc in main_auc.items() if auc.low is not None and auc.low > 0.5]
    best = sorted(scored, key=lambda name: -(main_auc[name].value or 0.0))[:3]
    text.append(
        f"{capital(titles[main])}: the interval lies above chance for {len(above)} of {len(main_auc)} targets. Its highest AUC: "
        f"{joined_words([f'{scored[name].label} ({decimal(main_auc[name].value)})' for name in best])}."
    )
    return text + control_words(first, titles)


def control_words(first: PeopleProbes, titles: Mapping[str, str]) -> list[str]:
    """States if the controls are at chance, as they must be; [] without controls."""
    controls = [name for name in first.scored() if kind_of(name) == CONTROL]
    areas = [first.auc(control, shown(name)) for control in controls for name in titles]
    judged = [auc for auc in areas if auc.low is not None and auc.high is not None]
    if not judged:
        return []
    out = sum(not (auc.low or 0.0) <= 0.5 <= (auc.high or 0.0) for auc in judged)
    expected = 0.05 * len(judged)
    # all encoders are tested on the same people, so one control may leave chance for all of them at once
    fine = out <= max(2 * expected, len(titles))
    verdict = (
        "they are at chance, as they must be"
        if fine
        else "**more than chance explains: something leaks, do not trust this section**"
    )
    return [
        f"{len(controls)} controls are random and depend on neither signals nor people: of {len(judged)} intervals {out} exclude 0.5 "
        f"(expected: {expected:.1f}); {verdict}. Their mean AUC is {np.mean([auc.value or 0.0 for auc in judged]):.3f}."
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
            caption = f"ROC AUC of yes/no targets of people: {joined_words([titles[name] for name in group])}. Black marks are ceilings."
            drawn.append(Picture(f"participants-{k}", caption, figure))
    return tuple(drawn)


def _numbers(prefix: str, by_seed: Sequence[PeopleProbes], seeds: Mapping[str, Sequence[int]]) -> dict[str, Number]:
    first, numbers = by_seed[0], {}
    for name in seeds:
        with_encoder = [probes for probes in by_seed if shown(name) in probes.questions.encoders]
        mean = first.questions.mean_auc
        if mean is not None:
            numbers[f"{prefix}/{name}/mean-auc"] = formatting.report_number(
                [probes.mean_auc(shown(name)) for probes in with_encoder], estimate=mean.auc[shown(name)], share=True
            )
        for target, result in first.questions.targets.items():
            if result.reason or not (result.kind == NUMBER or name == STUDENT or kind_of(target) == DEMOGRAPHIC):
                continue
            unit = result.label if result.kind == NUMBER else ""
            for measure in ("mae", "r") if result.kind == NUMBER else ("auc", "partial_auc"):
                values = [
                    getattr(probes.questions.targets[target].scores[shown(name)], measure) for probes in with_encoder
                ]
                known = [v.value for v in values]
                numbers[f"{prefix}/{name}/{target}/{measure}"] = (
                    formatting.correlation_number(known, estimate=values[0])
                    if measure == "r"
                    else formatting.report_number(
                        known, estimate=values[0], unit=unit if measure == "mae" else "", share=measure != "mae"
                    )
                )
    return numbers


def _claim(
    first: PeopleProbes, by_seed: Sequence[PeopleProbes], titles: Mapping[str, str], planned: Sequence[str]
) -> Claim:
    """Judges the claim; a baseline that was planned and has no result is one that the student does not beat."""
    statement = Statement(
        "health-targets",
        "Breadth: health targets by linear probe of people's mean embeddings",
        "46 health targets by linear probe",
    )
    mean = first.questions.mean_auc
    if mean is None or STUDENT not in titles:
        why = "the student has no result" if STUDENT not in titles else "no yes/no target is known of every test person"
        return Claim(*statement, "P", measured="", holds="not measured", why=f"Not judged: {why}.")
    student = mean.auc[STUDENT]
    against = {d.reference: d for d in mean.differences if d.reference in LEARNED_BASELINES}
    better = [name for name, d in against.items() if d.outcome == "better"]
    values = [auc for probes in by_seed if (auc := probes.mean_auc(STUDENT)) is not None]
    count = len(mean.targets)
    teacher = f", teacher {ranged(mean.auc[TEACHER], 3)}" if TEACHER in mean.auc else ""
    others = "".join(f", {titles[name]} {ranged(mean.auc[name], 3)}" for name in against)
    measured = f"mean AUC over {count} yes/no targets: student {ranged(student, 3)} (over seeds {mean_and_std(values, 3)}){teacher}{others}"
    above_chance = student.low is not None and student.low > 0.5
    complete = bool(planned) and len(better) == len(planned) and count >= AIM
    why = [
        f"The student is better than {len(better)} of {len(planned)} learned acceleration encoders (paired interval)"
    ]
    absent = [name for name in planned if name not in against]
    why += [f"without a result: {joined_words(absent)}"] if absent else []
    why += [f"{titles[name]}: {formatting.signed(d.difference, 3)}" for name, d in against.items()]
    why += [] if count >= AIM else [f"only {count} targets have enough people and are known for every test person"]
    why += [] if above_chance else ["its interval does not lie above chance"]
    rule = (
        f"holds if the interval of the student's mean AUC (first training seed, at least {AIM} targets) lies above chance, and the paired "
        "interval shows it better than each learned acceleration encoder; holds in part if its interval lies above chance only."
    )
    holds = "yes" if above_chance and complete else "partly" if above_chance else "no"
    return Claim(*statement, "P", measured=measured, holds=holds, why="; ".join(why) + ".", rule=rule)
