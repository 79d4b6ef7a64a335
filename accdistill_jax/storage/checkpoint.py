"""Checkpoints through Orbax: saving, noticing damage, and restoring.

A checkpoint of step s is the folder `<directory>/<s>/`, written by Orbax, and the file `<directory>/<s>.json`, written last and
atomically. A folder without that file is never used. The file holds the caller's metadata and a hash of each file in the folder,
so that a restore notices any changed byte and names the file.

While a checkpoint is written or removed, the file `<directory>/.<s>.unfinished.tmp` exists. It marks a half-written folder, which
may be removed; a folder that a user put there is never removed.

A restore is independent of the devices that saved and that read: it returns numpy arrays, and the caller places them.
"""

import concurrent.futures
import contextlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from accdistill_jax.errors import UserError
from accdistill_jax.files import is_leftover, remove_matching, sealed, write_atomically
from accdistill_jax.storage.arrays import (
    Damaged,
    file_hashes,
    flatten_arrays,
    nest_arrays,
    orbax_checkpointer,
    orbax_path,
    read_arrays,
    read_json,
    reporting,
    unflatten,
)
from accdistill_jax.storage.export import Restored, set_aside
from accdistill_jax.storage.sole_use import sole_use

_log = logging.getLogger(__name__)
_UNFINISHED = re.compile(r"\.(\d+)\.unfinished\.tmp")
_BY_ORBAX = re.compile(r"\d+\.orbax-checkpoint-tmp(-\d+)?")


