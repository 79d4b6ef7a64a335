"""Packing of a run's encoder: float16 parameters with their read-outs, results measured as shipped, and the card."""

import types

import numpy as np
import pytest

import accdistill_jax as ad
from accdistill_jax.errors import UserError
from accdistill_jax.shipped import __main__ as command
from accdistill_jax.shipped.card import shipped_card
from accdistill_jax.shipped.measuring import measure_readouts
from accdistill_jax.shipped.packing import pack_encoder, report_of, training_medians


@pytest.fixture
def packing(smoke_config):
    return types.SimpleNamespace(part="student", config_name="shipped:smoke", config=smoke_config)


def test_a_packed_encoder_embeds_and_predicts_as_its_run(packing, finished, smoke_store, tmp_path):
    packed, trained, store = (
        pack_encoder(packing, finished, tmp_path / "small"),
        ad.load(finished),
        ad.open_store(smoke_store),
    )
    assert {path.name for path in (tmp_path / "small").iterdir()} == {"export.json", "params.npz", "readouts.npz"}
    rows = store.indices("test")
    embeddings = packed.encode(store.read(rows))
    np.testing.assert_allclose(embeddings, trained.encode(store.read(rows)), atol=0.02)
    assert packed.data == trained.data and packed.fingerprint != trained.fingerprint
    assert pack_encoder(packing, finished, tmp_path / "again").fingerprint == packed.fingerprint
    medians = training_medians(store, list(packed.readouts.targets))
    results = measure_readouts(packed, store, rows, medians=medians)
    truth = store.segments["hr_bpm"][rows]
    known = np.isfinite(truth)
    estimate = packed.readouts.targets["hr_bpm"].estimate(embeddings).value
    assert results["hr_bpm"]["mae"]["value"] == pytest.approx(np.abs(estimate - truth)[known].mean())
    assert results["hr_bpm"]["median"]["value"] == pytest.approx(np.abs(medians["hr_bpm"] - truth)[known].mean())
    report = report_of(packed, store, results) | {"shipped": {"config": "shipped:smoke"}}
    card = shipped_card("small", packed, report, {"night": results})
    assert "## Real wrists: night" in card and "--workdir=runs/shipped/smoke" in card and 'ad.load("small")' in card


def test_a_run_of_another_config_is_refused(packing, finished, smoke_config, tmp_path):
    packing.config = lambda: smoke_config(seed=1)
    with pytest.raises(UserError, match="its config is not shipped:smoke"):
        pack_encoder(packing, finished, tmp_path / "small")


@pytest.mark.slow
def test_the_command_checks_parameters_and_refuses_real_recordings(packing, copy, tmp_path, monkeypatch, capsys):
    packing.preset = copy.name
    monkeypatch.setattr(command, "ENCODERS", {"small": packing})
    out = tmp_path / "out"
    pack_encoder(packing, copy, out / "small")
    words = [str(copy.parent), "--out", str(out)]
    assert command.main([*words, "--check"]) == 0
    assert f"small: the same parameters as {out / 'small'}" in capsys.readouterr().out
    export = out / "small/export.json"
    export.write_text(export.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    assert command.main([*words, "--check"]) == 1 and "small: OTHER parameters" in capsys.readouterr().out
    assert command.main(words) == 2  # the run's store is not a synthetic one that the run made
    assert "its config names stores" in capsys.readouterr().err
