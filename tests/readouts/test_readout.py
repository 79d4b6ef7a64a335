"""Read-outs: predictions with reasons, the file beside an export, and its damage."""

import dataclasses
import json

import numpy as np
import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.readouts.label_probe import LabelProbe, LinearScores
from accdistill_jax.readouts.readout import (
    FAR,
    FILE_NAME,
    MOTION,
    NO_HEART,
    WIDE,
    Domain,
    HeartTest,
    Readout,
    Readouts,
    find_readouts,
    load_readouts,
    save_readouts,
)
from accdistill_jax.storage.checked_npz import encode_npz, read_npz


@pytest.fixture
def readouts():
    """Heart rate is 60 + 10 x; the expected error grows with y, from 1 to 8 bpm."""
    heart_rate = Readout("bpm", np.array([10.0, 0.0]), 60.0, np.array([0.0, 1.0]), 0.0, (1.0, 8.0), 2.0, 10.0)
    domain, heart = Domain(np.zeros(2), np.eye(2), 3.0, 0.05), HeartTest(np.array([1.0, 0.0]), -1e6)
    return Readouts("f00d", 0.9, {"hr_bpm": 40}, domain, {"hr_bpm": heart_rate}, heart)


def test_values_intervals_and_the_reasons_of_unknown_minutes(readouts):
    embeddings = np.array([[0.5, 0.0], [0.5, np.log(2.0)], [0.5, np.log(6.0)], [9.0, 0.0], [0.5, 0.0]])
    motion_g = np.array([0.01, np.nan, 0.01, 0.01, 0.06])
    prediction = readouts.predict(embeddings, motion_g=motion_g)["hr_bpm"]
    assert prediction.reason.tolist() == ["", "", WIDE, FAR, MOTION]
    assert prediction.known.tolist() == [True, True, False, False, False]
    np.testing.assert_allclose(prediction.value[:2], 65.0)
    np.testing.assert_allclose(prediction.low[:2], [63.0, 61.0])
    np.testing.assert_allclose(prediction.high[:2], [67.0, 69.0])
    assert np.isnan(prediction.value[2:]).all() and np.isnan(prediction.low[2:]).all()
    assert readouts.predict(embeddings)["hr_bpm"].reason[4] == ""  # without motion, its rule is not applied


@pytest.mark.parametrize("shape", [(), (2,), (4,), (3, 1), (1, 3)])
def test_motion_of_another_shape_is_refused(readouts, shape):
    model = LinearScores(np.zeros((2, 1)), np.zeros(1))
    rest = {"half_width": 1.0, "level": 0.9, "people": 9, "fingerprint": "f00d", "measured": {}}
    probe = LabelProbe("mine", "", "number", "minute", (), model, domain=readouts.domain, **rest)
    for one in (readouts, probe):
        with pytest.raises(UserError) as raised:
            one.predict(np.zeros((3, 2)), motion_g=np.zeros(shape))
        said = f"motion_g has shape {list(shape)}; 3 embeddings need [3], one level per minute"
        assert str(raised.value) == said


def test_a_minute_without_a_heart_is_unknown_and_no_other_reason_is_hidden(readouts):
    strict = dataclasses.replace(readouts, heart=HeartTest(np.array([1.0, 0.0]), 0.2))
    embeddings = np.array([[0.5, 0.0], [0.1, 0.0], [-9.0, 0.0], [0.1, 0.0]])
    prediction = strict.predict(embeddings, motion_g=np.array([0.01, 0.01, 0.01, 0.06]))["hr_bpm"]
    assert prediction.reason.tolist() == ["", NO_HEART, FAR, MOTION]
    assert dataclasses.replace(strict, heart=None).predict(embeddings)["hr_bpm"].reason[1] == ""


def test_without_calibration_the_interval_is_unbounded_and_the_value_stays(readouts):
    readout = dataclasses.replace(readouts.targets["hr_bpm"], quantile=np.inf, constant_half_width=np.inf)
    few = dataclasses.replace(readouts, targets={"hr_bpm": readout})
    prediction = few.predict(np.array([[0.5, 0.0]]))["hr_bpm"]
    assert prediction.value[0] == 65.0 and prediction.low[0] == -np.inf and prediction.high[0] == np.inf


