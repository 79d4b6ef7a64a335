"""`benchmark tradeoff`: the accuracy that dropped tokens and cached teacher views cost, at equal training time or equal steps.

All students share a teacher, which is trained first if the config names none. The time of a step is measured first, all variants in
turn. At equal time, the steps of a student are the budget, less the time to compute its teacher's views, divided by the time of a
step. With `--steps`, all students get the same number of steps, and the table shows the speed of a step beside the results: load by
other programs then changes no student. Results are those of validation participants; test participants are not read.
"""

import argparse
import contextlib
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.arguments import positive
from accdistill_jax.benchmark.commands.tradeoff_report import TARGETS, StudentVariant, draw, named_variant, report
from accdistill_jax.benchmark.contest import Contender
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import add_config, load_config
from accdistill_jax.config.schema import Config
from accdistill_jax.config.tree import plain
from accdistill_jax.errors import UserError
from accdistill_jax.storage.sole_use import sole_use
from accdistill_jax.user_paths import path_argument

__all__ = ["StepPlan", "StudentVariant", "add_arguments", "draw", "measure", "report"]

DROPS, VIEWS = (0.0, 0.25, 0.5, 0.75), (0, 2)
POOL = 100  # candidates of retrieval: the right minute and others


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill:mean")
    parser.add_argument(
        "--folder",
        type=path_argument,
        default=Path("runs/tradeoff"),
        metavar="DIR",
        help="folder of teacher, students, results and figure; the same command continues there (default runs/tradeoff)",
    )
    parser.add_argument(
        "--budget-s",
        type=_seconds,
        nargs="+",
        default=(150.0,),
        metavar="S",
        help="training time of a student, in seconds (default 150)",
    )
    parser.add_argument(
        "--steps",
        type=positive,
        nargs="+",
        default=(),
        metavar="N",
        help="training steps of every student, in place of a time",
    )
    parser.add_argument(
        "--variants",
        type=named_variant,
        nargs="+",
        metavar="DROP/VIEWS",
        default=tuple(StudentVariant(drop, views) for views in VIEWS for drop in DROPS),
        help="share of dropped tokens / number of cached views; the first is the reference (default 0/0 0.25/0 ... 0.75/2)",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="students of each variant and budget (default 3)"
    )


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e7:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} must be a positive number of seconds")


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Trains the missing teacher and students and returns a record of plain values.

    Raises:
        UserError: the folder holds a trade-off of another config, or a run failed.
    """
    if arguments.seeds < 1:
        raise UserError(f"--seeds {arguments.seeds} must be a positive integer")
    base, folder = load_config(arguments.config, arguments.overrides), arguments.folder
    busy = "{} is in use by another process ({}); wait for it, or give another --folder"
    with sole_use(folder, refusal=lambda holder: busy.format(folder, holder)):
        return _measure(arguments, base, folder, say)


def _measure(arguments: argparse.Namespace, base: Config, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    plan = StepPlan(folder, base)
    budgets = [(0.0, steps) for steps in arguments.steps] or [(budget_s, 0) for budget_s in arguments.budget_s]
    inputs = _shared_inputs(base, folder)
    plan.measure_steps(arguments.variants, rounds=arguments.rounds, say=say)
    plan.measure_views(arguments.variants, inputs)
    results, left_out = [], []
    for seed in range(arguments.seeds):  # an interrupted run has results of all variants for the first seeds
        for budget_s, fixed in budgets:
            for variant in arguments.variants:
                steps = fixed or plan.steps(variant, budget_s)
                if steps < 1:
                    left_out.append([variant.name, budget_s])
                    continue
                say(f"{variant.name}{f', {budget_s:g} s' if budget_s else ''}, seed {seed}: {steps} steps")
                results.append(_train_student(inputs, variant, budget_s=budget_s, seed=seed, steps=steps))
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
    """Runs the stages of a config; their output goes to standard error."""
    from accdistill_jax.run import run

    with contextlib.redirect_stdout(sys.stderr):
        run(config, str(workdir))


class SharedInputs(NamedTuple):
    """Inputs that all students share.

    Attributes:
        base: config of the students.
        folder: folder of the trade-off.
        store: path of the training store.
        teacher: path of the teacher's export.
    """

    base: Config
    folder: Path
    store: str
    teacher: str

    def changes(self, variant: StudentVariant) -> dict[str, Any]:
        """Changes of the config for a variant, by dotted key."""
        return {
            "data.stores": (self.store,),
            "teacher.path": self.teacher,
            "teacher.cached_views": variant.views,
            "student.drop_fraction": variant.drop,
        }


def _shared_inputs(base: Config, folder: Path) -> SharedInputs:
    """Generates the store and trains the teacher, unless the config names them."""
    workdir = folder / "teacher"
    _run(changed(base, {"stages": ("data", "teacher")}), workdir)
    if len(base.data.stores) > 1:
        raise UserError("config.data.stores names several stores; the trade-off reads a single store")
    store = base.data.stores[0] if base.data.stores else str(workdir / "data" / "synthetic")
    return SharedInputs(base, folder, store, base.teacher.path or str(workdir / "teacher" / "export"))


class StepPlan:
    """Measured times that set the students' steps. They are kept in the folder, so that a continued trade-off uses the same steps.

    Args:
        folder: folder of the trade-off.
        base: config of the students.

    Attributes:
        step_s: seconds per step, by variant.
        views_s: seconds that the teacher takes to embed all views, by number of views.
    """

    def __init__(self, folder: Path, base: Config):
        from accdistill_jax.config import record as config_record

        self._path, self._base = folder / "plan.json", base
        self._config = config_record.config_hash(base)
        self.step_s: dict[str, float] = {}
        self.views_s: dict[str, float] = {}
        if self._path.exists():
            try:
                saved = json.loads(self._path.read_text())
                config, self.step_s, self.views_s = (saved[key] for key in ("config", "step_s", "views_s"))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self._path} cannot be read ({error}); choose another --folder") from error
            if config != self._config:
                raise UserError(f"{folder} holds a trade-off of another config; choose another --folder")

    def save(self) -> None:
        """Writes the times to the folder."""
        from accdistill_jax.files import write_atomically

        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"config": self._config, "step_s": self.step_s, "views_s": self.views_s}
        write_atomically(self._path, json.dumps(kept, indent=1) + "\n")

    def measure_steps(self, variants: Iterable[StudentVariant], *, rounds: int, say: Callable[[str], None]) -> None:
        """Measures the steps of those variants that have no measurement yet, in turn."""
        import jax

        devices = jax.device_count()
        missing = [variant for variant in variants if variant.name not in self.step_s]
        contenders = []
        for variant in missing:
            config = changed(self._base, {"teacher.cached_views": variant.views, "student.drop_fraction": variant.drop})
            order = {"config": plain(config), "stage": "student", "share": None, "follow_steps": 2}
            order["batch"] = config.student.train.batch_size // devices
            contenders.append(Contender(variant.name, "accdistill_jax.benchmark.contenders.training", order))
        for name, measured in contest.compete(contenders, rounds=rounds, say=say).items():
            self.step_s[name] = statistics.median(measured.seconds)
        self.save()

    def measure_views(self, variants: Iterable[StudentVariant], inputs: SharedInputs) -> None:
        """Measures the time that the teacher takes to embed the variants' views; students of the same seed use these views."""
        for views in sorted({variant.views for variant in variants if variant.views} - set(map(int, self.views_s))):
            short = {"stages": ("student",), "student.train.duration": "1 steps", "student.train.warmup": "0 steps"}
            config = changed(self._base, inputs.changes(StudentVariant(0.0, views)) | short)
            _run(config, self._path.parent / f"views-{views}")
            self.views_s[str(views)] = views_seconds(inputs.store, views, seed=config.seed)
            self.save()

    def steps(self, variant: StudentVariant, budget_s: float) -> int:
        """Training steps within a budget; 0 if the views alone take longer."""
        return int(max(0.0, budget_s - self.views_s.get(str(variant.views), 0.0)) / self.step_s[variant.name])


