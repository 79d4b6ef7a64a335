"""A run's record: hash, continuation, old records."""

import json

import pytest

from accdistill_jax.config import record as config_record
from accdistill_jax.config import tree
from accdistill_jax.config.convert import changed, known_keys, parse_config
from accdistill_jax.config.load import load_config
from accdistill_jax.config.renamed import current_key, first_key
from accdistill_jax.errors import UserError

# Work directories of earlier runs continue. Presets in the paper's form have the hashes of the first typed config, when they were
# the presets default, hour, paper and smoke.
HASHES = {
    "distill:mean": "aa1449d1657043521e78ec86d2432e1ed16c0c0284932c48b2d61e3d576dbe73",
    "distill:hour-mean": "9f7c4b0eca001526783aca3e05aa052fffc46b1a35bd97c786ecd1697677f3a8",
    "distill:paper-literal": "c7e109fd386cac9249edaf7ef25c4c0b0d9ffb888e9a423c6b633489a1015eeb",
    "distill:smoke-mean": "7b0df96675ee7a6f9149f2e775a8840487821055c64730aef26df8a9647c4490",
    "pretrain:mean": "aa1449d1657043521e78ec86d2432e1ed16c0c0284932c48b2d61e3d576dbe73",
    "pretrain:hour-mean": "9f7c4b0eca001526783aca3e05aa052fffc46b1a35bd97c786ecd1697677f3a8",
    "pretrain:paper-literal": "c7e109fd386cac9249edaf7ef25c4c0b0d9ffb888e9a423c6b633489a1015eeb",
    "pretrain:smoke-mean": "7b0df96675ee7a6f9149f2e775a8840487821055c64730aef26df8a9647c4490",
    "distill:default": "4d4c08cb0fe79a66f6c68ed6fff752b1e1b37a4d5d66ec8bfdc0ad50638a8195",
    "distill:hour": "898272393664c2a3ab563ea714551266ad4b429ff8b59654dc8c47641ffbaf7e",
    "distill:paper": "1e9db9e55ea057a9a8fc03f1f0b2121a9e5dab4098205259c61185c700230b5d",
    "distill:smoke": "d9840010f8c3124442850d5f9d16f230bda3fc16f066885708253a7074af1f4e",
    "pretrain:default": "4d4c08cb0fe79a66f6c68ed6fff752b1e1b37a4d5d66ec8bfdc0ad50638a8195",
    "shipped:synthetic": "4d4c08cb0fe79a66f6c68ed6fff752b1e1b37a4d5d66ec8bfdc0ad50638a8195",
    "shipped:wrist": "79a0ee3604dffe2543c595a7823695eb1bc7c9c021439d7c1bf83fd1565850f3",
    "reproduce:cpu-mean": "737615b46b9ea4a0b29390c5fd96773f75949cd19e130fdf5cd731e676d933c3",
    # in windows since then
    "reproduce:smoke": "fd0a50639c478c6be36054354dc15bc02f77548715ac20f31d346b088d669484",
    "reproduce:cpu": "857e602842ca930116af463356ca4a96441edf6963a7a41d9cfdaadb83189f0a",
    "reproduce:full": "ec9eb178f2aed1e0fc4ae2661973da97bbc1962e09c965a73de8636e05c6099d",
}
# The keys added after the first release, by their names then, and values under which a run is another one.
ADDED = {
    "teacher.cached_views": 2,
    "teacher.objective": "contrastive",
    "student.drop_fraction": 0.5,
    "student.objective": "contrastive",
    "student.contrastive_weight": 0.5,
    "student.regression_weight": 1.0,
    "student.regression": "mse",
    "student.head.windows": 12,
    "student.token_weight": 1.0,
    "student.token_schedule": "linear",
    "teacher.encoder.transformer.residual": "compute",
    "student.encoder.transformer.residual": "compute",
    "teacher.train.optimizer": "muon",
    "student.train.optimizer": "muon",
    "inputs.ppg.rate_share": 0.5,
    "inputs.ppg.step": 0.1,
    "inputs.ppg.axes": 1,
    "inputs.accel.rate_share": 0.5,
    "inputs.accel.step": 0.1,
    "inputs.accel.axes": 1,
    "data.synthetic.generator": 2,
    "data.synthetic.shared_motion": 3.0,
    "data.synthetic.clock_error": 0.5,
    "data.store_cap": 100,
    "teacher.augment.clock_offset.probability": 0.5,
    "teacher.augment.clock_offset.strength": 1.0,
    "teacher.augment.clock_offset.drift_ppm": 1.0,
    "teacher.augment.clock_offset.knots": 5,
    "student.augment.accel.clock_offset.probability": 0.5,
    "student.augment.accel.clock_offset.strength": 1.0,
    "student.augment.accel.clock_offset.drift_ppm": 1.0,
    "student.augment.accel.clock_offset.knots": 5,
    "student.augment.ppg.clock_offset.probability": 0.5,
    "student.augment.ppg.clock_offset.strength": 1.0,
    "student.augment.ppg.clock_offset.drift_ppm": 1.0,
    "student.augment.ppg.clock_offset.knots": 5,
    "data.held_out": ("p1",),
    "student.init": "runs/other/student/export",
    "teacher.source": ("ppg", "table.npz"),
    "teacher.source_weights": (2.0,),
    "student.augment.shared_shift": 10,
    "teacher.encoder.transformer.stem": ((8, 4, 4),),
    "student.head.weighting": "learned",
    "student.contrast.loss": "sigmoid",
    "student.contrast.same_person": 4,
    "student.contrast.same_rate": 4,
    "student.contrast.temperature_bounds": (0.05, 0.5),
}
FREE = {
    "stages": ("data",),
    "data.unseen_stores": ("x",),
    "data.same_names": "different people",
    "data.read_concurrency": 1,
    "data.cache_mb": 1,
    "data.synthetic.workers": 1,
    "evaluation.batch_size": 1,
    "evaluation.train_segments": 10,
    "evaluation.pool_sizes": (2,),
    "evaluation.bootstrap_draws": 2,
    "evaluation.examples": 1,
    "evaluation.representation": "statistics",
    "teacher.train.micro_batches": 2,
    "student.train.checkpoints_kept": 1,
    "runtime.mapping": "pmap",
    "runtime.optimizer_state": "sharded",
    "runtime.peer_timeout_s": 1.0,
    "runtime.hang_timeout_s": 1.0,
    "runtime.reader_threads": 1,
    "runtime.prefetch_batches": 1,
    "runtime.rematerialise": "blocks",
    "runtime.compilation_cache": "off",
    "runtime.metrics": (),
}