def test_no_label_is_predicted_below_zero(readouts):
    wide = dataclasses.replace(readouts, domain=dataclasses.replace(readouts.domain, distance_limit=9.0))
    prediction = wide.predict(np.array([[-5.8, 0.0], [-6.05, 0.0], [-7.0, 0.0]]))[
        "hr_bpm"
    ]  # 2, -0.5 and -10, each +- 2
    np.testing.assert_allclose(prediction.value, [2.0, 0.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(prediction.low, 0.0, atol=1e-9)
    np.testing.assert_allclose(prediction.high, [4.0, 1.5, 0.0], atol=1e-9)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.zeros((3, 4)), r"shape \[3, 4\]; the read-outs need \[minutes, 2\]"),
        (np.zeros(2), r"shape \[2\]"),
        (np.array([[np.nan, 0.0]]), "NaN or infinite"),
    ],
)
def test_wrong_embeddings_are_refused(readouts, embeddings, message):
    with pytest.raises(UserError, match=message):
        readouts.predict(embeddings)


def test_saved_read_outs_are_read_back_to_the_bit(readouts, tmp_path):
    save_readouts(tmp_path, readouts, key="abc")
    again = load_readouts(tmp_path, fingerprint="f00d", key="abc")
    assert again is not None and again.heart is not None and again.heart.limit == readouts.heart.limit
    assert (again.level, again.calibration_people) == (0.9, {"hr_bpm": 40})
    embeddings = np.random.default_rng(0).normal(size=(50, 2))
    for name in ("value", "low", "high", "reason"):
        now, before = (getattr(r.predict(embeddings)["hr_bpm"], name) for r in (again, readouts))
        assert np.array_equal(now, before, equal_nan=now.dtype.kind == "f")
    content = (tmp_path / FILE_NAME).read_bytes()
    save_readouts(tmp_path, again, key="abc")
    assert (tmp_path / FILE_NAME).read_bytes() == content


def test_an_earlier_version_saved_one_number_of_people_for_all_labels(readouts, tmp_path):
    save_readouts(tmp_path, dataclasses.replace(readouts, calibration_people={}), key="abc")
    with open(tmp_path / FILE_NAME, "rb") as file:
        arrays = read_npz(file)
    about = json.loads(str(arrays.pop("about"))) | {"calibration_people": 40}
    (tmp_path / FILE_NAME).write_bytes(encode_npz({"about": np.array(json.dumps(about)), **arrays}))
    assert load_readouts(tmp_path, fingerprint="f00d").calibration_people == {"hr_bpm": 40}


def test_read_outs_of_another_encoder_or_key_are_not_used(readouts, tmp_path):
    assert load_readouts(tmp_path, fingerprint="f00d") is None
    save_readouts(tmp_path, readouts, key="abc")
    assert load_readouts(tmp_path, fingerprint="beef") is None
    assert load_readouts(tmp_path, fingerprint="f00d", key="other") is None
    assert load_readouts(tmp_path, fingerprint="f00d") is not None


def test_the_reason_for_no_read_outs_is_told(readouts, tmp_path, monkeypatch):
    assert "readouts.npz is missing; repeat the run's command" in find_readouts(tmp_path, fingerprint="f00d").missing
    save_readouts(tmp_path, readouts, key="abc")
    assert find_readouts(tmp_path, fingerprint="f00d").missing == ""
    foreign = find_readouts(tmp_path, fingerprint="beef").missing
    assert "belongs to another encoder (fingerprint f00d, this one has beef)" in foreign
    monkeypatch.setattr("accdistill_jax.readouts.readout.FORMAT_VERSION", 3)
    assert "is of an earlier version" in find_readouts(tmp_path, fingerprint="f00d").missing
    save_readouts(tmp_path, readouts, key="abc")
    monkeypatch.setattr("accdistill_jax.readouts.readout.FORMAT_VERSION", 2)
    with pytest.raises(UserError, match="update accdistill_jax"):
        find_readouts(tmp_path, fingerprint="f00d")


def test_every_damage_is_named(readouts, tmp_path):
    save_readouts(tmp_path, readouts, key="abc")
    path = tmp_path / FILE_NAME
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError, match=f"{FILE_NAME} is damaged"):
            load_readouts(tmp_path, fingerprint="f00d")
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match="damaged"):
        load_readouts(tmp_path, fingerprint="f00d")
