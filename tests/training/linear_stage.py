"""A small stage for tests of the loop: a linear student of a frozen linear teacher, trained and recorded."""

import contextlib
import io
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax

from accdistill_jax.objectives.base import Objective
from accdistill_jax.objectives.losses import info_nce
from accdistill_jax.runtime.interrupt import Interruption
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.runtime.progress import ProgressLine
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.training.loop import Data, Host, Outputs, Task, train
from accdistill_jax.training.metrics import MetricsFiles, read_metrics
from accdistill_jax.training.optimizer import Optimizer
from accdistill_jax.training.optimizer_state import Replicated
from accdistill_jax.training.step import LoopSettings, initial_state

BATCH = 8
TEACHER = {"w": np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)}


SETTINGS = LoopSettings(total_steps=6, validate_every=2, checkpoint_every=3, log_every=1, ema_decay=0.0, seed=4)


def unit(h):
    return h / jnp.linalg.norm(h, axis=1, keepdims=True)


class LinearStudent(Objective):
    """A linear student of a frozen linear teacher, with noise per segment: all that the loop has to carry."""

    @classmethod
    def from_config(cls, section, parts):
        return cls()

    def init(self, key, batch):
        return first_params()

    def inputs(self, frozen, batch, keys, *, training):
        noise = jax.vmap(lambda key: jax.random.normal(key, (6,)))(keys)
        return {"accel": batch["accel"] + 0.1 * noise, "teacher": unit(batch["ppg"] @ frozen["w"])}

    def rows(self, params, inputs):
        return {"student": unit(inputs["accel"] @ params["w"]), "teacher": inputs["teacher"]}

    def reduce(self, rows, axis_name, *, training):
        value = info_nce(rows["teacher"], rows["student"], temperature=0.3, axis_name=axis_name)
        return value, {"loss": value}


OBJECTIVE = LinearStudent()


def batch_at(step):
    rng = np.random.default_rng([step, 1])
    return {
        "accel": rng.normal(size=(BATCH, 6)).astype(np.float32),
        "ppg": rng.normal(size=(BATCH, 5)).astype(np.float32),
        "position": np.arange(BATCH, dtype=np.int32),
    }


def first_params():
    return {"w": np.random.default_rng(7).normal(size=(6, 4)).astype(np.float32)}


CONSTANT = optax.constant_schedule(1e-2)


def run(
    folder,
    *,
    settings=SETTINGS,
    parallel=None,
    batches=None,
    keep_last=10,
    interruption=None,
    objective=OBJECTIVE,
    validation=(1000, 1001),
    within=None,
    schedule=CONSTANT,
    layout=None,
):
    """One stage as `stages.training` runs it: from the last good checkpoint of `folder`, if any; the loop in `within`."""
    layout = layout or Replicated(Optimizer(optax.adamw(1e-2), schedule))
    state = initial_state(first_params(), layout, settings)
    with Checkpointer(folder / "checkpoints", keep_last=keep_last) as checkpointer:
        found = checkpointer.latest_valid_step()
        if found is not None:
            state = checkpointer.restore(found, state).state
        first = int(state.step)
        with (
            MetricsFiles(folder, "student", resume_step=first, tensorboard=False) as writer,
            ProgressLine("student", settings.total_steps, start_step=first, stream=io.StringIO()) as progress,
            Interruption() as signals,
            within or contextlib.nullcontext(),
        ):
            batches = batches or (batch_at(step) for step in range(first, settings.total_steps))
            return train(
                state,
                task=Task(objective, TEACHER, layout, settings),
                data=Data(batches, [batch_at(step) for step in validation], BATCH),
                host=Host(parallel or Parallel(), Peers.alone(), interruption or signals),
                outputs=Outputs(writer, progress, checkpointer, {"teacher": "abc"}),
            )


def metrics_of(folder):
    return read_metrics(folder / "metrics" / "student.jsonl")


def same_bits(a, b):
    a, b = (jax.tree.map(np.asarray, tree) for tree in (a, b))
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes()


def steps_saved(folder):
    return sorted(int(path.stem) for path in (folder / "checkpoints").glob("*.json"))


def batches_then_signal(number, *, at, total=6):
    """Batches of which taking number `at` finds the process signalled."""
    for step in range(total):
        if step == at:
            os.kill(os.getpid(), number)
        yield batch_at(step)


class Recording(Parallel):
    """Devices that keep in `events` what the loop asks of them, and in `donated` whether each step took its state's buffers."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.events, self.donated = [], []

    def place(self, batch):
        self.events.append("place")
        return super().place(batch)

    def fetch(self, tree):
        self.events.append("fetch")
        return super().fetch(tree)

    def dispatching(self):
        """Called before each step's dispatch."""

    def map(self, step, *, donate=False, **options):
        mapped = super().map(step, donate=donate, **options)
        if not donate:
            return mapped

        def call(state, *arguments):
            self.dispatching()
            result = mapped(state, *arguments)
            self.events.append("step")
            self.donated.append({leaf.is_deleted() for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array)})
            return result

        return call


def of_steps_alone(total):
    """Settings of a loop without validation and checkpoints until its last step."""
    return SETTINGS._replace(total_steps=total, validate_every=100, checkpoint_every=100)
