"""Measured in sweeps: objectives, augmentations, teachers, sizes and sensors, each beside a student of equal duration."""

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from accdistill_jax.evaluation.probing.probes import MEAN
from accdistill_jax.labels import LABELS
from accdistill_jax.reproduce.measure.probe_claims import unmeasured
from accdistill_jax.reproduce.measure.probe_sweep import (
    FIRST,
    FULL,
    HR,
    SHORT_ONE,
    Sweep,
    SweepRow,
    method,
    sweep,
    sweep_numbers,
    sweep_table,
)
from accdistill_jax.reproduce.measure.results import Bench, ReportPart
from accdistill_jax.reproduce.measure.search import top1_difference
from accdistill_jax.reproduce.measure.wording import (
    decimal,
    listed,
    points,
    ranged,
    ranged_share,
    signed,
    thousands,
)
from accdistill_jax.reproduce.plan import variants as v
from accdistill_jax.reproduce.plan.experiments import Experiment
from accdistill_jax.reproduce.report.document import Claim, Picture, ReportTable, Section
from accdistill_jax.reproduce.report.probe_figures import DotPanel, by_parameters, dots

NOT_IN_THE_PAPER = "not in the paper; asked for by its reviewers"
E4_STEP_MG = 1000 / 64  # of an Empatica E4
RANGE_G = 16.0  # of a sensor of ±8 g
REPEATS = 51  # of a measurement of latency
CAPTION = "HR, SDNN and RMSSD: mean absolute error [95 % interval over test participants]"


def measure_objectives(bench: Bench, experiment: Experiment) -> ReportPart:
    """Contrast, regression, temperature and lambda, and whether regression does as well as contrast."""
    found = sweep(bench, experiment)
    return _part(experiment, found, [_extremes(found)], claims=(_regression(bench, found),))


def measure_augmentations(bench: Bench, experiment: Experiment) -> ReportPart:
    """One augmentation alone, and each left out."""
    found = sweep(bench, experiment)
    return _part(experiment, found, [_extremes(found)])


def measure_teachers(bench: Bench, experiment: Experiment) -> ReportPart:
    """Students of several teachers and architectures, beside what the teachers themselves know."""
    found = sweep(bench, experiment)
    own = [name for name in found.rows if bench.variant(name).kind == "teacher"]
    students = [name for name in found.rows if name not in own]
    taught_by = {name: found.rows.get(bench.variant(name).teacher) for name in students}
    more = {
        "its teacher's HR error, bpm": {
            n: ranged(t.errors[HR].estimate) for n, t in taught_by.items() if t and HR in t.errors
        }
    }
    tables = [
        sweep_table(found, f"The teachers themselves, from the PPG. {CAPTION}", own, compared=False),
        sweep_table(
            found,
            f"Their students, from acceleration, and (trained for the full duration) a baseline without a teacher. {CAPTION}",
            students,
            more=more,
        ),
    ]
    return _part(
        experiment, found, tables=tables, shown=students, claims=(_generality(bench, experiment, found, students),)
    )


def measure_sizes(bench: Bench, experiment: Experiment) -> ReportPart:
    """Students of several sizes: error, work and latency by number of parameters."""
    found = sweep(bench, experiment)
    facts = {name: bench.facts(name, FIRST) for name in found.rows}
    parameters = {name: own["parameters"] for name, own in facts.items() if own.get("parameters")}
    whole = parameters.get(v.MAE_TEACHER)
    more = {
        "parameters": {name: thousands(own) for name, own in parameters.items()},
        "teacher / it": {name: f"{whole / own:.1f}x" for name, own in parameters.items()} if whole else {},
        "multiply-accumulates per minute": {
            n: thousands(own["multiply_accumulates"]) for n, own in facts.items() if own
        },
        "latency, ms": {name: _quartiles(own) for name, own in latencies(bench, list(found.rows)).items()},
    }
    errors = {
        t: {name: row.errors[t] for name, row in found.rows.items() if t in row.errors} for t in found.scores.truth
    }
    titles = {name: row.title for name, row in found.rows.items()}
    lines = [name for name in (v.MAE_TEACHER, "accel-mae") if name in found.rows]
    figure = by_parameters(errors, parameters, titles, lines) if parameters and errors else None
    text = [
        "Parameters and multiply-accumulates are of the encoder alone, the latter matrix products of one minute's segment. Latency is "
        "the median [quartiles] for one segment at a time on one CPU device of the machine that wrote this, all encoders in turns; no "
        "number of it is checked.",
    ]
    caption = (
        "Mean absolute error by number of parameters, with 95 % intervals over test participants. Circles were trained for the shorter "
        "duration, diamonds for the full one; dashed: teacher and baseline."
    )
    table = sweep_table(found, f"Students by size. {CAPTION}", more=more)
    return _part(experiment, found, text, tables=[table], figure=figure, caption=caption)


