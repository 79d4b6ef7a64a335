"""Embeds the PPG of stores by open PPG encoders, with weights that the user has, into a table for `config.teacher.source`.

Both encoders are examples of how to bring in another model: a Flax module, a function that maps the arrays of its PyTorch file
to parameters, and how it wants the PPG. For a further model add an entry to `MODELS`.
"""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
from scipy.signal import resample_poly

from accdistill_jax.data.store.store import Store
from accdistill_jax.errors import UserError
from accdistill_jax.models import resnet1d
from accdistill_jax.readouts.minute_table import embedded_minutes
from accdistill_jax.storage.torch_file import read_torch_file, state_dict

_LEAST_SPREAD = 1e-9  # standard deviation of a window over the minute's largest value; below it, the window is constant


class OpenModel(NamedTuple):
    """An open PPG encoder.

    Attributes:
        convert: the arrays of its PyTorch file -> module and parameters.
        rate_hz: sampling rate of its input.
        window_s: length of its input; a minute's embedding is the mean over its windows. None: the whole minute.
        source: where the model is described.
    """

    convert: Callable[[Mapping[str, np.ndarray]], tuple[Any, Any]]
    rate_hz: float
    window_s: float | None
    source: str


MODELS: Mapping[str, OpenModel] = {
    "papagei": OpenModel(resnet1d.papagei, 125.0, 10.0, "PaPaGei-S, arXiv 2410.20542"),
    "pulse-ppg": OpenModel(resnet1d.pulse_ppg, 50.0, None, "Pulse-PPG, doi 10.1145/3749494"),
}


class LoadedModel:
    """An open PPG encoder with its weights.

    Args:
        name: one of `MODELS`.
        weights: file of `torch.save`; nothing in it is executed.

    Raises:
        UserError: the file cannot be read, or it is of another model.
    """

    def __init__(self, name: str, weights: str):
        self.model = MODELS[name]
        state = state_dict(read_torch_file(weights), path=weights)
        try:
            module, params = self.model.convert(state)
            samples = round(self.model.rate_hz * (self.model.window_s or 60.0))
            self._params = jax.device_put(resnet1d.checked(module, params, samples=samples))
        except UserError as error:
            raise UserError(f"{weights}: {error} ({self.model.source} is expected)") from None
        self._apply = jax.jit(lambda params, x: module.apply({"params": params}, x))

    def embed(self, ppg: np.ndarray, rate_hz: float) -> np.ndarray:
        """Embeddings [n, D] float32 of minutes of PPG [n, time] at a sampling rate, systole up."""
        windows = prepared_windows(ppg, rate_hz, self.model)
        count, per_minute, samples = windows.shape
        embedded = np.asarray(self._apply(self._params, windows.reshape(count * per_minute, samples, 1)))
        return embedded.reshape(count, per_minute, -1).mean(axis=1)


def prepared_windows(ppg: np.ndarray, rate_hz: float, model: OpenModel) -> np.ndarray:
    """The input of an encoder: resampled, cut, each window at mean 0 and standard deviation 1.

    Args:
        ppg: [n, time] at `rate_hz`.
        rate_hz: sampling rate in Hz.
        model: the encoder.

    Returns:
        [n, windows, samples] float32; a constant window is 0. A rest shorter than a window is left out.

    Raises:
        UserError: the minutes are shorter than a window.
    """
    ratio = Fraction(model.rate_hz / rate_hz).limit_denominator(10_000)
    centred = ppg - ppg.mean(
        axis=1, dtype=np.float64, keepdims=True
    )  # the resampling filter passes a constant unevenly
    resampled = resample_poly(centred, ratio.numerator, ratio.denominator, axis=1, padtype="line")
    samples = resampled.shape[1] if model.window_s is None else round(model.window_s * model.rate_hz)
    windows = resampled.shape[1] // samples
    if not windows:
        raise UserError(
            f"segments of {ppg.shape[1] / rate_hz:g} s are shorter than the {model.window_s:g} s that it reads"
        )
    cut = resampled[:, : windows * samples].reshape(len(ppg), windows, samples)
    deviation = cut - cut.mean(axis=2, keepdims=True)
    scale = deviation.std(axis=2, keepdims=True)
    varies = scale > _LEAST_SPREAD * np.abs(ppg).max(axis=1)[:, None, None]  # less is rounding
    return np.where(varies, deviation / np.where(varies, scale, 1.0), 0.0).astype(np.float32)


def embed_store(
    loaded: LoadedModel,
    store: Store,
    *,
    channel: int = 0,
    batch: int = 64,
    advance: Callable[[int], None] = lambda count: None,
) -> pa.Table:
    """Embeds all minutes of a store.

    Args:
        loaded: the encoder.
        store: a store with PPG.
        channel: number of the PPG channel.
        batch: minutes at a time.
        advance: called with the number of minutes done since the last call.

    Returns:
        A row for each minute, with the columns of `accdistill embed`.

    Raises:
        UserError: the store has no such channel.
    """
    channels = store.channels["ppg"]
    if not channels:
        raise UserError(f"{store.path} has no PPG")
    if not 0 <= channel < len(channels):
        raise UserError(
            f"{store.path} has the PPG channels {', '.join(channels)}; give --channel 0 to {len(channels) - 1}"
        )
    parts = []
    for rows in _batches(store.num_segments, batch):
        padded = np.concatenate([rows, np.repeat(rows[-1:], batch - len(rows))])  # a single shape compiles once
        ppg = store.read_signals(padded)["ppg"][:, :, channel]
        parts.append(loaded.embed(ppg, store.rate_hz)[: len(rows)])
        advance(len(rows))
    segments = store.segments
    nothing = np.full(store.num_segments, np.nan, np.float32)
    columns = {name: segments[name] for name in ("participant", "recording", "start_unix_s")}
    columns |= {"quality": segments.get("ppg_quality", nothing), "motion": segments.get("motion_g", nothing)}
    return embedded_minutes(columns, np.concatenate(parts))


def _batches(count: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))
