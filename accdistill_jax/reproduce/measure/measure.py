"""From finished jobs to the report: every experiment is measured, an experiment that cannot be is reported with its reason."""

import importlib
import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from accdistill_jax.data.store.separation import SAME_PERSON, check_separation
from accdistill_jax.errors import UserError
from accdistill_jax.reproduce.jobs.jobs import Outcome
from accdistill_jax.reproduce.jobs.work import FACTS
from accdistill_jax.reproduce.measure.label_fractions import OWN_TITLES
from accdistill_jax.reproduce.measure.results import DONE, Bench, ReportPart
from accdistill_jax.reproduce.measure.tolerance import pooled
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.plan.grid import DATA, GridPlan
from accdistill_jax.reproduce.report.document import Report, ReportTable, Section

TITLE = "Does an accelerometer learn what a PPG sensor knows?"
# how one claim and how several are counted
COUNTED = {
    "yes": ("holds", "hold"),
    "partly": ("holds in part", "hold in part"),
    "no": ("does not hold", "do not hold"),
    "not measured": ("was not measured", "were not measured"),
}


def measure_report(plan: GridPlan, outcomes: Mapping[str, Outcome], *, say: Callable[[str], None]) -> Report:
    """Measures all experiments of a plan.

    Args:
        plan: what was run.
        outcomes: what became of each job; experiments make do with what is there.
        say: told which experiment is being measured.

    Returns:
        The report. An experiment whose measuring fails is a section that says so; its runs and the others' numbers stay. A mistake
        in the program is also printed, and told by `broken`.

    Raises:
        UserError: there is no data to measure on.
    """
    data = outcomes.get(DATA)
    if data is not None and data.status not in DONE:
        raise UserError(f"the synthetic data was not made, so nothing was measured: {data.reason}")
    bench = Bench(plan, outcomes)
    parts, broken = [data_part(bench)], {}
    for number, experiment in enumerate(plan.experiments, 1):
        say(f"measuring {experiment.id} ({number} of {len(plan.experiments)})")
        try:
            parts.append(measured(bench, experiment))
        except Exception as problem:  # a mistake in one experiment must not cost hours of the others
            traceback.print_exc()
            broken[experiment.id] = f"{type(problem).__name__}: {problem}"
            said = f"Not measured, by a mistake in the program: {broken[experiment.id]}."
            parts.append(ReportPart(Section(experiment.id, experiment.title, (said,))))
    claims = tuple(claim._replace(section=part.section.id) for part in parts for claim in part.claims)
    found: dict[str, Any] = {}
    for part in parts:
        found |= part.numbers
    found = pooled(found, {*plan.variants, *OWN_TITLES})
    return Report(
        title=TITLE,
        summary=_summary(plan, outcomes, claims),
        claims=claims,
        sections=tuple(part.section for part in parts),
        numbers=found,
        runs=[_run(job, outcomes[job.name]) for job in plan.jobs],
        settings=plan.settings | {"sources": _sources(plan, outcomes)},
        broken=broken,
    )


def measured(bench: Bench, experiment: Experiment) -> ReportPart:
    """One experiment's part; where measuring fails, one that says why."""
    module, function = experiment.measure.split(":")
    measure = getattr(importlib.import_module(f"accdistill_jax.reproduce.measure.{module}"), function)
    done = {name for name in experiment.variants if bench.seeds(name)}
    if not done:
        reason = "none of its runs has a result; see the failed runs"
        return ReportPart(Section(experiment.id, experiment.title, (f"Not measured: {reason}.",)))
    try:
        return measure(bench, experiment)
    except UserError as error:
        return ReportPart(Section(experiment.id, experiment.title, (f"Not measured: {error}",)))


