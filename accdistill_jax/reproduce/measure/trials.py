"""Measures trials: changes of the student at about equal training time, on validation people."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings
from accdistill_jax.labels import HEART_RATE, LABELS, RESPIRATION
from accdistill_jax.reproduce.measure.formatting import (
    NONE,
    mean_and_std,
    measurable_encoders,
    percent_mean_and_std,
    ranged,
    report_number,
    thousands,
)
from accdistill_jax.reproduce.measure.probe_sweep import expected_retrieval
from accdistill_jax.reproduce.measure.probing import Probing
from accdistill_jax.reproduce.measure.results import Bench, Columns, ReportPart
from accdistill_jax.reproduce.plan import variants as v
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.plan.trials import BASE
from accdistill_jax.reproduce.report.document import Number, Picture, ReportTable, Section
from accdistill_jax.reproduce.report.probe_figures import DotPanel, dots


class OnValidation:
    """Embeddings whose test people are the validation people, so that test people decide nothing. A probe's strength is cross-validated.

    Args:
        bench: its results.
    """

    def __init__(self, bench: Bench):
        self._bench = bench

    def columns(self, split: str) -> Columns:
        """Columns of "train", or of the validation people as "test"."""
        return self._bench.columns("validation" if split == "test" else split)

    def splits(self, name: str, seed: int, *, some: bool = False) -> dict[str, SplitEmbeddings]:
        """As `Bench.splits`, with the validation people as "test" and nobody as "validation"."""
        given = self._bench.splits(name, seed, some=some)
        people = given["validation"]
        labels = {target: values[:0] for target, values in people.labels.items()}
        empty = SplitEmbeddings(people.embedding[:0], None, people.participant[:0], labels)
        return {"train": given["train"], "validation": empty, "test": people}


def measure_trials(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures errors and retrieval of every trial."""
    seeds_of, notes = measurable_encoders(bench, experiment.variants)
    validation = OnValidation(bench)
    participant = bench.columns("validation").participant
    rows, numbers, drawn = [], {}, {}
    with threadpool_limits(1):
        probing = Probing(validation, targets=(*v.TARGETS, RESPIRATION), some=True)
        for name, seeds in seeds_of.items():
            probing.encoder(name, seeds)
        heart = [target for target in probing.targets if target in v.TARGETS]
        for name, seeds in seeds_of.items():
            pairs = [bench.pair(name, seed, split="validation") for seed in seeds]
            top1 = [expected_retrieval(*pair, participant).top1.value or 0.0 for pair in pairs if pair is not None]
            errors = {t: probing.scores.error(t, 1.0, name) for t in probing.targets}
            ratio = probing.scores.ratio(HEART_RATE, 1.0, name, BASE) if probing.targets and name != BASE else None
            scores = [errors[t] for t in heart]
            drawn[bench.variant(name).title] = [*(score.seeds if score else [] for score in scores), top1]
            facts = [bench.facts(name, seed) for seed in seeds]
            rows.append(
                (
                    bench.variant(name).title,
                    thousands(facts[0]["steps"]),
                    mean_and_std([fact["train_s"] for fact in facts], 0),
                    *(mean_and_std(score.seeds) if score else NONE for score in errors.values()),
                    ranged(ratio.estimate) if ratio else NONE,
                    percent_mean_and_std(top1),
                )
            )
            numbers |= _numbers(f"{experiment.id}/{name}", errors, top1)
    text = (
        "Regime: students with one change each, trained for about the same time as the student without a change (the steps are set by the time of a "
        "step; the table states the seconds). Judged on validation people, on whom no claim rests. Cells: mean ± standard deviation over training "
        "seeds. Trials that did not help are listed too.",
    )
    columns = (
        "trial",
        "steps",
        "seconds",
        *(f"{LABELS[t].short} error, {LABELS[t].unit}" for t in probing.targets),
        "HR error divided by that without a change",
        f"top-1 of {thousands(min(1000, len(np.asarray(participant))))}",
    )
    table = ReportTable("Trials on validation people", columns, tuple(rows))
    if not rows:
        return ReportPart(Section(experiment.id, experiment.title, text, notes=(*notes, *probing.notes)), numbers)
    panels = [*(f"{LABELS[t].short} error ({LABELS[t].unit})" for t in heart), "top-1 (share of minutes)"]
    caption = (
        "Errors of the heart's labels and retrieval, each trial on validation people: mean and standard deviation over training seeds. "
        "Dashed line: the student without a change. Errors are better to the left, retrieval is better to the right."
    )
    picture = Picture(experiment.id, caption, _figure(panels, drawn, bench.variant(BASE).title))
    section = Section(experiment.id, experiment.title, text, (table,), (picture,), (*notes, *probing.notes))
    return ReportPart(section, numbers)


def _figure(panels: Sequence[str], drawn: Mapping[str, Sequence[Sequence[float]]], base: str) -> Figure:
    """A row for each trial, a panel for each measure.

    Args:
        panels: titles of the measures.
        drawn: title of the trial -> for each measure its value for each training seed; empty without a result.
        base: title of the student without a change.
    """
    titles = list(drawn)

    def estimate(values: Sequence[float]) -> Estimate | None:
        if not len(values):
            return None
        mean, spread = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return Estimate(mean, *((mean - spread, mean + spread) if spread else ()))

    shown = [DotPanel(title, {"": [estimate(drawn[trial][k]) for trial in titles]}) for k, title in enumerate(panels)]
    return dots(titles, shown, reference=titles.index(base) if base in titles else None)


def _numbers(prefix: str, errors: dict, top1: list[float]) -> dict[str, Number]:
    numbers = {
        f"{prefix}/{target}/mae": report_number(score.seeds, estimate=score.estimate, unit=LABELS[target].unit)
        for target, score in errors.items()
        if score is not None
    }
    if top1:
        numbers[f"{prefix}/top1"] = report_number(top1, share=True)
    return numbers
