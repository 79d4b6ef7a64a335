"""Measures every experiment on the finished jobs and assembles the report."""

import importlib
import itertools
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from accdistill_jax.data.store.separation import SAME_PERSON, check_separation
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.probing.probes import MEAN, MEDIAN, OWN_MEAN
from accdistill_jax.reproduce.jobs.jobs import JobOutcome
from accdistill_jax.reproduce.jobs.work import FACTS
from accdistill_jax.reproduce.measure.label_fractions import PROBE_TITLES
from accdistill_jax.reproduce.measure.results import DONE, Bench, ReportPart
from accdistill_jax.reproduce.measure.tolerance import pooled
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.plan.grid import GridPlan
from accdistill_jax.reproduce.plan.job_builder import DATA
from accdistill_jax.reproduce.report.document import Claim, Number, Report, ReportTable, Section

TITLE = "Does an accelerometer learn what a PPG sensor knows?"
TERMS = (
    "**Terms.** A teacher encodes PPG. A student encodes acceleration; it is trained to match the embedding that a frozen teacher gives "
    "for the same minute (distillation). A baseline encodes acceleration and has no teacher. A probe is a small model, linear unless the "
    "text says otherwise, that predicts a label from the embedding of a frozen encoder. The labels are heart rate (HR), two measures of "
    "its variability (SDNN, RMSSD) and respiration rate. Retrieval ranks the minutes of a pool by their similarity to a query from the "
    "other sensor; top-1 is the share of queries for which the right minute ranks first."
)
TRIALS = "trials"  # the experiment whose numbers are of validation people
# verdict -> words for one claim and for several
COUNTED = {
    "yes": ("holds", "hold"),
    "partly": ("holds in part", "hold in part"),
    "no": ("does not hold", "do not hold"),
    "not measured": ("was not measured", "were not measured"),
}


def measure_report(plan: GridPlan, outcomes: Mapping[str, JobOutcome], *, say: Callable[[str], None]) -> Report:
    """Measures all experiments of a plan.

    Args:
        plan: planned jobs and experiments.
        outcomes: job -> its outcome; experiments use the runs that have a result.
        say: called with a line before each experiment.

    Returns:
        The report. If an experiment cannot be measured, its section says why; the others are not affected. An error of the
        program is also printed, and listed in `broken`.

    Raises:
        UserError: there is no data to measure on.
    """
    data = outcomes.get(DATA)
    if data is not None and data.status not in DONE:
        raise UserError(f"the synthetic data was not generated, so nothing was measured: {data.reason}")
    bench = Bench(plan, outcomes)
    broken: dict[str, str] = {}
    parts = [data_part(bench)]
    for number, experiment in enumerate(plan.experiments, 1):
        say(f"measuring {experiment.id} ({number} of {len(plan.experiments)})")
        try:
            parts.append(measured(bench, experiment))
        except Exception as problem:  # an error in one experiment must not lose the results of the others
            traceback.print_exc()
            broken[experiment.id] = f"{type(problem).__name__}: {problem}"
            text = f"Not measured, because of an error in the program: {broken[experiment.id]}."
            parts.append(ReportPart(Section(experiment.id, experiment.title, (text,))))
    claims = tuple(claim._replace(section=part.section.id) for part in parts for claim in part.claims)
    numbers: dict[str, Number] = {}
    for part in parts:
        numbers |= part.numbers
    numbers = pooled(numbers, {*plan.variants, *PROBE_TITLES}, constants=(MEAN, MEDIAN, OWN_MEAN))
    return Report(
        title=TITLE,
        summary=report_summary(plan, outcomes, claims),
        claims=claims,
        sections=tuple(part.section for part in parts),
        numbers=numbers,
        runs=[_run(job, outcomes[job.name]) for job in plan.jobs],
        settings=plan.settings | {"sources": _sources(plan, outcomes)},
        broken=broken,
    )


