"""Plans the grid of experiments: the jobs, the config of each, and the jobs that it needs."""

import fnmatch
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from accdistill_jax.config import record
from accdistill_jax.config.convert import changed
from accdistill_jax.config.duration import parse_duration
from accdistill_jax.config.load import load_config
from accdistill_jax.config.nearest import nearest
from accdistill_jax.config.registry import ENCODERS, OBJECTIVES
from accdistill_jax.config.schema import Config
from accdistill_jax.config.tree import plain
from accdistill_jax.configs import reproduce as presets
from accdistill_jax.data.store.opening import Signals, unseen_by_name
from accdistill_jax.data.store.separation import Group, check_groups
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.synthetic.physiology import participant_id
from accdistill_jax.data.synthetic.synthetic import GENERATOR_VERSION, signals_version
from accdistill_jax.data.synthetic.waveforms import RATE_HZ, SAMPLES
from accdistill_jax.errors import UserError
from accdistill_jax.objectives.registered import PPG, RegisteredObjective
from accdistill_jax.reproduce.jobs.jobs import Job
from accdistill_jax.reproduce.plan.experiments import EXPERIMENTS, Experiment
from accdistill_jax.reproduce.plan.scales import SCALES, VALIDATIONS, Scale, all_variants
from accdistill_jax.reproduce.plan.variants import EncoderVariant

DATA = "data"
FORMAT = 1  # version of a job's results; increase it when the same order gives other numbers


class GridPlan(NamedTuple):
    """Jobs and experiments of a preset on some data.

    Attributes:
        jobs: the runs.
        experiments: sections of the report, in order.
        settings: preset, data, seeds and base config as plain values.
        variants: name -> variant.
        base: config that all variants change.
        seeds: number of training seeds.
    """

    jobs: list[Job]
    experiments: list[Experiment]
    settings: dict[str, Any]
    variants: dict[str, EncoderVariant]
    base: Any
    seeds: int


def plan_grid(
    preset: str,
    *,
    stores: tuple[str, ...] = (),
    unseen: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    seeds: int | None = None,
    overrides: Sequence[str] = (),
) -> GridPlan:
    """Plans the jobs of a preset.

    Args:
        preset: "smoke", "cpu" or "full".
        stores: prepared stores; () means synthetic data.
        unseen: stores that no encoder is trained on.
        only: ids of experiments, wildcards allowed; () means all.
        seeds: number of training seeds; None means the preset's.
        overrides: "--config.KEY=VALUE" each.

    Raises:
        UserError: unknown experiment, preset or key; a store that cannot be opened; a person or segment in two splits.
    """
    base, usual = (load_config(f"{presets.__file__}:{preset}", given) for given in (overrides, ()))
    if base.data.stores or base.data.unseen_stores:
        raise UserError("--config.data.stores is set by --data, and --config.data.unseen_stores by --unseen")
    scale = SCALES[preset]
    count = scale.seeds if seeds is None else seeds
    opened = [Store.open(path) for path in (*stores, *unseen)]
    alike = Signals.of(opened[0]) if stores else generated_signals(base)
    unseen_by_name(opened[len(stores) :], opened[: len(stores)], alike=alike, key="--unseen", reads_ppg=True)
    check_store_separation(base, opened[: len(stores)], opened[len(stores) :])
    fingerprints = [store.fingerprint for store in opened]
    data: list[Any] = fingerprints[: len(stores)]
    if not stores:
        population = {k: v for k, v in plain(base.data.synthetic).items() if k not in ("workers", "generator")}
        data.append({"generator": GENERATOR_VERSION} | population | signals_version(base.data.synthetic.generator))
    experiments = select_experiments(only, synthetic=not stores, unseen=bool(unseen))
    builder = _JobBuilder(base, usual, scale=scale, seeds=count, stores=stores, data=data)
    known = builder.known
    left_out = {name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in scale.leave_out)}
    experiments = [
        experiment._replace(variants=tuple(name for name in experiment.variants if name not in left_out))
        for experiment in experiments
    ]
    wanted = dict.fromkeys(name for experiment in experiments for name in experiment.variants)
    for name in wanted:
        builder.add(known[name])
    for name in dict.fromkeys(
        name for experiment in experiments if experiment.needs_unseen for name in experiment.variants
    ):
        builder.add_unseen_jobs(known[name], unseen, fingerprints[len(stores) :])
    settings = {
        "preset": preset,
        "data": list(stores) or ["synthetic"],
        "unseen": list(unseen),
        "data_fingerprints": fingerprints or None,
        "generator_version": None if stores else GENERATOR_VERSION,
        "only": list(only),
        "overrides": list(overrides),
        "seeds": count,
        "config": plain(base),
    }
    experiments = [
        experiment._replace(runs=builder.jobs_of(experiment.variants, unseen=experiment.needs_unseen))
        for experiment in experiments
    ]
    variants = {name: known[name] for name in builder.variants}
    return GridPlan(list(builder.jobs.values()), experiments, settings, variants, base, count)


def check_store_separation(base: Config, stores: Sequence[Store], unseen: Sequence[Store]) -> dict[str, Any]:
    """Checks that no person and no segment is in two splits; without stores, checks the people to be generated.

    Returns:
        What was compared, and the result; see `check_groups`.

    Raises:
        UserError: a person or segment is in two splits.
    """
    groups = [Group.of_store(store, unseen=False, say=print) for store in stores]
    if not stores:
        c = base.data.synthetic
        splits = SplitRule().assign(participant_id(c.seed, number) for number in range(c.participants))
        groups = [Group.of_people("the synthetic data", splits)]
    groups += [Group.of_store(store, unseen=True, say=print) for store in unseen]
    return check_groups(groups, same_names=base.data.same_names, say=print)


