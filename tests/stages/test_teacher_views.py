"""A teacher that runs once: what is kept, that training on it is training with the teacher, and what damage does."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.data.store.store import Store, signal_crc
from accdistill_jax.errors import UserError
from accdistill_jax.run import run
from accdistill_jax.runtime.interrupt import Interrupted
from accdistill_jax.stages import teacher_views, view_files
from accdistill_jax.stages.teacher_views import choose_views, plan_views
from accdistill_jax.stages.view_files import RECORD, Views
from accdistill_jax.storage.export import load_params
from accdistill_jax.training.metrics import read_metrics

NO_AUGMENTATION = {
    f"student.augment.{modality}.{name}.probability": 0.0
    for modality in ("ppg", "accel")
    for name in ("cut_out", "magnitude_warp", "gaussian_noise", "channel_permute", "time_warp")
}


@pytest.fixture(scope="module")
def own_store(smoke_store, tmp_path_factory) -> Path:
    """A copy of the store, for views beside it; not to be changed by hand."""
    return Path(shutil.copytree(smoke_store, tmp_path_factory.mktemp("store") / "own"))


@pytest.fixture(scope="module")
def teacher(own_store, tmp_path_factory) -> Path:
    """Export of a teacher of six steps."""
    workdir = tmp_path_factory.mktemp("teacher")
    run(changed(load_config("distill:smoke-mean"), {"data.stores": (str(own_store),), "stages": ("teacher",)}), workdir)
    return workdir / "teacher" / "export"


@pytest.fixture
def student(teacher, own_store):
    """student(workdir, **changes): trains one of six steps on `own_store` and returns its metrics."""

    def train(workdir: Path, **changes) -> list[dict]:
        keys = {"data.stores": (str(own_store),), "teacher.path": str(teacher), "stages": ("student",)}
        run(changed(load_config("distill:smoke-mean"), keys | changes), workdir)
        return read_metrics(workdir / "metrics" / "student.jsonl")

    return train


def losses(records: list[dict], kind: str) -> np.ndarray:
    return np.array([record["loss"] for record in records if record["kind"] == kind])


def only_folder(store: Path) -> Path:
    """The one folder of views beside a store."""
    (found,) = [path for path in (store / "teacher_views").iterdir() if path.is_dir()]
    return found


@pytest.mark.slow
def test_training_on_one_plain_view_is_training_with_the_teacher(student, tmp_path, own_store):
    with_teacher = student(tmp_path / "with", **NO_AUGMENTATION)
    once = student(tmp_path / "once", **NO_AUGMENTATION, **{"teacher.cached_views": 1})
    for kind in ("train", "validation"):
        assert len(losses(once, kind)) >= 2
        np.testing.assert_allclose(losses(once, kind), losses(with_teacher, kind), rtol=1e-5)
    shutil.rmtree(own_store / "teacher_views")


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(student, tmp_path, own_store, monkeypatch):
    """Stopped between two parts of the views; the student drops tokens and works in micro-batches besides."""
    monkeypatch.setattr(teacher_views, "PART_BYTES", 16 * 3 * (4 * 32 + 8))  # 16 segments
    settings = {"teacher.cached_views": 3, "student.drop_fraction": 0.5, "student.train.micro_batches": 2}
    straight = student(tmp_path / "straight", **settings)
    folder = only_folder(own_store)
    content = {path.name: path.read_bytes() for path in folder.glob("part-*")}
    assert len(content) == -(-len(Store.open(own_store).indices("train")) // 16) >= 3
    shutil.rmtree(own_store / "teacher_views")

    (folder / ".part-00000.1-1.tmp").parent.mkdir(parents=True)
    (folder / ".part-00000.1-1.tmp").write_bytes(b"left by a process that was killed")
    write, written = view_files.write_file, []

    def stop_at_the_third(path, data):
        if len(written) == 2:
            raise Interrupted("stopped", 15)
        written.append(path.name)
        write(path, data)

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(teacher_views, "write_file", stop_at_the_third)
        student(tmp_path / "stopped", **settings)
    assert sorted(path.name for path in folder.iterdir()) == written == ["part-00000", "part-00001"]
    times = [os.stat(folder / name).st_mtime_ns for name in written]
    again = student(tmp_path / "stopped", **settings)
    assert times == [os.stat(folder / name).st_mtime_ns for name in written], "what is there is not computed again"
    assert content == {path.name: path.read_bytes() for path in folder.glob("part-*")}
    assert again == straight and len(losses(again, "train")) == 6 and np.isfinite(losses(again, "train")).all()
    exports = [
        load_params(tmp_path / name / "student" / "export").meta["fingerprint"] for name in ("straight", "stopped")
    ]
    assert exports[0] == exports[1]
    shutil.rmtree(own_store / "teacher_views")


@pytest.fixture(scope="module")
def kept(own_store, teacher, tmp_path_factory):
    """Plan and folder of three views, made by a run."""
    from accdistill_jax.runtime.parallel import Parallel
    from accdistill_jax.runtime.peers.peers import Peers
    from accdistill_jax.stages.context import Run
    from accdistill_jax.stages.teacher import load_teacher

    changes = {"data.stores": (str(own_store),), "teacher.path": str(teacher), "teacher.cached_views": 3}
    config = changed(load_config("distill:smoke-mean"), changes)
    workdir = tmp_path_factory.mktemp("kept")
    this = Run(config, workdir, (Store.open(own_store),), Parallel(), Peers.alone(), lambda line: None)
    loaded = load_teacher(this)
    teacher_views.prepare_views(this, loaded)
    return this, loaded, plan_views(this, loaded, this.stores[0])


@pytest.fixture
def copied(kept, tmp_path):
    """The views in a folder of their own, to be damaged."""
    _, _, plan = kept
    return Path(shutil.copytree(Path(plan.store.path) / "teacher_views" / plan.key, tmp_path / "views"))


def test_views_are_what_the_teacher_makes_of_augmented_segments(kept):
    """Against the teacher's own module on one segment at a time."""
    import jax

    from accdistill_jax.inputs import streams
    from accdistill_jax.inputs.augment import augmentations
    from accdistill_jax.inputs.present import present
    from accdistill_jax.objectives.teacher_reading import standard_embedding

    this, teacher, plan = kept
    views = Views(Path(plan.store.path) / "teacher_views" / plan.key, plan)
    rows = plan.rows[[3, 0, 7]]
    found = np.stack([views.read(rows, np.full(3, view))[0] for view in range(3)], axis=1)
    assert found.shape == (3, 3, 32) and found.dtype == np.float32
    specs = augmentations(this.config.student.augment.ppg)
    key, branch = jax.random.key(this.config.seed), teacher.branch
    for number in (streams.TEACHER_VIEWS, np.uint32(int(plan.store.fingerprint[:8], 16)), 2):
        key = jax.random.fold_in(key, number)
    batch = plan.store.read(rows)
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(rows.astype(np.int32))

    @jax.jit
    def embed(keys, batch):
        return standard_embedding(
            branch.encoder, teacher.frozen, present(batch, keys, "ppg", branch.inputs, specs, training=True)
        )

    np.testing.assert_allclose(found[:, 2], embed(keys, batch), rtol=1e-4, atol=1e-4)
    assert len(np.unique(found[..., 0])) > 3, "views of a segment differ"
    _, crc = views.read(rows, np.zeros(3, np.int64))
    assert crc.tolist() == [signal_crc(ppg) for ppg in batch["ppg"]]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def swap_records(path: Path, size: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[size : 2 * size] + content[:size] + content[2 * size :])


