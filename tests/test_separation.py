"""Runs with people or segments in two splits are refused before training; the report says what was compared."""

import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.config import record
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recording import Participant
from accdistill_jax.data.store.manifest import CONTENT
from accdistill_jax.data.store.opening import segment_columns
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, generate_batch, write_store
from accdistill_jax.errors import UserError
from accdistill_jax.reproduce.measure.people import people_table
from accdistill_jax.reproduce.plan import grid
from accdistill_jax.run import run
from accdistill_jax.text import escape_markdown

POPULATION = SyntheticSettings(participants=12, segments_per_participant=8, seed=0, ppg_channels=2)  # of smoke_store


@pytest.fixture(scope="module")
def renamed(tmp_path_factory, smoke_store) -> Path:
    """Two training people of `smoke_store` under other names, with the PPG of others, all for training."""
    store, settings = Store.open(smoke_store), PreprocessSettings()
    path = tmp_path_factory.mktemp("renamed") / "renamed"
    writer = StoreWriter(path, settings=settings, source="bench", split=SplitRule(fractions=(1, 0, 0)))
    people = np.unique(store.segments["participant"][store.indices("train")])[:2].tolist()
    for number, name in enumerate(people):
        batch = generate_batch(POPULATION, int(name.rpartition("-")[2]), settings)
        other = generate_batch(dataclasses.replace(POPULATION, seed=5, segments_per_participant=30), number, settings)
        columns = batch.columns | {"participant": np.full(len(batch.ppg), f"zoe{number}")}
        writer.add(
            f"zoe{number}",
            dataclasses.replace(
                batch, ppg=other.ppg[: len(batch.ppg)], columns=columns, participant=Participant(f"zoe{number}")
            ),
        )
    writer.commit([f"zoe{number}" for number in range(len(people))])
    return path


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("something was trained")

    monkeypatch.setattr("accdistill_jax.stages.fit.train", refuse)


def refusal(config, workdir) -> str:
    with pytest.raises(UserError) as caught:
        run(config, workdir)
    assert not workdir.exists()
    return str(caught.value)


def test_a_run_on_segments_of_two_sides_is_refused_at_once(smoke_config, smoke_store, renamed, tmp_path, no_training):
    for keys in (
        {"data.unseen_stores": (str(renamed),)},
        {"data.unseen_stores": (str(renamed),), "data.same_names": "different people"},
    ):
        text = refusal(smoke_config(**keys), tmp_path / "run")
        assert (
            f"the same segments (equal PPG or acceleration) in train of {smoke_store} and test of {renamed}: synthetic-0-0000"
            in text
        )
        assert " = zoe0, synthetic-0-" in text and "(2 people, " in text and "drop the duplicates" in text


def test_a_run_with_people_in_two_splits_is_refused_at_once(smoke_config, smoke_store, tmp_path, no_training, capsys):
    """The same people, other minutes."""
    later = dataclasses.replace(POPULATION, segments_per_participant=3)
    other = write_store(tmp_path / "other", later, split=SplitRule(seed=3, fractions=(0.5, 0.25, 0.25)))
    text = refusal(smoke_config(**{"data.stores": (str(smoke_store), other.path)}), tmp_path / "run")
    assert "the same people in train of" in text and '--config.data.same_names="different people"' in text
    unseen = smoke_config(**{"data.unseen_stores": (other.path,)})
    assert f"and test of {other.path}" in refusal(unseen, tmp_path / "run")
    with pytest.raises(AssertionError, match="something was trained"):  # unseen stores are for later stages
        run(smoke_config(**{"data.unseen_stores": (other.path,), "stages": ("teacher",)}), tmp_path / "run")
    assert "compared, no person and no segment is in two splits" in capsys.readouterr().out