def views_seconds(store: str, views: int, *, seed: int) -> float:
    """Seconds that the latest views next to a store took, from their record.

    Raises:
        UserError: the store has no such views.
    """
    from accdistill_jax.stages.view_files import RECORD

    times = []
    for path in Path(store).glob(f"teacher_views/*/{RECORD}"):
        record = json.loads(path.read_text())
        if (record["meta"]["views"], record["meta"]["seed"]) == (views, seed):
            times.append((path.stat().st_mtime_ns, record["seconds"]))
    if not times:
        raise UserError(f"{store}: it has no folder teacher_views; the trade-off needs a store on a writable disk")
    return max(times)[1]


def _train_student(
    inputs: SharedInputs, variant: StudentVariant, *, budget_s: float, seed: int, steps: int
) -> dict[str, Any]:
    """Trains and evaluates a student; returns its saved result if it has one. `budget_s` is 0 if the steps are given."""
    from accdistill_jax.files import write_atomically
    from accdistill_jax.training.metrics import read_metrics

    budget = f"{budget_s:g}s" if budget_s else f"{steps}steps"
    workdir = inputs.folder / "students" / f"{variant.name.replace('/', '-')}-{budget}-{seed}"
    path = workdir / "result.json"
    if path.exists():
        return json.loads(path.read_text())
    changes = {"stages": ("student", "evaluation"), "seed": seed, "student.train.duration": f"{steps} steps"}
    config = changed(inputs.base, inputs.changes(variant) | changes)
    _run(config, workdir)
    timing = read_metrics(workdir / "metrics" / "student.timing.jsonl")
    result = {
        "variant": variant.name,
        "budget_s": budget_s,
        "seed": seed,
        "steps": steps,
        "train_s": sum(record["seconds"] for record in timing),
        "views_s": views_seconds(inputs.store, variant.views, seed=seed) if variant.views else 0.0,
        **read_student(config, workdir, inputs.store),
    }
    write_atomically(path, json.dumps(result, indent=1) + "\n")
    return result


