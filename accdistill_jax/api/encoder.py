"""Loads a trained encoder from a run, for use in Python."""

import dataclasses
import functools
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.api.finding import find_export, open_address
from accdistill_jax.config import convert
from accdistill_jax.config.schema import EncoderConfig, InputSettings
from accdistill_jax.errors import UserError
from accdistill_jax.files import is_address
from accdistill_jax.models.build import build_encoder
from accdistill_jax.objectives.base import Branch
from accdistill_jax.objectives.registered import UNNAMED
from accdistill_jax.readouts.label_probe import LabelPrediction, LabelProbe, load_label_probes
from accdistill_jax.readouts.readout import Prediction, Readouts, load_readouts
from accdistill_jax.storage.export import load_params
from accdistill_jax.user_paths import expanded

Part = Literal["teacher", "student"]
_UNITS = {"accel": "g", "ppg": "a.u."}  # as in stores


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedEncoder:
    """An encoder with its trained parameters; `load` makes it.

    Attributes:
        path: folder or address of the export.
        part: "student" (reads acceleration) or "teacher" (reads PPG).
        objective: the training objective's name in the config.
        modality: "accel" or "ppg".
        rate_hz: sampling rate of the input.
        samples: samples of an input segment.
        channels: channels of the input, 3 axes for "accel".
        unit: unit of the input: "g" with gravity for "accel", "a.u." (arbitrary unit) for "ppg".
        fingerprint: content hash of the export's parameters.
        parameters: number of the encoder's parameters.
        embedding_size: length of an embedding.
        data: fingerprint of the stores that it was trained on, "" if the export does not say.
        readouts: predict labels from embeddings; None if the run's evaluation has not written them.
        probes: name -> read-out of a user's label, by `accdistill probe`.

    Examples:
        >>> import accdistill_jax as ad
        >>> encoder = ad.load("runs/distill")
        >>> encoder.part, encoder.modality, encoder.rate_hz, encoder.samples, encoder.channels, encoder.unit
        ('student', 'accel', 64.0, 3840, 3, 'g')
        >>> ad.load("runs/distill", part="teacher").modality
        'ppg'
    """

    path: str
    part: Part
    objective: str
    modality: Literal["accel", "ppg"]
    rate_hz: float
    samples: int
    channels: int
    unit: str
    fingerprint: str
    parameters: int
    embedding_size: int
    data: str
    _branch: Branch = dataclasses.field(repr=False)
    _params: Any = dataclasses.field(repr=False)
    readouts: Readouts | None = dataclasses.field(default=None, repr=False)
    probes: Mapping[str, LabelProbe] = dataclasses.field(default_factory=dict, repr=False)

    def encode(self, segments: Mapping[str, np.ndarray] | np.ndarray, *, batch_size: int = 256) -> np.ndarray:
        """Embeds segments that are prepared as in a store: resampled, filtered and cut.

        Args:
            segments: what `Store.read` returns (int16 with scale and offset), or what `Store.read_signals` returns, or one of its
                arrays: [batch, samples, channels] in `unit`, at `rate_hz`.
            batch_size: segments computed at once.

        Returns:
            Embeddings [batch, embedding_size] float32, a row for each segment, in the same order.

        Raises:
            UserError: the segments do not fit the encoder; names the property, the value and the expected value.

        Examples:
            >>> import accdistill_jax as ad
            >>> encoder, store = ad.load("runs/distill"), ad.open_store("store")
            >>> rows = store.indices("test")[:5]
            >>> encoder.encode(store.read(rows)).shape == (5, encoder.embedding_size)
            True
            >>> encoder.encode(store.read_signals(rows)["accel"]).dtype
            dtype('float32')
        """
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size} must be a positive integer")
        batch = self._batch(segments)
        count = len(batch[self.modality])
        size = min(batch_size, count)
        embeddings = np.empty((count, self.embedding_size), np.float32)
        for start in range(0, count, max(size, 1)):
            # the last batch is filled with its last row: a batch of another size would be compiled anew
            rows = np.minimum(np.arange(start, start + size), count - 1)
            part = self._apply(self._params, {name: values[rows] for name, values in batch.items()})
            embeddings[start : start + size] = np.asarray(part)[: count - start]
        return embeddings

    def export(
        self, out: str | os.PathLike[str], *, formats: Sequence[str] = ("onnx",), opset: int = 18, int8: bool = False
    ) -> list[Path]:
        """Writes the encoder for other runtimes, with a model card. Normalisation is inside, the batch may have any size.

        Args:
            out: folder; created if missing. Files of the same name in it are replaced.
            formats: some of "onnx", "stablehlo", "npz" and "safetensors".
            opset: version of the ONNX operators, 18 or 23.
            int8: also writes an ONNX file with int8 weights.

        Returns:
            The written files.

        Raises:
            UserError: an unknown format, a package that is not installed (ONNX needs the extra `export`), an encoder that the
                format cannot hold, or a folder that cannot be written.

        Examples:
            >>> import accdistill_jax as ad
            >>> files = ad.load("runs/distill").export("exported", formats=["stablehlo", "npz"])
            >>> [file.name for file in files]
            ['encoder.stablehlo', 'encoder.npz', 'encoder.py', 'MODEL_CARD.md']
        """
        from accdistill_jax.export.card import read_report
        from accdistill_jax.export.writing import write_export

        return write_export(self, expanded(out), formats=formats, opset=opset, int8=int8, report=read_report(self.path))

    @property
    def branch(self) -> Branch:
        """The encoder as the package's code uses it: normalisation, architecture, representation."""
        return self._branch

    @property
    def params(self) -> Any:
        """Parameters of the encoder, a tree of float32 arrays."""
        return self._params

    def predict_embeddings(
        self, embeddings: np.ndarray, *, motion_g: np.ndarray | None = None
    ) -> dict[str, Prediction | LabelPrediction]:
        """Predicts all labels that there are read-outs of, with intervals, and with a reason where it cannot tell.

        Args:
            embeddings: [n, embedding_size], of minutes.
            motion_g: [n] motion level of each minute in g, as stores hold it; None: the motion rule is not applied.

        Returns:
            Label -> n predictions; a single one for a probe of a label per person, which reads all minutes as those of one person.

        Raises:
            UserError: there are no read-outs, or the embeddings have another width or are not finite.

        Examples:
            >>> import accdistill_jax as ad
            >>> encoder, store = ad.load("runs/distill"), ad.open_store("store")
            >>> rows = store.indices("test")
            >>> embeddings = encoder.encode(store.read(rows))
            >>> rate = encoder.predict_embeddings(embeddings, motion_g=store.segments["motion_g"][rows])["hr_bpm"]
            >>> len(rate.value) == len(rate.low) == len(rate.reason) == len(rows)
            True
        """
        if self.readouts is None and not self.probes:
            raise UserError(
                f"{self.path} has no read-outs; the stage evaluation of a run writes them: repeat the run's command"
            )
        predictions: dict[str, Prediction | LabelPrediction] = {}
        if self.readouts is not None:
            predictions |= self.readouts.predict(embeddings, motion_g=motion_g)
        return predictions | {name: probe.predict(embeddings, motion_g=motion_g) for name, probe in self.probes.items()}

    @functools.cached_property
    def _apply(self) -> Any:
        def apply(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
            return self._branch.represent(self._branch.encode(params, self._branch.prepare(batch)))

        return jax.jit(apply)

    def _batch(self, segments: Mapping[str, np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
        """Stored values with scale and offset, of the arrays that the encoder reads."""
        name = self.modality
        if isinstance(segments, Mapping):
            if name not in segments:
                raise UserError(
                    f"the {self.part} reads {name}; the segments have {', '.join(map(str, segments)) or 'nothing'}"
                )
            values = np.asarray(segments[name])
            quantised = {f"{name}_scale", f"{name}_offset"} <= set(segments)
        else:
            values, quantised = np.asarray(segments), False
        self._check_shape(values)
        if quantised:
            return {
                key: np.asarray(segments[key])  # pyrefly: ignore [bad-index]
                for key in (name, f"{name}_scale", f"{name}_offset")
            }
        if values.dtype.kind != "f":
            raise UserError(
                f"{name} has dtype {values.dtype}; give float values in {self.unit}, or the whole result of Store.read, "
                "which has their scale and offset"
            )
        if not np.isfinite(values).all():
            segment = int(np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))[0])
            raise UserError(f"{name} has NaN or infinite values, first in segment {segment}; leave such segments out")
        shape = (len(values), self.channels)
        values = values.astype(np.float32)
        return {
            name: values,
            f"{name}_scale": np.ones(shape, np.float32),
            f"{name}_offset": np.zeros(shape, np.float32),
        }

    def _check_shape(self, values: np.ndarray) -> None:
        wanted = (self.samples, self.channels)
        if values.ndim != 3 or values.shape[1:] != wanted:
            raise UserError(
                f"{self.modality} has shape {list(values.shape)}; the {self.part} reads [batch, {self.samples}, {self.channels}]: "
                f"{self.samples / self.rate_hz:g} s at {self.rate_hz:g} Hz, {self.channels} channels"
            )


def load(path: str | os.PathLike[str], *, part: Part | None = None) -> TrainedEncoder:
    """Loads the encoder of a finished run.

    Args:
        path: a work directory (of `accdistill train`), its `teacher` or `student` folder, an export folder, or the address of
            one of these in an object store (gs://, s3://).
        part: the encoder of a work directory to load. None: the student; the teacher, if the run has no student stage.

    Returns:
        The encoder; it computes in float32 on JAX's default device.

    Raises:
        UserError: no such folder, no run in it, an unfinished run, or a damaged export; the message says what to do.

    Examples:
        >>> import accdistill_jax as ad
        >>> encoder = ad.load("runs/distill")
        >>> encoder.part
        'student'
        >>> encoder.fingerprint == ad.load("runs/distill/student/export").fingerprint
        True
        >>> ad.load("runs/distil")
        Traceback (most recent call last):
        ...
        accdistill_jax.errors.UserError: no folder runs/distil; did you mean runs/distill?
    """
    if part not in (None, "teacher", "student"):
        raise UserError(f"part = {part!r} must be 'teacher' or 'student'")
    text = expanded(path)
    if not is_address(text):
        return _from_export(find_export(text, part), part)
    with tempfile.TemporaryDirectory(prefix="accdistill-") as copy:
        folder = open_address(text, Path(copy))
        export_folder = find_export(folder, part, named=text)
        loaded = _from_export(export_folder, part)
    inside = Path(export_folder).relative_to(folder).as_posix()
    return dataclasses.replace(loaded, path=text.rstrip("/") + ("" if inside == "." else f"/{inside}"))


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
    params = jax.device_put(arrays["params" if kind == "teacher" else "encoder"])

    def embed(params: Any, signal_of_one: jax.Array, per_channel: jax.Array) -> jax.Array:
        name = signal["modality"]
        batch = {name: signal_of_one, f"{name}_scale": per_channel, f"{name}_offset": per_channel}
        return branch.represent(branch.encode(params, branch.prepare(batch)))

    example = jax.ShapeDtypeStruct((1, signal["samples"], signal["channels"]), jnp.float32)
    embedding = jax.eval_shape(embed, params, example, jax.ShapeDtypeStruct((1, signal["channels"]), jnp.float32))
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
        _branch=branch,
        _params=params,
        readouts=load_readouts(export, fingerprint=meta["fingerprint"]),
        probes=load_label_probes(export, fingerprint=meta["fingerprint"]),
    )
