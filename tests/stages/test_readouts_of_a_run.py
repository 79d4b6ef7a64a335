"""A run leaves the read-outs of its encoders beside their exports, the same bits whenever they are made."""

import dataclasses
import json

import numpy as np
import pytest

import accdistill_jax as ad
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.readouts.readout import FILE_NAME, load_readouts
from accdistill_jax.run import run
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.embedding import embed_splits
from accdistill_jax.stages.evaluation import fitted_readouts
from accdistill_jax.storage.export import change_meta


def settings(smoke_store):
    return changed(load_config("distill:smoke"), {"data.stores": (str(smoke_store),)})


def fingerprint(folder):
    return json.loads((folder / "export.json").read_text())["fingerprint"]


def test_teacher_and_student_have_read_outs_and_the_report_measures_them(finished):
    for part in ("teacher", "student"):
        folder = finished / part / "export"
        readouts = load_readouts(folder, fingerprint=fingerprint(folder))
        assert readouts is not None and {"hr_bpm", "sdnn_ms", "rmssd_ms"} <= set(readouts.targets)
    report = json.loads((finished / "report.json").read_text())
    measured = report["evaluation"]["predictions"]["hr_bpm"]
    assert measured["level"] == 0.9 and 0 <= measured["coverage"]["value"] <= 1
    assert "## Read-outs: intervals and abstention" in (finished / "report.md").read_text()


@pytest.mark.slow
def test_missing_and_damaged_read_outs_are_made_again_to_the_bit(copy, smoke_store, no_training, capsys):
    path = copy / "student/export" / FILE_NAME
    content, report = path.read_bytes(), (copy / "report.md").read_bytes()
    for wrong in (None, content[:-9], b""):
        path.unlink() if wrong is None else path.write_bytes(wrong)
        run(settings(smoke_store), copy)
        assert path.read_bytes() == content and (copy / "report.md").read_bytes() == report
        assert ("fitted again" in capsys.readouterr().out) == (wrong is not None)


def test_the_stage_evaluation_alone_writes_them(copy, smoke_store, no_training):
    path = copy / "student/export" / FILE_NAME
    content = path.read_bytes()
    path.unlink()
    run(changed(settings(smoke_store), {"stages": ("data", "teacher", "student", "evaluation")}), copy)
    assert path.read_bytes() == content


@pytest.mark.slow
def test_the_export_of_a_teacher_from_elsewhere_is_left_alone(copy, finished, smoke_store, tmp_path, no_training):
    export = copy / "teacher/export"
    (export / FILE_NAME).unlink()
    config = changed(settings(smoke_store), {"teacher.path": str(export), "stages": ("evaluation", "report")})
    run(config, tmp_path / "run")
    assert not (export / FILE_NAME).exists() and (tmp_path / "run/report.md").exists()


def test_a_run_evaluated_with_another_representation_is_loaded_with_it(copy, finished, smoke_store, no_training):
    before = {part: ad.load(finished, part=part) for part in ("teacher", "student")}
    run(changed(settings(smoke_store), {"evaluation.representation": "statistics"}), copy)
    for part, old in before.items():
        encoder = ad.load(copy, part=part)
        assert encoder.fingerprint == old.fingerprint
        assert 7 * encoder.embedding_size == 3 * old.embedding_size
        assert encoder.readouts.domain.mean.size == encoder.embedding_size


def test_read_outs_are_fitted_again_when_equal_names_are_different_people(
    copy, smoke_store, smoke_config, tmp_path, no_training
):
    """Intervals count each person once, so the meaning of a name that two stores have decides them."""
    run_of_one = Run(smoke_config(), copy, (Store.open(smoke_store),), Parallel(), Peers.alone(), lambda line: None)
    embedded = embed_splits(run_of_one)
    key = "data.same_names"
    people = {}
    for names in ("same person", "different people"):
        config = changed(run_of_one.config, {key: names})
        two = dataclasses.replace(run_of_one, config=config, stores=run_of_one.stores * 2)
        main = {"student": {split: twice(values, names) for split, values in embedded.main["student"].items()}}
        fitted = fitted_readouts(two, embedded.encoders, main, {})
        people[names] = fitted["student"].calibration_people["hr_bpm"]
    assert people["different people"] == 2 * people["same person"]


def twice(values, names):
    """The minutes of a store that is named twice, as `segment_columns` names their people."""
    second = "0/" if names == "same person" else "1/"
    people = [np.char.add(store, values.participant) for store in ("0/", second)]
    return dataclasses.replace(
        values,
        embedding=np.tile(values.embedding, (2, 1)),
        projection=None,
        participant=np.concatenate(people),
        labels={name: np.tile(label, 2) for name, label in values.labels.items()},
        motion_g=np.tile(values.motion_g, 2),
        ppg_quality=np.tile(values.ppg_quality, 2),
        device=np.tile(values.device, 2),
        ranks={},
    )


def test_read_outs_of_another_representation_are_not_used(copy):
    change_meta(copy / "student/export", {"representation": "statistics"})
    encoder = ad.load(copy)
    assert encoder.readouts is None
    assert "reads embeddings of 224 numbers, this encoder gives 96" in encoder.no_readouts


def test_metadata_of_a_damaged_export_is_not_changed(copy):
    path = copy / "student/export/export.json"
    path.write_text(path.read_text().replace("distillation", "Distillation"))
    content = path.read_text()
    with pytest.raises(UserError, match="damaged: export.json cannot be read"):
        change_meta(path.parent, {"representation": "mean"})
    assert path.read_text() == content
