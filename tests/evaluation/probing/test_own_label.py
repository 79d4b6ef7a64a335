"""Read-outs of a user's label: what they find, what they refuse, and that saved ones predict the same."""

import functools

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier

from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.probing.own_label import OwnLabel, fit_own_label
from accdistill_jax.readouts.label_probe import LabelProbe, load_label_probes, probabilities, save_label_probe
from accdistill_jax.readouts.readout import FAR, MOTION

WIDTH, MINUTES = 6, 12


@functools.cache
def fitted_once(kind, classes, model):
    """A label and its read-out; boosted fits take seconds."""
    own = label(kind, classes=classes)
    return own, fit_own_label(own, model=model)


def label(kind="number", per="minute", *, people=24, classes=(), informative=True, seed=0, **changes):
    """A label that the first dimension of the embedding determines, up to noise."""
    rng = np.random.default_rng(seed)
    who = np.repeat([f"p{number:02d}" for number in range(people)], MINUTES)
    trait = np.repeat(rng.normal(size=people), MINUTES)
    x = rng.normal(size=(len(who), WIDTH))
    x[:, 0] += 2 * trait if per == "person" else 0
    source = trait if per == "person" else x[:, 0] + 0.2 * rng.normal(size=len(who))
    if not informative:
        source = np.repeat(rng.normal(size=people), MINUTES) if per == "person" else rng.normal(size=len(who))
    value = 50 + 10 * source
    if kind == "classes":
        value = np.searchsorted(np.quantile(source, np.arange(1, len(classes)) / len(classes)), source).astype(float)
    fields = dict(
        kind=kind,
        per=per,
        classes=classes,
        embedding=x.astype(np.float32),
        participant=who,
        value=value,
        motion_g=rng.uniform(0, 0.05, len(who)).astype(np.float32),
        scored=np.ones(len(who), bool),
    )
    return OwnLabel(**fields | changes)


@pytest.mark.parametrize("model", ["linear", "boosted"])
@pytest.mark.parametrize("per", ["minute", "person"])
def test_a_number_is_read_better_than_the_mean(model, per):
    fitted = fit_own_label(label(per=per, people=40), model=model)
    first = fitted.measures[0]
    assert first.words == "mean absolute error" and first.better
    assert first.estimate.number < 0.7 * first.reference
    assert (fitted.people, fitted.minutes, fitted.scored_people) == (40, 40 * MINUTES, 40)
    assert 0 < fitted.half_width < 40


@pytest.mark.slow
@pytest.mark.parametrize("model", ["linear", "boosted"])
@pytest.mark.parametrize("classes", [("calm", "stress"), ("wake", "light", "deep")])
def test_classes_are_read_better_than_chance(model, classes):
    _, fitted = fitted_once("classes", classes, model)
    by_words = {measure.words: measure for measure in fitted.measures}
    assert ("area under the ROC curve" in by_words) == (len(classes) == 2)
    assert by_words["balanced accuracy"].better and by_words["balanced accuracy"].reference == 1 / len(classes)
    assert by_words["balanced accuracy"].estimate.number > 0.75


@pytest.mark.parametrize("kind", ["number", "classes"])
def test_a_label_that_is_not_there_is_not_found(kind):
    classes = ("no", "yes") if kind == "classes" else ()
    fitted = fit_own_label(label(kind, classes=classes, informative=False, seed=3))
    assert not fitted.measures[0].better


def test_a_trait_of_the_person_does_not_leak_between_folds():
    """Each person's minutes carry a signature, and the label is drawn per person: minutes in both parts would reveal it."""
    rng = np.random.default_rng(1)
    plain = label(people=30, informative=False)
    signature = np.repeat(rng.normal(size=(30, WIDTH)), MINUTES, axis=0) * 10
    value = np.repeat(rng.normal(size=30), MINUTES)
    fitted = fit_own_label(
        plain._replace(embedding=(plain.embedding + signature).astype(np.float32), value=value), model="boosted"
    )
    assert fitted.measures[0].estimate.number > 0.9 * fitted.measures[0].reference


def test_only_people_whom_the_encoder_has_not_seen_are_measured():
    plain = label()
    unseen = np.isin(plain.participant, ["p00", "p01", "p02", "p03", "p04"])
    assert fit_own_label(plain._replace(scored=unseen)).scored_people == 5


