"""This project's kernels in a program that a TPU's compiler optimised: found, counted alone, added. These tests need no libtpu."""

import jax
import jax.numpy as jnp
import pytest

from accdistill_jax.benchmark.commands import compile as compiling
from accdistill_jax.benchmark.model import operations, optimised
from accdistill_jax.models import fused_attention

# In the format of libtpu 0.0.42; it gives a kernel's cycles only if it counts machine code.
KERNEL = (
    '%forward_attention.{number} = bf16[8,4]{{2,1,0:T(8,128)(2,1)S(1)}} custom-call(%a), custom_call_target="tpu_custom_call", '
    'metadata={{op_name="jit(step)/block_{number}/attention/forward_attention/pallas_call"}}{config}'
)
COUNTED = ', backend_config={"window_config":{"estimated_cycles":"700"}}'


def program(*lines: str) -> str:
    body = "\n".join(f"  {line}" for line in lines)
    return f"ENTRY %main (a: bf16[8,12]) -> bf16[8,4] {{\n  %a = bf16[8,12]{{1,0}} parameter(0)\n{body}\n}}\n"


TWICE = program(KERNEL.format(number=1, config=""), KERNEL.format(number=2, config=""))


def test_kernels_have_the_cycles_that_were_counted_alone():
    cycles = optimised.kernels_of(program(KERNEL.format(number=3, config=COUNTED)))
    assert cycles == {"forward_attention bf16[8,4]": 700}
    assert optimised.kernels_of(TWICE) == {}
    parsed = optimised.parse_program(TWICE, cycles)
    assert parsed.cycles == 1400 and parsed.unestimated == {}
    assert parsed.operations[1].source == "attention/forward_attention/pallas_call"


@pytest.mark.parametrize(
    "cycles", [None, {}, {"forward_attention bf16[8,8]": 700}, {"backward_attention bf16[8,4]": 1}]
)
def test_kernels_that_were_not_counted_stay_without_an_estimate(cycles):
    parsed = optimised.parse_program(TWICE, cycles)
    assert parsed.cycles == 0 and parsed.unestimated == {"custom-call": 2}


def test_the_report_says_why_kernels_are_missing(tmp_path):
    found = compiling.kernels_elsewhere({"topology": "v6e:2x2"}, module="tests.benchmark.commands.crashing")
    assert found == {"cycles": {}, "reason": "the compiler crashed (gather.1 failed: UNIMPLEMENTED)"}
    record = compiling.of_text(TWICE, [], batch=2, flops=6.0, kernels={"forward_attention bf16[8,4]": 700})
    record |= {"memory": {}, "logical": {}, "kept_bytes": 0, "memory_bytes": 1, "chips": 1, "counted_flops": 6.0}
    text = compiling.details(record | {"kernels": found})
    assert "kernels are missing above, as they could not be counted: the compiler crashed (gather.1 failed" in text


def test_a_kernel_of_a_traced_program_runs_alone():
    qkv = jax.random.normal(jax.random.key(0), (2, 8, 3 * 128))

    def step(qkv):
        return jax.lax.map(lambda part: 2 * fused_attention.fused(2, True, part[None])[0], qkv)

    (kernel,) = operations.find_kernels(jax.make_jaxpr(step)(qkv).jaxpr).values()
    assert kernel.name == "forward_attention" and [shape.shape for shape in kernel.shapes] == [(1, 8, 384)]
    assert jnp.array_equal(2 * kernel.alone(qkv[:1]), step(qkv)[:1])
