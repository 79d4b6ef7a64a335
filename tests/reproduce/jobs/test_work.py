"""Single jobs of the smoke preset, with real training."""

import json

import numpy as np
import pytest

from accdistill_jax.data.store.store import Store
from accdistill_jax.reproduce.jobs import work
from accdistill_jax.reproduce.measure import measure, retrieval
from accdistill_jax.reproduce.measure.measure import data_part, measured
from accdistill_jax.reproduce.measure.results import Bench

ONLY = ("failures", "sensors", "unseen")


@pytest.fixture(scope="module")
def done(finished_plan, smoke_store):
    """The plan of a few experiments, and the outcomes of its jobs."""
    return finished_plan(only=ONLY, unseen=(str(smoke_store),))


@pytest.mark.slow
def test_the_bench_reads_the_results_of_jobs(done):
    plan, outcomes = done
    bench = Bench(plan, outcomes)
    columns = bench.columns("test")
    splits = bench.splits("student", 0)
    assert len(splits["test"]) == len(columns.participant) > 0
    assert np.isfinite(splits["test"].embedding).all()
    people = {split: set(embeddings.participant) for split, embeddings in splits.items()}
    assert not people["train"] & people["test"] and not people["validation"] & people["test"]
    student, teacher = bench.pair("student", 0)
    assert student.shape == teacher.shape
    np.testing.assert_allclose(np.linalg.norm(teacher, axis=1), 1, rtol=1e-4)
    facts = bench.facts("student", 0)
    assert facts["parameters"] > 1000 and facts["multiply_accumulates"] > 1000 and facts["steps"] == 2
    assert facts["environment"]["source_hash"]


@pytest.mark.slow
def test_an_unseen_store_is_embedded_by_trained_encoders(done, smoke_store):
    plan, outcomes = done
    bench, store = Bench(plan, outcomes), Store.open(str(smoke_store))
    for name in ("teacher-mae", "student", "untrained", "classical"):
        splits = bench.splits(name, 0, unseen=smoke_store.name)
        assert len(splits["test"]) == store.num_segments and np.isfinite(splits["test"].embedding).all()
        np.testing.assert_array_equal(splits["train"].embedding, bench.splits(name, 0)["train"].embedding)
    student, teacher = bench.pair("student", 0, split=f"unseen-{smoke_store.name}")
    assert student.shape == teacher.shape and np.abs(student - teacher).max() > 1e-3
    assert not (outcomes["student-s0-unseen"].folder / "student").exists()  # nothing was trained
    lost = outcomes | {"student-s0-unseen": outcomes["student-s0-unseen"]._replace(status="failed")}
    assert Bench(plan, lost).seeds("student") == [0] and not Bench(plan, lost).seeds("student", unseen=True)


@pytest.mark.slow
def test_unseen_and_training_stores_are_embedded_alike(done, tmp_path):
    """The synthetic store as an unseen store: its segments get the same embeddings and projections."""
    plan, outcomes = done
    store = Store.open(str(outcomes["data"].folder / "store"))
    orders, needs = {job.name: job.order for job in plan.jobs}, {name: o.folder for name, o in outcomes.items()}
    for name in ("teacher-mae-s0-unseen", "student-s0-unseen"):
        (tmp_path / name).mkdir()
        work.do_work(orders[name] | {"unseen": [store.path]}, tmp_path / name, needs)
        needs |= {name: tmp_path / name}
    with np.load(tmp_path / "student-s0-unseen" / work.EMBEDDINGS) as saved:
        again = {
            name: saved[f"unseen-store/{name}"][store.indices("test")]
            for name in ("embedding", "projection", "teacher_projection")
        }
    for name, values in again.items():
        np.testing.assert_allclose(
            values, Bench(plan, outcomes).arrays("student", 0)[f"test/{name}"], rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
def test_embedding_again_gives_bit_equal_arrays(done, tmp_path):
    plan, outcomes = done
    for name in ("student-s0", "applied-64th-g-s0"):
        job = next(job for job in plan.jobs if job.name == name)
        again = tmp_path / name
        again.mkdir()
        for kept in ("student", "config.json", "metrics"):
            if (outcomes[name].folder / kept).exists():
                (again / kept).symlink_to(outcomes[name].folder / kept)
        work.do_work(job.order, again, {need: outcomes[need].folder for need in job.needs})
        with np.load(outcomes[name].folder / work.EMBEDDINGS) as before, np.load(again / work.EMBEDDINGS) as after:
            assert set(before.files) == set(after.files)
            for key in before.files:
                np.testing.assert_array_equal(before[key], after[key], err_msg=key)


@pytest.mark.slow
def test_a_coarser_sensor_changes_the_embeddings(done):
    bench = Bench(*done)
    full = bench.splits("student", 0)["test"].embedding
    coarse = bench.splits("applied-64th-g", 0)["test"].embedding
    assert full.shape == coarse.shape and np.abs(full - coarse).max() > 1e-4


@pytest.mark.slow
def test_the_data_section_and_experiments_are_measured_and_missing_results_are_named(done, smoke_store):
    plan, outcomes = done
    part = data_part(Bench(plan, outcomes))
    assert [row[0] for row in part.section.tables[0].rows] == [
        "train",
        "validation",
        "test",
        f"unseen-{smoke_store.name}",
    ]
    compared = next(line for line in part.section.text if "the stores were compared" in line)
    assert "compared (synthetic: " in compared  # no folder of this machine
    assert f"{smoke_store}: " in compared and "Result: no person and no segment is in two splits" in compared
    for experiment in plan.experiments:
        experiment_part = measured(Bench(plan, outcomes), experiment)
        assert experiment_part.section.id == experiment.id
        assert all(name.startswith(f"{experiment.id}/") for name in experiment_part.numbers)
    failed = {name: o if name == "data" else o._replace(status="failed") for name, o in outcomes.items()}
    unmeasured = measured(Bench(plan, failed), plan.experiments[0])
    assert "Not measured" in unmeasured.section.text[0] and not unmeasured.numbers
    assert part.section.always and "none of the claims" in measure.report_summary(plan, outcomes, ())[0]
    json.dumps(plan.settings)


@pytest.mark.slow
def test_an_error_in_one_experiment_does_not_stop_the_others(done, monkeypatch, capsys):
    plan, outcomes = done
    monkeypatch.setattr(retrieval, "measure_failures", lambda bench, experiment: 1 / 0)
    report = measure.measure_report(plan, outcomes, say=lambda line: None)
    assert (
        report.broken == {"failures": "ZeroDivisionError: division by zero"} and "Traceback" in capsys.readouterr().err
    )
    text = {section.id: section.text for section in report.sections}
    assert "because of an error in the program: ZeroDivisionError" in text["failures"][0]
    assert any(name.startswith("sensors/") for name in report.numbers)


@pytest.mark.slow
def test_a_participant_in_two_splits_is_refused(done, monkeypatch):
    bench = Bench(*done)
    columns = bench.columns
    stranger = columns("train").participant[:1]

    def mixed(split):
        clean = columns(split)
        if split != "test":
            return clean
        return clean._replace(participant=np.concatenate([stranger, clean.participant[1:]]))

    monkeypatch.setattr(bench, "columns", mixed)
    with pytest.raises(Exception, match="is in the splits train and test"):
        data_part(bench)
