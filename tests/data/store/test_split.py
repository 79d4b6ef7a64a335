"""The split by participant."""

import json

import pytest

from accdistill_jax.data.store.split import SPLITS, SplitRule
from accdistill_jax.errors import UserError

MANY = [f"person-{number}" for number in range(5000)]


def test_shares_are_met():
    assigned = SplitRule(seed=3).assign(MANY)
    for split, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        assert list(assigned.values()).count(split) / len(MANY) == pytest.approx(share, abs=0.02)


def test_a_participant_keeps_its_split_when_others_come():
    rule = SplitRule(seed=1)
    few, many = rule.assign(MANY[:50]), rule.assign(reversed(MANY))
    assert all(many[name] == split for name, split in few.items())


def test_seeds_differ():
    a, b = SplitRule(seed=0).assign(MANY), SplitRule(seed=1).assign(MANY)
    agree = sum(a[name] == b[name] for name in MANY) / len(MANY)
    assert agree == pytest.approx(0.8**2 + 2 * 0.1**2, abs=0.03)


def test_fractions_can_be_all_test():
    assert set(SplitRule(fractions=(0, 0, 1)).assign(MANY[:100]).values()) == {"test"}
    with pytest.raises(UserError, match="add up to 1"):
        SplitRule(fractions=(0.8, 0.1, 0.2))


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_file_decides(tmp_path, kind):
    wanted = {"a": "test", "b": "train", "c": "validation"}
    path = tmp_path / f"split.{kind}"
    if kind == "csv":
        path.write_text("note,participant,split\n" + "".join(f"x, {name}, {split}\n" for name, split in wanted.items()))
    else:
        path.write_text(json.dumps(wanted))
    rule = SplitRule.from_file(path)
    assert rule.assign(["c", "a", "b", "a"]) == wanted
    assert rule.to_json()["assignment"] == wanted


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.csv", "participant,part\na,train\n", "column 'split' is missing"),
        ("s.csv", "participant,split\na,training\n", "line 2: split 'training' is not one of train"),
        ("s.csv", "participant,split\na,train\na,test\n", "line 3: participant 'a' is named twice"),
        ("s.csv", "participant,split\na,\n", "line 2: participant and split are both needed"),
        ("s.csv", "participant,split\n", "names no participant"),
        ("s.json", '{"a": "train", "a": "test"}', "participant 'a' is named twice"),
        ("s.json", '{"a": "train", "a ": "test"}', "participant 'a' is named twice"),
        ("s.json", '{"a": ', "not valid JSON"),
        ("s.json", '["a"]', "a JSON object"),
        ("s.json", '{"a": 3}', "split 3 is not one of"),
    ],
)
def test_bad_files_are_named(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        SplitRule.from_file(path)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="nowhere.csv"):
        SplitRule.from_file(tmp_path / "nowhere.csv")


def test_file_must_name_exactly_the_participants():
    rule = SplitRule(assignment={"a": "train", "b": "test"})
    with pytest.raises(UserError, match="no split for participant c"):
        rule.assign(["a", "b", "c"])
    with pytest.raises(UserError, match="unknown participant b"):
        rule.assign(["a"])


@pytest.mark.parametrize(
    "fractions", [(float("nan"), 0.5, 0.5), (0.5, float("nan"), 0.5), (float("inf"), 0, 0), (1.5, -0.5, 0)]
)
def test_fractions_that_are_none(fractions):
    with pytest.raises(UserError, match="three shares >= 0 that add up to 1"):
        SplitRule(fractions=fractions)
