"""The text on transfer to other sensors and stores."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from accdistill_jax.evaluation.bootstrap import Estimate
from accdistill_jax.evaluation.probing.probes import MEAN, TargetResult
from accdistill_jax.evaluation.report.style import capital
from accdistill_jax.labels import LABELS
from accdistill_jax.reproduce.measure.formatting import decimal

STUDENT = "student"
ZERO, ALL = "0", "all"
TRANSFERS = 1.1  # a probe transfers if its error is below this multiple of the error with all labels
_OUTCOMES = {
    "better": "better than",
    "worse": "worse than",
    "same": "not distinguishable from",
    "unknown": "not comparable with",
}


class PeopleErrors(NamedTuple):
    """Errors of one encoder or constant on one target.

    Attributes:
        errors: number of labelled people ("0", "2", ..., "all") -> mean absolute error, with its interval over test people.
        std: number of labelled people -> standard deviation over the choices of these people.
    """

    errors: dict[str, Estimate]
    std: dict[str, float]


def _value(errors: PeopleErrors, column: str) -> float:
    value = errors.errors[column].value
    assert value is not None  # errors of fitted probes are known
    return value


def transfer_text(
    target: str, errors: Mapping[str, PeopleErrors], sensors: Sequence[str], titles: Mapping[str, str]
) -> str:
    """Describes the student's errors on other sensors, for one target."""
    words, unit, *_ = LABELS[target]
    full, mean = _value(errors[STUDENT], ALL), _value(errors[MEAN], ALL)
    sentences = [
        f"**{words}**: on the full sensor the student's error is {decimal(full)} {unit} (mean of the labels {decimal(mean)})."
    ]
    for name in sensors:
        columns = errors[name].errors
        few = max((c for c in columns if c not in (ZERO, ALL)), key=int, default=None)
        after_few = f", {decimal(columns[few].value)} with one fitted on {few} people of this sensor" if few else ""
        zero, refitted = _value(errors[name], ZERO), _value(errors[name], ALL)
        transfers = zero < TRANSFERS * refitted
        verdict = (
            "The probe does not transfer" if zero >= mean else f"The probe transfers{'' if transfers else ' in part'}"
        )
        sentences.append(
            f"{capital(titles[name])}: {decimal(zero)} with the full sensor's probe{after_few}, {decimal(refitted)} with one fitted on all "
            f"people. {verdict}."
        )
    return " ".join(sentences)


def store_text(
    store: str, target: str, errors: Mapping[str, PeopleErrors], result: TargetResult, titles: Mapping[str, str]
) -> str:
    """Describes the errors in an unseen store, for one target."""
    words, unit, *_ = LABELS[target]
    zero = {name: _value(encoder_errors, ZERO) for name, encoder_errors in errors.items()}
    best = min((name for name in zero if name != MEAN), key=lambda name: zero[name])
    text = (
        f"**{store}, {words}**: with probes from the training stores {titles[best]} has the smallest error, {decimal(zero[best])} {unit}; "
        f"the error of the mean of the training labels is {decimal(zero[MEAN])}."
    )
    against = result.difference(STUDENT, MEAN)
    if against:
        text += f" The student ({decimal(zero[STUDENT])}) is {_OUTCOMES[against.outcome]} that mean."
    few = [column for column in errors[MEAN].errors if column != ZERO]
    if few:
        most = few[-1]
        after = {name: _value(of, most) for name, of in errors.items() if most in of.errors}
        best = min((name for name in after if name != MEAN), key=lambda name: after[name])
        student = f"the student {decimal(after[STUDENT])}, " if STUDENT in after and best != STUDENT else ""
        text += (
            f" With labels of {most} {'person' if most == '1' else 'people'} of the store {titles[best]} reaches {decimal(after[best])}, "
            f"{student}the mean of the same labels {decimal(after[MEAN])}."
        )
    return text
