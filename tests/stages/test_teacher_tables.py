"""Runs whose teacher is a table of embeddings: training, continuation, evaluation, report, and what is refused."""

import json
import shutil

import numpy as np
import pytest

from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.run import run
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.stages.build_objective import check_ppg, reads_ppg
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.teachers import load_teachers
from accdistill_jax.storage.export import load_params
from tests.stages.test_without_ppg import without_ppg

WIDTH = 6


def write_table(path, store: Store, *, rows=slice(None), seed: int = 0, shift_s: float = 0.0, name: str = "") -> str:
    """A table with mixtures of the heart rate and noise for some of a store's minutes, moved in time or of another person."""
    chosen = np.arange(store.num_segments)[rows]
    rng = np.random.default_rng(seed)
    rate = (store.segments["hr_bpm"][chosen].astype(np.float64) - 70) / 10
    values = np.where(np.isfinite(rate), rate, 0)[:, None] * rng.normal(size=WIDTH)
    values = values + 0.3 * rng.normal(size=(len(chosen), WIDTH))
    columns = {
        "participant": np.full(len(chosen), name) if name else store.segments["participant"][chosen].astype(str),
        "recording": store.segments["recording"][chosen].astype(str),
        "start": store.segments["start_unix_s"][chosen] + shift_s,
        "embedding": values.astype(np.float32),
    }
    np.savez(path, **columns)
    return str(path)


@pytest.fixture(scope="module")
def store(smoke_store) -> Store:
    return Store.open(smoke_store)


@pytest.fixture
def config(smoke_store):
    """config(source, **changes): the smallest preset without windows on `smoke_store`."""

    def make(*source: str, **changes):
        keys = {"data.stores": (str(smoke_store),), "teacher.source": source}
        return changed(load_config("distill:smoke-mean"), keys | changes)

    return make


def run_of(config, workdir, *stores: Store, said: list | None = None) -> Run:
    say = said.append if said is not None else lambda line: None
    return Run(config, workdir, stores, Parallel(), Peers.alone(), say)


