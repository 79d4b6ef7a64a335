"""`benchmark step`: our training step against PyTorch's and against the matrix peak, and the time that masking saves."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.contest import Contender, Measured, spread
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import add_config, load_config
from accdistill_jax.config.schema import Config
from accdistill_jax.config.tree import plain
from accdistill_jax.errors import UserError
from accdistill_jax.runtime import cpu_devices

OURS, EAGER, COMPILED = "accdistill_jax", "PyTorch eager", "PyTorch compiled"
# The other PyTorch contenders keep freed memory, as ours does.
AS_INSTALLED = "PyTorch eager, default allocator"
PEAK, PRODUCTS = "large matrix products alone", "the step's matrix products alone"
# With JAX_NUM_CPU_DEVICES the cores share the batch; without it they share each operation.
PER_CORE = "accdistill_jax, each core a device"
AS_TRAINED, MASKED, UNMASKED = "accdistill_jax, augmented", "masked autoencoding", "encoder on all tokens"
TF32 = "float32 multiplied as TF32"  # on accelerators, by both libraries
# Largest relative difference of loss and gradient norm. TF32 keeps 11 bits, bfloat16 8.
PARITY = {"float32": 1e-4, TF32: 3e-3, "bfloat16": 3e-2}
# Largest mean distance of the trained parameters, relative to their movement.
PARAMETER_PARITY = {"float32": 2e-3, TF32: 0.05, "bfloat16": 0.3}
FOLLOW_STEPS = 6  # steps before the parameters are compared
COMPARED_STEPS = 3  # steps whose loss and gradient norm are compared
# With these settings a few steps show the optimiser's effect. They do not change the cost of a step.
FOLLOWED_WITH = {"warmup": "1 steps", "learning_rate": 1e-3, "weight_decay": 0.1}
COMPILING_S = 3600.0  # max-autotune tries many kernels
LEAST_STEPS = 3  # per measurement: the first step after a pause is slower, and training does not pause
MODULE = "accdistill_jax.benchmark.contenders"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill:paper-literal")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="segments per device (default 32)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="compute dtype (default float32)"
    )
    parser.add_argument(
        "--compile-mode",
        nargs="+",
        default=("default",),
        metavar="MODE",
        help='modes of torch.compile: "default", "max-autotune", ...; "none" omits compiled PyTorch (default "default")',
    )
    parser.add_argument(
        "--only", nargs="+", choices=("distil", "mae"), default=("distil", "mae"), help="steps to measure"
    )
    parser.add_argument(
        "--other-python",
        metavar="PYTHON",
        help="also measure this project with the Python of another environment, for example with another JAX",
    )
    parser.add_argument("--round-s", type=float, default=4.0, metavar="S", help="seconds per measurement (default 4)")


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures and returns a record of plain values.

    Raises:
        UserError: PyTorch's step does not compute the same numbers as ours, or a process failed.
    """
    config = changed(load_config(arguments.config, arguments.overrides), {"runtime.compute_dtype": arguments.dtype})
    record = {
        "config": arguments.config,
        "batch": arguments.batch,
        "dtype": arguments.dtype,
        "rounds": arguments.rounds,
    }
    timing = {"rounds": arguments.rounds, "round_s": arguments.round_s, "least": LEAST_STEPS, "say": say}
    unaugmented = without_augmentation(config)
    if "distil" in arguments.only:
        with tempfile.TemporaryDirectory() as share:
            results = contest.compete(distil_contenders(config, unaugmented, arguments, share), **timing)
        single = arguments.dtype == "float32" and accelerated()
        record["parity"] = check_parity(results, TF32 if single else arguments.dtype)
        record["distillation"] = {name: measured._asdict() for name, measured in results.items()}
    if "mae" in arguments.only:
        orders = {MASKED: False, UNMASKED: True}
        contenders = [
            Contender(name, f"{MODULE}.masking", {"config": unaugmented, "batch": arguments.batch, "all_tokens": every})
            for name, every in orders.items()
        ]
        record["masking"] = {
            name: measured._asdict() for name, measured in contest.compete(contenders, **timing).items()
        }
    return record


