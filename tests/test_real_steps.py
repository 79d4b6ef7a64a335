"""The trainer's promises of speed on its real objectives: one program for all steps, and a state that is there once."""

import logging

import jax
import pytest

from accdistill_jax.data.pipeline import Pipeline
from accdistill_jax.run import run
from accdistill_jax.runtime.parallel import Parallel

TRAIN = {"duration": "6 steps", "warmup": "1 steps", "validate_every": "100 steps", "checkpoint_every": "100 steps"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer_state", "changes"),
    [("replicated", {}), ("sharded", {"teacher.cached_views": 2, "student.train.ema_decay": 0.9})],
    ids=["plain", "sharded, cached views"],
)
def test_every_step_runs_the_first_ones_program_on_donated_state(
    smoke_config, tmp_path, monkeypatch, caplog, optimizer_state, changes
):
    counts, deleted = [], []
    iterate, mapped = Pipeline.iterate, Parallel.map

    def counting(self, *arguments, **options):
        for batch in iterate(self, *arguments, **options):
            counts.append(sum("Compiling" in record.getMessage() for record in caplog.records))
            yield batch

    def recording(self, function, *, donate=False, **options):
        program = mapped(self, function, donate=donate, **options)
        if not donate:
            return program

        def call(state, *arguments):
            result = program(state, *arguments)
            deleted.append({leaf.is_deleted() for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)})
            return result

        return call

    train = {f"{stage}.train.{key}": value for stage in ("teacher", "student") for key, value in TRAIN.items()}
    own = {
        "stages": ("teacher", "student"),
        "runtime.optimizer_state": optimizer_state,
        "runtime.compilation_cache": "off",
    }
    config = smoke_config(**train, **own, **changes)
    monkeypatch.setattr(Pipeline, "iterate", counting)
    monkeypatch.setattr(Parallel, "map", recording)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run(config, str(tmp_path / "run"))
    assert deleted == [{True}] * 12
    for stage in (counts[:6], counts[6:]):  # a step's batch is taken while the step before it runs
        assert len(stage) == 6 and len(set(stage[2:])) == 1, stage
