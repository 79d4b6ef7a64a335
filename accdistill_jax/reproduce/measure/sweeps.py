"""Measures sweeps of objectives, augmentations, teachers, sizes and sensors, each compared with a student of equal duration."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accdistill_jax.evaluation.probing.probes import MEAN
from accdistill_jax.evaluation.report.style import capital
from accdistill_jax.labels import LABELS
from accdistill_jax.reproduce.measure.formatting import (
    decimal,
    joined_words,
    points,
    ranged,
    ranged_share,
    signed,
    thousands,
)
from accdistill_jax.reproduce.measure.probe_claims import unmeasured
from accdistill_jax.reproduce.measure.probe_sweep import (
    FIRST,
    FULL,
    HR,
    SHORT_ONE,
    Sweep,
    SweepRow,
    judge,
    method,
    sweep,
    sweep_numbers,
    sweep_table,
)
from accdistill_jax.reproduce.measure.results import Bench, ReportPart
from accdistill_jax.reproduce.measure.search import top1_difference
from accdistill_jax.reproduce.plan import variants as v
from accdistill_jax.reproduce.plan.experiments import LEARNED_BASELINES, Experiment
from accdistill_jax.reproduce.report.document import Claim, Picture, ReportTable, Section, Statement
from accdistill_jax.reproduce.report.probe_figures import DotPanel, by_parameters, dots

NOT_IN_THE_PAPER = "not in the paper; its reviewers asked for it"
E4_STEP_MG = 1000 / 64  # of an Empatica E4
CONTRAST_MEAN = "contrast-mean"
RANGE_G = 16.0  # of a sensor of ±8 g
REPEATS = 51  # of a measurement of latency
CAPTION = "HR, SDNN and RMSSD: mean absolute error [95 % interval over test participants]"


def measure_objectives(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures contrast, regression, temperature and lambda, and judges if contrast beats regression."""
    swept = sweep(bench, experiment)
    return _part(experiment, swept, [_extremes(swept)], claims=(_regression(bench, swept, experiment),))


