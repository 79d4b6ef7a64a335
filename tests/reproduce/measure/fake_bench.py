"""A bench with a real plan and generated embeddings, for tests that choose how well each encoder knows the labels."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from accdistill_jax.reproduce.jobs.jobs import JobOutcome
from accdistill_jax.reproduce.measure.results import Bench, Columns
from accdistill_jax.reproduce.plan import grid
from accdistill_jax.reproduce.plan.variants import FRACTIONS, MAE_TEACHER, TARGETS, supervised_variant

SPLITS = ("train", "validation", "test")
SCALES = {
    "hr_bpm": (70.0, 9.0, 5.0),
    "sdnn_ms": (50.0, 14.0, 6.0),
    "rmssd_ms": (42.0, 13.0, 6.0),
    "resp_bpm": (15.0, 2.0, 1.0),
}
UNINFORMATIVE = 30.0  # so much noise that the embedding says nothing about the labels


class FakeBench(Bench):
    """A bench whose embeddings are standardised labels with noise, rotated together with columns of pure noise.

    Args:
        only: experiments of the plan.
        noise: variant -> standard deviation of the noise; the default is 0.3 for teachers and 0.5 for others.
        failed: variants without a result.
        predicted: fraction -> noise of supervised predictions, in standard deviations of the label.
        seeds: number of training seeds.
        people: number of people in each split.
        minutes: minutes of each person.
        shuffled: True assigns the labels to random segments.
        width: width of the embeddings.
        preset: preset of the plan.
    """

    def __init__(
        self,
        *only: str,
        noise: Mapping[str, float] | None = None,
        failed=(),
        predicted: Mapping[float, float] | None = None,
        seeds: int = 2,
        people=(60, 15, 40),
        minutes: int = 12,
        shuffled: bool = False,
        width: int = 12,
        preset: str = "cpu",
    ):
        self.plan = grid.plan_grid(preset, only=only, seeds=seeds)
        self.synthetic, self.noise, self.predicted = True, dict(noise or {}), dict(predicted or {})
        self.width = width
        self.outcomes = {
            job.name: JobOutcome("failed" if job.order.get("variant") in failed else "cached", 1.0, "", Path("nowhere"))
            for job in self.plan.jobs
        }
        rng = np.random.default_rng(0)
        self._columns, self._signal = {}, {}
        for split, count in zip(SPLITS, people, strict=True):
            person = np.repeat(np.arange(count), minutes)
            labels = {
                name: (
                    mean + between * rng.standard_normal(count)[person] + within * rng.standard_normal(len(person))
                ).astype(np.float32)
                for name, (mean, between, within) in SCALES.items()
            }
            self._signal[split] = np.stack(
                [(v - SCALES[k][0]) / np.hypot(*SCALES[k][1:]) for k, v in labels.items()], axis=1
            )
            if shuffled:
                labels = {name: rng.permutation(values) for name, values in labels.items()}
            names = np.array([f"{split}-{k:04d}" for k in person])
            self._columns[split] = Columns(
                names, labels, np.zeros(len(person), np.float32), np.ones(len(person), np.float32)
            )
        positions = np.arange(len(self._columns["train"].participant))
        store = SimpleNamespace(rate_hz=64.0, indices=lambda split: np.arange(len(self._columns[split].participant)))
        self.opened = SimpleNamespace(train_positions=lambda limit: positions, stores=(store,))

    def columns(self, split):
        return self._columns[split]

    def on(self, population):
        return self

    def facts(self, name, seed):
        return {
            "parameters": 1000 * len(name),
            "multiply_accumulates": 10**6,
            "steps": round(1000 * (self.variant(name).share or 1.0)),
            "batch_size": 128,
            "train_s": 90.0,
        }

    def arrays(self, name, seed):
        variant = self.variant(name)
        rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
        noise = self.noise.get(name, 0.3 if variant.kind == "teacher" else 0.5)
        rotation = np.linalg.qr(rng.standard_normal((self.width, self.width)))[0]
        arrays = {"train_rows": np.arange(len(self._columns["train"].participant))}
        for split in SPLITS:
            signal = self._signal[split]
            if name.startswith("supervised"):
                arrays |= self._supervised(name, split, rng)
            else:
                z = noise * rng.standard_normal((len(signal), self.width))
                z[:, : signal.shape[1]] += signal
                arrays[f"{split}/embedding"] = (z @ rotation).astype(np.float32)
            if variant.teacher and split != "train" and variant.kind != "teacher":
                arrays |= self._pair(split, noise)
        if name.startswith("joint") or variant.kind == "matcher":
            arrays |= {key: value for split in SPLITS for key, value in self._pair(split, noise).items()}
        return arrays

    def _pair(self, split, noise):
        rng = np.random.default_rng(5)
        ppg = np.concatenate([self._signal[split], rng.standard_normal((len(self._signal[split]), 8))], axis=1)
        accel = ppg + 0.5 * noise * rng.standard_normal(ppg.shape)
        return {f"{split}/projection": accel.astype(np.float32), f"{split}/teacher_projection": ppg.astype(np.float32)}

    def _supervised(self, name, split, rng):
        target, fraction = next(
            (t, f) for t in TARGETS for f in FRACTIONS if supervised_variant(t, f).name == name.removesuffix("-people")
        )
        label, noise = self._columns[split].labels[target], self.predicted.get(fraction, 0.6)
        return {f"{split}/prediction": label + noise * label.std() * rng.standard_normal(len(label)).astype(np.float32)}


TEACHER = MAE_TEACHER