def measured(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures one experiment; if it cannot be measured, the section says why."""
    module, function = experiment.measure.split(":")
    measure = getattr(importlib.import_module(module), function)
    done = {name for name in experiment.variants if bench.seeds(name)}
    if not done:
        reason = "none of its runs has a result; see the failed runs"
        return ReportPart(Section(experiment.id, experiment.title, (f"Not measured: {reason}.",)))
    try:
        return measure(bench, experiment)
    except UserError as error:
        return ReportPart(Section(experiment.id, experiment.title, (f"Not measured: {error}",)))


def data_part(bench: Bench) -> ReportPart:
    """Makes the section on the data: people and minutes by split, and the distribution of the labels."""
    columns = {split: bench.columns(split) for split in bench.opened.all_splits()}
    people = {split: set(map(str, split_columns.participant)) for split, split_columns in columns.items()}
    trained_on = [split for split in people if not split.startswith("unseen-")]
    for first, second in itertools.combinations(trained_on, 2):
        if shared := people[first] & people[second]:
            raise UserError(
                f"participant {sorted(shared)[0]} is in the splits {first} and {second}: prepare the store again"
            )
    rows = []
    for population in _populations(bench):
        of_population = bench.on(population)
        for split in of_population.opened.rows():
            columns[f"{population}: {split}"] = of_population.columns(split)
            people[f"{population}: {split}"] = set(map(str, columns[f"{population}: {split}"].participant))
    for split, split_columns in columns.items():
        known = {name: values[np.isfinite(values)] for name, values in split_columns.labels.items()}
        cells = [f"{len(v)} ({v.mean():.1f} ± {v.std():.1f})" if len(v) else "none" for v in known.values()]
        rows.append((split, str(len(people[split])), str(len(split_columns.participant)), *cells))
    of_trials = any(experiment.id == TRIALS for experiment in bench.plan.experiments)
    trials = ", but those of the trials are from the validation people" if of_trials else ""
    text = [
        "Each person is in one split. Encoders are trained on the training people. Choices (the strength of a probe, the step of a "
        f"supervised training) are made on the validation people. All numbers are from the test people{trials}.",
    ]
    text.append(_separation(bench))
    if bench.synthetic:
        text.append(
            "The recordings are synthetic (`accdistill_jax/data/synthetic/`, see `data.synthetic.generator` in the config). Amplitudes and rates follow the "
            "literature cited there; this project chose the coefficients that connect them. Results may differ on real wrists."
        )
    else:
        text.append(
            "An Empatica E4 quantises acceleration in steps of 1/64 g (15.6 mg), which is coarser than a ballistocardiogram at the wrist "
            "(a few mg). From recordings of an E4 no encoder can be expected to read single heart beats of a resting arm."
        )
    table = ReportTable(
        "People, minutes, and minutes with a known label (mean ± standard deviation)",
        ("split", "people", "minutes", "HR, bpm", "SDNN, ms", "RMSSD, ms", "respiration, /min"),
        tuple(rows),
    )
    return ReportPart(Section("data", "The data", tuple(text), (table,), always=True))


def _populations(bench: Bench) -> list[str]:
    """Names of the further people that were generated."""
    made = [job.name for job in bench.plan.jobs if job.order["kind"] == DATA and job.name != DATA]
    return [name.removeprefix(f"{DATA}-") for name in made if bench.outcomes[name].status in DONE]


def _separation(bench: Bench) -> str:
    """States how the stores were checked for people and segments in two splits."""
    unseen = list(bench.opened.unseen.values())
    checked = check_separation(bench.opened.stores, unseen, same_names=bench.plan.base.data.same_names)
    # the folder of generated people says nothing, and is another one wherever the report is made
    generated = {store.path for store in bench.opened.stores} if bench.synthetic else ()
    stores = "; ".join(
        f"{'synthetic' if name in generated else name}: {size}" for name, size in checked["stores"].items()
    )
    warnings = " ".join(f"**Warning**: {line}." for line in checked["warnings"])
    equal_names = "one person" if checked["equal names"] == SAME_PERSON else checked["equal names"]
    return (
        f"Before training, the stores were compared ({stores}): {checked['compared']}. Equal names in different stores "
        f"count as {equal_names}; unseen stores count as test data. Result: {checked['result']}. {warnings}"
    ).rstrip()


def report_summary(plan: GridPlan, outcomes: Mapping[str, JobOutcome], claims: Sequence[Claim]) -> tuple[str, ...]:
    """Paragraphs at the head of the report: verdicts, preset, data, seeds and runs."""
    counts = {word: sum(claim.holds == word for claim in claims) for word in COUNTED}
    verdicts = ", ".join(f"{count} {COUNTED[word][count > 1]}" for word, count in counts.items() if count)
    claimed = f"Of {len(claims)} claims of the paper (arXiv 2412.11276) and open questions about it, {verdicts}."
    seeds, data = plan.settings["seeds"], ", ".join(plan.settings["data"])
    runs = sum(outcome.status in DONE for outcome in outcomes.values())
    return (
        claimed if claims else "The selected experiments measure none of the claims of the paper (arXiv 2412.11276).",
        f"Preset `{plan.settings['preset']}`, data {data}, {seeds} training seed{'' if seeds == 1 else 's'} of teacher, main students and "
        f"baselines{', one seed of the variants in sweeps' if seeds > 1 else ''}; {runs} of {len(outcomes)} runs have a result. Intervals "
        "in brackets are 95 % intervals over test people; ± is the standard deviation over training seeds unless the text says "
        "otherwise. To make this page again, run the same command: the settings at the end list its arguments.",
        *(
            ["This preset only tests that the program works. Its numbers mean nothing."]
            if plan.settings["preset"] == "smoke"
            else []
        ),
        TERMS,
    )


def _run(job, outcome: JobOutcome) -> dict[str, Any]:
    run = {"name": job.name, "status": outcome.status, "seconds": round(outcome.seconds, 1), "reason": outcome.reason}
    run |= {"key": job.key, "variant": job.order.get("variant", DATA), "seed": job.order.get("seed")}
    path = outcome.folder / FACTS
    return run | (json.loads(path.read_text()) if outcome.status in DONE and path.exists() else {})


def _sources(plan: GridPlan, outcomes: Mapping[str, JobOutcome]) -> dict[str, Any]:
    """Versions, hardware and source code of the runs; lists of values where runs differ."""
    values_of: dict[str, list] = {}
    for job in plan.jobs:
        path = outcomes[job.name].folder / FACTS
        if outcomes[job.name].status in DONE and path.exists():
            for name, value in json.loads(path.read_text())["environment"].items():
                if value not in values_of.setdefault(name, []):
                    values_of[name].append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in values_of.items()}