def data_part(bench: Bench) -> ReportPart:
    """Data behind the numbers: people and minutes by split, who is in which, and the distribution of the labels."""
    columns = {split: bench.columns(split) for split in bench.opened.everything()}
    people = {split: set(map(str, own.participant)) for split, own in columns.items()}
    trained_on = [split for split in people if not split.startswith("unseen-")]
    for one, other in ((a, b) for k, a in enumerate(trained_on) for b in trained_on[k + 1 :]):
        if shared := people[one] & people[other]:
            raise UserError(
                f"participant {sorted(shared)[0]} is in the splits {one} and {other}: prepare the store again"
            )
    rows = []
    for split, own in columns.items():
        known = {name: values[np.isfinite(values)] for name, values in own.labels.items()}
        cells = [f"{len(v)} ({v.mean():.1f} ± {v.std():.1f})" if len(v) else "none" for v in known.values()]
        rows.append((split, str(len(people[split])), str(len(own.participant)), *cells))
    text = [
        "Every split holds other people. Encoders learn from training people, choices (strength of a probe, which step of a "
        "supervised training is kept) are made on validation people, and every number is of test people.",
    ]
    text.append(_compared(bench))
    if bench.synthetic:
        text.append(
            "The recordings are synthetic (`accdistill_jax/data/synthetic/physiology.py`, `waveforms.py`): amplitudes and rates follow the "
            "literature named there, the coefficients that tie them together are this project's own. What holds here need not "
            "hold on a wrist."
        )
    else:
        text.append(
            "An Empatica E4 quantises acceleration at 1/64 g (15.6 mg), coarser than a ballistocardiogram at the wrist (some mg): "
            "where the recordings are an E4's, no encoder can be expected to read single heart beats from a resting arm."
        )
    table = ReportTable(
        "People, minutes, and minutes with a known label (mean ± standard deviation)",
        ("split", "people", "minutes", "HR, bpm", "SDNN, ms", "RMSSD, ms", "respiration, /min"),
        tuple(rows),
    )
    return ReportPart(Section("data", "The data", tuple(text), (table,), always=True))


def _compared(bench: Bench) -> str:
    """States that nobody is on two sides, and how that is known."""
    unseen = list(bench.opened.unseen.values())
    found = check_separation(bench.opened.stores, unseen, same_names=bench.plan.base.data.same_names)
    stores = "; ".join(f"{name}: {size}" for name, size in found["stores"].items())
    warned = " ".join(f"**Warning**: {line}." for line in found["warnings"])
    return (
        f"Before anything was trained, the stores were compared ({stores}): {found['compared']}. Equal names in different stores "
        f"count as {'one person' if found['equal names'] == SAME_PERSON else found['equal names']}; unseen stores count as test. "
        f"Result: {found['result']}. {warned}"
    ).rstrip()


def _summary(plan: GridPlan, outcomes: Mapping[str, Outcome], claims) -> tuple[str, ...]:
    counts = {word: sum(claim.holds == word for claim in claims) for word in COUNTED}
    told = ", ".join(f"{count} {COUNTED[word][count > 1]}" for word, count in counts.items() if count)
    claimed = f"Of {len(claims)} claims of the paper (arXiv 2412.11276) and questions it leaves open, {told}."
    seeds, data = plan.settings["seeds"], ", ".join(plan.settings["data"])
    runs = sum(one.status in DONE for one in outcomes.values())
    return (
        claimed if claims else "What was asked for measures none of the claims of the paper (arXiv 2412.11276).",
        f"Preset `{plan.settings['preset']}`, data {data}, {seeds} training seed{'' if seeds == 1 else 's'} of teacher, main students and "
        f"baselines{', one of what is varied in sweeps' if seeds > 1 else ''}, {runs} of {len(outcomes)} runs. Intervals are 95 % intervals over test people; where seeds are "
        "given, ± is their standard deviation. The command that made this page makes it again: see the settings at its end.",
    )


def _run(job, outcome: Outcome) -> dict[str, Any]:
    found = {"name": job.name, "status": outcome.status, "seconds": round(outcome.seconds, 1), "reason": outcome.reason}
    found |= {"key": job.key, "variant": job.order.get("variant", DATA), "seed": job.order.get("seed")}
    path = outcome.folder / FACTS
    return found | (json.loads(path.read_text()) if outcome.status in DONE and path.exists() else {})


def _sources(plan: GridPlan, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Versions, hardware and source code that the runs were made with; several where they differ."""
    found: dict[str, list] = {}
    for job in plan.jobs:
        path = outcomes[job.name].folder / FACTS
        if outcomes[job.name].status in DONE and path.exists():
            for name, value in json.loads(path.read_text())["environment"].items():
                if value not in found.setdefault(name, []):
                    found[name].append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}
