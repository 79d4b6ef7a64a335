"""A bench without jobs, with generated embeddings: each minute has a latent state, which each encoder sees with noise."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from accdistill_jax.reproduce.jobs.jobs import Job, JobOutcome
from accdistill_jax.reproduce.measure.results import Bench, Columns
from accdistill_jax.reproduce.plan.experiments import EXPERIMENTS
from accdistill_jax.reproduce.plan.scales import SCALES, all_variants

STATES, WIDTH, HEAD = 6, 16, 12


def experiment(name: str, *variants: str):
    """An experiment of the grid; `variants` replace its variants."""
    registered = EXPERIMENTS[name]
    return registered._replace(variants=variants) if variants else registered


class Store:
    """The parts of a store that measurements read."""

    def __init__(self, participants: pa.Table | None = None, *, device: str = "made up", manifest=None):
        self.participants, self.manifest = participants, manifest
        self.segments = {"device": np.array([device], object)}


class Minutes:
    """Latent states of the minutes of a split, with labels and other columns."""

    def __init__(self, rng, prefix: str, people: int, each: int, *, shift: float = 0.0, names=None):
        names = [f"{prefix}-{k:04d}" for k in range(people)] if names is None else names
        self.people = {name: 0.8 * rng.standard_normal(STATES) for name in names}
        self.participant = np.repeat(np.array(names, object), each)
        personal = np.repeat(np.stack([*self.people.values()]), each, axis=0)
        self.state = personal + 0.6 * rng.standard_normal((len(personal), STATES))
        self.state[:, 0] += shift
        labels = {
            "hr_bpm": 70 + 10 * self.state[:, 0],
            "sdnn_ms": 50 + 12 * self.state[:, 1],
            "rmssd_ms": 40 + 9 * self.state[:, 2],
        }
        labels["resp_bpm"] = np.full(len(personal), np.nan)
        labels = {name: values.astype(np.float32) for name, values in labels.items()}
        motion = np.exp(rng.standard_normal(len(personal)) * 0.5 - 4.0).astype(np.float32)
        self.columns = Columns(
            self.participant, labels, motion, rng.uniform(0.5, 1.0, len(personal)).astype(np.float32)
        )


class MadeUpBench(Bench):
    """A bench with generated embeddings of variants of the real grid.

    Args:
        noise: variant -> standard deviation of the noise on the latent states; NaN makes embeddings that are not finite.
        seeds: number of training seeds.
        people: number of people in each split.
        each: minutes of each person.
        hides: variant -> function that takes the `Minutes` of the test split and returns bool [N]: True where the encoder sees
            only noise.
        turned: variants with mirrored embeddings, which probes of other variants cannot read.
        constant: variants whose PPG projections are nearly the same for all minutes.
        unseen: name of an unseen store -> its `Minutes`.
        failed: jobs without a result.
        table: table of participants.
        names: split -> names of the people; None generates names.
        manifest: manifest of the store; None means that the data is not synthetic.
    """

    def __init__(
        self,
        noise,
        *,
        seeds=1,
        people=(30, 10, 30),
        each=10,
        hides=None,
        turned=(),
        constant=(),
        unseen=None,
        failed=(),
        table=None,
        names=None,
        manifest=None,
    ):
        rng = np.random.default_rng(0)
        splits = ("train", "validation", "test")
        self.minutes = {
            s: Minutes(rng, s, n, each, names=names and names[s]) for s, n in zip(splits, people, strict=True)
        }
        self.unseen = unseen or {}
        self.minutes |= {f"unseen-{name}": minutes for name, minutes in self.unseen.items()}
        known = {variant.name: variant for variant in all_variants(SCALES["cpu"])}
        jobs = [
            Job(f"{name}-s{k}{'-unseen' * bool(stores)}", "", {"variant": name, "seed": k, "unseen": stores}, (), 1.0)
            for stores in ([[], list(self.unseen)] if self.unseen else [[]])
            for name in noise
            for k in range(seeds)
        ]
        evaluation = SimpleNamespace(bootstrap_draws=20, train_segments=10**6)
        data = SimpleNamespace(same_names="different people")
        self.plan = SimpleNamespace(
            variants={name: known[name] for name in noise},
            jobs=jobs,
            base=SimpleNamespace(evaluation=evaluation, data=data),
        )
        status = {job.name: "failed" if job.name in failed else "finished" for job in jobs}
        self.outcomes = {name: JobOutcome(state, 1.0, "", None) for name, state in status.items()}
        self.opened = SimpleNamespace(
            stores=(Store(table, manifest=manifest),),
            unseen={name: Store(device="Empatica E4") for name in self.unseen},
            train_positions=lambda limit: np.arange(len(self.minutes["train"].state)),
        )
        self.synthetic = manifest is not None
        mixing, head = rng.standard_normal((STATES, WIDTH)), rng.standard_normal((STATES, HEAD))
        self._arrays = {}
        for number, (name, level) in enumerate(noise.items()):
            for k in range(seeds):
                encoder_rng = np.random.default_rng([1, number, k])
                arrays = {"train_rows": np.arange(len(self.minutes["train"].state))}
                for split, minutes in self.minutes.items():
                    seen = minutes.state + level * encoder_rng.standard_normal(minutes.state.shape)
                    if hides and name in hides and split == "test":
                        hidden = hides[name](minutes)
                        seen[hidden] = encoder_rng.standard_normal((hidden.sum(), STATES))
                    arrays[f"{split}/embedding"] = (seen @ (-mixing if name in turned else mixing)).astype(np.float32)
                    if known[name].kind != "teacher" and (known[name].teacher or name == "joint"):
                        arrays[f"{split}/projection"] = (seen @ head).astype(np.float32)
                        ppg = minutes.state @ head
                        arrays[f"{split}/teacher_projection"] = (1.0 + 1e-4 * ppg if name in constant else ppg).astype(
                            np.float32
                        )
                self._arrays[name, k] = arrays

    def arrays(self, name, seed):
        return self._arrays[name, seed]

    def columns(self, split):
        return self.minutes[split].columns
