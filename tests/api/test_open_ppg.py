"""Open PPG encoders on a store: the table, what their input is, and the whole way from weights to a student."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from accdistill_jax.api.open_ppg import MODELS, prepared_windows
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.data.embeddings.table import read_embedding_table
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError

torch = pytest.importorskip("torch")

from accdistill_jax.api.embed_teacher_command import main  # noqa: E402
from tests.models.torch_resnet1d import random_reference  # noqa: E402


@pytest.fixture
def weights(tmp_path):
    """weights(output): path of small random weights; without an output those of Pulse-PPG."""

    def save(output: int) -> str:
        path = tmp_path / f"weights{output}.pt"
        torch.save(random_reference(4, 3, 5, output).state_dict(), path)
        return str(path)

    return save


def test_windows_are_resampled_and_standardised():
    time = np.arange(3840) / 64
    ppg = np.stack([np.sin(2 * np.pi * 1.2 * time), np.full(3840, 3.0)]) * 5 + 2
    windows = prepared_windows(ppg, 64.0, MODELS["papagei"])
    assert windows.shape == (2, 6, 1250) and windows.dtype == np.float32 and not windows[1].any()
    np.testing.assert_allclose(windows[0].mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(windows[0].std(axis=1), 1, atol=1e-5)
    at = np.arange(1250) / 125 + 20
    np.testing.assert_allclose(windows[0, 2][50:-50], np.sqrt(2) * np.sin(2 * np.pi * 1.2 * at)[50:-50], atol=0.02)
    assert prepared_windows(ppg, 64.0, MODELS["pulse-ppg"]).shape == (2, 1, 3000)
    with pytest.raises(UserError, match="segments of 5 s are shorter than the 10 s"):
        prepared_windows(ppg[:, :320], 64.0, MODELS["papagei"])


@pytest.mark.parametrize(("name", "output"), [("papagei", 6), ("pulse-ppg", 0)])
def test_the_table_holds_the_references_embeddings(weights, smoke_store, tmp_path, name, output, capsys):
    store, out = Store.open(smoke_store), tmp_path / "t.parquet"
    main([name, weights(output), str(smoke_store), "--out", str(out), "--channel", "1", "--quiet"])
    assert f"t.parquet: {store.num_segments} minutes, {output or 8} numbers each" in capsys.readouterr().out
    table = read_embedding_table(str(out))
    assert pq.read_table(out).column_names == ["participant", "recording", "start", "quality", "motion", "embedding"]
    np.testing.assert_allclose(table.start_unix_s, store.segments["start_unix_s"], atol=1e-5)
    rows = np.array([0, 50, 87])
    windows = prepared_windows(store.read_signals(rows)["ppg"][:, :, 1], store.rate_hz, MODELS[name])
    model = random_reference(4, 3, 5, output)
    with torch.no_grad():
        expected = model(torch.from_numpy(windows.reshape(-1, 1, windows.shape[2]))).numpy()
    expected = expected.reshape(3, windows.shape[1], -1).mean(axis=1)
    np.testing.assert_allclose(table.embedding[rows], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_what_cannot_be_embedded_is_a_line(weights, smoke_store, tmp_path):
    out = str(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="weights0.pt: it has no dense.weight.*PaPaGei-S, arXiv 2410.20542 is expected"):
        main(["papagei", weights(0), str(smoke_store), "--out", out])
    with pytest.raises(UserError, match="has the PPG channels .*give --channel 0 to 1"):
        main(["papagei", weights(3), str(smoke_store), "--out", out, "--channel", "2", "--quiet"])
    with pytest.raises(UserError, match="the result is a Parquet file"):
        main(["papagei", weights(3), str(smoke_store), "--out", "t.csv"])
    assert not (tmp_path / "t.parquet").exists()


@pytest.mark.slow
def test_from_weights_to_a_student(weights, smoke_store, tmp_path):
    """The commands of the guide, in small."""
    from accdistill_jax.run import run

    out = tmp_path / "t.parquet"
    main(["papagei", weights(6), str(smoke_store), "--out", str(out), "--quiet"])
    changes = {"data.stores": (str(smoke_store),), "teacher.source": (str(out),)}
    run(changed(load_config("distill:smoke-mean"), changes), tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["evaluation"]["retrieval"]
