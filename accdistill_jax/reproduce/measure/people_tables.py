"""Predictions about people from their mean embeddings, and the tables that show them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.synthetic.health_targets import CONTROL, KINDS
from accdistill_jax.evaluation.evaluate import TEACHER
from accdistill_jax.evaluation.people.participant_scores import ParticipantTarget
from accdistill_jax.evaluation.people.participant_targets import NUMBER, YES_NO
from accdistill_jax.evaluation.people.participants import ParticipantEvaluation
from accdistill_jax.evaluation.probing.probes import MEAN
from accdistill_jax.reproduce.measure.wording import NONE, decimal, mean_and_std, ranged, signed
from accdistill_jax.reproduce.plan.variants import MAE_TEACHER
from accdistill_jax.reproduce.report.document import ReportTable

DEMOGRAPHIC = "demographic"


class PeopleProbes(NamedTuple):
    """Probes of people with one training seed of each encoder.

    Attributes:
        questions: all targets that signals may tell of.
        controls: questions that nothing but chance decides; None without.
    """

    questions: ParticipantEvaluation
    controls: ParticipantEvaluation | None

    def scored(self) -> dict[str, ParticipantTarget]:
        """Yes/no targets with scores, controls last."""
        both = self.questions.targets | (self.controls.targets if self.controls else {})
        return {name: one for name, one in both.items() if one.kind == YES_NO and not one.reason}

    def mean_auc(self, encoder: str, kind: str | None = None) -> float | None:
        """Over the scored targets of a kind, or of every kind but controls."""
        names = [
            name for name in self.scored() if (kind_of(name) != CONTROL if kind is None else kind_of(name) == kind)
        ]
        return float(np.mean([self.scored()[name].scores[encoder].auc.value for name in names])) if names else None


def kind_of(target: str) -> str:
    """Kind of a yes/no target; stores of recordings have conditions only."""
    return DEMOGRAPHIC if target in ("age_over_50", "sex", "bmi_over_30") else KINDS.get(target, "condition")


def shown(encoder: str) -> str:
    """The name by which figures know a variant."""
    return TEACHER if encoder == MAE_TEACHER else encoder


def tables(
    first: PeopleProbes, by_seed: Sequence[PeopleProbes], titles: Mapping[str, str], main: str
) -> tuple[ReportTable, ...]:
    """All tables that have rows.

    Args:
        first: with the first training seeds.
        by_seed: with every one.
        titles: of the encoders, by variant.
        main: encoder that is compared with the others.
    """
    keys = {name: shown(name) for name in titles}
    found = (
        _means(first, by_seed, titles, keys, main),
        _numbers(first, titles, keys),
        _targets(first, titles, keys, "auc", "ROC AUC by target, first training seed (0.5 at chance)"),
        _targets(
            first,
            titles,
            keys,
            "partial_auc",
            "Partial AUC up to 10 % false positives, standardised (0.5 at chance, 1 at best)",
        ),
    )
    return tuple(table for table in found if table.rows)


def _means(
    first: PeopleProbes, by_seed: Sequence[PeopleProbes], titles: Mapping[str, str], keys: Mapping[str, str], main: str
) -> ReportTable:
    kinds = list(dict.fromkeys(kind_of(name) for name in first.scored()))
    mean, rows = first.questions.mean_auc, []
    differences = {} if mean is None else {d.reference: d for d in mean.differences}
    for name, title in titles.items() if kinds else ():
        key = keys[name]
        own = [value for one in by_seed if key in one.questions.encoders and (value := one.mean_auc(key)) is not None]
        compared = differences.get(key)
        rows.append(
            (
                title,
                NONE if mean is None else ranged(mean.auc[key], 3),
                mean_and_std(own, 3),
                f"{signed(compared.difference, 3)}: {compared.outcome}" if compared else NONE,
                *(decimal(first.mean_auc(key, kind), 3) for kind in kinds),
            )
        )
    ceilings = {
        kind: [one.ceiling for name, one in first.scored().items() if kind_of(name) == kind and one.ceiling]
        for kind in kinds
    }
    if any(ceilings.values()):
        every = [value for kind, own in ceilings.items() if kind != CONTROL for value in own]
        cells = [decimal(sum(own) / len(own), 3) if own else NONE for own in ceilings.values()]
        rows.append(
            (
                "ceiling, of the targets that have one",
                decimal(sum(every) / len(every), 3) if every else NONE,
                NONE,
                NONE,
                *cells,
            )
        )
    columns = (
        "encoder",
        "mean AUC",
        "over training seeds",
        f"{titles[main]} minus it",
        *(f"{kind}s" for kind in kinds),
    )
    return ReportTable("Mean ROC AUC over all yes/no targets but controls, and by kind", columns, tuple(rows))


def _numbers(first: PeopleProbes, titles: Mapping[str, str], keys: Mapping[str, str]) -> ReportTable:
    rows = []
    for one in first.questions.targets.values():
        if one.kind == NUMBER and not one.reason:
            rows += [
                (one.label, titles[name], ranged(one.scores[key].mae), ranged(one.scores[key].r))
                for name, key in keys.items()
            ]
            rows.append((one.label, "mean of training people", ranged(one.scores[MEAN].mae), NONE))
    return ReportTable(
        "Numbers: mean absolute error and correlation", ("target", "encoder", "error", "correlation"), tuple(rows)
    )


def _targets(
    first: PeopleProbes, titles: Mapping[str, str], keys: Mapping[str, str], measure: str, caption: str
) -> ReportTable:
    scored = first.scored()
    ceilings = measure == "auc" and any(one.ceiling for one in scored.values())
    rows = [
        (
            f"{one.label} ({one.test_yes} of {one.test_participants})",
            kind_of(name),
            *([decimal(one.ceiling)] if ceilings else []),
            *(ranged(getattr(one.scores[key], measure)) for key in keys.values()),
        )
        for name, one in scored.items()
    ]
    columns = ("target (yes of test people)", "kind", *(["ceiling"] if ceilings else []), *titles.values())
    return ReportTable(caption, columns, tuple(rows))
