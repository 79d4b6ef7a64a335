"""The start of a student's training: the parameters of an earlier export, for fine-tuning (`config.student.init`)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from accdistill_jax.config import convert
from accdistill_jax.config.registry import ENCODERS
from accdistill_jax.config.schema import Config, EncoderConfig, InputSettings
from accdistill_jax.config.tree import flatten_section
from accdistill_jax.data.store.trained_on import said_by
from accdistill_jax.errors import UserError
from accdistill_jax.stages.build_objective import trained_encoder
from accdistill_jax.stages.context import Run
from accdistill_jax.storage.arrays import flatten_arrays, unflatten
from accdistill_jax.storage.export import Restored, load_params
from accdistill_jax.user_paths import expanded

INITIAL = "initial encoder"  # key of a student's fingerprints
_INPUTS = ("bands", "scale", "limit")  # the settings that decide the meaning of an encoder's channels


def read_initial(config: Config) -> Restored:
    """The export that `config.student.init` names.

    Raises:
        UserError: missing or damaged; it holds no student; or its encoder or its input differ from the config's.
    """
    path = expanded(config.student.init)
    restored = load_params(path)
    meta = restored.meta
    if meta.get("kind") != "student" or "encoder" not in restored.state:
        raise UserError(
            f"config.student.init: {path} holds no student (kind {meta.get('kind')!r}); name a student/export"
        )
    here = _keys_of(trained_encoder(config.student))
    saved = _keys_of(convert.parse_section(EncoderConfig, meta["encoder"], at="student.encoder"))
    inputs = convert.parse_section(InputSettings, meta["signal"]["inputs"], at="inputs.accel")
    here |= {f"inputs.accel.{name}": getattr(config.inputs.accel, name) for name in _INPUTS}
    saved |= {f"inputs.accel.{name}": getattr(inputs, name) for name in _INPUTS}
    for key, value in saved.items():
        if here.get(key) != value:
            raise UserError(
                f"config.student.init: the encoder in {path} has {key} = {value!r}, this run's has {here.get(key)!r}; give both "
                f"the same --config.{key}" + _advice(key)
            )
    return restored


def _keys_of(encoder: EncoderConfig) -> dict[str, Any]:
    """Architecture and options of an encoder by dotted key."""
    section = ENCODERS.entry(encoder.architecture).section
    options = flatten_section(encoder.chosen, f"student.encoder.{section}.")
    return {"student.encoder.architecture": encoder.architecture} | options


def _advice(key: str) -> str:
    if key.endswith(".output"):
        return (
            " (an objective that reads tokens alone, such as one with config.student.head.windows above 1, builds the encoder "
            "without an output layer: 0)"
        )
    return ""


def initial_fingerprint(config: Config) -> str:
    """Content hash of the export that `config.student.init` names, after the checks of `read_initial`."""
    return read_initial(config).meta["fingerprint"]


def load_initial(run: Run) -> Restored:
    """`read_initial` by process 0, for all processes.

    Raises:
        UserError: as `read_initial`, or the export's rate, length or channels are not those of the data.
    """
    initial = run.restore_from_first("config.student.init", lambda: read_initial(run.config))
    signal = run.signal_meta("accel")
    for key in ("rate_hz", "samples", "channels"):
        if initial.meta["signal"][key] != signal[key]:
            raise UserError(
                f"config.student.init: the encoder in {run.config.student.init} reads {key} = {initial.meta['signal'][key]}, the "
                f"data has {signal[key]}; prepare the data alike, or name another export"
            )
    return initial


def starting_from(run: Run, initial: Restored) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function that replaces an objective's initial parameters by those of an export, for `fit.StageTraining.start`."""
    return functools.partial(_replaced, run, initial)


def _replaced(run: Run, initial: Restored, params: Mapping[str, Any]) -> dict[str, Any]:
    """The export's encoder, its heads of equal shape, and fresh heads for the others."""
    where = run.config.student.init
    result = dict(params)
    result["encoder"] = unflatten(flatten_arrays(initial.state["encoder"]), params["encoder"], where=where)
    heads = [name for name in params if name != "encoder"]
    taken = [name for name in heads if name in initial.state and _alike(initial.state[name], params[name])]
    for name in taken:
        result[name] = unflatten(flatten_arrays(initial.state[name]), params[name], where=where)
    fresh = [name for name in heads if name not in taken]
    run.say(
        f"student: starts from {where}, fingerprint {initial.meta['fingerprint'][:12]}: encoder"
        + "".join(f", {name}" for name in taken)
        + (f"; fresh: {', '.join(fresh)}" if fresh else "")
    )
    return result


def _alike(left: Any, right: Any) -> bool:
    """True if two trees hold arrays of the same names, shapes and dtypes."""
    shapes = [
        {name: (np.shape(leaf), leaf.dtype) for name, leaf in flatten_arrays(tree).items()} for tree in (left, right)
    ]
    return shapes[0] == shapes[1]


def origin(initial: Restored) -> dict[str, str]:
    """Facts about the export that a student started from, for the student's own export.

    Returns:
        "fingerprint"; "data": content hashes of all stores that the encoder has learned from, joined by "+"; "trained_on": the same
        and those of their parts.
    """
    meta = initial.meta
    data = [meta["fingerprints"]["data"], meta.get("initial", {}).get("data", "")]
    return {"fingerprint": meta["fingerprint"], "data": "+".join(filter(None, data)), "trained_on": said_by(meta)}