def make(**changes):
    return changed(load_config("distill:smoke-mean"), changes)


def old_record(folder, **changes):
    """A work directory's record as it was before any key was added or renamed, apart from `changes`."""
    values = {key: value for key, value in tree.flatten_section(make()).items() if first_key(key) not in ADDED}
    path = folder / "config.json"
    path.write_text(json.dumps({"config": tree.nest_keys(values | changes), "environment": {}}))
    return path


@pytest.mark.parametrize("preset", HASHES)
def test_hashes_of_the_shipped_configs_stay(preset):
    assert config_record.config_hash(load_config(preset)) == HASHES[preset]


def test_a_part_of_a_config_has_a_hash():
    values = tree.plain(make())
    assert config_record.config_hash(values) == HASHES["distill:smoke-mean"]
    del values["student"]
    assert config_record.config_hash(values) != HASHES["distill:smoke-mean"]


def test_dump_and_load(tmp_path):
    config = make()
    path = config_record.dump(config, tmp_path / "run")
    assert config_record.load_record(tmp_path / "run") == config_record.load_record(path) == config
    environment = json.loads(path.read_text())["environment"]
    assert environment["versions"].keys() >= {
        "accdistill_jax",
        "jax",
        "flax",
        "optax",
        "orbax-checkpoint",
        "grain",
    }
    assert environment["device_count"] == 4 and environment["device_kind"] and environment["python"]