def measure_augmentations(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures each augmentation alone, and all but one."""
    swept = sweep(bench, experiment)
    return _part(experiment, swept, [_extremes(swept)])


def measure_teachers(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures students of several teachers and architectures, and the teachers themselves."""
    swept = sweep(bench, experiment)
    teachers = [name for name in swept.rows if bench.variant(name).kind == "teacher"]
    students = [name for name in swept.rows if name not in teachers]
    taught_by = {name: swept.rows.get(bench.variant(name).teacher) for name in students}
    more = {
        "its teacher's HR error, bpm": {
            n: ranged(t.errors[HR].estimate) for n, t in taught_by.items() if t and HR in t.errors
        }
    }
    tables = [
        sweep_table(swept, f"The teachers, from the PPG. {CAPTION}", teachers, compared=False),
        sweep_table(
            swept,
            f"Their students, from acceleration, and baselines without a teacher (trained for the full duration). {CAPTION}",
            students,
            more=more,
        ),
    ]
    claim = _generality(bench, experiment, swept, students)
    picture = _dots_picture(experiment, swept, students)
    return _part(experiment, swept, tables=tables, picture=picture, claims=(claim,))


def measure_sizes(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures error, work and latency of students by number of parameters."""
    swept = sweep(bench, experiment)
    facts = {name: bench.facts(name, FIRST) for name in swept.rows}
    parameters = {name: fact["parameters"] for name, fact in facts.items() if fact.get("parameters")}
    whole = parameters.get(v.MAE_TEACHER)
    more = {
        "parameters": {name: thousands(count) for name, count in parameters.items()},
        "teacher's / encoder's": {name: f"{whole / count:.1f}x" for name, count in parameters.items()} if whole else {},
        "multiply-accumulates per minute": {
            n: thousands(fact["multiply_accumulates"]) for n, fact in facts.items() if fact
        },
        "latency, ms": {name: _quartiles(times) for name, times in latencies(bench, list(swept.rows)).items()},
    }
    errors = {
        t: {name: row.errors[t] for name, row in swept.rows.items() if t in row.errors} for t in swept.scores.truth
    }
    titles = {name: row.title for name, row in swept.rows.items()}
    lines = [name for name in (v.MAE_TEACHER, "accel-mae") if name in swept.rows]
    figure = by_parameters(errors, parameters, titles, lines) if parameters and errors else None
    text = [
        "Parameters and multiply-accumulates are of the encoder alone; the latter count matrix products for one segment of a minute. "
        "Latency is the median [quartiles] for one segment at a time on a CPU device of the machine that wrote this report. Encoders "
        "take turns. `--check` does not compare latencies.",
    ]
    caption = (
        "Mean absolute error by number of parameters, with 95 % intervals over test participants. Circles: shorter training; diamonds: "
        "full training; dashed lines: teacher and baseline."
    )
    table = sweep_table(swept, f"Students by size. {CAPTION}", more=more)
    picture = None if figure is None else Picture(experiment.id, caption, figure)
    return _part(experiment, swept, text, tables=[table], picture=picture)


def measure_sensors(bench: Bench, experiment: Experiment) -> ReportPart:
    """Measures coarser sensors: the full sensor's student applied to their signals, and students trained on these signals."""
    swept = sweep(bench, experiment)
    names = [name for name in v.SENSORS if f"applied-{name}" in swept.rows or f"trained-{name}" in swept.rows]
    series = {
        "student trained on the full sensor": [FULL, *(f"applied-{name}" for name in names)],
        "student trained on this sensor (shorter training)": [SHORT_ONE, *(f"trained-{name}" for name in names)],
    }
    rows = ["full sensor", *(v.SENSORS[name][0] for name in names)]
    figure = dots(rows, _panels(swept, series, targets=[HR]))
    caption = (
        "HR error and top-1 by sensor, with 95 % intervals over test participants. Students trained for a sensor had the shorter "
        "training; compare each with the full sensor's student of its series."
    )
    text = [
        f"An Empatica E4 stores acceleration in steps of 1/64 g, {E4_STEP_MG:.1f} mg. A ballistocardiogram at the wrist is smaller "
        "than one step: its peak is 1.5 to 10 mg in the generator, which follows the orders of magnitude in the literature. Rounding "
        f"adds an error of {E4_STEP_MG / 12**0.5:.1f} mg (root mean square) to each sample. A heart beat changes the stored signal only "
        "if tremor, breathing or noise carry it across a step. Rates averaged over a minute can therefore survive in part, differences "
        "from beat to beat (SDNN, RMSSD) hardly, and nothing survives at a wrist that lies perfectly still.",
        _quantised(swept),
        "Power: an ADXL362 accelerometer draws 1.8 µA at 100 samples a second and 3.0 µA at 400, from 2.0 V (3.6 and 6.0 µW; Analog "
        "Devices' data sheet, which also says that its modes of lower noise cost more); a PPG sensor built to be frugal takes 43 µW "
        "(Lee et al., heartbeat locked loop, 2018). Rate and steps therefore change the sensor's power little; they change the amount of "
        "data to store, send and process more. The table lists bits per second.",
    ]
    bits = {name: _bits(bench, name) for name in swept.rows if bench.variant(name).kind != "teacher"}
    more = {"bit/s": {name: thousands(round(rate)) for name, rate in bits.items()}}
    table = sweep_table(swept, f"{experiment.title}. {CAPTION}", more=more)
    picture = None if figure is None else Picture(experiment.id, caption, figure)
    return _part(experiment, swept, text, tables=[table], picture=picture)


def _bits(bench: Bench, name: str) -> float:
    """Data rate of a sensor's signal in bits per second; 16 bits per sample without steps, otherwise steps span ±8 g."""
    changes = bench.variant(name).changes
    step, axes = changes.get("inputs.accel.simulated_step", 0.0), changes.get("inputs.accel.simulated_axes", 0) or 3
    return (
        bench.opened.stores[0].rate_hz
        * changes.get("inputs.accel.simulated_rate_fraction", 1.0)
        * axes
        * (math.log2(RANGE_G / step) if step else 16)
    )


def _part(
    experiment: Experiment,
    swept: Sweep,
    text: Sequence[str] = (),
    *,
    tables: Sequence[ReportTable] = (),
    picture: Picture | None = None,
    claims: tuple[Claim, ...] = (),
) -> ReportPart:
    """Makes the part of a sweep: method, tables, numbers, and a figure of dots unless another one is given."""
    tables = tables or [sweep_table(swept, f"{experiment.title}. {CAPTION}")]
    picture = picture or _dots_picture(experiment, swept, list(swept.rows))
    pictures = (picture,) if picture is not None and swept.rows else ()
    text = tuple(paragraph for paragraph in (method(swept), *text) if paragraph)
    section = Section(experiment.id, experiment.title, text, tuple(tables), pictures, swept.notes)
    return ReportPart(section, sweep_numbers(experiment.id, swept), claims)


def _dots_picture(experiment: Experiment, swept: Sweep, names: Sequence[str]) -> Picture | None:
    """Makes the figure of dots of some encoders; None without encoders."""
    if not names:
        return None
    first = next((k for k, name in enumerate(names) if name in (SHORT_ONE, FULL)), None)
    figure = dots([swept.rows[name].title for name in names], _panels(swept, {"": names}), reference=first)
    caption = "Errors and top-1 with 95 % intervals over test participants."
    if first is not None:
        caption = (
            f"Errors and top-1 (pool of {swept.pool}) with 95 % intervals over test participants; dashed: "
            f"{swept.rows[names[first]].title}."
        )
    return Picture(experiment.id, caption, figure)


def _panels(swept: Sweep, series: Mapping[str, Sequence[str]], targets: Sequence[str] = v.TARGETS) -> list[DotPanel]:
    """Makes a panel for each target and one for top-1; rows without an encoder stay empty."""

    def estimates(names: Sequence[str], of) -> list:
        return [of(swept.rows[name]) if name in swept.rows else None for name in names]

    def error(target: str):
        return lambda row: row.errors[target].estimate if target in row.errors else None

    shown = [
        DotPanel(
            f"{LABELS[t].short} error ({LABELS[t].unit})",
            {key: estimates(names, error(t)) for key, names in series.items()},
        )
        for t in targets
        if t in swept.scores.truth
    ]
    if swept.pool:
        first = {k: estimates(names, lambda row: row.retrieval and row.retrieval.top1) for k, names in series.items()}
        shown.append(DotPanel(f"top-1 of {swept.pool}", first, share=True))
    return shown


def _extremes(swept: Sweep) -> str:
    """Lists the variants that differ from the reference."""
    groups = {
        word: [row for row in swept.rows.values() if row.verdict == word]
        for word in ("lower", "higher", "not distinguishable")
    }
    if not any(groups.values()):
        return ""
    parts = [
        f"HR error {word}: {_ratios(rows)}." for word, rows in groups.items() if rows and word != "not distinguishable"
    ]
    if same := groups["not distinguishable"]:
        parts.append(f"Not distinguishable from the reference: {joined_words([row.title for row in same])}.")
    return " ".join(parts)


def _ratios(rows: Sequence[SweepRow]) -> str:
    ratios = sorted((row.ratio.value, row.title) for row in rows if row.ratio is not None)
    return joined_words([f"{title} ({decimal(ratio)})" for ratio, title in ratios])


def _regression(bench: Bench, swept: Sweep, experiment: Experiment) -> Claim:
    """Judges the claim that a contrastive loss beats squared error."""
    statement = Statement(
        "contrast-beats-regression",
        "Contrast beats regression (squared error) onto the teacher's embedding",
        NOT_IN_THE_PAPER,
    )
    row = swept.rows.get("regression-mse")
    # both without windows, where the experiment has such a student
    name = next((name for name in (CONTRAST_MEAN, SHORT_ONE) if name in experiment.variants), SHORT_ONE)
    reference = swept.rows.get(name)
    ratio = None if row is None else swept.scores.ratio(HR, 1.0, row.name, name, seeds=[FIRST])
    if row is None or reference is None or ratio is None:
        return unmeasured(statement, "regression with squared error, or its reference, has no result")
    verdict = judge(ratio, swept.reach.get(SHORT_ONE))
    measured = f"HR error of regression divided by that of contrast {ranged(ratio.estimate)}, {verdict}"
    better = [verdict == "higher"]
    why = (
        f"Regression's HR error is {verdict} than contrast's."
        if verdict != "not distinguishable"
        else "The HR errors are not distinguishable."
    )
    if row.retrieval and reference.retrieval:
        theirs, ours = row.retrieval.top1, reference.retrieval.top1
        measured += f"; top-1 of {swept.pool} {ranged_share(theirs)} against {ranged_share(ours)}"
        gap = top1_difference(reference.retrieval.first, row.retrieval.first, bench.columns("test").participant)
        better.append(gap.low is not None and gap.low > 0)
        why += f" Contrast's top-1 minus that of regression, on the same queries: {signed(points(gap), 1)} percentage points."
    holds = "yes" if all(better) else "partly" if any(better) else "no"
    rule = (
        "holds if contrast is better in HR (beyond the noise of a seed) and in top-1 (paired interval); holds in part if it is better in "
        "one of them."
    )
    return Claim(*statement, "P", measured=measured, holds=holds, why=why, rule=rule)


def _generality(bench: Bench, experiment: Experiment, swept: Sweep, students: Sequence[str]) -> Claim:
    """Judges the claim that each teacher and architecture gives a student that reads HR better than the baselines."""
    statement = Statement(
        "teachers-and-architectures",
        "Distillation works with MAE and contrastive teachers, Transformer and EfficientNet encoders",
        "holds for all",
    )
    planned = [name for name in experiment.variants if _kind(bench, name) == "student"]
    titles = {MEAN: "the mean of the labels"} | {name: bench.variant(name).title for name in planned}
    baselines = [name for name in LEARNED_BASELINES if name in planned] or [MEAN]
    wanted = [name for name in planned if name not in baselines]
    compared = {
        baseline: {
            name: ratio
            for name in students
            if name in wanted and (ratio := swept.scores.ratio(HR, 1.0, name, baseline, seeds=[FIRST])) is not None
        }
        for baseline in baselines
    }
    missing = [f"{titles[baseline]} has no result" for baseline in baselines if not compared[baseline]]
    if len(missing) == len(baselines):
        return unmeasured(statement, "; ".join(missing))
    known = {baseline: of for baseline, of in compared.items() if of}
    good = [name for name in wanted if all(name in of and of[name].below_1 for of in known.values())]
    holds = "yes" if len(good) == len(wanted) and not missing else "partly" if good else "no"
    against = " and ".join(titles[baseline] for baseline in known)
    why = f"{len(good)} of {len(wanted)} students have a lower HR error than {against}, by the paired interval."
    failed = [name for name in wanted if name not in good and any(name in of for of in known.values())]
    if failed:
        why += " Exceptions: " + "; ".join(_with_teacher(bench, swept, name) for name in failed) + "."
    why += "".join(f" {capital(line)}." for line in missing)
    rule = (
        f"holds if every student's HR error is below that of {against}, by the paired interval (first training seed); holds in part "
        "if some are."
    )
    measured = ". ".join(
        f"HR error divided by that of {titles[baseline]}: "
        + "; ".join(f"{titles[name]} {ranged(ratio.estimate)}" for name, ratio in of.items())
        for baseline, of in known.items()
    )
    return Claim(*statement, "P", measured=measured, holds=holds, why=why, rule=rule)


def _kind(bench: Bench, name: str) -> str:
    return bench.variant(name).kind if name in bench.plan.variants else ""


def _with_teacher(bench: Bench, swept: Sweep, name: str) -> str:
    teacher = swept.rows.get(bench.variant(name).teacher)
    teacher_error = (
        f" (its teacher's HR error is {decimal(teacher.errors[HR].value)} bpm)"
        if teacher and HR in teacher.errors
        else ""
    )
    return swept.rows[name].title + teacher_error


def latencies(bench: Bench, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Measures the milliseconds [repeats] that each encoder takes for one prepared segment, in float32 on a CPU device.

    Encoders take turns, so that other load on the machine affects all of them alike.
    """
    import jax

    from accdistill_jax.config.convert import parse_config
    from accdistill_jax.inputs.prepare import prepare_inputs
    from accdistill_jax.models.build import build_encoder, compute_dtype

    calls = {}
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        segment: dict[str, Any] = bench.opened.stores[0].read(np.zeros(1, np.int64))
        for name in names:
            order = next(job.order for job in bench.plan.jobs if job.order.get("variant") == name)
            config = parse_config(order["config"])
            side, modality = ("teacher", "ppg") if order["kind"] == "teacher" else ("student", "accel")
            x = prepare_inputs(segment, modality, config.inputs.of(modality))
            module = build_encoder(config.stage(side).encoder, dtype=compute_dtype("float32"))
            apply = jax.jit(lambda params, x, module=module: module.apply({"params": params}, x))
            params = jax.jit(module.init)(jax.random.key(0), x)["params"]
            jax.block_until_ready(apply(params, x))
            calls[name] = lambda apply=apply, params=params, x=x: jax.block_until_ready(apply(params, x))
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(REPEATS):
            for name, call in calls.items():
                begin = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - begin))
    return {name: np.array(milliseconds) for name, milliseconds in times.items()}


def _quartiles(values: np.ndarray) -> str:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{decimal(median)} [{decimal(low)}, {decimal(high)}]"


def _quantised(swept: Sweep) -> str:
    """Describes the measured effect of steps of 1/64 g."""
    parts = []
    for name, words in (
        ("applied-64th-g", "the student trained on the full sensor, applied to such a signal,"),
        ("trained-64th-g", "a student trained on such signals"),
    ):
        row = swept.rows.get(name)
        if row and row.ratio:
            top = f" and a top-1 of {ranged_share(row.retrieval.top1)}" if row.retrieval else ""
            parts.append(
                f"{words} has {decimal(row.ratio.value)} times the HR error of the full sensor ({row.verdict}){top}"
            )
    return f"Measured with steps of 1/64 g: {'; '.join(parts)}." if parts else ""