def distil_contenders(config: Config, unaugmented: dict, arguments: argparse.Namespace, share: str) -> list[Contender]:
    """The contenders of the distillation step.

    They are ours (first, since it writes the weights for PyTorch), PyTorch's, ours with augmentations, the matrix peak and the
    step's matrix products; on a CPU with several cores also ours with each core as a device. If another Python is given, ours is
    measured with it too, in the same forms.

    Args:
        config: config as trained.
        unaugmented: the same without augmentation, as plain values.
        arguments: of the command line.
        share: folder for the weights.
    """
    followed = json.loads(json.dumps(unaugmented))
    followed["student"]["train"] |= FOLLOWED_WITH
    order = {"config": followed, "stage": "student", "batch": arguments.batch, "follow_steps": FOLLOW_STEPS}
    peer = order | {"share": share, "accelerator": accelerated(), "keep_freed": True}
    trained = order | {"config": plain(config), "share": None}
    cores = 0 if peer["accelerator"] else cores_as_devices(arguments.batch)
    peer_module = f"{MODULE}.peer_pytorch"
    modes = [mode for mode in arguments.compile_mode if mode != "none"]
    forms = [
        Contender(OURS, f"{MODULE}.training", order | {"share": share}),
        *([per_core(order, cores)] if cores else []),
    ]
    others = []
    if arguments.other_python:
        jax = jax_version(arguments.other_python)
        others = [
            form._replace(
                name=f"{form.name}, jax {jax}", order={**form.order, "share": None}, python=arguments.other_python
            )
            for form in forms
        ]
    return [
        *forms,
        *others,
        Contender(EAGER, peer_module, peer | {"compile": None}),
        *(
            []
            if peer["accelerator"]
            else [Contender(AS_INSTALLED, peer_module, peer | {"compile": None, "keep_freed": False})]
        ),
        *(
            Contender(compiled_name(mode), peer_module, peer | {"compile": mode}, patience_s=COMPILING_S)
            for mode in modes
        ),
        Contender(AS_TRAINED, f"{MODULE}.training", trained),
        Contender(PEAK, f"{MODULE}.matrix_peak", {"dtype": arguments.dtype}),
        Contender(PRODUCTS, f"{MODULE}.products", order),
    ]


def cores_as_devices(batch: int) -> int:
    """The number of cores if they can share a batch equally, each as a device.

    It is 0 with a single core, if the cores do not divide the batch, or if the user has set JAX's number of CPU devices.
    """
    cores = cpu_devices.available_cores()
    return 0 if cpu_devices.set_by_user() or cores == 1 or batch % cores else cores


