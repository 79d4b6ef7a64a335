"""The plain form of an encoder: the function that is exported, without forms for one backend or one batch size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import export

from accdistill_jax.data.preprocessing.settings import PpgFilter
from accdistill_jax.objectives.base import Branch
from accdistill_jax.runtime.platform import PORTABLE, tracing_for

LICENSE_NOTE = "the weights have the licence of the data that they were trained on; the code is Apache-2.0"


class Exportable(Protocol):
    """Properties of a loaded encoder that an export needs; see `accdistill_jax.api.encoder.TrainedEncoder`."""

    @property
    def branch(self) -> Branch: ...
    @property
    def params(self) -> Any: ...
    @property
    def modality(self) -> str: ...
    @property
    def rate_hz(self) -> float: ...
    @property
    def samples(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def unit(self) -> str: ...
    @property
    def parameters(self) -> int: ...
    @property
    def embedding_size(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def data(self) -> str: ...
    @property
    def ppg_filter(self) -> PpgFilter: ...


@dataclasses.dataclass(frozen=True)
class ExportContract:
    """Input and output of an exported encoder; every format carries it.

    Attributes:
        input: name, dtype and shape of the input.
        unit: unit of the input.
        rate_hz: sampling rate of the input.
        window_s: duration of a segment.
        axes: channels in their order.
        preparation: steps before the exported function, which the caller does.
        normalisation: steps inside the exported function.
        output: name, dtype and shape of the output.
        fingerprint: content hash of the encoder's parameters.
        data: fingerprint of the stores that it was trained on.
        licence: of weights and code.
    """

    input: str
    unit: str
    rate_hz: float
    window_s: float
    axes: str
    preparation: str
    normalisation: str
    output: str
    fingerprint: str
    data: str
    licence: str = LICENSE_NOTE

    def as_texts(self) -> dict[str, str]:
        """Name -> text, for formats whose metadata is text."""
        return {name: str(value) for name, value in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True)
class PlainEncoder:
    """The function to export.

    Attributes:
        apply: (params, signal [batch, samples, channels] float32) -> embedding [batch, D] float32.
        params: the encoder's parameters, arrays.
        shape: (samples, channels) of a segment.
        contract: of input and output.
        branch: normalisation, architecture and representation behind `apply`.
    """

    apply: Callable[[Any, jax.Array], jax.Array]
    params: Any
    shape: tuple[int, int]
    contract: ExportContract
    branch: Branch

    def input_shape(self) -> jax.ShapeDtypeStruct:
        """Input of any batch size."""
        (batch,) = export.symbolic_shape("b")
        return jax.ShapeDtypeStruct((batch, *self.shape), jnp.float32)

    def traced(self) -> Any:
        """The closed jaxpr of `apply` for any batch size; its inputs are the parameters' leaves, then the signal."""
        with tracing_for(PORTABLE):
            return jax.make_jaxpr(self.apply)(self.params, self.input_shape())


def plain_encoder(encoder: Exportable) -> PlainEncoder:
    """The plain form of a loaded encoder, in float32. Normalisation is inside."""
    branch, name = encoder.branch, encoder.modality

    def apply(params: Any, signal: jax.Array) -> jax.Array:
        ones = jnp.ones((1, encoder.channels), jnp.float32)
        batch = {name: signal, f"{name}_scale": ones, f"{name}_offset": jnp.zeros_like(ones)}
        return branch.represent(branch.encode(params, branch.prepare(batch)))

    settings = dataclasses.asdict(branch.inputs)
    steps = ", ".join(f"{key} {value}" for key, value in settings.items() if not key.startswith("simulated") or value)
    contract = ExportContract(
        input=f"signal float32 [batch, {encoder.samples}, {encoder.channels}]",
        unit=f"{encoder.unit}, gravity included" if name == "accel" else encoder.unit,
        rate_hz=encoder.rate_hz,
        window_s=encoder.samples / encoder.rate_hz,
        axes="x, y, z" if name == "accel" else f"{encoder.channels} PPG channels, systole up",
        preparation=_preparation(encoder),
        normalisation=f"inside the function, per segment and channel: {steps}",
        output=f"embedding float32 [batch, {encoder.embedding_size}]",
        fingerprint=encoder.fingerprint,
        data=encoder.data,
    )
    return PlainEncoder(apply, encoder.params, (encoder.samples, encoder.channels), contract, branch)


def _preparation(encoder: Exportable) -> str:
    """Words for all that `prepare` and the Python API do before the encoder."""
    steps = f"before the function, to the whole recording: resampled to {encoder.rate_hz:g} Hz with a filter against aliasing"
    if encoder.modality == "accel":
        return f"{steps}; no other filter"
    low, high = encoder.ppg_filter.band_hz
    return (
        f"{steps}; band-passed from {low:g} to {high:g} Hz (Butterworth of order {encoder.ppg_filter.order}, run forwards and "
        "backwards); turned systole up; a pulse fainter than 0.001 multiplied by a constant"
    )