def read_student(config: Config, workdir: Path, path: str) -> dict[str, Any]:
    """Evaluates a student on validation participants: linear probes of heart rate and SDNN, and retrieval of the same minute.

    Args:
        config: config of the run.
        workdir: work directory of the run, with its embeddings.
        path: path of its store.

    Returns:
        "hr_mae" and "sdnn_mae": mean absolute errors of "student", "teacher" and "mean", in beats per minute and ms; the probe is
        fitted on training participants, with its strength chosen by cross-validation among them. "top1": share of minutes that
        acceleration retrieves among `POOL` candidates. "validation_segments": number of segments.
    """
    import numpy as np

    from accdistill_jax.data.store.opening import choose_rows
    from accdistill_jax.data.store.store import Store
    from accdistill_jax.evaluation.evaluate import STUDENT, TEACHER
    from accdistill_jax.evaluation.probing.probes import MEAN, ProbeSplit, ProbeSplits, probe_target
    from accdistill_jax.evaluation.retrieval.ranks import paired_ranks, unit_rows
    from accdistill_jax.evaluation.retrieval.retrieval import top1_by_pool_size

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
            raise UserError(f"{path}: no probe of {target} on validation participants: {probed.reason}")
        maes = {}
        for name in (STUDENT, TEACHER, MEAN):
            mae = probed.probes[name].mae.value
            assert mae is not None, "the error of a fitted probe is defined"
            maes[name] = mae
        return maes

    ranks, _ = paired_ranks(
        unit_rows(arrays[STUDENT, "validation", "projection"]), unit_rows(arrays[TEACHER, "validation", "projection"])
    )
    return {
        **{name: errors(target) for name, target in TARGETS.items()},
        "top1": float(top1_by_pool_size(ranks, np.array([min(POOL, len(ranks))]))[0]),
        "validation_segments": len(ranks),
    }
