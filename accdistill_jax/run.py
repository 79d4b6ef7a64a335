"""The stages of a run: data -> teacher -> student -> evaluation -> report.

Every stage leaves its result in the work directory and is recognised by it: a finished stage is not done again, an
interrupted one continues.

    data/synthetic/       the embedded default's store (unless config.data.stores names others)
    teacher/, student/    checkpoints/ and export/ (finished parameters with what is needed to rebuild the model)
    embeddings/           embeddings of the segments that are evaluated
    metrics/, tensorboard/
    report.md, report.json, report/*.png; unseen/<store>/ likewise for each of config.data.unseen_stores
"""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from accdistill_jax.config import record
from accdistill_jax.data.store.opening import open_store
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
from accdistill_jax.stages import build_objective, embedding, student, teacher
from accdistill_jax.stages.clock import StageClock
from accdistill_jax.stages.context import Run
from accdistill_jax.storage.copies import Copies, connect_copies
from accdistill_jax.storage.export import load_params
from accdistill_jax.storage.mirror import staging_folder
from accdistill_jax.storage.sole_use import sole_use
from accdistill_jax.training.services import check_installed
from accdistill_jax.user_paths import expanded

_log = logging.getLogger(__name__)


def run(config, workdir: str, *, peers: Peers | None = None) -> None:
    """Runs the stages that `config.stages` names and that are not finished yet.

    Args:
        config: a validated config, see configs/distill.py.
        workdir: local folder, made where missing, or an object-store address (gs://, s3://), of which a local folder is
            then the copy that is worked in (see storage/mirror.py). Process 0 alone keeps results in it.
        peers: the processes of the run, which all call this together; None is one process.

    Raises:
        UserError: something the user can put right.
        Interrupted: on Ctrl-C or SIGTERM; during training after saving.
    """
    peers = peers or Peers.alone()
    say = functools.partial(print, flush=True) if peers.first else lambda line: None
    with Interruption(at_once=True) as interruption, contextlib.ExitStack() as stack:
        use_compilation_cache(config.runtime.compilation_cache, say=say)
        take_devices()
        peers.agree(distributed.facts(config))
        parallel = Parallel(config.runtime.mapping)
        with peers.waiting("the meeting of all devices"):
            parallel.meet()
        # what can be told at once comes first: a work directory is claimed only by a run that can begin
        check_device_counts(config, parallel)
        check_installed(config.runtime.metrics)
        named = tuple(open_store(path, key="data.stores", data=config.data) for path in config.data.stores)
        check_named(config, peers)
        separation = check_people(config, named, peers, say) if named else {}
        folder, copies = Path(expanded(workdir)).absolute(), Copies()
        if is_address(os.fspath(workdir)):
            folder = staging_folder(workdir)
            copies = connect_copies(stack, workdir, folder, peers, say)
        else:
            peers.from_first("work directory", lambda: stack.enter_context(alone_in(folder)))

        def claim() -> None:
            record.claim(config, folder)
            remove_leftovers(folder)
            copies.now()

        peers.from_first("config.json", claim)
        clock = StageClock(folder, enabled=peers.first)
        try:
            with clock.stage("data"), peers.waiting("the data stage"):  # one of a machine makes it for all there
                stores = named or synthetic_stores(config, folder, say, progress=peers.first)
                separation = separation or check_people(config, stores, peers, say)
            this = Run(config, folder, stores, parallel, peers, say, copies, separation)
            peers.agree({"store fingerprint": this.data_fingerprint})
            run_stages(this, clock, interruption)
        except Interrupted:
            copies.stopping()
            raise
        peers.from_first("copies", lambda: record.dump(config, folder) and copies.now())
        peers.barrier("finished")


def check_named(config, peers: Peers) -> None:
    """Raises UserError where a teacher from elsewhere or an unseen store that the stages need is not there or damaged.

    Whether they fit the data is found when there is data.
    """
    stages = set(config.stages)
    if config.teacher.path and (
        "teacher" in stages or stages & {"student", "evaluation"} and build_objective.needs_teacher(config)
    ):
        peers.from_first("config.teacher.path", lambda: load_params(expanded(config.teacher.path)) and None)
    if stages & {"evaluation", "report"}:
        for path in config.data.unseen_stores:
            open_store(path, key="data.unseen_stores", data=config.data)


def check_people(config, stores: tuple[Store, ...], peers: Peers, say: Callable[[str], None]) -> dict:
    """Result of comparing the stores, those of config.data.unseen_stores among them where the stages need them.

    Raises:
        UserError: somebody or a segment is on two sides, or an unseen store does not fit.
    """

    def compare() -> dict:
        began, paths = (
            time.monotonic(),
            config.data.unseen_stores if set(config.stages) & {"evaluation", "report"} else (),
        )
        unseen = embedding.open_unseen(config, stores, paths)
        found = check_separation(stores, list(unseen.values()), same_names=config.data.same_names, say=say)
        took_s = time.monotonic() - began
        say(
            f"data: {found['segments']} segments of {found['people']} people compared, {found['result']} ({took_s:.1f} s)"
        )
        return found

    with peers.waiting("the comparison of the stores"):
        return peers.from_first("people of the stores", compare)


def run_stages(this: Run, clock: "StageClock", interruption: Interruption) -> None:
    """The stages after the data, in order."""

    def report() -> None:
        # not above: with all that it plots with, it takes seconds to import
        from accdistill_jax.stages import reporting

        reporting.report_stage(this, durations_s=clock.seconds)

    stages = {
        "teacher": lambda: teacher.run_stage(this),
        "student": lambda: student.run_stage(this),
        "evaluation": lambda: embedding.embed_stage(this),
        "report": report,
    }
    if not {"evaluation", "report"}.isdisjoint(this.config.stages):
        embedding.check_stores(this)  # told now, not after hours of training
    for name, work in stages.items():
        # once more where the signal's exception was lost: Python ignores those in finalisers
        interruption.raise_if_requested("what is finished is kept")
        if name in this.config.stages:
            with clock.stage(name):
                work()
            this.copies.later()


def alone_in(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Context in which no other run works in a work directory; raises UserError where one does."""
    return sole_use(
        folder,
        refusal=lambda holder: (
            f"{folder} is in use by another run ({holder}); wait for it, stop it, or give another --workdir"
        ),
    )


def check_device_counts(config, parallel: Parallel) -> None:
    for name in ("teacher", "student"):
        if name in config.stages:
            train = config.stage(name).train
            parallel.check_batch(train.batch_size, key=f"{name}.train.batch_size", micro_batches=train.micro_batches)


def synthetic_stores(config, workdir: Path, say: Callable[[str], None], *, progress: bool) -> tuple[Store, ...]:
    """The store of a run without `config.data.stores`, generated unless it is there already: once on each machine."""
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
    )
    say(f"data: {c.participants * c.segments_per_participant} synthetic minutes in {path}")
    return (shared_store(path, settings, workers=c.workers, progress=progress, say=say),)
