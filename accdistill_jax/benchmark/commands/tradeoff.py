"""`benchmark tradeoff`: what dropping tokens and a teacher that runs once cost in accuracy, at equal time.

One teacher is trained, or taken from where it is. Then every variant's students get the same seconds: the time of a step is
measured first, all variants in turn, and a student's duration is what is left of the budget when its teacher's views are
computed, divided by that time. Read are validation participants; the test participants stay unseen.
"""

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.commands.tradeoff_report import TARGETS, Variant, draw, named_variant, report
from accdistill_jax.benchmark.contest import Contender
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import add_config, load_config
from accdistill_jax.config.schema import Config
from accdistill_jax.config.tree import plain
from accdistill_jax.errors import UserError
from accdistill_jax.storage.sole_use import sole_use
from accdistill_jax.user_paths import path_argument

__all__ = ["Plan", "Variant", "add_arguments", "draw", "measure", "read_student", "report"]

DROPS, VIEWS = (0.0, 0.25, 0.5, 0.75), (0, 2)
POOL = 100  # candidates among which the right minute is sought


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill")
    parser.add_argument(
        "--folder",
        type=path_argument,
        default=Path("runs/tradeoff"),
        metavar="DIR",
        help="for teacher, students, results and figure; the same command continues there (default runs/tradeoff)",
    )
    parser.add_argument(
        "--budget-s",
        type=_seconds,
        nargs="+",
        default=(150.0,),
        metavar="S",
        help="training time of a student (default 150)",
    )
    parser.add_argument(
        "--variants",
        type=named_variant,
        nargs="+",
        metavar="DROP/VIEWS",
        default=tuple(Variant(drop, views) for views in VIEWS for drop in DROPS),
        help="share of tokens dropped / views cached, the first is compared with (default 0/0 0.25/0 ... 0.75/2)",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="students of each variant and budget (default 3)"
    )


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e7:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Trains what is not trained yet and returns a record of plain values.

    Raises:
        UserError: the folder holds another trade-off, or what a run raises.
    """
    if arguments.seeds < 1:
        raise UserError(f"--seeds {arguments.seeds}: at least 1 is needed")
    base, folder = load_config(arguments.config, arguments.overrides), arguments.folder
    busy = "{} is in use by another process ({}); wait for it, or give another --folder"
    with sole_use(folder, refusal=lambda holder: busy.format(folder, holder)):
        return _measure(arguments, base, folder, say)


def _measure(arguments: argparse.Namespace, base: Any, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    plan = Plan(folder, base)
    store, teacher = _teacher(base, folder)
    plan.measure_steps(arguments.variants, rounds=arguments.rounds, say=say)
    plan.measure_views(arguments.variants, store, teacher)
    results, left_out = [], []
    for seed in range(arguments.seeds):  # all variants with a seed before the next, should it be stopped
        for budget_s in arguments.budget_s:
            for variant in arguments.variants:
                steps = plan.steps(variant, budget_s)
                if steps < 1:
                    left_out.append([variant.name, budget_s])
                    continue
                say(f"{variant.name}, {budget_s:g} s, seed {seed}: {steps} steps")
                results.append(
                    _student(base, folder, store, teacher, variant, budget_s=budget_s, seed=seed, steps=steps)
                )
    record = {
        "config": arguments.config,
        "overrides": list(arguments.overrides),
        "pool": POOL,
        "first": arguments.variants[0].name,
        "step_s": {variant.name: plan.step_s[variant.name] for variant in arguments.variants},
        "views_s": plan.views_s,
        "results": results,
        "left_out": left_out,
        "figure": str(folder / "tradeoff.png"),
    }
    draw(record).savefig(record["figure"])
    return record


def _run(config: Config, workdir: Path) -> None:
    """The stages of a config, as the command runs them; what they say goes to standard error."""
    from accdistill_jax.run import run

    with contextlib.redirect_stdout(sys.stderr):
        run(config, str(workdir))


def _teacher(base: Any, folder: Path) -> tuple[str, str]:
    """Trains the shared teacher where none is there: (path of its store, path of its export)."""
    workdir = folder / "teacher"
    _run(changed(base, {"stages": ("data", "teacher")}), workdir)
    if len(base.data.stores) > 1:
        raise UserError("config.data.stores names several stores; the trade-off reads one")
    store = base.data.stores[0] if base.data.stores else str(workdir / "data" / "synthetic")
    return store, base.teacher.path or str(workdir / "teacher" / "export")


def _of(variant: Variant, store: str, teacher: str) -> dict[str, Any]:
    return {
        "data.stores": (store,),
        "teacher.path": teacher,
        "teacher.cached_views": variant.views,
        "student.drop_fraction": variant.drop,
    }


class Plan:
    """Measurements made before the students: kept in the folder, so that a continued trade-off goes on with the same steps.

    Args:
        folder: of the trade-off.
        base: config of the students.

    Attributes:
        step_s: by variant, seconds of a step.
        views_s: by number of views, seconds that the teacher takes to embed them.
    """

    def __init__(self, folder: Path, base: Any):
        from accdistill_jax.config import record as config_record

        self._path, self._base = folder / "plan.json", base
        self._config = config_record.config_hash(base)
        self.step_s: dict[str, float] = {}
        self.views_s: dict[str, float] = {}
        if self._path.exists():
            try:
                found = json.loads(self._path.read_text())
                config, self.step_s, self.views_s = (found[key] for key in ("config", "step_s", "views_s"))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self._path} cannot be read ({error}); choose another --folder") from error
            if config != self._config:
                raise UserError(f"{folder} holds a trade-off of another config; choose another --folder")

    def save(self) -> None:
        """Writes the measurements to the folder."""
        from accdistill_jax.files import write_atomically

        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"config": self._config, "step_s": self.step_s, "views_s": self.views_s}
        write_atomically(self._path, json.dumps(kept, indent=1) + "\n")

    def measure_steps(self, variants: Iterable[Variant], *, rounds: int, say: Callable[[str], None]) -> None:
        """The time of a step of those variants that were not measured before, in turn."""
        import jax

        devices = jax.device_count()
        missing = [variant for variant in variants if variant.name not in self.step_s]
        contenders = []
        for variant in missing:
            config = changed(self._base, {"teacher.cached_views": variant.views, "student.drop_fraction": variant.drop})
            order = {
                "config": plain(config),
                "stage": "student",
                "share": None,
                "follow_steps": 2,
            }
            order["batch"] = config.student.train.batch_size // devices
            contenders.append(Contender(variant.name, "accdistill_jax.benchmark.contenders.training", order))
        for name, found in contest.compete(contenders, rounds=rounds, say=say).items():
            self.step_s[name] = statistics.median(found.seconds)
        self.save()

    def measure_views(self, variants: Iterable[Variant], store: str, teacher: str) -> None:
        """Measures how long the teacher takes to embed as many views as variants ask for; the views are kept and used afterwards."""
        for views in sorted({variant.views for variant in variants if variant.views} - set(map(int, self.views_s))):
            one = {"stages": ("student",), "student.train.duration": "1 steps", "student.train.warmup": "0 steps"}
            config = changed(self._base, _of(Variant(0.0, views), store, teacher) | one)
            _run(config, self._path.parent / f"views-{views}")
            self.views_s[str(views)] = views_seconds(store, views, seed=config.seed)
            self.save()

    def steps(self, variant: Variant, budget_s: float) -> int:
        """Training steps within a budget; 0 where the views alone take it."""
        return int(max(0.0, budget_s - self.views_s.get(str(variant.views), 0.0)) / self.step_s[variant.name])


def views_seconds(store: str, views: int, *, seed: int) -> float:
    """Time that the views beside a store took, as noted with those made last."""
    from accdistill_jax.stages.view_files import RECORD

    found = []
    for path in Path(store).glob(f"teacher_views/*/{RECORD}"):
        record = json.loads(path.read_text())
        if (record["meta"]["views"], record["meta"]["seed"]) == (views, seed):
            found.append((path.stat().st_mtime_ns, record["seconds"]))
    if not found:
        raise UserError(f"{store}: no teacher_views beside it; the trade-off needs a store that can be written to")
    return max(found)[1]


def _student(
    base: Any, folder: Path, store: str, teacher: str, variant: Variant, *, budget_s: float, seed: int, steps: int
) -> dict[str, Any]:
    """Trains and reads one student, unless its result is there."""
    from accdistill_jax.files import write_atomically
    from accdistill_jax.training.metrics import read_metrics

    workdir = folder / "students" / f"{variant.name.replace('/', '-')}-{budget_s:g}s-{seed}"
    path = workdir / "result.json"
    if path.exists():
        return json.loads(path.read_text())
    changes = {"stages": ("student", "evaluation"), "seed": seed, "student.train.duration": f"{steps} steps"}
    config = changed(base, _of(variant, store, teacher) | changes)
    _run(config, workdir)
    timing = read_metrics(workdir / "metrics" / "student.timing.jsonl")
    result = {
        "variant": variant.name,
        "budget_s": budget_s,
        "seed": seed,
        "steps": steps,
        "train_s": sum(record["seconds"] for record in timing),
        "views_s": views_seconds(store, variant.views, seed=seed) if variant.views else 0.0,
        **read_student(config, workdir, store),
    }
    write_atomically(path, json.dumps(result, indent=1) + "\n")
    return result


def read_student(config: Config, workdir: Path, path: str) -> dict[str, Any]:
    """Heart rate and SDNN by linear probes and retrieval of the same minute, on validation participants.

    Args:
        config: of the run.
        workdir: of the run, its embeddings computed.
        path: of its store.

    Returns:
        hr_mae, sdnn_mae: {"student", "teacher", "mean"} mean absolute errors in beats per minute and ms; the probe is fitted
            on training participants, its strength chosen by cross-validation among them. top1: share of minutes that are
            found among `POOL` by their acceleration. validation_segments.
    """
    import numpy as np

    from accdistill_jax.data.store.opening import choose_rows
    from accdistill_jax.data.store.store import Store
    from accdistill_jax.evaluation.evaluate import STUDENT, TEACHER
    from accdistill_jax.evaluation.probing.probes import MEAN, ProbeSplit, ProbeSplits, probe_target
    from accdistill_jax.evaluation.retrieval.retrieval import paired_ranks, top1_by_pool_size, unit_rows

    store = Store.open(path)
    with np.load(workdir / "embeddings" / "main.npz") as saved:
        arrays = {
            (who, split, what): saved[f"{who}/{split}/{what}"]
            for who in (STUDENT, TEACHER)
            for split in ("train", "validation")
            for what in ("embedding", "projection")
        }

    def probe_split(target: str, split: str, limit: int | None) -> ProbeSplit:
        (rows,) = choose_rows((store,), split, limit, seed=config.seed)
        features = {who: arrays[who, split, "embedding"] for who in (STUDENT, TEACHER)}
        return ProbeSplit(
            features, store.segments[target][rows].astype(np.float64), store.segments["participant"][rows]
        )

    def errors(target: str) -> dict[str, float]:
        train, validation = (
            probe_split(target, "train", config.evaluation.train_segments),
            probe_split(target, "validation", None),
        )
        nobody = train.rows(np.arange(0))
        probed = probe_target(target, ProbeSplits(train, nobody, validation), draws=2, seed=config.seed)
        if probed.reason:
            raise UserError(f"{path}: {target} cannot be read from validation participants: {probed.reason}")
        return {who: probed.probes[who].mae.value for who in (STUDENT, TEACHER, MEAN)}

    ranks, _ = paired_ranks(
        unit_rows(arrays[STUDENT, "validation", "projection"]), unit_rows(arrays[TEACHER, "validation", "projection"])
    )
    return {
        **{name: errors(target) for name, target in TARGETS.items()},
        "top1": float(top1_by_pool_size(ranks, np.array([min(POOL, len(ranks))]))[0]),
        "validation_segments": len(ranks),
    }