def per_core(order: Mapping[str, Any], cores: int) -> Contender:
    """The contender that splits the same global batch over the cores."""
    split = {**order, "batch": order["batch"] // cores, "share": None}
    return Contender(PER_CORE, f"{MODULE}.training", split, environment={cpu_devices.VARIABLE: str(cores)})


def jax_version(python: str) -> str:
    """The version of JAX in the environment of this Python.

    Raises:
        UserError: it cannot be run, or has no JAX.
    """
    command = [python, "-c", "import importlib.metadata; print(importlib.metadata.version('jax'))"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except OSError as problem:
        raise UserError(f"--other-python {python}: {problem.strerror}") from None
    except subprocess.CalledProcessError as problem:
        last = (problem.stderr.strip() or "no output").splitlines()[-1]
        raise UserError(f"--other-python {python}: no JAX in its environment ({last})") from None


def compiled_name(mode: str) -> str:
    """Name of the PyTorch contender that is compiled in this mode."""
    return COMPILED if mode == "default" else f"{COMPILED}, {mode}"


def without_augmentation(config: Config) -> dict:
    """The config as plain values with every augmentation off, because random numbers differ between libraries."""
    values = plain(config)
    augment = values["student"]["augment"]
    augment["shared_shift"] = 0
    for modality in ("accel", "ppg"):
        for augmentation in augment[modality].values():
            augmentation["probability"] = 0.0
    return values


def accelerated() -> bool:
    """True if JAX's default device is an accelerator. A separate process asks, so that this process does not occupy the device."""
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    asked = subprocess.run(command, capture_output=True, text=True, check=True)
    return asked.stdout.strip() != "cpu"


def check_parity(results: Mapping[str, Measured], dtype: str) -> dict[str, float]:
    """Compares the other contenders' steps with ours.

    The parameters after `FOLLOW_STEPS` steps are compared too, and with them the optimisers.

    Args:
        results: measurements by contender.
        dtype: key of `PARITY`.

    Returns:
        By contender: largest relative difference of loss and gradient norm in the first steps.

    Raises:
        UserError: a contender computes a different step.
    """
    ours, largest = results[OURS].facts["first_steps"][:COMPARED_STEPS], {}
    for name in [*ours_besides(results), *pytorch(results)]:
        theirs = results[name].facts.get("first_steps", [])[:COMPARED_STEPS]
        if not theirs:
            continue
        differences = [abs(b[what] - a[what]) / abs(a[what]) for a, b in zip(ours, theirs, strict=True) for what in a]
        largest[name] = max(differences)
        if largest[name] > PARITY[dtype]:
            raise UserError(
                f"{name} does not compute the same step: loss or gradient norm differ by {largest[name]:.1e} "
                f"(allowed {PARITY[dtype]:.0e}); ours {ours}, theirs {theirs}"
            )
        apart = results[name].facts.get("parameter_difference", 0.0)
        if apart > PARAMETER_PARITY[dtype]:
            raise UserError(
                f"{name} does not train the same: after {FOLLOW_STEPS} steps the distance of its parameters to ours is {apart:.1e} of "
                f"their movement (allowed {PARAMETER_PARITY[dtype]:.0e})"
            )
    return largest


def pytorch(results: Mapping[str, Any]) -> list[str]:
    """Names of the PyTorch contenders."""
    return [name for name in results if name.startswith((EAGER, COMPILED))]


def ours_besides(results: Mapping[str, Any]) -> list[str]:
    """Names of the contenders that take our step in another form or with another JAX."""
    return [name for name in results if name.startswith((PER_CORE, f"{OURS}, jax"))]


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    out = [f"# Training step: {record['config']}, {record['batch']} segments per device, {record['dtype']}\n"]
    if "distillation" in record:
        out.append("\n## Distillation\n\n" + _distillation(record))
    if "masking" in record:
        out.append("\n## Masked autoencoding\n\n" + _masking(record))
    return "".join(out)


def _measured(records: Mapping[str, dict]) -> dict[str, Measured]:
    return {name: Measured(**measured) for name, measured in records.items()}


def _distillation(record: dict[str, Any]) -> str:
    from accdistill_jax.benchmark.model.tables import table

    results = _measured(record["distillation"])
    ours = results[OURS]
    segments = record["batch"] * ours.facts["devices"]
    flops = ours.facts["flops_per_segment"] * segments
    peak = spread([results[PEAK].facts["flops"] / seconds for seconds in results[PEAK].seconds])
    rows = []
    for name, measured in results.items():
        if name in (PEAK, PRODUCTS):
            continue
        if not measured.seconds:
            rows.append([name, f"left out: {measured.facts['skipped']}", *[""] * 6])
            continue
        rate = contest.rates(measured, per_iteration=flops)
        rows.append(
            [
                name,
                contest.rates(measured, per_iteration=segments).text(),
                "1" if measured is ours else contest.ratios(measured, ours).text("{:.2f}"),
                f"{rate.median / 1e9:.0f}",
                f"{rate.median / (peak.median * ours.facts['devices']):.0%}",
                f"{(measured.facts.get('device_peak_bytes') or measured.peak_bytes) / 1e9:.1f}",
                f"{record['parity'][name]:.0e}" if name in record["parity"] else "",
                f"{measured.facts['parameter_difference']:.0e}" if "parameter_difference" in measured.facts else "",
            ]
        )
    header = (
        "",
        "segments/s",
        "ours is faster by",
        "GFLOP/s of the model",
        "share of the matrix peak",
        "peak memory, GB",
        "difference",
        "difference of parameters",
    )
    peers = [name for name in pytorch(results) if results[name].seconds]
    against = ""
    if peers:
        fastest = min(peers, key=lambda name: spread(results[name].seconds).median)
        times = {
            name: contest.ratios(results[fastest], results[name]).text("{:.2f}")
            for name in (OURS, *ours_besides(results))
        }
        besides = "".join(f"; {name.removeprefix(f'{OURS}, ')}: {text}" for name, text in times.items() if name != OURS)
        against = f"\n**{times[OURS]} times as fast as the faster PyTorch here ({fastest}){besides}.**\n"
    alone = flops / ours.facts["devices"] / spread(results[PRODUCTS].seconds).median / peak.median
    bound = (
        f" Limits: the step's matrix products, run alone in their shapes, take {contest.ratios(ours, results[PRODUCTS]).median ** -1:.0%} "
        f"of the step's time and reach {alone:.0%} of the peak; the rest is limited by memory: normalisation, softmax, GELU, copies, "
        f"update. Attention: {ours.facts['attention']}."
    )
    return (
        table(header, rows)
        + against
        + (
            f"\n{flops / segments / 1e9:.2f} GFLOP per segment (counted matrix products, forward and backward). Matrix peak in the "
            f"same run: {peak.scaled(1e-9).text('{:.0f}')} GFLOP/s ({results[PEAK].facts['shape']}).{bound} Difference: largest relative "
            f"difference of loss and gradient norm to ours over the first {COMPARED_STEPS} steps. Difference of parameters: mean "
            f"distance after {FOLLOW_STEPS} steps at a learning rate of {FOLLOWED_WITH['learning_rate']:g} with decay, relative to their "
            "movement. Peak memory is the device's if it reports it, else the process's.\n"
        )
    )


def _masking(record: dict[str, Any]) -> str:
    from accdistill_jax.benchmark.model.tables import table

    results = _measured(record["masking"])
    rows = [
        [
            name,
            contest.rates(measured, per_iteration=record["batch"] * measured.facts["devices"]).text(),
            f"{measured.peak_bytes / 1e9:.1f}",
        ]
        for name, measured in results.items()
    ]
    gain = contest.ratios(results[UNMASKED], results[MASKED]).text("{:.2f}")
    kept, tokens = results[MASKED].facts["kept"], results[MASKED].facts["tokens"]
    return table(("", "segments/s", "peak memory, GB"), rows) + (
        f"\nThe encoder runs on {kept} of {tokens} tokens, the decoder on all: {gain} times as fast.\n"
    )
