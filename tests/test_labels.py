"""A label that is added in its one home reaches the store, the config, the evaluation and the reproduction."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from accdistill_jax.data.store.opening import segment_columns
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, write_store
from accdistill_jax.labels import LABELS, Label, expected_labels

ADDS_A_LABEL = """
import json, sys
from accdistill_jax import labels

# the first file: its entry
labels.LABELS["beat_s"] = labels.Label("mean time between beats", "s", "beat time", expected=True)

# the second file: its values
from accdistill_jax.data.preprocessing import segments
measured_before = segments.measured_labels
def measured_labels(from_beats, window_hr_bpm):
    return measured_before(from_beats, window_hr_bpm) | {"beat_s": 60.0 / from_beats.hr_bpm}
segments.measured_labels = measured_labels

import numpy as np
from accdistill_jax.config.load import load_config
from accdistill_jax.data.store.opening import segment_columns
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, write_store
from accdistill_jax.evaluation.evaluate import SPLITS, evaluate
from accdistill_jax.evaluation.split_embeddings import SplitEmbeddings
from accdistill_jax.evaluation.report.verdict import verdict
from accdistill_jax.reproduce.plan.variants import SUPERVISED

store = write_store(sys.argv[1], SyntheticSettings(participants=3, segments_per_participant=6))
columns = segment_columns((store,), [np.arange(store.num_segments)], same_names="same person")
load_config("distill:smoke", ["--config.student.supervised.target=beat_s"])
rng = np.random.default_rng(0)
splits = {}
for split in SPLITS:
    features = rng.standard_normal((60, 4)).astype(np.float32)
    known = {"hr_bpm": 60 + features[:, 0], "beat_s": 1 + 0.1 * features[:, 1]}
    people = np.repeat([f"{split}{k}" for k in range(6)], 10)
    splits[split] = SplitEmbeddings(features, None, people, known)
evaluation = evaluate({"student": splits}, bootstrap_draws=10, interval_draws=10)
print(json.dumps({
    "columns": list(store.segments),
    "agrees": bool(np.allclose(columns["beat_s"], 60.0 / columns["hr_bpm"], rtol=1e-5, equal_nan=True)),
    "known": int(np.isfinite(columns["beat_s"]).sum()),
    "targets": list(evaluation.targets),
    "answers": [row[0] for row in verdict(evaluation).answers],
    "variants": [variant.name for variant in SUPERVISED],
}))
"""


def test_an_added_label_reaches_every_consumer(tmp_path):
    said = subprocess.run(
        [sys.executable, "-c", ADDS_A_LABEL, tmp_path / "store"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    reached = json.loads(said.stdout.splitlines()[-1])
    assert "beat_s" in reached["columns"] and reached["agrees"] and reached["known"]
    assert "beat_s" in reached["targets"]
    assert "Does the student read mean time between beats?" in reached["answers"]
    assert any(name.startswith("supervised-beat-") for name in reached["variants"])


def test_a_store_prepared_before_a_label_was_added_has_it_unknown(tmp_path, monkeypatch):
    store = write_store(tmp_path / "store", SyntheticSettings(participants=1, segments_per_participant=3))
    assert set(LABELS) <= set(store.segments)
    monkeypatch.setitem(LABELS, "later", Label("a later label", "bpm", "later"))
    columns = segment_columns((store,), [np.arange(store.num_segments)], same_names="same person")
    assert len(columns["later"]) == store.num_segments and np.isnan(columns["later"]).all()


def test_the_labels_of_the_default_reports():
    assert expected_labels() == ("hr_bpm", "sdnn_ms", "rmssd_ms")
    assert set(LABELS) - set(expected_labels()) == {"resp_bpm"}
