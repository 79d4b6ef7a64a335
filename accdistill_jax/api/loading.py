"""Loads a trained encoder from a run, an export folder, an address, or the package."""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.api.encoder import Part, TrainedEncoder
from accdistill_jax.api.finding import find_export, open_address
from accdistill_jax.api.shipped import check_shipped_part, shipped_folder
from accdistill_jax.config import convert
from accdistill_jax.config.schema import EncoderConfig, InputSettings
from accdistill_jax.data.preprocessing.settings import PpgFilter
from accdistill_jax.data.store.trained_on import said_by
from accdistill_jax.errors import UserError
from accdistill_jax.files import is_address
from accdistill_jax.models.build import build_encoder
from accdistill_jax.objectives.base import Branch
from accdistill_jax.objectives.registered import UNNAMED
from accdistill_jax.readouts.label_probe import load_label_probes
from accdistill_jax.readouts.readout import find_readouts
from accdistill_jax.storage.export import load_params
from accdistill_jax.user_paths import expanded

_UNITS = {"accel": "g", "ppg": "a.u."}  # as in stores


def load(path: str | os.PathLike[str], *, part: Part | None = None) -> TrainedEncoder:
    """Loads the encoder of a finished run.

    Args:
        path: a work directory (of `accdistill train`), its `teacher` or `student` folder, an export folder, the address of one
            of these in an object store (gs://, s3://; as a str), or the name of an encoder that comes with the package
            (`shipped_encoders`), unless a folder here has that name.
        part: the encoder of a work directory to load. None: the student; the teacher, if the run has no student stage.

    Returns:
        The encoder; it computes in float32 on JAX's default device.

    Raises:
        UserError: no such folder, no run in it, an unfinished run, or a damaged export; the message says what to do.

    Examples:
        >>> import accdistill_jax as ad
        >>> ad.load("runs/distill").part, ad.load("synthetic-teacher").part
        ('student', 'teacher')
        >>> ad.load("runs/distill").fingerprint == ad.load("runs/distill/student/export").fingerprint
        True
        >>> ad.load("runs/distil")
        Traceback (most recent call last):
        ...
        accdistill_jax.errors.UserError: no folder runs/distil; did you mean runs/distill?
    """
    if part not in (None, "teacher", "student"):
        raise UserError(f"part = {part!r} must be 'teacher' or 'student'")
    text = expanded(path)
    if not text:
        raise UserError("the encoder's name is empty; give a run, or a name that accdistill encoders lists")
    if not is_address(text):
        if shipped := shipped_folder(text):
            if part is not None:
                check_shipped_part(text, part)
            return _from_shipped(shipped)
        return _from_export(find_export(text, part), part)
    with tempfile.TemporaryDirectory(prefix="accdistill-") as copy:
        folder = open_address(text, Path(copy))
        export_folder = find_export(folder, part, named=text)
        loaded = _from_export(export_folder, part)
    inside = Path(export_folder).relative_to(folder).as_posix()
    return dataclasses.replace(loaded, path=text.rstrip("/") + ("" if inside == "." else f"/{inside}"))


def _from_shipped(export: str) -> TrainedEncoder:
    """Loads an encoder of the installation: its files can be made whole by a new installation only."""
    try:
        encoder = _from_export(export, None)
        if encoder.readouts is None:
            raise UserError(encoder.no_readouts.partition(";")[0])
    except UserError as error:
        problem = str(error).partition(";")[0]
        raise UserError(f"the shipped encoder is damaged: {problem}; install accdistill_jax again") from error
    return encoder


def _from_export(export: str, part: Part | None) -> TrainedEncoder:
    arrays, meta = load_params(export)
    kind = meta.get("kind")
    if kind not in ("teacher", "student"):
        raise UserError(f"{export} holds no encoder (kind {kind!r}); give the export folder of a teacher or student")
    if part is not None and kind != part:
        raise UserError(f"{export} holds a {kind}, not a {part}; give the run's work directory or leave out part")
    signal = meta["signal"]
    inputs = convert.parse_section(InputSettings, signal["inputs"], at="inputs.accel")
    module = build_encoder(
        convert.parse_section(EncoderConfig, meta["encoder"], at="student.encoder"), dtype=jnp.dtype(jnp.float32)
    )
    branch = Branch(signal["modality"], module, inputs, representation=meta.get("representation", "mean"))
    stored = arrays["params" if kind == "teacher" else "encoder"]
    params = jax.device_put(
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), stored)
    )  # a packed export has float16

    def embed(params: Any, signal_of_one: jax.Array, per_channel: jax.Array) -> jax.Array:
        name = signal["modality"]
        batch = {name: signal_of_one, f"{name}_scale": per_channel, f"{name}_offset": per_channel}
        return branch.represent(branch.encode(params, branch.prepare(batch)))

    example = jax.ShapeDtypeStruct((1, signal["samples"], signal["channels"]), jnp.float32)
    embedding = jax.eval_shape(embed, params, example, jax.ShapeDtypeStruct((1, signal["channels"]), jnp.float32))
    found = find_readouts(export, fingerprint=meta["fingerprint"], size=embedding.shape[-1])
    return TrainedEncoder(
        path=export,
        part=kind,
        objective=meta.get("objective", UNNAMED),
        modality=signal["modality"],
        rate_hz=signal["rate_hz"],
        samples=signal["samples"],
        channels=signal["channels"],
        unit=_UNITS[signal["modality"]],
        fingerprint=meta["fingerprint"],
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        embedding_size=embedding.shape[-1],
        data=meta.get("fingerprints", {}).get("data", ""),
        trained_on=said_by(meta),
        ppg_filter=PpgFilter.named_in(signal),
        branch=branch,
        params=params,
        readouts=found.readouts,
        no_readouts=found.missing,
        probes=load_label_probes(export, fingerprint=meta["fingerprint"]),
    )
