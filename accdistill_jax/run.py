"""The stages of a run: data -> teacher -> student -> evaluation -> report.

Every stage leaves its result in the work directory. A stage whose result exists is skipped; an interrupted stage continues.

    data/synthetic/       the synthetic store, if config.data.stores is empty
    teacher/, student/    checkpoints/ and export/ (trained parameters, and the description of their model)
    embeddings/           embeddings of the evaluated segments
    metrics/, tensorboard/
    report.md, report.json, report/*.png; unseen/<store>/ holds the same for each of config.data.unseen_stores
"""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from accdistill_jax.config import record
from accdistill_jax.config.schema import Config
from accdistill_jax.data.store.opening import hold_out, open_configured_store
from accdistill_jax.data.store.separation import check_separation
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.files import is_address, remove_leftovers
from accdistill_jax.runtime import distributed
from accdistill_jax.runtime.compilation_cache import use_compilation_cache
from accdistill_jax.runtime.device_access import take_devices
from accdistill_jax.runtime.interrupt import Interrupted, Interruption
from accdistill_jax.runtime.parallel import Parallel
from accdistill_jax.runtime.peers.peers import Peers
from accdistill_jax.stages import (
    build_objective,
    embedding,
    evaluation,
    student,
    student_start,
    teacher_tables,
    teachers,
)
from accdistill_jax.stages.clock import StageClock
from accdistill_jax.stages.context import Run
from accdistill_jax.storage.checkpoint import refuse_other_config
from accdistill_jax.storage.copies import Copies, connect_copies
from accdistill_jax.storage.export import load_params
from accdistill_jax.storage.mirror import staging_folder
from accdistill_jax.storage.sole_use import sole_use
from accdistill_jax.training.services import check_installed
from accdistill_jax.user_paths import expanded

_log = logging.getLogger(__name__)


def run(config: Config, workdir: str | os.PathLike[str], *, peers: Peers | None = None) -> None:
    """Runs the stages of `config.stages` that are not finished yet.

    Args:
        config: the config, from `config.load.load_config`.
        workdir: local folder, made if missing, or an object-store address (gs://, s3://); the run then works in a local
            folder and uploads it (storage/mirror.py). Only process 0 writes results.
        peers: the processes of the run, which all call this together; None for a single process.

    Raises:
        UserError: a problem that the user can fix.
        Interrupted: on Ctrl-C or SIGTERM; during training, the state is saved first.
    """
    peers = peers or Peers.alone()
    say = functools.partial(print, flush=True) if peers.first else lambda line: None
    with Interruption(at_once=True) as interruption, contextlib.ExitStack() as stack:
        use_compilation_cache(config.runtime.compilation_cache, say=say, key="--config.runtime.compilation_cache")
        take_devices()
        peers.agree(distributed.facts(config))
        parallel = Parallel(config.runtime.mapping)
        with peers.waiting("the meeting of all devices"):
            parallel.meet()
        # quick checks come first: only a run that can begin claims a work directory
        check_device_counts(config, parallel)
        check_installed(config.runtime.metrics)
        named = tuple(open_configured_store(path, key="data.stores", data=config.data) for path in config.data.stores)
        named = hold_out(named, config.data.held_out if named else ())
        fingerprints = check_named(config, named, peers)
        build_objective.check_ppg(config, named)
        separation = check_people(config, named, peers, say) if named else {}
        folder, copies = Path(expanded(workdir)).absolute(), Copies()
        if is_address(address := os.fspath(workdir)):
            folder = staging_folder(address)
            copies = connect_copies(stack, address, folder, peers, say)
        else:
            peers.from_first("work directory", lambda: stack.enter_context(alone_in(folder)))

        def claim() -> None:
            if not (folder / "config.json").exists():
                refuse_other_config(folder, record.config_hash(config))
            record.claim(config, folder, fingerprints=fingerprints)
            remove_leftovers(folder)
            copies.now()

        peers.from_first("config.json", claim)
        clock = StageClock(folder, enabled=peers.first)
        try:
            with clock.stage("data"), peers.waiting("the data stage"):  # one process of each machine generates
                stores = named
                if not stores:
                    made = synthetic_stores(config, folder, say, progress=peers.first)
                    stores = hold_out(made, config.data.held_out)
                separation = separation or check_people(config, stores, peers, say)
            this = Run(config, folder, stores, parallel, peers, say, copies, separation)
            peers.agree({"store fingerprint": this.data_fingerprint})
            run_stages(this, clock, interruption)
        except Interrupted:
            copies.stopping()
            raise
        peers.from_first("copies", lambda: record.dump(config, folder, fingerprints=fingerprints) and copies.now())
        peers.barrier("finished")


