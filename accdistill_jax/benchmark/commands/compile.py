"""`benchmark compile`: compiles a training step for TPU slices on a machine without a TPU and reports the compiler's estimates."""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from accdistill_jax.config.load import add_config, load_config
from accdistill_jax.errors import UserError
from accdistill_jax.runtime.child import Child, ChildDied, ChildError

SHOWN_LINES = 20
COMPILER = "accdistill_jax.benchmark.contenders.compiling"
ESTIMATE = (
    "These are estimates of the compiler, and not a measurement: the sum of the cycles of its fused operations. It has no estimate "
    "for collectives and for waiting on memory, so a chip takes longer. Kernels of this project count with the cycles of their "
    "scheduled code."
)
BY_FORMULA = "FLOP are those of the matrix products by formula, as in every share of a peak here (`python -m accdistill_jax.benchmark scaling`)."
TRACED = (
    "There is no formula for the FLOP and the collectives of this step. FLOP are those of the matrix products in the traced step, "
    "with what it computes again."
)
SCHEDULED = (
    "Cycles of the machine code that the compiler scheduled, with loops and waiting for matrix units and memory, one operation after "
    "another; without collectives. This is not a measurement either, but the estimates above are made before the code exists."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill:paper-literal")
    parser.add_argument(
        "--topology",
        nargs="+",
        default=["v5e:4x4"],
        metavar="NAME",
        help="TPU slices, as generation and chips along each axis: v4:2x2x1, v5e:16x16, v5p:4x4x4, v6e:2x2 (default v5e:4x4)",
    )
    parser.add_argument(
        "--stage", choices=("student", "teacher"), default="student", help="stage that is compiled (default student)"
    )
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="segments per chip (default 32)")
    parser.add_argument(
        "--scheduled",
        action="store_true",
        help="also count the cycles of the scheduled machine code, which takes several times as long and is not possible for every "
        "program (default: the compiler's estimates alone)",
    )


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Compiles for each slice and returns a record of plain values; "failed" if a slice does not compile.

    Raises:
        UserError: an unknown slice, no libtpu, a batch that is not a multiple of the micro-batches, or a table of
            `teacher.source` that cannot be read.
    """
    import jax

    jax.config.update("jax_platforms", "cpu")  # with libtpu installed JAX would look for a TPU here
    from accdistill_jax.benchmark.model import program, topology
    from accdistill_jax.runtime.platform import tracing_for

    config = load_config(arguments.config, arguments.overrides)
    pieces = config.stage(arguments.stage).train.micro_batches
    if arguments.batch < 1 or arguments.batch % pieces:
        raise UserError(
            f"--batch {arguments.batch} must be a positive number of segments per chip and a multiple of the {pieces} micro-batches"
        )
    slices = [topology.describe_slice(name) for name in arguments.topology]
    with tracing_for("tpu"):
        work = program.describe_work(config, arguments.stage, uncounted=True)
    record = {
        "config": arguments.config,
        "overrides": arguments.overrides,
        "stage": arguments.stage,
        "batch": arguments.batch,
    }
    record["dtype"] = config.runtime.compute_dtype
    record["uncounted"] = work.uncounted
    record["slices"] = []
    order = {name: record[name] for name in ("config", "overrides", "stage", "batch")}
    for where in slices:
        say(f"compiling for {where.name}: a minute or two")
        facts = slice_facts(work, where, batch=arguments.batch)
        here = order | {"topology": where.name}
        kernels = kernels_elsewhere(here)
        compiled = compiled_elsewhere(here | {"kernels": kernels["cycles"]}, scheduled=arguments.scheduled)
        record["slices"].append(facts | compiled | {"kernels": kernels})
    refused = [compiled["topology"] for compiled in record["slices"] if not compiled["compiles"]]
    if refused:
        record["failed"] = f"does not compile for {', '.join(refused)}"
    return record


def slice_facts(work: Any, where: Any, *, batch: int) -> dict[str, Any]:
    """Facts of a step on a slice that need no compiler.

    Args:
        work: `program.Work`, described under `tracing_for("tpu")`.
        where: `topology.Slice` to compile for.
        batch: segments per chip.
    """
    from accdistill_jax.benchmark.model.hardware import TPU_CHIPS
    from accdistill_jax.benchmark.model.topology import step_flops

    chips, chip = len(where.devices), TPU_CHIPS[where.generation]
    facts = {"topology": where.name, "chips": chips, "memory_bytes": chip.memory_bytes, "cycle_flops": chip.cycle_flops}
    facts["clock_hz"] = chip.peak_flops / chip.cycle_flops
    facts["flops"] = step_flops(work, where, batch=batch)
    return facts


def compiled_elsewhere(order: Mapping[str, Any], *, scheduled: bool = False, module: str = COMPILER) -> dict[str, Any]:
    """`compile_for` in a process of its own, because the compiler ends its process where it crashes.

    Args:
        order: "config", "overrides", "stage", "batch" and "topology".
        scheduled: True also counts the machine code; if the compiler crashes, it compiles again without that.
        module: module of the process.

    Returns:
        The compiler's estimates, or "compiles" False and a "reason".
    """
    if scheduled:
        with tempfile.TemporaryDirectory() as profiles:
            answer = _answer(dict(order) | {"profiles": profiles}, module)
        if answer["compiles"]:
            return answer
        return _answer(dict(order), module) | {"uncounted": answer["reason"]}
    return _answer(dict(order), module)


def kernels_elsewhere(order: Mapping[str, Any], *, module: str = COMPILER) -> dict[str, Any]:
    """`topology.kernel_cycles` in a process of its own, as for `compiled_elsewhere`.

    Args:
        order: as for `compiled_elsewhere`.
        module: module of the process.

    Returns:
        "cycles", by `optimised.Instruction.kernel`; {} with a "reason" if the compiler could not count them.
    """
    with tempfile.TemporaryDirectory() as profiles:
        answer = _answer(dict(order) | {"profiles": profiles, "only_kernels": True}, module)
    return {"cycles": {}, "reason": answer["reason"]} if "reason" in answer else answer


def _answer(order: dict[str, Any], module: str) -> dict[str, Any]:
    from accdistill_jax.benchmark.model import scheduled

    with tempfile.TemporaryFile("w+", errors="replace") as output:  # a crash prints long stacks
        child = Child(module, output=output)
        try:
            child.send(order)
            return child.receive()
        except ChildDied as death:
            output.seek(0)
            reason = scheduled.refused(output.read()) or str(death)
            return {"compiles": False, "reason": f"the compiler crashed ({reason})"}
        except ChildError as error:
            raise error.original() from None
        finally:
            child.close()


def compile_for(
    work: Any, where: Any, *, batch: int, kernels: Mapping[str, int], profiles: str | None = None
) -> dict[str, Any]:
    """The compiler's estimates of a step on a slice, as plain values; arguments as for `slice_facts`.

    Args:
        work: the step.
        where: the slice.
        batch: segments per chip.
        kernels: cycles of this project's kernels, from `topology.kernel_cycles`.
        profiles: folder into which libtpu writes the profiles of `model.scheduled`; None: it does not.
    """
    import jax

    from accdistill_jax.benchmark.model import scheduled, topology

    chips = len(where.devices)
    lowered, metrics = topology.lower(work, where, batch=batch)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        return {"compiles": False, "reason": topology.error_line(error)}
    expected = []
    if chips > 1 and not work.uncounted:
        expected = work.collectives(devices=chips, global_batch=batch * chips, metrics=metrics)
    estimates = {"compiles": True, "memory": memory_by_kind(compiled.memory_analysis())}
    estimates["logical"] = work.state_bytes(devices=chips, sharded=work.sharded) | {"batch": batch * work.segment_bytes}
    estimates["kept_bytes"] = work.activation_bytes(batch=batch)
    estimates["counted_flops"] = compiled.cost_analysis()["flops"]
    flops = topology.step_flops(work, where, batch=batch)
    text = compiled.as_text()
    estimates |= of_text(text, expected, batch=batch, flops=flops, kernels=kernels)
    if profiles is not None:
        estimates["scheduled"] = of_code(text, scheduled.read_profiles(profiles), batch=batch, flops=flops)
    return estimates


def memory_by_kind(stats: Any) -> dict[str, int]:
    """Bytes per chip by kind, from a compiled program's `memory_analysis()`; donated arrays count once."""
    return {
        "state, frozen teacher and batch": stats.argument_size_in_bytes,
        "results outside donated memory": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporary arrays": stats.temp_size_in_bytes,
        "the program": stats.generated_code_size_in_bytes,
    }