def generated_signals(base: Config) -> Signals:
    """The signals of the synthetic data that a config describes."""
    channels = base.data.synthetic.ppg_channels
    return Signals("the synthetic data (--config.data.synthetic.ppg_channels)", RATE_HZ, SAMPLES, channels)


def select_experiments(only: Sequence[str], *, synthetic: bool, unseen: bool) -> list[Experiment]:
    """Selects the experiments that `--only` names and that this data allows.

    Raises:
        UserError: an unknown name, or an experiment that needs other data.
    """
    possible = [
        experiment
        for experiment in EXPERIMENTS.values()
        if (synthetic or not experiment.synthetic_only) and (unseen or not experiment.needs_unseen)
    ]
    for name in only:
        if not any(fnmatch.fnmatchcase(experiment.id, name) for experiment in EXPERIMENTS.values()):
            near = nearest(name, EXPERIMENTS)
            hint = f"; did you mean {near}?" if near else ""
            raise UserError(f"--only {name}: no such experiment{hint} (--list names them)")
        if not any(fnmatch.fnmatchcase(experiment.id, name) for experiment in possible):
            raise UserError(f"--only {name}: needs {'--unseen STORE' if not unseen else 'synthetic data'}")
    return [
        experiment
        for experiment in possible
        if not only or any(fnmatch.fnmatchcase(experiment.id, name) for name in only)
    ]


class _JobBuilder:
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
            order = {"kind": DATA, "synthetic": plain(base.data.synthetic)}
            self.jobs[DATA] = Job(DATA, self._data_key, order, (), scale.seconds["data"])

    def add(self, variant: EncoderVariant) -> None:
        """Adds a job for each seed of a variant, after the jobs that it needs."""
        if variant.name in self.variants:
            return
        for name in (variant.teacher, variant.of):
            if name:
                self.add(self.known[name])
        self.variants[variant.name] = None
        for seed in range(self._seeds if variant.seeds == "all" else 1):
            self._add(variant, seed)

    def _add(self, variant: EncoderVariant, seed: int) -> None:
        config = self.config(variant, seed)
        needs = tuple(self.job_of(name, seed) for name in (variant.teacher, variant.of) if name)
        data = (DATA,) if DATA in self.jobs else ()
        order = {
            "kind": variant.kind,
            "variant": variant.name,
            "seed": seed,
            "config": plain(config),
            "teacher": self.job_of(variant.teacher, seed) if variant.teacher else "",
            "compared": self.job_of(variant.teacher, seed) if variant.teacher else "",
            "of": self.job_of(variant.of, seed) if variant.of else "",
            "rows": variant.rows,
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
            "data": self._data_key,
        }
        name = f"{variant.name}-s{seed}"
        self.jobs[name] = Job(name, _hash(decisive), order, (*data, *needs), self._cost(variant, config))

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
            order = job.order | {
                "of": trained,
                "compared": unseen_job(teacher) if teacher else "",
                "unseen": list(unseen),
            }
            decisive = {
                "format": FORMAT,
                "unseen": list(fingerprints),
                "needs": [self.jobs[need].key for need in needs],
            }
            data = (DATA,) if DATA in self.jobs else ()
            self.jobs[name] = Job(name, _hash(decisive), order, (*data, *needs), self._scale.seconds["embed"])

    def jobs_of(self, names: Sequence[str], *, unseen: bool = False) -> tuple[str, ...]:
        """Names of the jobs of some variants, for all seeds; with `unseen` also those that embed unseen stores."""
        orders = {name: job.order for name, job in self.jobs.items() if name != DATA}
        return tuple(
            job for job, order in orders.items() if order["variant"] in names and (unseen or not order["unseen"])
        )

    def job_of(self, name: str, seed: int) -> str:
        """Name of the job of a variant that a job with this seed needs."""
        return f"{name}-s{seed if self.known[name].seeds == 'all' else 0}"

    def config(self, variant: EncoderVariant, seed: int) -> Config:
        """Builds the validated config of a variant's run."""
        config = self._base
        changes: dict[str, Any] = {"seed": seed}
        if variant.kind == "teacher":
            changes["stages"] = ("teacher",)
        else:
            changes["stages"] = ("student",)
            objective: RegisteredObjective = OBJECTIVES.get(
                variant.changes.get("student.objective", config.student.objective)
            )
            if objective.ppg is PPG.FROZEN:
                changes["teacher.cached_views"] = round(
                    self._scale.views * (self._scale.short_share if variant.short else 1.0)
                )
            share = self._share(variant)
            if share != 1.0:
                changes["student.train.duration"] = _share(config.student.train.duration, share)
            if "student.supervised.label_fraction" in variant.changes:
                fraction = variant.changes["student.supervised.label_fraction"]
                duration = self._scale.supervised[fraction] or config.student.train.duration
                changes |= {
                    "student.train.duration": duration,
                    "student.train.validate_every": _share(duration, 1 / VALIDATIONS),
                    "student.train.validation_batches": self._scale.validation_batches,
                    "student.supervised.subset": seed,
                }
        return changed(config, changes | variant.changes)

    def _share(self, variant: EncoderVariant) -> float:
        """Duration of a variant's training as a share of the student's."""
        shares = {"student-best": self._scale.best_share, "student-long": self._scale.long_share}
        return self._scale.short_share if variant.short else shares.get(variant.name, 1.0)

    def _cost(self, variant: EncoderVariant, config: Config) -> float:
        seconds = self._scale.seconds
        embedding = seconds["embed"] * {"all": 3.0, "some": 1.0, "none": 0.3}[variant.rows]
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
