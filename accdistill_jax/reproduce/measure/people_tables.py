"""Probes of people's properties from their mean embeddings, and tables of the results."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from accdistill_jax.data.synthetic.health_targets import CONTROL, KINDS
from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.evaluate import TEACHER
from accdistill_jax.evaluation.people.participant_scores import NumberScore, ParticipantTarget, YesNoScore
from accdistill_jax.evaluation.people.participant_targets import NUMBER, YES_NO
from accdistill_jax.evaluation.people.participants import ParticipantEvaluation
from accdistill_jax.evaluation.probing.probes import MEAN
from accdistill_jax.reproduce.measure.formatting import NONE, decimal, mean_and_std, ranged, signed
from accdistill_jax.reproduce.plan.variants import MAE_TEACHER
from accdistill_jax.reproduce.report.document import ReportTable

DEMOGRAPHIC = "demographic"


class PeopleProbes(NamedTuple):
    """Probes of people with one training seed of each encoder.

    Attributes:
        questions: targets that may depend on the signals.
        controls: targets that depend on chance alone; None if there are none.
    """

    questions: ParticipantEvaluation
    controls: ParticipantEvaluation | None

    def scored(self) -> dict[str, ParticipantTarget]:
        """Yes/no targets with scores, controls last."""
        targets = self.questions.targets | (self.controls.targets if self.controls else {})
        return {name: target for name, target in targets.items() if target.kind == YES_NO and not target.reason}

    def auc(self, target: str, encoder: str) -> Estimate:
        """ROC AUC of an encoder on a scored target."""
        score = self.scored()[target].scores[encoder]
        assert isinstance(score, YesNoScore)
        return score.auc

    def mean_auc(self, encoder: str, kind: str | None = None) -> float | None:
        """Mean AUC over the scored targets of a kind; without a kind, over those of `MeanAuc`, known for every test person."""
        if kind is not None:
            names = [name for name in self.scored() if kind_of(name) == kind]
        else:
            names = self.questions.mean_auc.targets if self.questions.mean_auc else []
        return float(np.mean([self.auc(name, encoder).value or 0.0 for name in names])) if names else None


def kind_of(target: str) -> str:
    """Kind of a yes/no target; stores of recordings only have conditions."""
    return DEMOGRAPHIC if target in ("age_over_50", "sex", "bmi_over_30") else KINDS.get(target, "condition")


def shown(encoder: str) -> str:
    """The name of a variant in figures."""
    return TEACHER if encoder == MAE_TEACHER else encoder


def tables(
    first: PeopleProbes, by_seed: Sequence[PeopleProbes], titles: Mapping[str, str], main: str
) -> tuple[ReportTable, ...]:
    """All tables that have rows.

    Args:
        first: probes with the first training seeds.
        by_seed: probes with each training seed.
        titles: variant -> title.
        main: variant that is compared with the others.
    """
    keys = {name: shown(name) for name in titles}
    candidates = (
        _means(first, by_seed, titles, keys, main),
        _numbers(first, titles, keys),
        _targets(first, titles, keys, "auc", "ROC AUC by target, first training seed (0.5 by chance)"),
        _targets(
            first,
            titles,
            keys,
            "partial_auc",
            "Partial AUC up to 10 % false positives, standardised (0.5 by chance, 1 is perfect)",
        ),
    )
    return tuple(table for table in candidates if table.rows)


def _means(
    first: PeopleProbes, by_seed: Sequence[PeopleProbes], titles: Mapping[str, str], keys: Mapping[str, str], main: str
) -> ReportTable:
    kinds = list(dict.fromkeys(kind_of(name) for name in first.scored()))
    mean, rows = first.questions.mean_auc, []
    differences = {} if mean is None else {d.reference: d for d in mean.differences}
    for name, title in titles.items() if kinds else ():
        key = keys[name]
        means = [
            value
            for probes in by_seed
            if key in probes.questions.encoders and (value := probes.mean_auc(key)) is not None
        ]
        compared = differences.get(key)
        rows.append(
            (
                title,
                NONE if mean is None else ranged(mean.auc[key], 3),
                mean_and_std(means, 3),
                f"{signed(compared.difference, 3)}: {compared.outcome}" if compared else NONE,
                *(decimal(first.mean_auc(key, kind), 3) for kind in kinds),
            )
        )
    ceilings = {
        kind: [target.ceiling for name, target in first.scored().items() if kind_of(name) == kind and target.ceiling]
        for kind in kinds
    }
    if any(ceilings.values()):
        every = [value for kind, values in ceilings.items() if kind != CONTROL for value in values]
        cells = [decimal(sum(values) / len(values), 3) if values else NONE for values in ceilings.values()]
        rows.append(
            (
                "ceiling (mean over the targets with a known one)",
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
        f"{titles[main]} minus this encoder",
        *(f"{kind}s" for kind in kinds),
    )
    return ReportTable(
        "Mean ROC AUC over the yes/no targets that are known for every test person, without controls; and of all targets, by kind",
        columns,
        tuple(rows),
    )


def _numbers(first: PeopleProbes, titles: Mapping[str, str], keys: Mapping[str, str]) -> ReportTable:
    rows = []
    for target in first.questions.targets.values():
        if target.kind == NUMBER and not target.reason:
            scores = {key: score for key, score in target.scores.items() if isinstance(score, NumberScore)}
            rows += [
                (target.label, titles[name], ranged(scores[key].mae), ranged(scores[key].r))
                for name, key in keys.items()
            ]
            rows.append((target.label, "mean of training people", ranged(scores[MEAN].mae), NONE))
    return ReportTable(
        "Numbers: mean absolute error and correlation", ("target", "encoder", "error", "correlation"), tuple(rows)
    )


def _targets(
    first: PeopleProbes, titles: Mapping[str, str], keys: Mapping[str, str], measure: str, caption: str
) -> ReportTable:
    scored = first.scored()
    ceilings = measure == "auc" and any(target.ceiling for target in scored.values())
    rows = [
        (
            f"{target.label} ({target.test_yes} of {target.test_participants})",
            kind_of(name),
            *([decimal(target.ceiling)] if ceilings else []),
            *(ranged(getattr(target.scores[key], measure)) for key in keys.values()),
        )
        for name, target in scored.items()
    ]
    columns = ("target (yes of test people)", "kind", *(["ceiling"] if ceilings else []), *titles.values())
    return ReportTable(caption, columns, tuple(rows))