def test_the_free_keys_are_these():
    stages = {
        f"{stage}.train.{name}" for stage in ("teacher", "student") for name in ("micro_batches", "checkpoints_kept")
    }
    assert {key for key, known in known_keys().items() if known.setting.free} == FREE.keys() | stages


def test_same_config_continues_and_free_keys_may_change(tmp_path):
    config_record.dump(make(), tmp_path)
    config_record.dump(make(), tmp_path)
    other = make(**FREE)
    config_record.dump(other, tmp_path)
    assert config_record.load_record(tmp_path).runtime.mapping == "pmap"
    assert config_record.config_hash(other) == config_record.config_hash(make())


def test_other_config_is_refused_and_its_keys_named(tmp_path):
    path = config_record.dump(make(), tmp_path)
    before = path.read_bytes()
    other = make(**{"student.temperature": 0.5})
    with pytest.raises(UserError, match=r"another config: student.temperature \(was [0-9.]+, now 0.5\)") as caught:
        config_record.dump(other, tmp_path)
    assert str(tmp_path) in str(caught.value) and path.read_bytes() == before
    assert config_record.config_hash(other) != config_record.config_hash(make())


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"student.supervised.label_fraction": 0.5}, True),
        ({"student.supervised.label_fraction": 1.0}, False),
        ({"student.supervised.label_fraction": 0.5, "data.stores": ("a",)}, False),
        ({"student.objective": "masked"}, False),
    ],
)
def test_the_meaning_of_equal_names_is_free_unless_it_decides_the_labelled_people(tmp_path, changes, refused):
    supervised = load_config("distill:smoke", ["--config.student.objective=supervised"])
    before = changed(supervised, {"data.stores": ("a", "b")} | changes)
    after = changed(before, {"data.same_names": "different people"})
    config_record.claim(before, tmp_path)
    if refused:
        with pytest.raises(UserError, match=r"data.same_names \(was 'same person', now 'different people'\); set"):
            config_record.claim(after, tmp_path)
    else:
        config_record.claim(after, tmp_path)
    assert config_record.config_hash(before) == config_record.config_hash(after)


def test_the_choice_comes_before_the_options_that_count_with_it(tmp_path):
    config_record.dump(make(), tmp_path)
    changes = {"teacher.objective": "contrastive", "teacher.contrastive.temperature": 0.5}
    with pytest.raises(
        UserError, match=r"config: teacher.objective \(was .*\), teacher.contrastive.temperature \(was"
    ) as caught:
        config_record.dump(make(**changes), tmp_path)
    assert "momentum" not in str(caught.value) and "autoencoder" not in str(caught.value)


def test_the_added_keys_are_these():
    added = {key for key, known in known_keys().items() if known.setting.added}
    unchosen = {
        f"{stage}.contrastive.head.{key}" for stage in ("teacher", "student") for key in ("windows", "weighting")
    } | {"student.contrast.bias"}
    unchosen |= {"student.encoder.transformer.stem"}  # the student has a tokenizer, which a stem replaces
    assert added == {current_key(key) for key in ADDED} | {"runtime.metrics", "evaluation.representation"} | unchosen


def test_a_contrastive_run_begun_before_its_head_had_windows_continues_unless_they_are_set(tmp_path):
    chosen = {"student.objective": "contrastive"}
    values = tree.flatten_section(make(**chosen))
    del values["student.contrastive.head.windows"]
    (tmp_path / "config.json").write_text(json.dumps({"config": tree.nest_keys(values), "environment": {}}))
    config_record.claim(make(**chosen), tmp_path)
    with pytest.raises(UserError, match="another config: student.contrastive.head.windows "):
        config_record.claim(make(**chosen | {"student.contrastive.head.windows": 12}), tmp_path)


@pytest.mark.parametrize("key", ADDED)
def test_a_run_begun_before_a_key_was_added_continues_unless_the_key_is_set(tmp_path, key):
    old_record(tmp_path)
    assert config_record.config_hash(config_record.load_record(tmp_path)) == config_record.config_hash(make())
    config_record.claim(make(), tmp_path)
    with pytest.raises(UserError, match=f"another config: {current_key(key)} "):
        config_record.claim(make(**{key: ADDED[key]}), tmp_path)


