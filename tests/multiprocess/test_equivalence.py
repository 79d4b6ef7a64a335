"""The number of processes and devices, the mapping and how memory is saved do not change a training.

ACCDISTILL_TOPOLOGIES=all compares all of them, in some ten minutes; without it the few that differ most.
"""

import json
import os

import numpy as np
import pytest

from tests.multiprocess.processes import Topology

STEPS = 50
ALL = os.environ.get("ACCDISTILL_TOPOLOGIES") == "all"
ROWS_PROGRAM = ("-m", "tests.multiprocess.rows")
ONE = Topology(1, 1)
# One row per device: loops over the rows of a device are no loops there.
ONE_EACH = Topology(1, 8)


@pytest.fixture
def rows_of(launch, smoke_store, tmp_path):
    """rows_of(topology, mapping) -> output of rows.py: (hashes by step and place, the InfoNCE of every process)."""

    def run(topology: Topology, mapping: str, *, batch_size: int):
        out = tmp_path / f"{topology}-{mapping}-{batch_size}"
        arguments = [
            f"--store={smoke_store}",
            f"--mapping={mapping}",
            f"--out={out}",
            f"--steps={STEPS}",
            f"--batch_size={batch_size}",
        ]
        launch(*topology, arguments, program=ROWS_PROGRAM).finish()
        found = [json.loads(out.with_name(f"{out.name}.{rank}").read_text()) for rank in range(topology.processes)]
        assert all(one["devices"] == topology.processes * topology.devices for one in found)
        steps = [dict(pair for one in found for pair in one["rows"][step].items()) for step in range(STEPS)]
        assert all(set(step) == set(map(str, range(batch_size))) for step in steps)
        return steps, [one["contrast"] for one in found]

    return run


@pytest.mark.slow
def test_batches_and_augmented_inputs_are_the_same_bits_everywhere(rows_of):
    """50 steps, every augmentation with probability 0.5."""
    expected, _ = rows_of(ONE, "shard_map", batch_size=8)
    distinct = len({hashes[1] for step in expected for hashes in step.values()})
    assert distinct > 0.9 * 8 * STEPS, "rows come again after an epoch, but not their augmentation"
    cases = [(Topology(2, 2), "shard_map"), (ONE_EACH, "shard_map")]
    if ALL:
        cases += [
            (Topology(1, 4), "shard_map"),
            (Topology(4, 1), "shard_map"),
            (Topology(1, 4), "pmap"),
            (Topology(2, 2), "pmap"),
        ]
    different = {}
    for topology, mapping in cases:
        found, _ = rows_of(topology, mapping, batch_size=8)
        for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            for place, hashes in theirs.items():
                for what, a, b in zip(("batch", "accel", "ppg"), ours[place], hashes, strict=True):
                    if a != b:
                        different.setdefault(f"{topology} {mapping} {what}", []).append((step, int(place)))
    assert not different, {name: (len(places), places[:4]) for name, places in different.items()}


def info_nce_in_float64(w: np.ndarray, *, batch_size: int) -> float:
    """An independent reference of rows.contrast, in numpy."""
    rng = np.random.default_rng(3)
    x, y = (rng.normal(size=(batch_size, 6)).astype(np.float32).astype(np.float64) @ w for _ in range(2))
    x, y = (z / np.sqrt((z**2).sum(axis=1, keepdims=True)) for z in (x, y))
    logits = x @ y.T / 0.1
    own = np.diag(logits)
    return float(np.mean([np.log(np.exp(one).sum(axis=1)) - own for one in (logits, logits.T)]))


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["shard_map", "pmap"])
def test_global_contrast_over_two_processes(rows_of, mapping):
    """Value and gradient of four devices in two processes against numpy in double precision."""
    _, found = rows_of(Topology(2, 2), mapping, batch_size=8)
    rng = np.random.default_rng(3)
    rng.normal(size=(2, 8, 6))
    w = rng.normal(size=(6, 4)).astype(np.float32).astype(np.float64)
    gradient = np.zeros_like(w)
    for place in np.ndindex(w.shape):
        by = np.zeros_like(w)
        by[place] = 1e-5
        up, down = (info_nce_in_float64(w + sign * by, batch_size=8) for sign in (1, -1))
        gradient[place] = (up - down) / 2e-5
    for process in found:
        assert process["value"] == pytest.approx(info_nce_in_float64(w, batch_size=8), rel=1e-5)
        np.testing.assert_allclose(process["gradient"], gradient, rtol=1e-5, atol=1e-5 * np.abs(gradient).max())


VARIANTS = [(Topology(2, 2), {})]
if ALL:
    VARIANTS += [
        (Topology(1, 4), {}),
        (Topology(4, 1), {}),
        (Topology(1, 4), {"runtime.mapping": "pmap"}),
        (Topology(2, 2), {"runtime.mapping": "pmap"}),
        (Topology(2, 2), {"runtime.optimizer_state": "sharded"}),
        (Topology(1, 1), {"teacher.train.micro_batches": "2", "student.train.micro_batches": "2"}),
    ]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory) -> dict:
    """Losses of the run on one device, filled by the first test that needs them."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(("topology", "changes"), VARIANTS, ids=lambda value: str(value).replace("'", ""))
def test_losses_agree_with_one_device(launch, settings, tmp_path, one_device, topology, changes):
    """50 steps of the teacher and 50 of the student, in which both losses fall, agree to 1e-5 relative."""

    def losses(topology: Topology, workdir, changes) -> dict[str, np.ndarray]:
        both = {"stages": "('teacher','student')"}
        for stage in ("teacher", "student"):
            both |= {
                f"{stage}.train.duration": f"{STEPS} steps",
                f"{stage}.train.warmup": "20 steps",
                f"{stage}.train.learning_rate": "1e-3",
                f"{stage}.train.checkpoint_every": f"{STEPS} steps",
                f"{stage}.train.validate_every": f"{STEPS} steps",
            }
        launch(*topology, settings(workdir, **both, **changes)).finish()
        found = {}
        for stage in ("teacher", "student"):
            records = [json.loads(line) for line in (workdir / "metrics" / f"{stage}.jsonl").read_text().splitlines()]
            found[stage] = np.array([record["loss"] for record in records if record["kind"] == "train"])
        return found

    if not one_device:
        one_device |= losses(ONE, tmp_path / "one", {})
    ours = losses(topology, tmp_path / "run", changes)
    report = []
    for stage, expected in one_device.items():
        assert len(ours[stage]) == len(expected) == STEPS
        assert expected[-5:].mean() < expected[:5].mean() * 0.97, f"{stage} has not learned: {expected}"
        error = np.abs(ours[stage] - expected) / np.abs(expected)
        report.append(f"{stage}: {', '.join(f'{e:.1e}' for e in error[::7])}, worst {error.max():.1e}")
    print(f"{topology} {changes} relative difference of the loss at every seventh step; " + "; ".join(report))
    for stage, expected in one_device.items():
        np.testing.assert_allclose(ours[stage], expected, rtol=1e-5, err_msg="\n".join(report))
