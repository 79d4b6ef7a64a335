"""Plans the grid of experiments: the jobs, the config of each, and the jobs that it needs."""

import fnmatch
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from accdistill_jax.config.load import load_config
from accdistill_jax.config.nearest import nearest
from accdistill_jax.config.schema import Config
from accdistill_jax.config.tree import plain
from accdistill_jax.configs import reproduce as presets
from accdistill_jax.data.store.opening import Signals, unseen_by_name
from accdistill_jax.data.store.separation import Group, check_groups
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.synthetic.physiology import participant_id
from accdistill_jax.data.synthetic.synthetic import GENERATOR_VERSION
from accdistill_jax.data.synthetic.waveforms import RATE_HZ, SAMPLES
from accdistill_jax.errors import UserError
from accdistill_jax.reproduce.jobs.jobs import Job
from accdistill_jax.reproduce.plan.experiments import EXPERIMENTS, Experiment
from accdistill_jax.reproduce.plan.job_builder import JobBuilder, population_identity
from accdistill_jax.reproduce.plan.scales import SCALES
from accdistill_jax.reproduce.plan.variants import EncoderVariant

GRID_VERSION = 2
"""Version of the presets. A report without it is of the first version, whose `cpu` is `cpu-mean` now; see report/check.py."""


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
        preset: a key of `SCALES`.
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
    if base.data.held_out:  # trainings would take these splits, while embeddings and measures keep those of the stores
        raise UserError(
            "--config.data.held_out is not for the grid: it would train on people whom the stores keep for testing; prepare a store "
            "with these splits, or use python -m accdistill_jax.reproduce.wearers"
        )
    if base.seed != usual.seed:
        raise UserError(
            "--config.seed would change nothing: every run of the grid has a training seed of its own, from 0 (--seeds N)"
        )
    scale = SCALES[preset]
    count = scale.seeds if seeds is None else seeds
    opened = [Store.open(path) for path in (*stores, *unseen)]
    alike = Signals.of(opened[0]) if stores else generated_signals(base)
    unseen_by_name(opened[len(stores) :], opened[: len(stores)], alike=alike, key="--unseen", reads_ppg=True)
    check_store_separation(base, opened[: len(stores)], opened[len(stores) :])
    fingerprints = [store.fingerprint for store in opened]
    data: list[Any] = fingerprints[: len(stores)]
    if not stores:
        data.append(population_identity(plain(base.data.synthetic)))
    experiments = select_experiments(only, synthetic=not stores, unseen=bool(unseen), preset=scale.experiments)
    builder = JobBuilder(base, usual, scale=scale, seeds=count, stores=stores, data=data)
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
    experiments = [experiment for experiment in experiments if experiment.variants]
    settings = {
        "preset": preset,
        "grid_version": GRID_VERSION,
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


def among_variants(plan: GridPlan, names: Collection[str]) -> GridPlan:
    """The part of a plan that measures these variants, with the jobs that they need."""
    experiments, by_name = [], {job.name: job for job in plan.jobs}
    for experiment in plan.experiments:
        runs = tuple(run for run in experiment.runs if by_name[run].order["variant"] in names)
        variants = tuple(name for name in experiment.variants if name in names)
        if variants:
            experiments.append(experiment._replace(variants=variants, runs=runs))
    needed, wanted = set(), [run for experiment in experiments for run in experiment.runs]
    while wanted:
        if (name := wanted.pop()) not in needed:
            needed.add(name)
            wanted += by_name[name].needs
    return plan._replace(jobs=[job for job in plan.jobs if job.name in needed], experiments=experiments)


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


def select_experiments(
    only: Sequence[str], *, synthetic: bool, unseen: bool, preset: Sequence[str] = ("*",)
) -> list[Experiment]:
    """Selects the experiments that `--only` names, that this data allows and that the preset runs (wildcards allowed).

    Raises:
        UserError: an unknown name, or an experiment that needs other data.
    """
    possible = [
        experiment
        for experiment in EXPERIMENTS.values()
        if (synthetic or not experiment.synthetic_only) and (unseen or not experiment.needs_unseen)
        if any(fnmatch.fnmatchcase(experiment.id, pattern) for pattern in preset)
    ]
    for name in only:
        if not any(fnmatch.fnmatchcase(experiment.id, name) for experiment in EXPERIMENTS.values()):
            near = nearest(name, EXPERIMENTS)
            hint = f"; did you mean {near}?" if near else ""
            raise UserError(f"--only {name}: no such experiment{hint} (--list names them)")
        if not any(fnmatch.fnmatchcase(experiment.id, name) for experiment in possible):
            named = [e for e in EXPERIMENTS.values() if fnmatch.fnmatchcase(e.id, name)]
            if all(e.needs_unseen and not unseen for e in named):
                raise UserError(f"--only {name}: needs --unseen STORE")
            if all(e.synthetic_only and not synthetic for e in named):
                raise UserError(f"--only {name}: needs synthetic data")
            raise UserError(f"--only {name}: not part of this preset (--list names its experiments)")
    return [
        experiment
        for experiment in possible
        if not only or any(fnmatch.fnmatchcase(experiment.id, name) for name in only)
    ]
