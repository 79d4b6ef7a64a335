"""A measuring process for the kernels of models/gpu_kernels.py alone, by tiling, beside the forms that they would replace.

The parent sends an order and gets a single answer, see `measure_kernels`. A form is a forward and backward pass of a layer norm, or the
gradient before a GELU from that of the layer after it. Forms are compiled in parallel threads and then measured in turn.
"""

import functools
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from accdistill_jax.benchmark.contenders.variants import attempted
from accdistill_jax.models import gpu_kernels, ops
from accdistill_jax.models.gpu_kernels import Tiling
from accdistill_jax.runtime.child import Parent, work_for_parent

BY_XLA = "by XLA"


class Form(NamedTuple):
    """A form of a kernel's work.

    Attributes:
        kernel: name of the kernel.
        tiling: its tiling; None for the form without kernel.
        call: function of the arrays.
        arrays: of the call.
    """

    kernel: str
    tiling: Tiling | None
    call: Callable[..., Any]
    arrays: tuple[jax.Array, ...]


def all_forms(order: Mapping[str, Any]) -> list[Form]:
    """The forms of an order, the forms without kernels first."""
    rows, width, inner, dtype = order["rows"], order["width"], order["inner"], jnp.dtype(order["dtype"])
    keys = iter(jax.random.split(jax.random.key(0), 5))

    def drawn(*shape: int) -> jax.Array:
        return jax.random.normal(next(keys), shape, dtype)

    x, d_kept, d_out, hidden, kernel = (
        drawn(rows, width),
        drawn(rows, width),
        drawn(rows, width),
        drawn(rows, inner),
        drawn(inner, width) * width**-0.5,
    )
    of_norm = (x, jnp.ones(width), jnp.zeros(width), d_kept, d_out)
    of_gelu = (d_out, kernel, hidden)
    forms = [
        Form(gpu_kernels.NORM, None, _forward_and_backward(functools.partial(_norm_by_xla, dtype=dtype)), of_norm),
        Form(gpu_kernels.GELU, None, _gelu_by_xla, of_gelu),
    ]
    for tiling in (Tiling(*sizes) for sizes in order["norms"]):
        norm = functools.partial(_norm_by_kernel, dtype=dtype, tiling=tiling)
        forms.append(Form(gpu_kernels.NORM, tiling, _forward_and_backward(norm), of_norm))
    for tiling in (Tiling(*sizes) for sizes in order["gelus"]):
        forms.append(Form(gpu_kernels.GELU, tiling, functools.partial(_gelu_by_kernel, tiling=tiling), of_gelu))
    return forms


def _norm_by_xla(x, scale, offset, *, dtype):
    normalised = cast(jax.Array, nn.LayerNorm().apply({"params": {"scale": scale, "bias": offset}}, x))
    return x, normalised.astype(dtype)


def _norm_by_kernel(x, scale, offset, *, dtype, tiling):
    return gpu_kernels.norm_beside_residual(x, scale, offset, dtype, tiling)


def _forward_and_backward(norm: Callable[..., Any]) -> Callable[..., Any]:
    def call(x, scale, offset, d_kept, d_out):
        (_, out), back = jax.vjp(norm, x, scale, offset)
        return out, *back((d_kept, d_out))

    return call


def _gelu_by_xla(d_out, kernel, hidden):
    d_hidden = jnp.matmul(d_out, kernel.T) * ops.gelu_slope(hidden.astype(jnp.float32))
    d_hidden = jax.lax.optimization_barrier(d_hidden.astype(hidden.dtype))
    return d_hidden, jnp.sum(d_hidden, axis=0, dtype=jnp.float32)


def _gelu_by_kernel(d_out, kernel, hidden, *, tiling):
    return gpu_kernels.gelu_backward(jnp.matmul(d_out, kernel.T), hidden, ops.gelu_slope, tiling)


def measure_forms(order: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compiles and measures all forms.

    Args:
        order: "rows", "width", "inner" and "dtype" of the arrays; "norms" and "gelus", tilings; "threads" that compile; "rounds" of
            "count" calls.

    Returns:
        For each form its "kernel", "tiling" (None: by XLA), "failed" (a reason, "" for none), "seconds" of a call in each round, and
        "difference", the largest one of its first result from that of the form by XLA as a share of the largest value.
    """
    forms = all_forms(order)
    lowered = [attempted(jax.jit(form.call).lower, *form.arrays) for form in forms]
    with ThreadPoolExecutor(order["threads"]) as pool:
        compiled = list(pool.map(lambda low: low if low[0] else attempted(low[1].compile), lowered))
    records, references = [], {}
    for form, (failed, program) in zip(forms, compiled, strict=True):
        record = {"kernel": form.kernel, "tiling": form.tiling, "failed": failed, "seconds": []}
        if not failed:
            record["failed"], outs = attempted(
                lambda call, arrays: jax.block_until_ready(call(*arrays)), program, form.arrays
            )
            if not record["failed"]:
                first = outs[0].astype(jnp.float32)
                reference = references.setdefault(form.kernel, first)
                record["difference"] = float(jnp.max(jnp.abs(first - reference)) / jnp.max(jnp.abs(reference)))
        records.append(record)
    for number in range(order["rounds"]):
        turn = number % len(forms)
        for index in [*range(turn, len(forms)), *range(turn)]:
            if not records[index]["failed"]:
                start = time.perf_counter()
                outs = ()
                for _ in range(order["count"]):
                    outs = compiled[index][1](*forms[index].arrays)
                jax.block_until_ready(outs)
                records[index]["seconds"].append((time.perf_counter() - start) / order["count"])
    return records


def serve_kernels(parent: Parent) -> None:
    """Answers the parent's order."""
    parent.reply(measure_forms(parent.receive()))


if __name__ == "__main__":
    work_for_parent(serve_kernels)
