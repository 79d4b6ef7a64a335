"""Encoders at addresses: read-outs, a user's probes and the report come with them."""

from pathlib import Path

import numpy as np
import pytest

import accdistill_jax as ad
from accdistill_jax.api.shipped import shipped_folder
from accdistill_jax.export.card import read_report
from accdistill_jax.readouts.label_probe import LabelProbe, LinearScores, save_label_probe
from accdistill_jax.storage.folder import open_folder


@pytest.fixture
def local(tmp_path):
    """A copy of an export, with a user's probe."""
    for path in filter(Path.is_file, Path(shipped_folder("synthetic-small")).iterdir()):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    encoder = ad.load(tmp_path)
    scores, domain = LinearScores(np.ones((encoder.embedding_size, 1)), np.zeros(1)), encoder.readouts.domain
    about = {"half_width": 1.0, "level": 0.9, "people": 12, "domain": domain, "measured": {}}
    fingerprint = encoder.fingerprint
    save_label_probe(
        tmp_path, LabelProbe("age", "a", "number", "minute", (), model=scores, fingerprint=fingerprint, **about)
    )
    return tmp_path


def test_an_export_by_itself_predicts_as_in_a_folder(local):
    url = "memory://alone/student"
    for path in filter(Path.is_file, local.rglob("*")):
        open_folder(url).write(path.relative_to(local).as_posix(), path.read_bytes())
    there, here = ad.load(url), ad.load(local)
    embedding = np.zeros((1, here.embedding_size), np.float32)
    predicted = there.predict_embeddings(embedding)
    assert list(predicted) == list(here.predict_embeddings(embedding)) and "age" in predicted
    assert read_report(there.path) == read_report(here.path)


def test_the_report_of_a_run_at_an_address_is_read(local):
    url = "memory://run"
    open_folder(url).write("report.json", (local / "report.json").read_bytes())
    assert read_report(f"{url}/student/export") == read_report(str(local))
    assert read_report(f"{url}/other") is None
