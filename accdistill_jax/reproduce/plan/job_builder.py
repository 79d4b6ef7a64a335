"""Turns the variants of a grid into jobs: the config of each, the jobs that it needs, and its expected duration."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from accdistill_jax.config import record
from accdistill_jax.config.convert import changed, for_objective, with_changes
from accdistill_jax.config.duration import parse_duration
from accdistill_jax.config.registry import ENCODERS, OBJECTIVES
from accdistill_jax.config.schema import Config
from accdistill_jax.config.tree import plain
from accdistill_jax.data.synthetic.synthetic import GENERATOR_VERSION, signals_version
from accdistill_jax.objectives.registered import PPG, RegisteredObjective
from accdistill_jax.reproduce.jobs.jobs import Job
from accdistill_jax.reproduce.plan.scales import VALIDATIONS, Scale, all_variants
from accdistill_jax.reproduce.plan.variants import EncoderVariant

DATA = "data"
FORMAT = 1  # version of a job's results; increase it when the same order gives other numbers


def population_identity(synthetic: Mapping[str, Any], fractions: Sequence[float] | None = None) -> dict[str, Any]:
    """The values of `data.synthetic` that decide the minutes of synthetic people, with the versions of the generator and the splits."""
    decisive = {k: v for k, v in synthetic.items() if k not in ("workers", "generator", "shared_motion", "clock_error")}
    version = signals_version(synthetic["generator"], synthetic["shared_motion"], synthetic["clock_error"])
    split = {} if fractions is None else {"fractions": list(fractions)}
    return {"generator": GENERATOR_VERSION} | decisive | version | split


class JobBuilder:
    """Turns variants into jobs; the jobs that a variant needs come first.

    Args:
        base: config with the user's overrides.
        usual: config without overrides, to which the scale's seconds refer.
        scale: of the preset.
        seeds: number of training seeds.
        stores: to train on.
        data: identity of the data, part of each job's key.
    """

    def __init__(
        self, base: Config, usual: Config, *, scale: Scale, seeds: int, stores: Sequence[str], data: Sequence[Any]
    ):
        self.jobs: dict[str, Job] = {}
        self.variants: dict[str, None] = {}
        self.known = {variant.name: variant for variant in all_variants(scale)}
        self._base, self._usual, self._scale, self._seeds = base, usual, scale, seeds
        self._stores = list(stores)
        self._data_key = _hash({"format": FORMAT, "data": data})
        if not stores:
            order = {"kind": DATA, "synthetic": plain(base.data.synthetic), "fractions": None}
            self.jobs[DATA] = Job(DATA, self._data_key, order, (), scale.seconds["data"])

    def add(self, variant: EncoderVariant) -> None:
        """Adds a job for each seed of a variant, after the jobs that it needs."""
        if variant.name in self.variants:
            return
        for name in (variant.teacher, variant.of):
            if name:
                self.add(self.known[name])
        if variant.population:
            self._add_population(variant.population)
        self.variants[variant.name] = None
        for seed in range(self._seeds if variant.seeds == "all" else 1):
            self._add(variant, seed)

    def _add_population(self, name: str) -> None:
        """Adds the job that generates further people."""
        if (job := data_job(name)) in self.jobs:
            return
        population = self._scale.populations[name]
        synthetic = self._synthetic(name)
        key = _hash({"format": FORMAT, "data": [population_identity(synthetic, population.fractions)]})
        order = {"kind": DATA, "synthetic": synthetic, "fractions": population.fractions}
        self.jobs[job] = Job(job, key, order, (), self._scale.seconds["data"] * self._size(name))

    def _synthetic(self, population: str) -> dict[str, Any]:
        """Values of `data.synthetic` for a population."""
        changes = self._scale.populations[population].changes if population else {}
        return plain(self._base.data.synthetic) | changes

    def _size(self, population: str) -> float:
        """Minutes of a population as a share of those of the preset; 1 for the plan's own people."""
        if not population:
            return 1.0
        made, usual = self._synthetic(population), plain(self._usual.data.synthetic)
        names = ("participants", "segments_per_participant")
        return math.prod(made[name] for name in names) / math.prod(usual[name] for name in names)

    def _data_of(self, population: str) -> tuple[str, str]:
        """Name of the job that generates a variant's data ("" for stores), and the identity of the data."""
        job = data_job(population)
        return (job, self.jobs[job].key if population else self._data_key) if job in self.jobs else ("", self._data_key)

    def _add(self, variant: EncoderVariant, seed: int) -> None:
        config = self.config(variant, seed)
        needs = tuple(self.job_of(name, seed) for name in (variant.teacher, variant.of) if name)
        data, data_key = self._data_of(variant.population)
        # a matcher fits its lag on the people of the plan
        trained = (
            self.known[variant.of].population if variant.of else "" if variant.kind == "matcher" else variant.population
        )
        trained_on, _ = self._data_of(trained)
        order = {
            "kind": variant.kind,
            "variant": variant.name,
            "seed": seed,
            "config": plain(config),
            "teacher": self.job_of(variant.teacher, seed) if variant.teacher else "",
            "compared": self.job_of(variant.teacher, seed) if variant.teacher else "",
            "of": self.job_of(variant.of, seed) if variant.of else "",
            "of_kind": self.known[variant.of].kind if variant.of else "",
            "rows": variant.rows,
            "data": data,
            "trained_on": trained_on,
            "stores": self._stores,
            "unseen": [],
        }
        decisive = {
            "format": FORMAT,
            "kind": variant.kind,
            "rows": variant.rows,
            "config": record.config_hash(_decisive(config, variant.kind)),
            "evaluation": [config.evaluation.train_segments, config.evaluation.batch_size],
            "needs": [self.jobs[name].key for name in needs],
            "data": data_key,
        }
        if (representation := config.evaluation.representation) != "mean":
            decisive["representation"] = representation
        name = f"{variant.name}-s{seed}"
        generated = tuple(dict.fromkeys(job for job in (data, trained_on) if job))
        self.jobs[name] = Job(name, _hash(decisive), order, (*generated, *needs), self._cost(variant, config))

    def add_unseen_jobs(self, variant: EncoderVariant, unseen: Sequence[str], fingerprints: Sequence[str]) -> None:
        """Adds jobs that embed unseen stores with a variant's encoders and with their teachers.

        They are separate jobs, so that another unseen store does not repeat the training.
        """
        if variant.teacher:
            self.add_unseen_jobs(self.known[variant.teacher], unseen, fingerprints)
        for trained in self.jobs_of((variant.name,)):
            job, name = self.jobs[trained], unseen_job(trained)
            teacher = job.order["teacher"]
            needs = (trained, teacher, unseen_job(teacher)) if teacher else (trained,)
            data = tuple(dict.fromkeys(name for name in (job.order["data"], job.order["trained_on"]) if name))
            order = job.order | {
                "of": trained,
                "of_kind": job.order["of_kind"] or job.order["kind"],
                "compared": unseen_job(teacher) if teacher else "",
                "unseen": list(unseen),
            }
            decisive = {
                "format": FORMAT,
                "unseen": list(fingerprints),
                "needs": [self.jobs[need].key for need in needs],
            }
            self.jobs[name] = Job(name, _hash(decisive), order, (*data, *needs), self._scale.seconds["embed"])

    def jobs_of(self, names: Sequence[str], *, unseen: bool = False) -> tuple[str, ...]:
        """Names of the jobs of some variants, for all seeds; with `unseen` also those that embed unseen stores."""
        orders = {name: job.order for name, job in self.jobs.items() if job.order["kind"] != DATA}
        return tuple(
            job for job, order in orders.items() if order["variant"] in names and (unseen or not order["unseen"])
        )

    def job_of(self, name: str, seed: int) -> str:
        """Name of the job of a variant that a job with this seed needs."""
        return f"{name}-s{seed if self.known[name].seeds == 'all' else 0}"

    def config(self, variant: EncoderVariant, seed: int) -> Config:
        """Builds the validated config of a variant's run."""
        config = self.config(self.known[variant.of], seed) if variant.of else self._base
        changes: dict[str, Any] = {"seed": seed}
        if variant.of:
            return changed(config, changes | variant.changes)
        if variant.kind == "teacher":
            changes["stages"] = ("teacher",)
            if variant.share is not None:
                changes["teacher.train.duration"] = _share(config.teacher.train.duration, variant.share)
        else:
            changes["stages"] = ("student",)
            name = variant.changes.get("student.objective", config.student.objective)
            # values of the base that this objective does not read
            config = for_objective(with_changes(config, {"student.objective": name}), keep=variant.changes)
            objective: RegisteredObjective = OBJECTIVES.get(name)
            if objective.ppg is PPG.FROZEN:
                changes["teacher.cached_views"] = round(
                    self._scale.views * (self._scale.short_share if variant.short else 1.0)
                )
            share = self._share(variant)
            if share != 1.0:
                changes["student.train.duration"] = _share(config.student.train.duration, share)
            if variant.share is not None and parse_duration(config.student.train.warmup).amount:
                changes["student.train.warmup"] = _share(config.student.train.warmup, share)
            if "student.supervised.label_fraction" in variant.changes:
                fraction = variant.changes["student.supervised.label_fraction"]
                given = variant.changes.get("student.train.duration") or self._scale.supervised[fraction]
                duration = given or config.student.train.duration
                changes |= {
                    "student.train.duration": duration,
                    "student.train.validate_every": _share(duration, 1 / VALIDATIONS),
                    "student.train.validation_batches": self._scale.validation_batches,
                    "student.supervised.subset": seed,
                }
        return changed(config, changes | variant.changes)

    def _share(self, variant: EncoderVariant) -> float:
        """Duration of a variant's training as a share of the student's."""
        if variant.share is not None:
            return variant.share
        shares = {"student-best": self._scale.best_share, "student-long": self._scale.long_share}
        return self._scale.short_share if variant.short else shares.get(variant.name, 1.0)

    def _cost(self, variant: EncoderVariant, config: Config) -> float:
        seconds = self._scale.seconds
        embedding = (
            seconds["embed"] * {"all": 3.0, "some": 1.0, "none": 0.3}[variant.rows] * self._size(variant.population)
        )
        if variant.kind not in ("teacher", "student"):
            return embedding
        (amount, unit), *others = (
            parse_duration(run.stage(variant.kind).train.duration) for run in (config, self._usual, self._base)
        )
        usual = next((other for other, other_unit in others if other_unit == unit), amount)
        trained = config.stage(variant.kind)
        step_time = ENCODERS.get(trained.encoder.architecture).relative_step_time
        step_time *= OBJECTIVES.get(trained.objective).relative_step_time
        return embedding + seconds[variant.kind] * step_time * amount / usual


def data_job(population: str) -> str:
    """Name of the job that generates a population; "" are the people of the base config."""
    return f"{DATA}-{population}" if population else DATA


def unseen_job(job: str) -> str:
    """Name of the job that embeds unseen stores with the encoder of `job`."""
    return f"{job}-unseen"


def _decisive(config: Config, kind: str) -> dict[str, Any]:
    """The part of a config that decides a job's result, apart from the jobs that it needs."""
    kept = plain(config)
    if kind == "teacher":
        del kept["student"], kept["inputs"]["accel"], kept["teacher"]["cached_views"]
    else:
        trains_ppg = OBJECTIVES.get(config.student.objective).ppg is PPG.TRAINED
        needed = ("cached_views", "encoder") if trains_ppg else ("cached_views",)
        kept["teacher"] = {name: kept["teacher"][name] for name in needed}
    return kept


def _share(duration: str, share: float) -> str:
    amount, unit = parse_duration(duration)
    shorter = amount * share
    return f"{max(1, round(shorter)) if unit != 'epochs' else round(shorter, 3)} {unit}"


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