DAMAGES = {
    "a flipped bit": lambda path, size: flip(path, 10),
    "a flipped bit of a checksum": lambda path, size: flip(path, size - 1),
    "records in another order": swap_records,
    "cut short": lambda path, size: os.truncate(path, 20),
    "missing": lambda path, size: path.unlink(),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_refused_in_training_and_named(kept, copied, damage):
    _, _, plan = kept
    damage(copied / "part-00000", plan.record.itemsize)
    with pytest.raises(UserError, match=r"views/part-00000: .*; delete .*views/views.json and start again"):
        Views(copied, plan).read(plan.rows[:1], np.zeros(1, np.int64))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_put_right_at_the_next_start(kept, copied, damage):
    this, teacher, plan = kept
    before = (copied / "part-00000").read_bytes()
    damage(copied / "part-00000", plan.record.itemsize)
    (copied / RECORD).unlink()
    teacher_views.make_views(this, teacher, plan, copied)
    assert (copied / "part-00000").read_bytes() == before and view_files.is_complete(copied, plan)


def test_a_record_that_was_changed_counts_as_none(kept, copied):
    _, _, plan = kept
    assert view_files.is_complete(copied, plan)
    record = json.loads((copied / RECORD).read_text())
    (copied / RECORD).write_text(json.dumps(record | {"seconds": record["seconds"] + 1}))
    assert not view_files.is_complete(copied, plan)


def test_the_key_tells_apart_what_gives_other_embeddings(kept):
    this, teacher, plan = kept
    keys = {plan.key}
    for change in (
        {"seed": 1},
        {"teacher.cached_views": 2},
        {"student.augment.ppg.cut_out.strength": 0.2},
        {"data.participant_cap": 2},
    ):
        keys.add(plan_views(replace(this, config=changed(this.config, change)), teacher, plan.store).key)
    keys.add(plan_views(this, replace(teacher, fingerprint="0" * 64), plan.store).key)
    branch = replace(teacher.branch, inputs=replace(teacher.branch.inputs, limit=4.0))
    keys.add(plan_views(this, replace(teacher, branch=branch), plan.store).key)
    assert len(keys) == 7


def test_renamed_input_settings_keep_the_key(kept):
    """Views that were computed before the renaming are found again."""
    _, _, plan = kept
    assert plan.described["inputs"] == {
        "bands": "full",
        "scale": "std",
        "limit": 0.0,
        "rate_share": 1.0,
        "step": 0.0,
        "axes": 0,
    }


def test_where_views_are_kept(kept, tmp_path, monkeypatch):
    """Beside the store; of one that cannot be written to in the work directory, unless they are there already."""
    _, _, plan = kept
    beside = Path(plan.store.path) / "teacher_views"
    other = plan._replace(views=2, described=plan.described | {"views": 2})
    assert teacher_views.views_folder(other, tmp_path) == beside / other.key
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert teacher_views.views_folder(other, tmp_path) == tmp_path / "data" / "teacher_views" / other.key
    assert teacher_views.views_folder(plan, tmp_path) == beside / plan.key


def test_the_choice_of_a_view_depends_on_step_and_place_alone():
    whole = choose_views(5, seed=3, step=7, position=np.arange(64, dtype=np.int32))
    parts = [choose_views(5, seed=3, step=7, position=np.arange(n, n + 16, dtype=np.int32)) for n in range(0, 64, 16)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert set(whole.tolist()) == set(range(5))
    for other in (dict(seed=4, step=7), dict(seed=3, step=8)):
        assert (choose_views(5, position=np.arange(64, dtype=np.int32), **other) != whole).any()


def test_a_changed_acceleration_is_noticed_without_its_ppg(smoke_store, tmp_path):
    store = Store.open(shutil.copytree(smoke_store, tmp_path / "store"))
    rows = np.array([3, 0, 3])
    whole = store.read(rows)
    crc = np.array([signal_crc(ppg) for ppg in whole["ppg"]], np.uint32)
    shutil.rmtree(tmp_path / "store" / "ppg" / "c")  # not a byte of it is read
    alone = store.read_accel(rows, ppg_crc=crc)
    assert alone.keys() == {"accel", "accel_scale", "accel_offset"}
    for name, values in alone.items():
        np.testing.assert_array_equal(values, whole[name])
    flip(tmp_path / "store" / "accel" / "c" / "0" / "0" / "0", 2 * store.samples * 3 * 5 + 100)
    with pytest.raises(UserError, match="segment 5 is not what was written there"):
        store.read_accel(np.array([5]), ppg_crc=np.zeros(1, np.uint32))