class Checkpointer:
    """Saves the state of a training asynchronously and restores it bit for bit; one process of a run has a Checkpointer.

    The first save takes the sole use of the folder until `close`; reading does not need it.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep_last: int = 2,
        best_metric_mode: Literal["min", "max"] = "min",
        on_saved: Callable[[], None] = lambda: None,
    ):
        """Opens or creates the folder of one training's checkpoints.

        Removes the leftovers of interrupted saves, unless another process is saving there.

        Args:
            directory: local folder.
            keep_last: number of newest checkpoints to keep; the best by metric is kept as well.
            best_metric_mode: "min" if a smaller metric is better, "max" if a larger.
            on_saved: called in the background when a checkpoint is complete; the next `wait` raises its exceptions.

        Raises:
            UserError: the folder cannot be created.
        """
        if keep_last < 1 or best_metric_mode not in ("min", "max"):
            raise ValueError(f"keep_last {keep_last} or best_metric_mode {best_metric_mode!r} out of range")
        self._directory = Path(directory)
        self._keep_last = keep_last
        self._mode = best_metric_mode
        self._on_saved = on_saved
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future | None = None
        self._orbax: Any = None
        self._orbax_path, self._orbax_directory = contextlib.ExitStack(), self._directory
        self._verified: tuple[int, dict[str, np.ndarray]] | None = None
        self._held: contextlib.ExitStack | None = None
        with reporting(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(UserError):  # reading still works, and `save` reports the reason
            self._hold()

    def save(self, step: int, state: Any, *, metric: float | None = None, meta: Mapping | None = None) -> None:
        """Starts saving; returns as soon as the state is copied, so that the caller may donate its buffers.

        Waits for the save before, if it is not complete. Writes, hashes and removes older checkpoints in the background.

        Args:
            step: number of finished steps; an existing checkpoint of this step is replaced.
            state: pytree of arrays; arrays on several devices must be replicated.
            metric: decides which checkpoint is best; None or not finite: never the best.
            meta: JSON values (data position, config hash, teacher fingerprint).

        Raises:
            UserError: this save or the previous one failed, for example because the disk is full, or another process is saving
                there; names the directory. Earlier checkpoints are intact.
        """
        self.wait()
        self._hold()
        host = flatten_arrays(state)  # Orbax copies numpy arrays before its save returns
        self._verified = None
        record = {
            "step": int(step),
            "metric": float(metric) if metric is not None and math.isfinite(metric) else None,
            "meta": dict(meta or {}),
            "leaves": {name: [leaf.dtype.name, list(leaf.shape)] for name, leaf in host.items()},
        }
        json.dumps(record)  # fails here, not in the background, for metadata that JSON cannot hold
        import orbax.checkpoint as ocp

        with reporting(self._directory):
            if self._orbax is None:
                self._orbax = orbax_checkpointer(ocp.AsyncCheckpointer)
                self._orbax_directory = self._orbax_path.enter_context(orbax_path(self._directory))
            self._make_room(step)
            self._orbax.save(self._orbax_directory / str(step), args=ocp.args.PyTreeSave(nest_arrays(host)), force=True)
        self._pending = self._thread.submit(self._finish, step, record)

    def latest_valid_step(self) -> int | None:
        """Finds the newest undamaged checkpoint; warns about each damaged one.

        Returns:
            Its step, or None if there are no checkpoints.

        Raises:
            UserError: all checkpoints are damaged; training anew is the user's decision.
        """
        self.wait()
        steps = sorted(self._steps(), reverse=True)
        for step in steps:
            try:
                self._verified = (step, self._read(step))
                return step
            except Damaged as damage:
                _log.warning("checkpoint %s is damaged and not used: %s", self._folder(step), damage)
        if steps:
            raise UserError(
                f"every checkpoint in {self._directory} is damaged (steps {', '.join(map(str, steps))}): restore one from a "
                "copy, or delete that folder to train anew"
            )
        return None

    def best_step(self) -> int | None:
        """Step of the existing checkpoint with the best metric, or None if none has a metric."""
        self.wait()
        return self._best(self._steps())

    def restore(self, step: int, template: Any) -> Restored:
        """Reads a checkpoint.

        Args:
            step: returned by `latest_valid_step` or `best_step`.
            template: pytree of arrays or shape structs that gives the structure, shapes and dtypes.

        Returns:
            The state in the template's structure, as numpy arrays bit-equal to the saved ones, and its metadata.

        Raises:
            UserError: the checkpoint is missing or damaged, or a parameter differs from the template; names the parameter.
        """
        self.wait()
        try:
            if self._verified is None or self._verified[0] != step:
                self._verified = (step, self._read(step))
            meta = self._record(step)["meta"]
        except Damaged as damage:
            raise UserError(f"checkpoint {self._folder(step)} is damaged: {damage}; delete it to go on") from damage
        state = unflatten(self._verified[1], template, where=str(self._folder(step)))
        self._verified = None
        return Restored(state, meta)

    def wait(self) -> None:
        """Waits for the save under way.

        Raises:
            UserError: the save failed.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            with reporting(self._directory):
                pending.result()

    def close(self) -> None:
        """Waits for the save under way and frees the threads.

        Raises:
            UserError: the save failed.
        """
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            if self._orbax is not None:
                self._orbax.close()
            self._orbax_path.close()
            if self._held is not None:
                self._held.close()
                self._held = None

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _folder(self, step: int) -> Path:
        return self._directory / str(step)

    def _sidecar(self, step: int) -> Path:
        return self._directory / f"{step}.json"

    def _unfinished(self, step: int) -> Path:
        return self._directory / f".{step}.unfinished.tmp"

    def _hold(self) -> None:
        """Takes the sole use of the folder, once."""
        if self._held is not None:
            return
        with contextlib.ExitStack() as stack:
            stack.enter_context(sole_use(self._directory, refusal=self._refusal, patience_s=0.0, machines=False))
            with reporting(self._directory):
                self._remove_partial()
            self._held = stack.pop_all()

    def _refusal(self, holder: str) -> str:
        return (
            f"{self._directory}: another process saves its checkpoints there ({holder}); wait for it, or save elsewhere"
        )

    def _make_room(self, step: int) -> None:
        """Removes a checkpoint of this step; renames a user's folder of the same name."""
        self._unfinished(step).touch()
        if self._sidecar(step).exists():
            self._remove(step)
            self._unfinished(step).touch()
        set_aside(self._folder(step))

    def _remove(self, step: int) -> None:
        """Removes a checkpoint, but no files that a user put into its folder."""
        try:
            names = self._record(step)["files"].keys()
        except Damaged:
            names = None
        self._unfinished(step).touch()
        self._sidecar(step).unlink(missing_ok=True)
        if names is None:
            _remove_tree(self._folder(step))
        else:
            remove_matching(self._folder(step), names.__contains__)
        self._unfinished(step).unlink(missing_ok=True)

    def _finish(self, step: int, record: dict) -> None:
        try:
            self._orbax.wait_until_finished()
        except BaseException:
            self._remove_partial()
            raise
        record["files"] = file_hashes(self._folder(step))
        write_atomically(self._sidecar(step), json.dumps(sealed(record)))
        self._unfinished(step).unlink(missing_ok=True)
        self._remove_old(step)
        self._on_saved()

    def _steps(self) -> list[int]:
        return [int(path.stem) for path in self._directory.iterdir() if path.suffix == ".json" and path.stem.isdigit()]

    def _record(self, step: int) -> dict:
        return read_json(self._sidecar(step))

    def _read(self, step: int) -> dict[str, np.ndarray]:
        return read_arrays(self._folder(step), self._record(step))

    def _best(self, steps: Iterable[int]) -> int | None:
        metrics = {}
        for step in steps:
            with contextlib.suppress(Damaged):
                metrics[step] = self._record(step)["metric"]
        sign = 1 if self._mode == "min" else -1
        ranked = [(sign * metric, step) for step, metric in metrics.items() if metric is not None]
        return min(ranked)[1] if ranked else None

    def _remove_old(self, newest: int) -> None:
        steps = sorted(step for step in self._steps() if step <= newest)
        kept = set(steps[-self._keep_last :]) | {self._best(steps)}
        for step in set(steps) - kept:
            with contextlib.suppress(Damaged):  # without a valid record the folder may be a user's
                self._record(step)
                self._remove(step)

    def _remove_partial(self) -> None:
        for path in list(self._directory.iterdir()):
            if _BY_ORBAX.fullmatch(path.name):
                _remove_tree(path)
            elif is_leftover(path.name):
                path.unlink(missing_ok=True)
            elif match := _UNFINISHED.fullmatch(path.name):
                step = int(match[1])
                if not self._sidecar(step).exists():
                    _remove_tree(self._folder(step))
                path.unlink(missing_ok=True)


def refuse_other_config(workdir: Path, config_hash: str) -> None:
    """Checks a work directory that has lost its record of the config by the checkpoints in it.

    Raises:
        UserError: a checkpoint is of a run with another config.
    """
    for path in sorted(workdir.glob("*/checkpoints/*.json")):
        with contextlib.suppress(Damaged):  # a restore says more
            if read_json(path)["meta"].get("config_hash", config_hash) != config_hash:
                raise UserError(
                    f"{workdir} has no config.json, and {path.parent} is of a run with another config: restore config.json, set the "
                    "config back, choose another --workdir, or delete that folder"
                )


def _remove_tree(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
