"""Segments as stores hold them, checked against the signal that an encoder reads; predictions of those that cannot be read."""

from collections.abc import Mapping

import numpy as np

from accdistill_jax.api.signals import InputContract, nan_for_masked, refuse_huge
from accdistill_jax.data.preprocessing.ppg import readable_factor
from accdistill_jax.errors import UserError
from accdistill_jax.readouts.label_probe import LabelPrediction
from accdistill_jax.readouts.readout import Prediction


def segment_batch(
    segments: Mapping[str, np.ndarray] | np.ndarray, contract: InputContract, *, unit: str
) -> dict[str, np.ndarray]:
    """The arrays that an encoder reads: stored values with scale and offset.

    Args:
        segments: as for `TrainedEncoder.encode`.
        contract: the signal that the encoder reads.
        unit: of the values, for messages.

    Raises:
        UserError: the segments do not fit; names the property, the value and the expected value.
    """
    name = contract.modality
    if isinstance(segments, Mapping):
        if name not in segments:
            raise UserError(
                f"the {contract.part} reads {name}; the segments have {', '.join(map(str, segments)) or 'nothing'}"
            )
        values = nan_for_masked(segments[name])
        keys = (f"{name}_scale", f"{name}_offset")
        quantised = {key: np.asarray(segments[key]) for key in keys if key in segments}
    else:
        values, quantised = nan_for_masked(segments), {}
    _check_shape(values, contract)
    if len(quantised) == 2:
        _check_stored(name, values, quantised)
        return {key: _native(numbers) for key, numbers in {name: values, **quantised}.items()}
    if values.dtype.kind != "f":
        raise UserError(
            f"{name} has dtype {values.dtype}; give float values in {unit}, or the whole result of Store.read, "
            "which has their scale and offset"
        )
    if not np.isfinite(values).all():
        segment = int(np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))[0])
        raise UserError(f"{name} has NaN or infinite values, first in segment {segment}; leave such segments out")
    refuse_huge(name, values)
    shape = (len(values), contract.channels)
    if name == "ppg":
        values = values * readable_factor(values - values.mean(axis=1, keepdims=True))
    return {
        name: values.astype(np.float32, copy=False),
        f"{name}_scale": np.ones(shape, np.float32),
        f"{name}_offset": np.zeros(shape, np.float32),
    }


def _native(numbers: np.ndarray) -> np.ndarray:
    """The numbers in this machine's byte order: JAX takes the bytes as they are."""
    return numbers.astype(numbers.dtype.newbyteorder("="), copy=False)


def _check_stored(name: str, values: np.ndarray, quantised: Mapping[str, np.ndarray]) -> None:
    if values.dtype.kind == "f":
        raise UserError(
            f"{name} has float values and a scale and offset, which only stored integers need; give {name} alone, or the result "
            "of Store.read as it is"
        )
    wanted = (len(values), values.shape[2])
    for key, numbers in quantised.items():
        if numbers.shape != wanted or numbers.dtype.kind not in "fiu" or not np.isfinite(numbers).all():
            raise UserError(
                f"{key} has shape {list(numbers.shape)}; finite numbers of shape [batch, channels], {list(wanted)}, are expected, "
                "as Store.read returns them"
            )


def example_batch(contract: InputContract, count: int) -> dict[str, np.ndarray]:
    """A batch of zeros, as `segment_batch` returns it for float segments."""
    return segment_batch(np.zeros((count, contract.samples, contract.channels), np.float32), contract, unit="")


def _check_shape(values: np.ndarray, contract: InputContract) -> None:
    wanted = (contract.samples, contract.channels)
    if values.ndim != 3 or values.shape[1:] != wanted:
        raise UserError(
            f"{contract.modality} has shape {list(values.shape)}; the {contract.part} reads "
            f"[batch, {contract.samples}, {contract.channels}]: {contract.samples / contract.rate_hz:g} s at "
            f"{contract.rate_hz:g} Hz, {contract.channels} channels"
        )


def with_problems(prediction: Prediction | LabelPrediction, problem: np.ndarray) -> Prediction | LabelPrediction:
    """Predictions of all minutes, from those of the minutes that could be embedded.

    Args:
        prediction: of the minutes without a problem.
        problem: [n] str, the reason why a minute could not be embedded; "" where it could.
    """
    usable = problem == ""
    reason = problem.astype("U32")
    reason[usable] = prediction.reason
    filled = {}
    for name, values in prediction._asdict().items():
        if values is None or name == "reason":
            continue
        unknown = "" if values.dtype.kind == "U" else np.nan
        filled[name] = np.full((len(problem), *values.shape[1:]), unknown, values.dtype)
        filled[name][usable] = values
    return prediction._replace(**filled, reason=reason)