def measure_sensors(bench: Bench, experiment: Experiment) -> ReportPart:
    """Lesser sensors: a student of the full one applied to their signal, and one that was trained on it."""
    found = sweep(bench, experiment)
    names = [name for name in v.SENSORS if f"applied-{name}" in found.rows or f"trained-{name}" in found.rows]
    series = {
        "student of the full sensor": [FULL, *(f"applied-{name}" for name in names)],
        "student trained for it (shorter)": [SHORT_ONE, *(f"trained-{name}" for name in names)],
    }
    rows = ["full sensor", *(v.SENSORS[name][0] for name in names)]
    figure = dots(rows, _panels(found, series, targets=[HR]))
    caption = (
        "HR error and share of first places by sensor, with 95 % intervals over test participants. The students that were trained for "
        "a sensor had the shorter duration; compare each with the full sensor's student of its kind."
    )
    text = [
        f"An Empatica E4 stores acceleration in steps of 1/64 g, {E4_STEP_MG:.1f} mg. A ballistocardiogram at the wrist is smaller "
        "than one step: its peak is 1.5 to 10 mg in the generator, which follows the orders of magnitude in the literature. Rounding "
        f"adds an error of {E4_STEP_MG / 12**0.5:.1f} mg (root mean square) to each sample. The beat comes through only "
        "where tremor, breathing and noise carry the signal across steps, which spreads it over many samples: rates averaged "
        "over a minute can be expected to survive in part, differences from beat to beat (SDNN, RMSSD) hardly, and nothing of a "
        "wrist that lies perfectly still.",
        _quantised(found),
        "Power: an ADXL362 accelerometer draws 1.8 µA at 100 samples a second and 3.0 µA at 400, from 2.0 V (3.6 and 6.0 µW; Analog "
        "Devices' data sheet, which also says that its modes of lower noise cost more); a PPG sensor built to be frugal takes 43 µW "
        "(Lee et al., heartbeat locked loop, 2018). So rate and steps decide little about the sensor's own power, and more about what "
        "is stored, sent and computed: bits a second are in the table.",
    ]
    bits = {name: _bits(bench, name) for name in found.rows if bench.variant(name).kind != "teacher"}
    more = {"bit/s": {name: thousands(round(own)) for name, own in bits.items()}}
    table = sweep_table(found, f"{experiment.title}. {CAPTION}", more=more)
    return _part(experiment, found, text, tables=[table], figure=figure, caption=caption)


def _bits(bench: Bench, name: str) -> float:
    """Data rate of a sensor's signal in bits a second; the full one has 16 bits, steps span ±8 g."""
    own = bench.variant(name).changes
    step, axes = own.get("inputs.accel.simulated_step", 0.0), own.get("inputs.accel.simulated_axes", 0) or 3
    return (
        bench.opened.stores[0].rate_hz
        * own.get("inputs.accel.simulated_rate_fraction", 1.0)
        * axes
        * (math.log2(RANGE_G / step) if step else 16)
    )


