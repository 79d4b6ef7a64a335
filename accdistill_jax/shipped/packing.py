"""Packs an encoder of a finished run into a folder of the package: parameters, read-outs, results, model card."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from accdistill_jax.api.encoder import TrainedEncoder
from accdistill_jax.api.loading import load
from accdistill_jax.api.store import open_store
from accdistill_jax.config.load import load_config
from accdistill_jax.config.record import config_hash, load_record
from accdistill_jax.config.schema import Config
from accdistill_jax.data.store.opening import label_values
from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.readouts.readout import load_readouts, save_readouts
from accdistill_jax.storage.export import load_params, save_packed


class Packing(NamedTuple):
    """An encoder to ship.

    Attributes:
        preset: of configs/shipped.py.
        part: encoder of that run.
    """

    preset: str
    part: Literal["student", "teacher"]

    @property
    def config_name(self) -> str:
        """The config of the run, for `accdistill train --config`."""
        return f"shipped:{self.preset}"

    def config(self) -> Config:
        """The config of the run."""
        return load_config(self.config_name)


ENCODERS = {
    "synthetic-small": Packing("synthetic", "student"),
    "synthetic-teacher": Packing("wrist", "teacher"),
    "synthetic-wrist": Packing("wrist", "student"),
}
_KEPT_META = ("kind", "objective", "encoder", "signal", "fingerprints")


def pack_encoder(packing: Packing, run: Path, out: Path) -> TrainedEncoder:
    """Writes parameters (float16) and read-outs of an encoder; returns it as users load it.

    Args:
        packing: the encoder.
        run: work directory of its finished run.
        out: folder for the encoder.

    Raises:
        UserError: the run is not finished, or has another config.
    """
    config, export = packing.config(), run / packing.part / "export"
    if config_hash(load_record(run)) != config_hash(config):
        raise UserError(f"{run}: its config is not {packing.config_name}; choose another folder, or delete this run")
    arrays, meta = load_params(export)
    readouts = load_readouts(export, fingerprint=meta["fingerprint"])
    if readouts is None:
        raise UserError(f"{export} has no read-outs; repeat accdistill train, whose stage evaluation writes them")
    name = {"teacher": "params", "student": "encoder"}[packing.part]
    kept = {name: jax.tree.map(lambda leaf: np.asarray(leaf).astype(np.float16), arrays[name])}
    described = {key: meta[key] for key in _KEPT_META if key in meta}
    described["representation"] = config.evaluation.representation
    described["shipped"] = {
        "config": packing.config_name,
        "config_hash": config_hash(config),
        "trained": meta["fingerprint"],
    }
    fingerprint = save_packed(out, kept, described)
    domain = dataclasses.replace(readouts.domain, directions=readouts.domain.directions.astype(np.float32))
    readouts = dataclasses.replace(readouts, fingerprint=fingerprint, domain=domain)
    save_readouts(out, readouts, key=config_hash(config))
    return load(out)


def run_store(run: Path, config: Config) -> Store:
    """The synthetic store of a run."""
    if config.data.stores:
        raise UserError("a shipped encoder is trained on synthetic people; its config names stores")
    return open_store(run / "data/synthetic")


def training_medians(store: Store, labels: Sequence[str]) -> dict[str, float]:
    """Label -> median of the training minutes, the constant that errors are compared with."""
    rows = store.indices("train")
    return {label: float(np.nanmedian(label_values(store, label)[rows])) for label in labels}


def report_of(encoder: TrainedEncoder, store: Store, results: Mapping[str, Any]) -> dict[str, Any]:
    """The report beside a shipped encoder, with the keys that a model card reads.

    Args:
        encoder: the shipped encoder.
        store: of its run.
        results: label -> result on the test people, see `measuring.measure_readouts`.
    """
    people = np.asarray(store.segments["participant"]).astype(str)
    rows = {split: store.indices(split) for split in ("train", "validation", "test")}
    return {
        "run": {"data": {"synthetic": {"source": "synthetic", "segments": {s: len(r) for s, r in rows.items()}}}},
        "parameters": encoder.parameters,
        "evaluation": {
            "splits": {split: {"participants": len(np.unique(people[chosen]))} for split, chosen in rows.items()},
            "targets": {
                label: {
                    "probes": {
                        encoder.part: {"mae": result["mae"]},
                        "median": {"mae": result["median"]},
                        "own mean": {"mae": result["own mean"]},
                    }
                }
                for label, result in results.items()
            },
            "readouts": {label: dict(result) for label, result in results.items()},
        },
    }