def check_named(config: Config, stores: tuple[Store, ...], peers: Peers) -> dict[str, str]:
    """Checks exports and tables from elsewhere and the unseen stores that the stages need; later stages check more.

    Args:
        config: the run's config.
        stores: the stores that `config.data.stores` names; () for synthetic data, which may not exist yet.
        peers: the processes.

    Returns:
        Config key -> content hash of what it names, for the run's record.

    Raises:
        UserError: one is missing or damaged, or is not of this run's architecture.
    """
    stages, fingerprints = set(config.stages), {}
    if config.teacher.path and (
        "teacher" in stages or stages & {"student", "evaluation"} and build_objective.needs_teacher(config)
    ):
        peers.from_first("config.teacher.path", lambda: load_params(expanded(config.teacher.path)) and None)
    if teacher_tables.used_tables(config):
        fingerprints["teacher.source"] = peers.from_first(
            "config.teacher.source", lambda: teacher_tables.checked_fingerprint(config, stores)
        )
    if config.student.init and "student" in stages:
        fingerprints["student.init"] = peers.from_first(
            "config.student.init", lambda: student_start.initial_fingerprint(config)
        )
    if stages & {"evaluation", "report"}:
        for path in config.data.unseen_stores:
            open_configured_store(path, key="data.unseen_stores", data=config.data)
    return fingerprints


def check_people(config: Config, stores: tuple[Store, ...], peers: Peers, say: Callable[[str], None]) -> dict:
    """Compares the people and segments of all stores, and returns the result.

    Unseen stores are compared if the stages need them.

    Raises:
        UserError: a person or a segment is in two splits, or an unseen store does not fit.
    """

    def compare() -> dict:
        began = time.monotonic()
        paths = config.data.unseen_stores if set(config.stages) & {"evaluation", "report"} else ()
        unseen = embedding.open_unseen(config, stores, paths)
        result = check_separation(stores, list(unseen.values()), same_names=config.data.same_names, say=say)
        counted = f"{result['segments']} segments of {result['people']} people compared"
        say(f"data: {counted}, {result['result']} ({time.monotonic() - began:.1f} s)")
        return result

    with peers.waiting("the comparison of the stores"):
        return peers.from_first("people of the stores", compare)


def run_stages(this: Run, clock: "StageClock", interruption: Interruption) -> None:
    """Runs the stages after the data stage, in order."""

    def report() -> None:
        # imported here, because its plotting libraries take seconds to import
        from accdistill_jax.stages import reporting

        reporting.report_stage(this, durations_s=clock.seconds)

    stages = {
        "teacher": lambda: teachers.run_stage(this),
        "student": lambda: student.run_stage(this),
        "evaluation": lambda: evaluation.evaluation_stage(this),
        "report": report,
    }
    if not {"evaluation", "report"}.isdisjoint(this.config.stages):
        embedding.check_stores(this)  # fails now, not after hours of training
    if this.config.student.init and "student" in this.config.stages:
        student_start.load_initial(this)
    if teacher_tables.used_tables(this.config):
        teacher_tables.tables_of(this)
    for name, work in stages.items():
        # checked again, because Python ignores an exception that a signal raises in a finaliser
        interruption.raise_if_requested("what is finished is kept")
        if name in this.config.stages:
            with clock.stage(name):
                work()
            this.copies.later()


def alone_in(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Context in which no other run works in a work directory; raises UserError if another run is working there."""
    return sole_use(
        folder,
        refusal=lambda holder: (
            f"{folder} is in use by another run ({holder}); wait for it, stop it, or give another --workdir"
        ),
    )


def check_device_counts(config: Config, parallel: Parallel) -> None:
    """Raises UserError if a stage's batch does not divide over the devices."""
    for name in ("teacher", "student"):
        if name in config.stages:
            train = config.stage(name).train
            parallel.check_batch(train.batch_size, key=f"{name}.train.batch_size", micro_batches=train.micro_batches)


def synthetic_stores(config: Config, workdir: Path, say: Callable[[str], None], *, progress: bool) -> tuple[Store, ...]:
    """The synthetic store of a run without `config.data.stores`; generated once on each machine, if missing."""
    path = workdir / "data" / "synthetic"
    if "data" not in config.stages:
        try:
            return (Store.open(path),)
        except UserError as error:
            raise UserError(f'config.data.stores is empty and config.stages leaves "data" out: {error}') from error
    from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, shared_store

    c = config.data.synthetic
    settings = SyntheticSettings(
        participants=c.participants,
        segments_per_participant=c.segments_per_participant,
        seed=c.seed,
        ppg_channels=c.ppg_channels,
        generator=c.generator,
        shared_motion=c.shared_motion,
        clock_error=c.clock_error,
    )
    say(f"data: {c.participants * c.segments_per_participant} synthetic minutes in {path}")
    return (shared_store(path, settings, workers=c.workers, progress=progress, say=say),)
