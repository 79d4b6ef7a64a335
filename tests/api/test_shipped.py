"""Encoders that come with the package: found by name, whole, of their config, and good for a first result."""

import json
import shutil
import warnings

import numpy as np
import pytest

import accdistill_jax as ad
from accdistill_jax.api import encoders_command, probe_command, shipped
from accdistill_jax.api.embed_command import main as embed
from accdistill_jax.api.shipped import FOLDER
from accdistill_jax.config.load import load_config
from accdistill_jax.config.record import config_hash
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, generate_batch
from accdistill_jax.errors import UserError

NAMES = ["synthetic-small", "synthetic-teacher", "synthetic-wrist"]
FILES = {"MODEL_CARD.md", "export.json", "params.npz", "readouts.npz", "report.json"}
MOST_BYTES = 2_000_000


def test_the_list_has_names_sizes_and_results(capsys):
    encoders = ad.shipped_encoders()
    assert [encoder.name for encoder in encoders] == NAMES
    assert [encoder.part for encoder in encoders] == ["student", "teacher", "student"]
    assert sum(encoder.size_bytes for encoder in encoders) < MOST_BYTES
    for encoder in encoders:
        value, low, high = encoder.heart_rate_mae
        assert low < value < high and encoder.people >= 100
        assert {path.name for path in (FOLDER / encoder.name).iterdir()} == FILES
    encoders_command.main([])
    said = capsys.readouterr().out
    assert all(name in said for name in NAMES) and "synthetic people" in said


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_are_whole_and_of_their_config(name):
    meta = json.loads((FOLDER / name / "export.json").read_text())["meta"]
    assert meta["shipped"]["config_hash"] == config_hash(load_config(meta["shipped"]["config"]))
    encoder, card = ad.load(name), (FOLDER / name / "MODEL_CARD.md").read_text()
    assert encoder.part == meta["kind"] and encoder.fingerprint in card
    assert "hr_bpm" in encoder.readouts.targets and encoder.embedding_size == len(encoder.readouts.domain.mean)
    for words in ("Not a medical device", "Synthetic people", "Real wrists", f"--config={meta['shipped']['config']}"):
        assert words in card, words


def test_it_reads_heart_rate_of_new_synthetic_people():
    people = SyntheticSettings(participants=6, segments_per_participant=4, seed=99, ppg_channels=1)
    minutes = [generate_batch(people, person, PreprocessSettings()) for person in range(6)]
    truth = np.concatenate([batch.columns["hr_bpm"] for batch in minutes])
    for name, modality in (("synthetic-small", "accel"), ("synthetic-teacher", "ppg")):
        encoder = ad.load(name)
        embeddings = encoder.encode(np.concatenate([getattr(batch, modality) for batch in minutes]))
        rate = encoder.predict_embeddings(embeddings)["hr_bpm"]
        assert rate.known.sum() > 12 and np.abs(rate.value - truth)[rate.known].mean() < 3.0, name


def noise(kind, minutes=20):
    """Minutes of a device that nobody wears, [time, 3] in g."""
    rng, shape = np.random.default_rng(3), (minutes * 3840, 3)
    if kind == "table":  # the last digit of a sensor in steps of 1 mg
        return np.round(1000 * (rng.normal(0, 0.0004, shape) + [0.01, 0.0203, 0.9996])) / 1000
    if kind == "pink":
        spectrum = np.fft.rfft(rng.normal(size=shape), axis=0)
        spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))[:, None]
        spectrum[0] = 0
        made = np.fft.irfft(spectrum, shape[0], axis=0)
        return 0.005 * made / made.std() + [0, 0.6, 0.8]
    return rng.normal(0, kind / 1000, shape) + [0, 0, 1]


@pytest.mark.parametrize("kind", [0.5, 2, 10, 50, "pink", "table"])
def test_noise_is_not_taken_for_a_heart(kind):
    for name in ("synthetic-small", "synthetic-wrist"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ad.SignalWarning)
            predicted = ad.load(name).predict(noise(kind), 64)
        for label, prediction in predicted.items():
            assert prediction.known.mean() <= 0.1, (name, label)


def test_a_signal_of_2_hz_is_not_answered():
    slow = np.random.default_rng(0).normal([0.0, 0.6, 0.8], 0.002, (1200, 3))
    with pytest.warns(ad.SignalWarning, match="lacks most of the heartbeat"):
        predicted = ad.load("synthetic-small").predict(slow, 2)
    assert not any(prediction.known.any() for prediction in predicted.values())


def test_an_encoder_of_another_part_or_without_a_name_is_refused():
    with pytest.raises(UserError, match="synthetic-small is a student, not a teacher.* take synthetic-teacher"):
        ad.load("synthetic-small", part="teacher")
    with pytest.raises(UserError, match="the encoder's name is empty; give a run, or a name that accdistill encoders"):
        ad.load("")


@pytest.mark.parametrize("damage", ["params.npz", "readouts.npz", "no read-outs", "foreign read-outs"])
def test_a_damaged_installation_says_to_install_again(tmp_path, monkeypatch, damage):
    folder = shutil.copytree(FOLDER / "synthetic-small", tmp_path / "synthetic-small")
    if damage.endswith(".npz"):
        (folder / damage).write_bytes((folder / damage).read_bytes()[:-9])
    else:
        (folder / "readouts.npz").unlink()
        if damage.startswith("foreign"):
            shutil.copy(FOLDER / "synthetic-wrist/readouts.npz", folder)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(UserError, match="the shipped encoder is damaged: .*; install accdistill_jax again$") as refused:
        ad.load("synthetic-small")
    assert "train" not in str(refused.value) and "run's command" not in str(refused.value)


def test_a_changed_byte_is_noticed(tmp_path):
    folder = shutil.copytree(FOLDER / "synthetic-small", tmp_path / "copy")
    content = bytearray((folder / "params.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "params.npz").write_bytes(content)
    with pytest.raises(UserError, match="are damaged: file params.npz is not what was saved"):
        ad.load(folder)


def test_a_damaged_description_is_named(tmp_path, monkeypatch):
    shutil.copytree(FOLDER / "synthetic-small", tmp_path / "synthetic-small")
    (tmp_path / "synthetic-small/report.json").write_text("{}")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(UserError, match="synthetic-small is damaged .*; install accdistill_jax again"):
        encoders_command.main([])


@pytest.mark.slow
def test_a_name_serves_commands_and_a_folder_of_that_name_comes_first(tmp_path, monkeypatch, capsys, smoke_store):
    monkeypatch.chdir(tmp_path)
    signal = np.random.default_rng(0).normal([0.0, 600.0, 800.0], 2.0, (6500, 3))
    np.savetxt("my.csv", signal, "%.2f", ",", header="x,y,z", comments="")
    words = ["my.csv", "--out", "z.parquet", "--rate-hz", "50", "--unit", "mg", "--quiet"]
    assert embed(["synthetic-small", *words]) == 0 and "2 of 2 minutes embedded" in capsys.readouterr().out
    assert probe_command.main(["synthetic-small", str(smoke_store), "--target", "hr_bpm", "--quiet"]) == 2
    assert "is part of the installation" in capsys.readouterr().err
    with pytest.raises(UserError, match="did you mean synthetic-small"):
        ad.load("synthetic-smal")
    (tmp_path / "synthetic-small").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        ad.load("synthetic-small")
