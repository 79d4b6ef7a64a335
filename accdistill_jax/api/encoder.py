"""A trained encoder, for use in Python; `loading.load` makes it."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.api.program import EncoderProgram
from accdistill_jax.api.segments import segment_batch, with_problems
from accdistill_jax.api.signals import InputContract, Minutes, SignalFormat, SignalWords, cut_signal
from accdistill_jax.data.preprocessing.quality import motion_g
from accdistill_jax.data.preprocessing.settings import PpgFilter
from accdistill_jax.errors import UserError
from accdistill_jax.objectives.base import Branch
from accdistill_jax.readouts.label_probe import LabelPrediction, LabelProbe
from accdistill_jax.readouts.readout import Prediction, Readouts
from accdistill_jax.user_paths import expanded

if TYPE_CHECKING:
    import pyarrow

Part = Literal["teacher", "student"]


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
        trained_on: fingerprints of all stores, and of their parts, that it, its teacher or the encoder it started from learned from.
        readouts: predict labels from embeddings, or None.
        no_readouts: why there are no read-outs, and what to do; "" if there are.
        probes: name -> read-out of a user's label, by `accdistill probe`.
        ppg_filter: band-pass of the PPG in the stores that a teacher was trained on; `embed` applies it.
        branch, params: the encoder as the package's code uses it, and its parameters, a tree of float32 arrays.

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
    branch: Branch = dataclasses.field(repr=False)
    params: Any = dataclasses.field(repr=False)
    readouts: Readouts | None = dataclasses.field(default=None, repr=False)
    no_readouts: str = dataclasses.field(default="", repr=False)
    probes: Mapping[str, LabelProbe] = dataclasses.field(default_factory=dict, repr=False)
    trained_on: str = dataclasses.field(default="", repr=False)
    ppg_filter: PpgFilter = dataclasses.field(default=PpgFilter(), repr=False)

    def encode(self, segments: Mapping[str, np.ndarray] | np.ndarray, *, batch_size: int = 64) -> np.ndarray:
        """Embeds segments that are prepared as in a store: resampled, filtered and cut.

        Args:
            segments: what `Store.read` returns (int16 with scale and offset), or what `Store.read_signals` returns, or one of its
                arrays: [batch, samples, channels] in `unit`, at `rate_hz`.
            batch_size: most segments computed at once. 64 is fast on a CPU; accelerators are faster with more.

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
        batch = segment_batch(segments, self.contract, unit=self.unit)
        return self._program.embed(batch, batch_size=batch_size, embedding_size=self.embedding_size)

    def export(
        self, out: str | os.PathLike[str], *, formats: Sequence[str] = ("onnx",), opset: int = 18, int8: bool = False
    ) -> list[Path]:
        """Writes the encoder for other runtimes, with a model card. Normalisation is inside, the batch may have any size.

        Args:
            out: folder; created if missing. Files of the same name in it are replaced.
            formats: some of "onnx", "stablehlo", "npz" and "safetensors"; returns the written files.
            opset: version of the ONNX operators, 18 or 23.
            int8: also writes an ONNX file with int8 weights; the card states their cost on test people, if the run's stores are
                at hand and onnxruntime is installed.

        Raises:
            UserError: an unknown format, a missing package (ONNX needs the extra `export`), or an encoder that the format cannot hold.

        Examples:
            >>> import accdistill_jax as ad
            >>> files = ad.load("runs/distill").export("exported", formats=["stablehlo", "npz"])
            >>> [file.name for file in files]
            ['encoder.stablehlo', 'encoder.npz', 'encoder.py', 'MODEL_CARD.md']
        """
        from accdistill_jax.api.agreement import int8_sections
        from accdistill_jax.export.card import read_report
        from accdistill_jax.export.writing import OnnxOptions, write_export

        return write_export(
            self,
            expanded(out),
            formats=formats,
            onnx=OnnxOptions(opset, int8),
            report=read_report(self.path),
            sections=lambda folder: int8_sections(self, folder) if int8 else (),
        )

    def predict_embeddings(
        self, embeddings: np.ndarray, *, motion_g: np.ndarray | None = None
    ) -> dict[str, Prediction | LabelPrediction]:
        """Predicts all labels that there are read-outs of, with intervals, and with a reason where it cannot tell.

        Args:
            embeddings: [n, embedding_size], of minutes.
            motion_g: [n] motion level of each minute in g, as stores hold it; None, or NaN for a minute: the motion rule is not applied.

        Returns:
            Label -> n predictions; a single one for a probe of a label per person, which reads all minutes as those of one person.

        Raises:
            UserError: there are no read-outs, the embeddings have another width or are not finite, or `motion_g` is not [n].

        Examples:
            >>> import accdistill_jax as ad
            >>> encoder, store = ad.load("runs/distill"), ad.open_store("store")
            >>> rows = store.indices("test")
            >>> embeddings = encoder.encode(store.read(rows))
            >>> rate = encoder.predict_embeddings(embeddings, motion_g=store.segments["motion_g"][rows])["hr_bpm"]
            >>> len(rate.value) == len(rate.low) == len(rate.reason) == len(rows)
            True
        """
        if not self.predicts:
            raise UserError(f"{self.path} has no read-outs, so it predicts nothing: {self.no_readouts}")
        predictions: dict[str, Prediction | LabelPrediction] = {}
        if self.readouts is not None:
            predictions |= self.readouts.predict(embeddings, motion_g=motion_g)
        return predictions | {name: probe.predict(embeddings, motion_g=motion_g) for name, probe in self.probes.items()}

    def embed(self, signal: np.ndarray, rate_hz: float, **described: Unpack[SignalWords]) -> np.ndarray:
        """Embeds a signal as it was recorded, minute by minute: resampled, filtered and cut by the code that prepares stores.

        Args:
            signal: [time, channels] or [batch, time, channels], any real type, of any length from a minute on. Acceleration has the
                channels x, y, z. NaN marks missing samples.
            rate_hz: samples per second, any rate.
            **described: unit ("g", "mg" or "m/s2" of acceleration; default "g"), gravity ("removed" for user or linear acceleration of
                phones; default "included") and polarity (of PPG; default: found in the signal), see `SignalFormat`.

        Returns:
            Embeddings [minutes, embedding_size] float32, a row for each whole minute, those of the first signal of a batch first. A
            rest shorter than a minute is left out. The row of a minute that cannot be embedded (gap, constant signal) is NaN.

        Raises:
            UserError: rate, unit, shape or values are not what the encoder reads, the signal is shorter than a minute, or no minute can
                be embedded; the message says what would fit.

        Warns:
            SignalWarning: rows are NaN, or minutes differ from those in training (much movement, low rate, no gravity, no pulse).

        Examples:
            >>> import accdistill_jax as ad
            >>> encoder = ad.load("runs/distill")
            >>> rng = np.random.default_rng(0)
            >>> accel = 9.81 * (rng.normal(0, 0.002, (150 * 50, 3)) + [0, 0.6, 0.8])  # two and a half minutes of a still wrist
            >>> encoder.embed(accel, rate_hz=50, unit="m/s2").shape == (2, encoder.embedding_size)
            True
            >>> encoder.embed(accel, rate_hz=50)
            Traceback (most recent call last):
            ...
            accdistill_jax.errors.UserError: accel: |a| at rest is 9.81 g if the unit is g, but a device at rest measures 1 g; give unit="m/s2"
        """
        minutes = self._cut(signal, SignalFormat(rate_hz, **described))
        usable = minutes.problem == ""
        embeddings = np.full((len(usable), self.embedding_size), np.nan, np.float32)
        embeddings[usable] = self.encode(minutes.segments if usable.all() else minutes.segments[usable])
        return embeddings

    def predict(
        self, signal: np.ndarray, rate_hz: float, **described: Unpack[SignalWords]
    ) -> dict[str, Prediction | LabelPrediction]:
        """Predicts labels of a signal as it was recorded, minute by minute: `embed`, then `predict_embeddings`.

        Args:
            signal: as for `embed`.
            rate_hz: samples per second.
            **described: as for `embed`.

        Returns:
            Label -> predictions of each whole minute; "gap" or "flat" is the reason for a minute that cannot be embedded. A label per
            person has a single prediction, so with such a label all signals of a batch must be of one person.

        Raises:
            UserError: as `embed`, or there are no read-outs.

        Examples:
            >>> import accdistill_jax as ad
            >>> accel = np.random.default_rng(0).normal(0, 0.002, (150 * 50, 3)) + [0, 0.6, 0.8]
            >>> heart_rate = ad.load("runs/distill").predict(accel, rate_hz=50)["hr_bpm"]
            >>> len(heart_rate.value), len(heart_rate.low), len(heart_rate.reason)
            (2, 2, 2)
        """
        minutes = self._cut(signal, SignalFormat(rate_hz, **described))
        usable = minutes.problem == ""
        segments = minutes.segments[usable]
        moved = motion_g(segments, rate_hz=self.rate_hz) if self.modality == "accel" else None
        predictions = self.predict_embeddings(self.encode(segments), motion_g=moved)
        of_persons = {name for name, probe in self.probes.items() if probe.per == "person"}
        return {
            name: prediction if name in of_persons else with_problems(prediction, minutes.problem)
            for name, prediction in predictions.items()
        }

    def embed_recording(
        self, path: str | os.PathLike[str], *, reader: str | None = None, **options: Any
    ) -> "pyarrow.Table":
        """Embeds the recordings in a file or folder, in any format that `accdistill prepare` reads, with acceleration alone too.

        Args:
            path: file or folder.
            reader: name of the format, as in `accdistill prepare --help`, or a file such as "my_reader.py"; None finds it.
            options: of the reader, such as rate_hz=50, unit="mg" for a CSV file that nobody described.

        Returns:
            A row for each minute that passes the checks of `accdistill prepare`: participant, recording, start (UTC), quality (clarity of
            the pulse in the signal that the encoder reads, 0 to 1), motion (g), embedding; and for each label NAME that there is a
            read-out of: NAME, NAME_low, NAME_high, NAME_unknown (the reason). `to_pandas()` makes a data frame of it.

        Raises:
            UserError: no reader or several know the file, it cannot be read, or no minute passes; the message says why.

        Warns:
            SignalWarning: minutes are left out, with the reasons.

        Examples:
            >>> import accdistill_jax as ad
            >>> encoder = ad.load("runs/distill")
            >>> minutes = encoder.embed_recording("watch.csv.gz", rate_hz=50, unit="mg")
            >>> minutes.column_names[:8]
            ['participant', 'recording', 'start', 'quality', 'motion', 'embedding', 'hr_bpm', 'hr_bpm_low']
            >>> minutes["participant"][0].as_py(), minutes.num_rows
            ('watch', 2)
        """
        from accdistill_jax.api import recordings  # not at the top: arrays need no readers

        return recordings.embed_files(self, self.contract, path, reader=reader, options=options)

    def untrained(self, *, seed: int = 20) -> "TrainedEncoder":
        """The same encoder with random parameters, for comparison; seed 20 gives the untrained encoder of reports."""
        example = jnp.zeros((1, self.samples, self.channels), jnp.float32)
        parts = {self.modality: example, f"{self.modality}_scale": jnp.ones((1, self.channels), jnp.float32)}
        x = self.branch.prepare(parts | {f"{self.modality}_offset": jnp.zeros((1, self.channels), jnp.float32)})
        params = jax.jit(self.branch.encoder.init)(jax.random.key(seed), x)["params"]
        why = "an untrained encoder has none; fit your own by probing its embeddings"
        return dataclasses.replace(
            self,
            objective="none",
            fingerprint=f"untrained-{seed}",
            readouts=None,
            no_readouts=why,
            probes={},
            params=params,
        )

    @property
    def predicts(self) -> bool:
        """True if there are read-outs."""
        return self.readouts is not None or bool(self.probes)

    @property
    def contract(self) -> InputContract:
        """The signal that the encoder reads."""
        return InputContract(self.part, self.modality, self.rate_hz, self.samples, self.channels, self.ppg_filter)

    def _cut(self, signal: np.ndarray, described: SignalFormat) -> Minutes:
        return self._program.compile_during(lambda: cut_signal(signal, self.contract, described))

    @functools.cached_property
    def _program(self) -> EncoderProgram:
        return EncoderProgram(self.branch, self.params, self.contract)