def _part(
    experiment: Experiment,
    found: Sweep,
    text: Sequence[str] = (),
    *,
    tables: Sequence[ReportTable] = (),
    figure: Figure | None = None,
    caption: str = "",
    shown: Sequence[str] | None = None,
    claims: tuple[Claim, ...] = (),
) -> ReportPart:
    """The parts that all sweeps have: method, table, figure of dots unless another is given, numbers."""
    names = list(found.rows if shown is None else shown)
    if figure is None and names:
        first = next((k for k, name in enumerate(names) if name in (SHORT_ONE, FULL)), None)
        figure = dots([found.rows[name].title for name in names], _panels(found, {"": names}), reference=first)
        caption = (
            f"Errors and first places (pool of {found.pool}) with 95 % intervals over test participants; dashed: "
            f"{found.rows[names[first]].title}."
            if first is not None
            else "Errors and first places with 95 % intervals over test participants."
        )
    tables = tables or [sweep_table(found, f"{experiment.title}. {CAPTION}")]
    pictures = (Picture(experiment.id, caption, figure),) if figure is not None and found.rows else ()
    text = tuple(one for one in (method(found), *text) if one)
    section = Section(experiment.id, experiment.title, text, tuple(tables), pictures, found.notes)
    return ReportPart(section, sweep_numbers(experiment.id, found), claims)


def _panels(found: Sweep, series: Mapping[str, Sequence[str]], targets: Sequence[str] = v.TARGETS) -> list[DotPanel]:
    """A panel for each target and one for the first places, of rows that may lack an encoder."""

    def estimates(names: Sequence[str], of) -> list:
        return [of(found.rows[name]) if name in found.rows else None for name in names]

    def error(target: str):
        return lambda row: row.errors[target].estimate if target in row.errors else None

    shown = [
        DotPanel(
            f"{LABELS[t].short} error ({LABELS[t].unit})",
            {key: estimates(names, error(t)) for key, names in series.items()},
        )
        for t in targets
        if t in found.scores.truth
    ]
    if found.pool:
        first = {k: estimates(names, lambda row: row.retrieval and row.retrieval.top1) for k, names in series.items()}
        shown.append(DotPanel(f"top-1 of {found.pool}", first, share=True))
    return shown


def _extremes(found: Sweep) -> str:
    """Which variants stand out from the reference."""
    groups = {
        word: [row for row in found.rows.values() if row.verdict == word]
        for word in ("lower", "higher", "not distinguishable")
    }
    if not any(groups.values()):
        return ""
    parts = [
        f"HR error {word}: {_ratios(rows)}." for word, rows in groups.items() if rows and word != "not distinguishable"
    ]
    if same := groups["not distinguishable"]:
        parts.append(f"Not distinguishable from the reference: {listed([row.title for row in same])}.")
    return " ".join(parts)


def _ratios(rows: Sequence[SweepRow]) -> str:
    return listed(
        [f"{row.title} ({decimal(row.ratio.value)})" for row in sorted(rows, key=lambda row: row.ratio.value)]
    )


def _regression(bench: Bench, found: Sweep) -> Claim:
    """Judges the claim that squared error in place of contrast does worse."""
    claim, row = (
        "Contrast beats regression (squared error) onto the teacher's embedding",
        found.rows.get("regression-mse"),
    )
    reference = found.rows.get(SHORT_ONE)
    if row is None or reference is None or row.ratio is None:
        return unmeasured(claim, NOT_IN_THE_PAPER, "regression with squared error, or its reference, has no result")
    measured = f"HR error of regression over that of contrast {ranged(row.ratio.estimate)}, {row.verdict}"
    better = [row.verdict == "higher"]
    why = (
        f"Regression's HR error is {row.verdict} than contrast's."
        if row.verdict != "not distinguishable"
        else "The HR errors are not distinguishable."
    )
    if row.retrieval and reference.retrieval:
        theirs, ours = row.retrieval.top1, reference.retrieval.top1
        measured += f"; top-1 of {found.pool} {ranged_share(theirs)} against {ranged_share(ours)}"
        gap = top1_difference(reference.retrieval.first, row.retrieval.first, bench.columns("test").participant)
        better.append(gap.has_interval and gap.low > 0)
        why += f" Contrast's top-1 less that of regression, in pairs: {signed(points(gap), 1)} points."
    holds = "yes" if all(better) else "partly" if any(better) else "no"
    rule = "holds where contrast is better in HR (beyond the noise of a seed) and in top-1 (paired interval), in part where in one of them."
    return Claim(claim, NOT_IN_THE_PAPER, "P", measured, holds, why, rule)


