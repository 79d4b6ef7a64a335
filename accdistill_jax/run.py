"""The stages of a run: data -> teacher -> student -> evaluation -> report.

Every stage leaves its result in the work directory and is recognised by it: a finished stage is not done again, an
interrupted one continues.

    data/synthetic/       the embedded default's store (unless config.data.stores names others)
    teacher/, student/    checkpoints/ and export/ (finished parameters with what is needed to rebuild the model)
    embeddings/           embeddings of the segments that are evaluated
    metrics/, tensorboard/
    report.md, report.json, report/*.png; unseen/<store>/ likewise for each of config.data.unseen_stores
"""

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import jax

from accdistill_jax import config as configs
from accdistill_jax.data.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.files import write_atomically
from accdistill_jax.interrupt import Interruption
from accdistill_jax.parallel import Parallel
from accdistill_jax.stages import distillation, evaluation, pretraining
from accdistill_jax.stages.context import Run, open_store


def run(config, workdir: str) -> None:
    """Runs the stages that `config.stages` names and that are not finished yet.

    Args:
        config: a validated config, see configs/distill.py.
        workdir: local folder; made where missing.

    Raises:
        UserError: something the user can put right.
        Interrupted: on Ctrl-C or SIGTERM; during training after saving.
    """
    workdir = Path(workdir).absolute()
    with Interruption(at_once=True) as interruption:
        use_compilation_cache()
        say = functools.partial(print, flush=True) if jax.process_index() == 0 else lambda line: None
        parallel = Parallel(config.runtime.mapping)
        # what can be told at once comes first: a work directory is claimed only by a run that can begin
        check_device_counts(config, parallel)
        named = tuple(open_store(path, key="data.stores") for path in config.data.stores)
        configs.dump(config, workdir)
        clock = StageClock(workdir)
        with clock.stage("data"):
            stores = named or synthetic_stores(config, workdir, say)
        this = Run(config, workdir, stores, parallel, say)
        stages = {
            "teacher": lambda: pretraining.run_stage(this),
            "student": lambda: distillation.run_stage(this),
            "evaluation": lambda: evaluation.embed_stage(this),
            "report": lambda: evaluation.report_stage(this, durations_s=clock.seconds),
        }
        if not {"evaluation", "report"}.isdisjoint(config.stages):
            evaluation.check_stores(this)  # told now, not after hours of training
        for name, work in stages.items():
            # once more where the signal's exception was lost: Python ignores those in finalisers
            interruption.raise_if_requested("what is finished is kept")
            if name in config.stages:
                with clock.stage(name):
                    work()


def use_compilation_cache() -> None:
    """Compiled programs are kept in a per-user folder, so that a second start does not compile again."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "accdistill_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 2.0)


def check_device_counts(config, parallel: Parallel) -> None:
    for key in ("teacher.train", "student.train"):
        block, name = key.split(".")
        if block in config.stages and block in config:
            parallel.check_batch(config[block][name].batch_size, key=f"{key}.batch_size")


def synthetic_stores(config, workdir: Path, say: Callable[[str], None]) -> tuple[Store, ...]:
    """The store of a run without `config.data.stores`, generated unless it is there already."""
    path = workdir / "data" / "synthetic"
    if "data" not in config.stages:
        try:
            return (Store.open(path),)
        except UserError as error:
            raise UserError(f'config.data.stores is empty and config.stages leaves "data" out: {error}') from error
    from accdistill_jax.data.synthetic import SyntheticSettings, write_store

    c = config.data.synthetic
    settings = SyntheticSettings(
        participants=c.participants,
        segments_per_participant=c.segments_per_participant,
        seed=c.seed,
        ppg_channels=c.ppg_channels,
    )
    say(f"data: {c.participants * c.segments_per_participant} synthetic minutes in {path}")
    return (write_store(path, settings, workers=c.workers, progress=jax.process_index() == 0),)


class StageClock:
    """Seconds spent in each stage over all starts of a run, kept in `<workdir>/stages.json`."""

    def __init__(self, workdir: Path):
        self._path = workdir / "stages.json"
        try:
            self.seconds: dict[str, float] = json.loads(self._path.read_text())
        except (OSError, ValueError):
            self.seconds = {}

    def stage(self, name: str) -> "_Timed":
        """Context that adds its time to the stage's."""
        return _Timed(self, name)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        if jax.process_index() == 0:
            try:
                write_atomically(self._path, json.dumps(self.seconds))
            except OSError as error:
                raise UserError(f"cannot write {self._path}: {error.strerror or error}") from error


class _Timed:
    def __init__(self, clock: StageClock, name: str):
        self._clock, self._name = clock, name

    def __enter__(self) -> None:
        self._begin = time.monotonic()

    def __exit__(self, kind, value, traceback) -> None:
        try:
            self._clock.add(self._name, time.monotonic() - self._begin)
        except UserError:
            if kind is None:  # what stopped the stage is what the user must read
                raise