def test_intervals_come_from_people_whom_the_encoder_has_not_seen():
    plain = label(people=60)
    unseen = np.isin(plain.participant, [f"p{number:02d}" for number in range(20)])
    noise = np.random.default_rng(1).normal(size=len(unseen))
    blurred = plain.embedding.copy()
    blurred[unseen, 0] += noise[unseen]  # the encoder knows the others
    own = plain._replace(embedding=blurred, scored=unseen)
    assert fit_own_label(own).half_width > 1.2 * fit_own_label(own._replace(scored=~unseen)).half_width
    few = np.isin(plain.participant, ["p00", "p01", "p02"])  # three people give no quantile
    assert np.isfinite(fit_own_label(own._replace(scored=few)).half_width)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda p: p._replace(value=np.full(len(p.value), np.nan)), "no minute has a value"),
        (lambda p: p._replace(value=np.where(p.participant == "p03", p.value, np.nan)), "only the person 'p03' has"),
        (lambda p: p._replace(value=np.zeros(len(p.value))), "all 288 values are calm; there is nothing to predict"),
        (
            lambda p: p._replace(value=(p.participant == "p03").astype(float)),
            "the class 'stress' occurs in 1 person only",
        ),
    ],
)
def test_labels_that_cannot_be_fitted_get_one_line(changed, message):
    with pytest.raises(UserError) as refusal:
        fit_own_label(changed(label("classes", classes=("calm", "stress"))))
    assert str(refusal.value).startswith(message) and "\n" not in str(refusal.value)


def probe_of(own, fitted, **changes):
    fields = dict(
        name="mine",
        unit="",
        kind=own.kind,
        per=own.per,
        classes=own.classes,
        model=fitted.model,
        half_width=fitted.half_width,
        level=0.9,
        people=fitted.people,
        domain=fitted.domain,
        fingerprint="f00d",
        measured={"mean absolute error": "1.0"},
    )
    return LabelProbe(**fields | changes)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["linear", "boosted"])
@pytest.mark.parametrize(
    ("kind", "classes"), [("number", ()), ("classes", ("calm", "stress")), ("classes", ("wake", "light", "deep"))]
)
def test_a_saved_probe_predicts_the_same(tmp_path, model, kind, classes):
    own, fitted = fitted_once(kind, classes, model)
    probe = probe_of(own, fitted)
    save_label_probe(tmp_path, probe)
    (again,) = load_label_probes(tmp_path, fingerprint="f00d").values()
    before, after = probe.predict(own.embedding), again.predict(own.embedding)
    np.testing.assert_array_equal(before.value, after.value)
    np.testing.assert_array_equal(before.low, after.low)
    assert after.known.mean() > 0.9
    if classes:
        np.testing.assert_allclose(after.probability[after.known].sum(axis=1), 1.0)
        assert set(after.value[after.known]) == set(classes)
    else:
        np.testing.assert_allclose(after.high - after.low, np.where(after.known, 2 * probe.half_width, np.nan))


@pytest.mark.slow
def test_trees_are_those_of_scikit_learn():
    own, fitted = fitted_once("classes", ("wake", "light", "deep"), "boosted")
    grown = GradientBoostingClassifier(
        n_estimators=200,
        learning_rate=0.05,
        subsample=0.5,
        max_features="sqrt",
        min_samples_leaf=14,
        init="zero",
        random_state=0,
    ).fit(own.embedding, own.value.astype(int))
    np.testing.assert_allclose(
        probabilities(fitted.model.scores(own.embedding)), grown.predict_proba(own.embedding), atol=1e-9
    )


def test_minutes_unlike_the_fitted_ones_are_unknown_and_a_person_gets_one_value():
    own = label(per="person")
    probe = probe_of(own, fit_own_label(own))
    assert len(probe.predict(own.embedding[:12]).value) == 1
    strange = own.embedding[:12] * 50
    assert probe.predict(strange).reason.tolist() == [FAR]
    mixed = np.concatenate([own.embedding[:12], strange])
    assert probe.predict(mixed).value == pytest.approx(probe.predict(own.embedding[:12]).value)
    per_minute = label()
    probe = probe_of(per_minute, fit_own_label(per_minute))
    assert probe.predict(own.embedding[:1], motion_g=np.array([9.0])).reason.tolist() == [MOTION]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: None, "on an encoder that was trained otherwise"),
    ],
)
def test_a_damaged_probe_or_that_of_another_encoder_is_named(tmp_path, spoil, message):
    own = label()
    path = save_label_probe(tmp_path, probe_of(own, fit_own_label(own)))
    spoil(path)
    with pytest.raises(UserError, match="mine.npz") as refusal:
        load_label_probes(tmp_path, fingerprint="f00d" if "damaged" in message else "beef")
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_name_that_is_no_file_is_refused(tmp_path):
    own = label()
    with pytest.raises(UserError, match="use letters, digits"):
        save_label_probe(tmp_path, probe_of(own, fit_own_label(own), name="../mine"))