def _generality(bench: Bench, experiment: Experiment, found: Sweep, students: Sequence[str]) -> Claim:
    """Judges the claim that each teacher and architecture gives a student that reads HR better than its baseline."""
    claim = "Distillation works with MAE and contrastive teachers, Transformer and EfficientNet encoders"
    baseline = "accel-mae" if "accel-mae" in experiment.variants else MEAN
    title = found.rows[baseline].title if baseline in found.rows else "the mean of the labels"
    wanted = [name for name in experiment.variants if _kind(bench, name) == "student" and name != "accel-mae"]
    ratios = {name: found.scores.ratio(HR, 1.0, name, baseline, seeds=[FIRST]) for name in students if name in wanted}
    ratios = {name: ratio for name, ratio in ratios.items() if ratio is not None}
    if not ratios:
        lacking = f"{baseline} has no result" if baseline not in (*found.rows, MEAN) else "no student has a result"
        return unmeasured(claim, "holds for all", lacking)
    good = [name for name, ratio in ratios.items() if ratio.below_1]
    holds = "yes" if len(good) == len(ratios) == len(wanted) else "partly" if good else "no"
    listing = "; ".join(f"{found.rows[name].title} {ranged(ratio.estimate)}" for name, ratio in ratios.items())
    why = f"{len(good)} of {len(wanted)} students read HR better than {title}, beyond the interval."
    failed = [name for name in ratios if name not in good]
    if failed:
        why += " Not so: " + "; ".join(_with_teacher(bench, found, name) for name in failed) + "."
    rule = f"holds where every student's HR error is below that of {title}, by the paired interval (first training seed), in part where some are."
    return Claim(claim, "holds for all", "P", f"HR error over that of {title}: {listing}", holds, why, rule)


def _kind(bench: Bench, name: str) -> str:
    return bench.variant(name).kind if name in bench.plan.variants else ""


def _with_teacher(bench: Bench, found: Sweep, name: str) -> str:
    teacher = found.rows.get(bench.variant(name).teacher)
    own = (
        f", whose teacher itself errs by {decimal(teacher.errors[HR].value)} bpm"
        if teacher and HR in teacher.errors
        else ""
    )
    return found.rows[name].title + own


def latencies(bench: Bench, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Milliseconds [repeats] that each encoder takes for one segment in float32 on a CPU device, without reading and presenting it.

    Encoders take turns, so that whatever else the machine does meets all of them alike.
    """
    import jax

    from accdistill_jax.config.convert import parse
    from accdistill_jax.inputs.prepare import prepare
    from accdistill_jax.models.build import build_encoder, compute_dtype

    calls = {}
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        one = bench.opened.stores[0].read(np.zeros(1, np.int64))
        for name in names:
            order = next(job.order for job in bench.plan.jobs if job.order.get("variant") == name)
            config = parse(order["config"])
            side, modality = ("teacher", "ppg") if order["kind"] == "teacher" else ("student", "accel")
            x = prepare(one, modality, config.inputs.of(modality))
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
    return {name: np.array(own) for name, own in times.items()}


def _quartiles(values: np.ndarray) -> str:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{decimal(median)} [{decimal(low)}, {decimal(high)}]"


def _quantised(found: Sweep) -> str:
    """Effect of steps of 1/64 g here, in words."""
    parts = []
    for name, words in (
        ("applied-64th-g", "applied to such a signal, the full sensor's student"),
        ("trained-64th-g", "a student trained on it"),
    ):
        row = found.rows.get(name)
        if row and row.ratio:
            top = f" and finds {ranged_share(row.retrieval.top1)} of the minutes first" if row.retrieval else ""
            parts.append(
                f"{words} has {decimal(row.ratio.value)} times the HR error of the full sensor ({row.verdict}){top}"
            )
    return f"Here, with steps of 1/64 g: {'; '.join(parts)}." if parts else ""