def test_a_run_with_a_key_by_its_old_name_continues(tmp_path):
    old_record(tmp_path, **{"inputs.accel.rate_share": 0.5, "inputs.accel.axes": 1})
    same = make(**{"inputs.accel.simulated_rate_fraction": 0.5, "inputs.accel.axes": 1})
    config_record.claim(same, tmp_path)
    assert config_record.load_record(tmp_path).inputs.accel.simulated_rate_fraction == 0.5
    with pytest.raises(UserError, match=r"inputs.accel.simulated_rate_fraction \(was 0.5, now 1.0\)"):
        config_record.claim(make(**{"inputs.accel.axes": 1}), tmp_path)


def test_a_renamed_key_counts_in_hashes_by_its_first_name():
    values = {"inputs": {"accel": {"rate_share": 0.5}}}
    assert config_record.config_hash(parse_config(values)) == config_record.config_hash(
        changed(parse_config({}), {"inputs.accel.simulated_rate_fraction": 0.5})
    )
    # hash of {"inputs.accel.rate_share": 0.5} in JSON
    expected = "bb306aa7ed294cb87d6e1b28b089fae16249f4381b82e97ef5e04701ccb04149"
    assert config_record.config_hash({"inputs": {"accel": {"simulated_rate_fraction": 0.5}}}) == expected


def test_a_record_of_a_config_without_a_student_continues(tmp_path):
    path = old_record(tmp_path)
    record = json.loads(path.read_text())
    del record["config"]["student"]
    path.write_text(json.dumps(record))
    assert config_record.load_record(tmp_path).student == parse_config({}).student


def test_a_record_with_a_key_that_no_config_has_is_named(tmp_path):
    old_record(tmp_path, **{"student.tempera": 0.5})
    with pytest.raises(UserError, match=r"config.json cannot be read .*unknown key config.student.tempera; did you"):
        config_record.load_record(tmp_path)


def test_a_claimed_folder_is_compared_and_left_as_it_is(tmp_path):
    config_record.claim(make(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text() + " ")
    before = path.read_bytes()
    config_record.claim(make(), tmp_path)
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="belongs to a run with another config"):
        config_record.claim(make(seed=5), tmp_path)
    assert path.read_bytes() == before


def test_content_that_keys_name_is_recorded_and_other_content_is_refused(tmp_path):
    config_record.claim(make(), tmp_path, fingerprints={"student.init": "a" * 64})
    config_record.dump(make(), tmp_path)  # for stages that read no such file
    config_record.claim(make(), tmp_path, fingerprints={"student.init": "a" * 64, "teacher.source": "c" * 64})
    assert json.loads((tmp_path / "config.json").read_text())["fingerprints"] == {"student.init": "a" * 64}
    for action in (config_record.claim, config_record.dump):
        with pytest.raises(
            UserError, match="another content of config.student.init .*was aaaaaaaaaaaa, now bbbbbbbbbbbb"
        ):
            action(make(), tmp_path, fingerprints={"student.init": "b" * 64})


def test_unreadable_dump_is_named(tmp_path):
    path = config_record.dump(make(), tmp_path)
    path.write_text(path.read_text()[:40])
    for action in (lambda: config_record.load_record(tmp_path), lambda: config_record.dump(make(), tmp_path)):
        with pytest.raises(UserError, match="config.json cannot be read"):
            action()


def test_workdir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/run/config\.json"):
        config_record.dump(make(), tmp_path / "file" / "run")


def test_settings_of_an_objective_that_is_not_used_do_not_bind(tmp_path):
    config_record.dump(make(), tmp_path)
    other = make(**{"student.supervised.label_fraction": 0.5})
    assert config_record.config_hash(other) == config_record.config_hash(make())
    config_record.dump(other, tmp_path)
    supervised = make(**{"student.objective": "supervised"})
    halved = changed(supervised, {"student.supervised.label_fraction": 0.5})
    assert config_record.config_hash(halved) != config_record.config_hash(supervised)
