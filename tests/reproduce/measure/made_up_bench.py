"""A bench without jobs: encoders that see a latent state of each minute and person, each through noise of its own."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from accdistill_jax.reproduce.jobs.jobs import Job, Outcome
from accdistill_jax.reproduce.measure.results import Bench, Columns
from accdistill_jax.reproduce.plan.experiments import EXPERIMENTS
from accdistill_jax.reproduce.plan.scales import SCALES, all_variants

STATES, WIDTH, HEAD = 6, 16, 12


def experiment(name: str, *variants: str):
    """An experiment of the grid, with these variants in place of its own."""
    one = EXPERIMENTS[name]
    return one._replace(variants=variants) if variants else one


class Store:
    """What measuring asks of a store."""

    def __init__(self, participants: pa.Table | None = None, *, device: str = "made up", manifest=None):
        self.participants, self.manifest = participants, manifest
        self.segments = {"device": np.array([device], object)}


class Minutes:
    """Latent states of a split's minutes, and what is known about them."""

    def __init__(self, rng, prefix: str, people: int, each: int, *, shift: float = 0.0, names=None):
        names = [f"{prefix}-{k:04d}" for k in range(people)] if names is None else names
        self.people = {name: 0.8 * rng.standard_normal(STATES) for name in names}
        self.participant = np.repeat(np.array(names, object), each)
        of = np.repeat(np.stack([*self.people.values()]), each, axis=0)
        self.state = of + 0.6 * rng.standard_normal((len(of), STATES))
        self.state[:, 0] += shift
        labels = {
            "hr_bpm": 70 + 10 * self.state[:, 0],
            "sdnn_ms": 50 + 12 * self.state[:, 1],
            "rmssd_ms": 40 + 9 * self.state[:, 2],
        }
        labels["resp_bpm"] = np.full(len(of), np.nan)
        labels = {name: values.astype(np.float32) for name, values in labels.items()}
        motion = np.exp(rng.standard_normal(len(of)) * 0.5 - 4.0).astype(np.float32)
        self.columns = Columns(self.participant, labels, motion, rng.uniform(0.5, 1.0, len(of)).astype(np.float32))


class MadeUpBench(Bench):
    """Embeddings of variants of the real grid, as many seeds of each.

    Args:
        noise: variant -> standard deviation of what hides the state from it; NaN makes embeddings that are not finite.
        seeds: how many each has.
        people, each: by split, and minutes of each.
        hides: variant -> function of the test split's `Minutes`, bool [N]: those of which it sees nothing.
        turned: variants whose embeddings lie otherwise in space, unreadable for another one's probe.
        constant: variants whose PPG side gives all minutes nearly the same.
        unseen: store -> `Minutes`.
        failed: jobs without a result.
        table: of participants.
        names: split -> of people, in place of made-up ones.
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
        self.minutes |= {f"unseen-{name}": own for name, own in self.unseen.items()}
        known = {one.name: one for one in all_variants(SCALES["cpu"])}
        jobs = [
            Job(f"{name}-s{k}{'-unseen' * bool(where)}", "", {"variant": name, "seed": k, "unseen": where}, (), 1.0)
            for where in ([[], list(self.unseen)] if self.unseen else [[]])
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
        self.outcomes = {name: Outcome(one, 1.0, "", None) for name, one in status.items()}
        self.opened = SimpleNamespace(
            stores=(Store(table, manifest=manifest),),
            unseen={name: Store(device="Empatica E4") for name in self.unseen},
            train_places=lambda limit: np.arange(len(self.minutes["train"].state)),
        )
        self.synthetic = manifest is not None
        mixing, head = rng.standard_normal((STATES, WIDTH)), rng.standard_normal((STATES, HEAD))
        self._arrays = {}
        for number, (name, level) in enumerate(noise.items()):
            for k in range(seeds):
                own = np.random.default_rng([1, number, k])
                arrays = {"train_rows": np.arange(len(self.minutes["train"].state))}
                for split, minutes in self.minutes.items():
                    seen = minutes.state + level * own.standard_normal(minutes.state.shape)
                    if hides and name in hides and split == "test":
                        hidden = hides[name](minutes)
                        seen[hidden] = own.standard_normal((hidden.sum(), STATES))
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