def test_vectors_are_standardised_over_the_training_minutes_that_have_them(config, store, tmp_path):
    path = write_table(tmp_path / "t.npz", store, rows=slice(0, None, 2))
    teachers = load_teachers(run_of(config(path), tmp_path, store))
    assert teachers.ppg is None and teachers.first is teachers.given[0] and teachers.tables is not None
    rows = np.intersect1d(store.indices("train"), np.arange(0, store.num_segments, 2))
    assert np.array_equal(teachers.tables.rows("train")[0], rows)
    values = np.load(path)["embedding"][rows // 2]
    np.testing.assert_allclose(teachers.first.frozen["mean"], values.mean(axis=0), rtol=1e-5, atol=1e-6)
    batch = teachers.tables.of(store).read(rows[[3, 1]])
    np.testing.assert_array_equal(batch["given_0"], values[[3, 1]])
    (line,) = teachers.tables.lines()
    assert f"{(store.num_segments + 1) // 2} of {store.num_segments} minutes have an embedding" in line


def test_caps_bind_the_vectors_that_are_trained_on(config, store, tmp_path):
    path = write_table(tmp_path / "t.npz", store, rows=slice(0, None, 2))
    teachers = load_teachers(run_of(config(path, **{"data.participant_cap": 3}), tmp_path, store))
    (rows,) = teachers.tables.rows("train")
    names = store.segments["participant"][rows].tolist()
    assert max(names.count(name) for name in names) == 3 and not (rows % 2).any()
    values = np.load(path)["embedding"][rows // 2]
    np.testing.assert_allclose(teachers.first.frozen["mean"], values.mean(axis=0), rtol=1e-5, atol=1e-6)
    validation = np.intersect1d(store.indices("validation"), np.arange(0, store.num_segments, 2))
    assert np.array_equal(teachers.tables.rows("validation")[0], validation)


def test_ppg_is_read_only_where_a_ppg_encoder_is_a_teacher(config, store, tmp_path):
    path = write_table(tmp_path / "t.npz", store)
    assert reads_ppg(config(path)) == "" and reads_ppg(config("ppg", path))
    alone = Store.open(without_ppg(store, tmp_path / "accel"))
    check_ppg(config(path), [alone])
    with pytest.raises(UserError, match="has no PPG, but the student's objective 'distillation' reads it"):
        check_ppg(config("ppg", path), [alone])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"rows": slice(0, 8)},
            "config.teacher.source: [0-9]+ of [0-9]+ training minutes have an embedding in .*t.npz; at least",
        ),
        ({"shift_s": 1e8}, "no row begins within 30 s of a minute of the same person"),
        ({"name": "nobody"}, "none of its 1 people .nobody. is in"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_before_a_folder_is_made(
    config, store, tmp_path, no_training, changes, line
):
    path = write_table(tmp_path / "t.npz", store, **changes)
    with pytest.raises(UserError, match=line):
        run(config(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_distillation_from_a_table_alone_on_stores_without_ppg(config, store, tmp_path):
    """Two stores, one of them without PPG and with gaps; stopped and continued; evaluated; another table is refused."""
    path = write_table(tmp_path / "t.npz", store, rows=slice(0, None, 3))
    accel = without_ppg(store, tmp_path / "accel", rename="other ", move=0.02)
    second = write_table(tmp_path / "u.npz", Store.open(accel), seed=1)
    both = {name: np.concatenate([np.load(path)[name], np.load(second)[name]]) for name in np.load(path)}
    np.savez(tmp_path / "t.npz", **both)
    changes = {
        "data.stores": (store.path, accel),
        "student.train.checkpoint_every": "3 steps",
        "student.train.micro_batches": 2,
        "student.regression_weight": 0.5,
    }
    run(config(path, **changes), tmp_path / "whole")
    assert not (tmp_path / "whole" / "teacher").exists()
    params, meta = load_params(tmp_path / "whole" / "student" / "export")
    fingerprint = json.loads((tmp_path / "whole" / "config.json").read_text())["fingerprints"]["teacher.source"]
    assert meta["fingerprints"]["teacher"] == fingerprint and "teacher_head" in params
    report = json.loads((tmp_path / "whole" / "report.json").read_text())
    assert set(report["evaluation"]["encoders"]) == {"teacher", "student", "untrained"}
    assert report["evaluation"]["retrieval"] and report["run"]["separation"]["warnings"]
    assert "teacher" not in report["run"]["parameters"]
    rows = load_teachers(run_of(config(path, **changes), tmp_path, store, Store.open(accel))).tables.rows("test")
    with np.load(tmp_path / "whole" / "embeddings" / "main.npz") as saved:
        for name in ("teacher/test/embedding", "student/test/projection"):
            assert len(saved[name]) == sum(map(len, rows))

    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "student" / "checkpoints" / "6")
    shutil.rmtree(tmp_path / "parts" / "student" / "export")
    run(config(path, **changes | {"stages": ("student",)}), tmp_path / "parts")
    assert load_params(tmp_path / "parts" / "student" / "export").meta["fingerprint"] == meta["fingerprint"]

    np.savez(tmp_path / "t.npz", **both | {"embedding": both["embedding"] + np.float32(0.01)})
    with pytest.raises(UserError, match="began with another content of config.teacher.source"):
        run(config(path, **changes), tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.parametrize("views", [0, 1])
def test_a_table_beside_the_ppg_teacher(config, smoke_store, finished, tmp_path, views):
    """With windows and tokens of the PPG encoder; cached or not."""
    copied = Store.open(shutil.copytree(smoke_store, tmp_path / "store"))
    path = write_table(tmp_path / "t.npz", copied)
    changes = {"data.stores": (copied.path,), "teacher.source": ("ppg", path), "teacher.cached_views": views}
    changes |= {"teacher.path": str(finished / "teacher" / "export"), "teacher.source_weights": (1.0, 0.5)}
    run(changed(load_config("distill:smoke"), changes), tmp_path / "run")
    params, meta = load_params(tmp_path / "run" / "student" / "export")
    assert set(params["source_1"]) == {"head", "teacher_head"} and {"token_head", "teacher_head"} <= params.keys()
    ppg, table = meta["fingerprints"]["teacher"].split("+")
    assert ppg == load_params(finished / "teacher" / "export").meta["fingerprint"] and len(table) == 64
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["evaluation"]["retrieval"] and "teacher" in report["run"]["parameters"]