def of_text(
    text: str, expected: list[Any], *, batch: int, flops: float, kernels: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Facts read from an optimised program's text.

    Args:
        text: `compiled.as_text()`.
        expected: collectives by formula; [] without a formula.
        batch: segments per chip.
        flops: FLOP of matrix products per chip.
        kernels: as for `compile_for`.
    """
    from accdistill_jax.benchmark.model import optimised, traffic

    parsed = optimised.parse_program(text, kernels)
    exact = [product.source for product in parsed.products if product.exact]
    return {
        "cycles": parsed.cycles,
        "cycles_per_segment": parsed.cycles / batch,
        "flops_per_cycle": flops / parsed.cycles if parsed.cycles else 0.0,
        "moving_cycles": parsed.moving,
        "most_expensive": most_expensive(parsed.operations),
        "collectives": [collective._asdict() for collective in traffic.counted_collectives(text)],
        "expected_collectives": [collective._asdict() for collective in expected],
        "products": len(parsed.products),
        "exact_products": {source: exact.count(source) for source in dict.fromkeys(exact)},
        "transfers": parsed.transfers,
        "unestimated": parsed.unestimated,
        "unknown_loops": parsed.unknown_loops,
    }


def of_code(text: str, profiles: Mapping[str, Any], *, batch: int, flops: float) -> dict[str, Any]:
    """Cycles of a program's machine code.

    Args:
        text: `compiled.as_text()`.
        profiles: from `model.scheduled.read_profiles`.
        batch: segments per chip.
        flops: FLOP of matrix products per chip.
    """
    from accdistill_jax.benchmark.model import optimised, scheduled

    operations = scheduled.counted_again(optimised.parse_program(text).operations, profiles)
    cycles = sum(operation.cycles for operation in operations)
    return {
        "cycles": cycles,
        "cycles_per_segment": cycles / batch,
        "flops_per_cycle": flops / cycles if cycles else 0.0,
        "moving_cycles": sum(operation.cycles for operation in operations if operation.moves),
        "most_expensive": most_expensive(operations),
    }


def most_expensive(operations: list[Any]) -> list[dict[str, Any]]:
    """The most expensive source lines of `optimised.EstimatedOperation`s, as plain values."""
    from accdistill_jax.benchmark.model import optimised

    lines = []
    for source, group in list(optimised.by_source(operations).items())[:SHOWN_LINES]:
        first, cycles = group[0], sum(operation.cycles for operation in group)
        lines.append(
            {
                "source": source,
                "cycles": cycles,
                "operations": len(group),
                "first": first.name,
                "result": first.result,
            }
        )
    return lines


def report(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model.tables import table

    title = f"# Compiled for TPU: {' '.join([record['config'], *record['overrides']])}, {record['stage']}\n"
    rows = [summary_row(compiled) for compiled in record["slices"]]
    header = (
        "slice",
        "compiles",
        "GFLOP per chip",
        "K cycles per segment",
        "FLOP per cycle",
        "peak FLOP per cycle",
        "share of the matrix peak",
        "copies into other layouts",
        "lower bound, ms per step",
        "memory, share of the chip",
    )
    introduction = f"{record['batch']} segments per chip, {record['dtype']}. {ESTIMATE} "
    introduction += TRACED if record["uncounted"] else BY_FORMULA
    out = [f"{title}\n{introduction}\n\n{table(header, rows)}"]
    for compiled in record["slices"]:
        out.append(f"\n## {compiled['topology']}, {compiled['chips']} chip{'s' if compiled['chips'] > 1 else ''}\n\n")
        out.append(details(compiled) if compiled["compiles"] else f"Does not compile: {compiled['reason']}\n")
    return "".join(out)


def summary_row(compiled: Mapping[str, Any]) -> list[str]:
    """A slice's row of the first table."""
    flops = f"{compiled['flops'] / 1e9:.4g}"
    if not compiled["compiles"]:
        return [compiled["topology"], "no", flops, *[""] * 7]
    used = sum(compiled["memory"].values())
    return [
        compiled["topology"],
        "yes",
        flops,
        f"{compiled['cycles_per_segment'] / 1e3:.1f}",
        f"{compiled['flops_per_cycle'] / 1e3:.1f} K",
        f"{compiled['cycle_flops'] / 1e3:.0f} K",
        f"{compiled['flops_per_cycle'] / compiled['cycle_flops']:.1%}",
        f"{compiled['moving_cycles'] / compiled['cycles']:.1%}",
        f"{1e3 * compiled['cycles'] / compiled['clock_hz']:.3g}",
        f"{used / 2**20:.0f} MiB, {used / compiled['memory_bytes']:.1%}",
    ]


def details(compiled: Mapping[str, Any]) -> str:
    """Memory, collectives and the most expensive operations of a slice."""
    from accdistill_jax.benchmark.model.tables import count_table, table
    from accdistill_jax.benchmark.model.traffic import Collective

    kinds = [[name, f"{size / 2**20:.1f}"] for name, size in compiled["memory"].items()]
    kinds += [
        [f"included, before padding: {name}", f"{size / 2**20:.1f}"]
        for name, size in compiled["logical"].items()
        if name != "gradients"
    ]
    kinds.append(["by formula, before fusion: kept for the backward pass", f"{compiled['kept_bytes'] / 2**20:.1f}"])
    kinds.append(["memory of the chip", f"{compiled['memory_bytes'] / 2**20:.0f}"])
    out = [table(("memory per chip", "MiB"), kinds)]
    counted, expected = (
        [Collective(**group) for group in compiled[name]] for name in ("collectives", "expected_collectives")
    )
    if compiled["chips"] > 1:
        out.append("\n" + count_table(counted, expected, devices=compiled["chips"]))
    out.append(f"\nMost expensive source lines, of {expensive_table(compiled)}")
    if "scheduled" in compiled:
        counted_code = compiled["scheduled"]
        out.append(
            f"\n**{counted_code['cycles_per_segment'] / 1e3:.1f} K cycles per segment in the scheduled machine code, "
            f"{counted_code['flops_per_cycle'] / compiled['cycle_flops']:.1%} of the matrix peak**, "
            f"{counted_code['moving_cycles'] / counted_code['cycles']:.1%} for copies into other layouts. {SCHEDULED} "
            f"Most expensive source lines, of {expensive_table(counted_code)}"
        )
    elif "uncounted" in compiled:
        out.append(f"\nThe scheduled machine code is not counted: {compiled['uncounted']}.\n")
    kernels = compiled["kernels"]
    if each := ", ".join(f"`{name}` {cycles / 1e3:.1f} K" for name, cycles in kernels["cycles"].items()):
        out.append(f"\nCycles of one execution of this project's kernels, counted above: {each}.\n")
    if "reason" in kernels:
        out.append(f"\nThis project's kernels are missing above, as they could not be counted: {kernels['reason']}.\n")
    exact = ", ".join(f"{count} at {source}" for source, count in compiled["exact_products"].items())
    out.append(
        f"\nMatrix products: {compiled['products']}, computed in bfloat16 (the default of JAX on TPU, with float32 configs too). "
    )
    out.append(f"Exceptions, kept in float32: {exact or 'none'}. ")
    out.append(f"Operations of all kinds, counted by the compiler: {compiled['counted_flops'] / 1e9:.4g} GFLOP. ")
    out.append(f"Transfers between host and chip within the step: {len(compiled['transfers'])}.\n")
    if compiled["unknown_loops"]:
        out.append(
            f"\n{compiled['unknown_loops']} loops have an unknown number of iterations and count once: the real cycles are more.\n"
        )
    return "".join(out)


def expensive_table(counted: Mapping[str, Any]) -> str:
    """The most expensive source lines as a table, after the sum of the cycles."""
    from accdistill_jax.benchmark.model.tables import table

    rows = [
        [
            group["source"] or "?",
            f"{group['cycles'] / 1e3:.1f}",
            f"{group['cycles'] / counted['cycles']:.1%}",
            f"{group['operations']}",
            f"`{group['first']}` {group['result'].split('{')[0]}",
        ]
        for group in counted["most_expensive"]
    ]
    header = ("source line", "K cycles", "share", "operations", "the most expensive of them")
    return f"{counted['cycles'] / 1e3:,.0f} K cycles:\n\n".replace(",", " ") + table(header, rows)