@pytest.mark.slow
def test_the_report_says_what_was_compared_and_what_counts_twice(smoke_config, smoke_store, renamed, tmp_path, capsys):
    """Also of stores that hold no hashes of their segments yet, and with the teacher of another run."""
    hashes = (smoke_store / CONTENT).read_bytes()
    (smoke_store / CONTENT).unlink()
    stores = (str(smoke_store), str(renamed))
    run(smoke_config(**{"data.stores": stores}), tmp_path / "run")
    assert (smoke_store / CONTENT).read_bytes() == hashes
    said = capsys.readouterr().out
    total = sum(Store.open(path).num_segments for path in stores)
    assert f"data: {total} segments of 14 people compared, no person and no segment is in two splits" in said
    assert f"data: reading {smoke_store} once" in said and "warning: 1" in said and "counted twice" in said
    text, found = (tmp_path / "run/report.md").read_text(), json.loads((tmp_path / "run/report.json").read_text())
    assert found["run"]["separation"]["segments"] == total and list(found["run"]["separation"]["stores"]) == list(
        stores
    )
    (warning,) = found["run"]["separation"]["warnings"]
    assert warning in found["verdict"]["cautions"] and f"\n- {escape_markdown(warning)}\n" in text
    assert "| Overlap of the splits | compared: names of people, and the content of every segment" in text
    teacher = {"teacher.path": str(tmp_path / "run/teacher/export")}
    run(smoke_config(**teacher), tmp_path / "other")
    (warning,) = json.loads((tmp_path / "other/report.json").read_text())["run"]["separation"]["warnings"]
    assert "was trained on other stores than these, and its people were not compared" in warning
    splits = dict(
        zip(*(Store.open(smoke_store).participants[key].to_pylist() for key in ("participant", "split")), strict=True)
    )
    trained = next(who for who, split in splits.items() if split == "train")
    run(smoke_config(**teacher, **{"data.held_out": (trained,)}), tmp_path / "held")
    (warning,) = json.loads((tmp_path / "held/report.json").read_text())["run"]["separation"]["warnings"]
    assert f"was trained on test people of this report: {trained}; the figures flatter it" in warning


@pytest.mark.parametrize("value", ["different persons", "", True, None, ("same person",)])
def test_the_key_is_one_of_two(smoke_config, value):
    with pytest.raises(UserError, match=r"config.data.same_names = .* must be one of same person, different people"):
        smoke_config(**{"data.same_names": value})


def test_the_key_changes_no_result(smoke_config):
    told = [
        record.config_hash(smoke_config(**{"data.same_names": value})) for value in ("same person", "different people")
    ]
    assert told[0] == told[1]


def test_reproduce_refuses_before_its_first_run(smoke_store, renamed, tmp_path):
    with pytest.raises(UserError, match="in train of .*smoke and test of .*renamed: synthetic-0-.* = zoe0"):
        grid.plan_grid("smoke", stores=(str(smoke_store),), unseen=(str(renamed),))
    generated = write_store(
        tmp_path / "generated", SyntheticSettings(participants=12, segments_per_participant=2, seed=1)
    )
    with pytest.raises(
        UserError, match="the same people in train of the synthetic data and test of .*generated: synthetic-1-"
    ):
        grid.plan_grid("smoke", unseen=(generated.path,))
    assert grid.plan_grid(
        "smoke", unseen=(generated.path,), overrides=('--config.data.same_names="different people"',)
    ).jobs
    assert grid.plan_grid("smoke", unseen=(str(smoke_store),)).jobs


def test_a_person_of_two_stores_is_one_participant_of_the_evaluation(smoke_store, tmp_path):
    later = dataclasses.replace(POPULATION, segments_per_participant=3)
    split = SplitRule(fractions=(0.5, 0.25, 0.25))  # as in smoke_store
    stores = (Store.open(smoke_store), write_store(tmp_path / "other", later, split=split))
    rows = [store.indices("test") for store in stores]
    for same_names, people in (("same person", 1), ("different people", 2)):
        columns = segment_columns(stores, rows, same_names=same_names)
        single = len(np.unique(stores[0].segments["participant"][rows[0]]))
        assert len(np.unique(columns["participant"])) == people * single and len(columns["hr_bpm"]) == sum(
            map(len, rows)
        )
        opened = types.SimpleNamespace(stores=stores)
        base = types.SimpleNamespace(data=types.SimpleNamespace(same_names=same_names))
        table = people_table(types.SimpleNamespace(opened=opened, plan=types.SimpleNamespace(base=base)))
        assert table.num_rows == people * 12 and set(columns["participant"]) <= set(table["participant"].to_pylist())
        assert table.column_names == stores[0].participants.column_names and table["age_years"].null_count == 0
