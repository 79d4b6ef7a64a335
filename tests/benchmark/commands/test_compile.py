"""Reads a program that a TPU's compiler optimised; the report and the command line. These tests need no libtpu."""

import importlib.util
import json
import types
from typing import Any

import jax
import numpy as np
import pytest

from accdistill_jax.benchmark import __main__ as command
from accdistill_jax.benchmark.commands import compile as compiling
from accdistill_jax.benchmark.model import optimised, program, scheduled, topology, traffic
from accdistill_jax.config.convert import changed, known_keys
from accdistill_jax.config.load import load_config
from accdistill_jax.errors import ExitStatus, UserError
from accdistill_jax.runtime import platform

# An excerpt in the format of libtpu 0.0.42.
TEXT = """HloModule jit_step, is_scheduled=true

FileNames
1 "/home/someone/accdistill_jax/train.py"
2 "/usr/lib/flax/linen/normalization.py"
3 "/home/someone/accdistill_jax/models/attention.py"

FunctionNames
1 "make_step.<locals>.step"

FileLocations
1 {file_name_id=1 function_name_id=1 line=125 end_line=125 column=28 end_column=28}
2 {file_name_id=2 function_name_id=1 line=30 end_line=30 column=1 end_column=1}
3 {file_name_id=3 function_name_id=1 line=77 end_line=77 column=1 end_column=1}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=2}

%fused (p.1: f32[8,4], p.2: bf16[4,4]) -> f32[8,4] {
  %p.1 = f32[8,4]{1,0:T(8,128)S(1)} parameter(0)
  %p.2 = bf16[4,4]{1,0} parameter(1)
  ROOT %convolution.3 = f32[8,4]{1,0:T(8,128)} convolution(%p.1, %p.2), window={size=1}, dim_labels=bf_io->bf, metadata={op_name="jit(step)/dot_general" stack_frame_id=3}
}

%body (t: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %t = (s32[]{:T(128)}, f32[8,4]{1,0}) parameter(0)
  %copy.5 = f32[8,4]{0,1:T(8,128)} copy(%t), metadata={op_name="jit(step)/while/transpose" stack_frame_id=2}, backend_config={"window_config":{"estimated_cycles":"100"}}
}

%cond (t.1: (s32[], f32[8,4])) -> pred[] {
  %t.1 = (s32[], f32[8,4]) parameter(0)
}

%async_collective_fusion.7 (p.8: bf16[2,4]) -> bf16[8,4] {
  %p.8 = bf16[2,4]{1,0} parameter(0)
  ROOT %all-gather.9 = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} all-gather(%p.8), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, frontend_attributes={chain_id="0"}, metadata={op_name="jit(step)/all_gather"}
}

%async_collective_fusion.10 (p.11: bf16[2,4]) -> bf16[8,4] {
  %p.11 = bf16[2,4]{1,0} parameter(0)
  ROOT %all-gather.12 = bf16[8,4]{1,0:T(8,128)(2,1)} all-gather(%p.11), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, frontend_attributes={chain_id="0"}, metadata={op_name="jit(step)/all_gather"}
}

ENTRY %main (a: f32[8,4], b: bf16[4,4]) -> f32[8,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %b = bf16[4,4]{1,0} parameter(1)
  %fusion.13 = f32[8,4]{1,0} fusion(%a, %b), kind=kOutput, calls=%fused, metadata={op_name="jit(step)/jvp(Encoder)/block_0/norm/add"}, backend_config={"window_config":{"estimated_cycles":"5000"}}
  %copy_bitcast_fusion.14 = f32[8,4]{0,1} fusion(%fusion.13), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/transpose" stack_frame_id=3}, backend_config={"window_config":{"estimated_cycles":"700"}}
  %while.15 = (s32[]{:T(128)}, f32[8,4]{1,0}) while(%copy_bitcast_fusion.14), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"},"known_init_step":{"init":"0","step":"1"}}
  %sort.16 = f32[8,4]{1,0} sort(%a), dimensions={1}
  ROOT %scalar.17 = f32[8,4]{1,0} get-tuple-element(%while.15), index=1
}
"""


def test_cycles_are_those_of_the_main_program_and_loops_count_their_iterations():
    parsed = optimised.parse_program(TEXT)
    assert [(operation.name, operation.cycles) for operation in parsed.operations] == [
        ("fusion.13", 5000),
        ("copy_bitcast_fusion.14", 700),
        ("copy.5", 300),
    ]
    assert parsed.cycles == 6000 and parsed.moving == 1000 and parsed.unknown_loops == 0
    assert parsed.unestimated == {"sort": 1} and parsed.transfers == []


def test_iterations_come_from_the_loop_s_condition_if_its_line_has_no_count():
    uncounted = TEXT.replace('"known_trip_count":{"n":"3"},', "")
    condition = """  %t.1 = (s32[], f32[8,4]) parameter(0)
  %constant.2 = s32[]{:T(128)} constant(5)
  %get-tuple-element.3 = s32[]{:T(128)} get-tuple-element(%t.1), index=0
  ROOT %lt.4 = pred[]{:T(512)} compare(%get-tuple-element.3, %constant.2), direction=LT
"""
    parsed = optimised.parse_program(uncounted.replace("  %t.1 = (s32[], f32[8,4]) parameter(0)\n", condition))
    assert parsed.cycles == 5700 + 5 * 100 and parsed.unknown_loops == 0


def test_a_loop_with_unknown_iterations_counts_once_and_is_reported():
    parsed = optimised.parse_program(TEXT.replace('"known_trip_count":{"n":"3"},', ""))
    assert parsed.cycles == 5800 and parsed.unknown_loops == 1


def test_operations_have_their_source_line_in_this_package():
    """The source is the package's innermost frame; for a fusion without a frame that of its matrix product; else the scope."""
    groups = optimised.by_source(optimised.parse_program(TEXT).operations)
    assert {source: [operation.name for operation in operations] for source, operations in groups.items()} == {
        "models/attention.py:77": ["fusion.13", "copy_bitcast_fusion.14"],
        "train.py:125": ["copy.5"],
    }
    without = optimised.parse_program(TEXT.replace("stack_frame_id=3", "").replace("stack_frame_id=2", ""))
    assert without.operations[0].source == "block_0/norm/add"


def test_matrix_products_have_the_dtypes_of_their_operands_and_their_precision():
    assert optimised.parse_program(TEXT).products == [(("f32", "bf16"), False, "models/attention.py:77")]
    kept = optimised.parse_program(
        TEXT.replace("dim_labels=bf_io->bf,", "dim_labels=bf_io->bf, operand_precision={highest,highest},")
    )
    assert kept.products[0].exact


@pytest.mark.parametrize("opcode", ["infeed", "recv-done", "send"])
def test_transfers_with_the_host_are_found(opcode):
    assert optimised.parse_program(TEXT.replace(" sort(", f" {opcode}(")).transfers == ["sort.16"]
    assert optimised.parse_program(
        TEXT.replace("%sort.16 = f32[8,4]{1,0}", "%sort.16 = f32[8,4]{1,0:S(5)}")
    ).transfers == ["sort.16"]


def test_a_text_that_is_not_an_optimised_program_is_refused():
    with pytest.raises(ValueError, match="no main computation"):
        optimised.parse_program("module @jit_step")


def test_a_collective_that_is_split_into_steps_counts_once():
    assert [(collective.kind, collective.array_bytes) for collective in traffic.counted_collectives(TEXT)] == [
        ("all-gather", 64)
    ]
    apart = TEXT.replace('chain_id="0"', 'chain_id="1"', 1)
    assert [collective.array_bytes for collective in traffic.counted_collectives(apart)] == [64, 64]


def test_an_asynchronous_gather_counts_with_its_result():
    line = "  %s = (bf16[2,4]{1,0}, bf16[8,4]{1,0}) all-gather-start(%p), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}"
    assert traffic.counted_collectives(line) == [traffic.Collective("", "all-gather", 64)]


@pytest.fixture
def record():
    expected = [traffic.Collective("projections", "all-gather", 128)]
    of_text = compiling.of_text(TEXT, expected, batch=2, flops=6e6)
    sizes = {name: 2**20 for name in ("state, frozen teacher and batch", "temporary arrays")}
    compiled = {
        "topology": "v5e:2x2",
        "chips": 4,
        "memory_bytes": 16e9,
        "cycle_flops": 131072,
        "clock_hz": 1.5e9,
        "flops": 6e6,
        "counted_flops": 7e6,
        "kept_bytes": 2**20,
        "memory": sizes,
        "logical": {"parameters": 2**19, "gradients": 2**19},
        "compiles": True,
        "kernels": {"cycles": {"forward_attention bf16[8,4]": 39600}},
    }
    refused = {name: compiled[name] for name in ("chips", "memory_bytes", "cycle_flops", "clock_hz", "flops")}
    refused |= {"topology": "v6e:2x2", "compiles": False, "reason": "RESOURCE_EXHAUSTED: 40G of 31G hbm"}
    settings = {
        "config": "configs/distill.py:paper-literal",
        "overrides": ["--config.seed=3"],
        "stage": "student",
        "batch": 2,
        "dtype": "bfloat16",
        "uncounted": "",
    }
    return settings | {"slices": [compiled | of_text, refused]}


def test_the_report_names_estimates_and_the_share_of_the_peak(record):
    text = compiling.report(json.loads(json.dumps(record)))
    assert "estimates of the compiler, and not a measurement" in text and "--config.seed=3" in text
    # 6 MFLOP in 6000 cycles are 1000 per cycle, of at most 131 072; 1000 of the 6000 cycles are copies
    assert "| v5e:2x2 | yes | 0.006 | 3.0 | 1.0 K | 131 K | 0.8% | 16.7% | 0.004 | 2 MiB, 0.0% |" in text
    assert "| v6e:2x2 | no | 0.006 |" in text and "RESOURCE_EXHAUSTED: 40G of 31G hbm" in text
    assert "| models/attention.py:77 | 5.7 | 95.0% | 2 | `fusion.13` f32[8,4] |" in text
    assert "by formula, as in every share of a peak" in text and "There is no formula" not in text
    assert "| all-gather | 1 | 48 | 96 |" in text and "Matrix products: 1, " in text and "kept in float32: none" in text
    assert "counted above: `forward_attention bf16[8,4]` 39.6 K." in text


def test_a_report_without_formulas_says_so(record):
    compiled = record["slices"][0] | {"expected_collectives": []}
    text = compiling.report(record | {"slices": [compiled], "uncounted": "joint: its work is not counted"})
    assert "There is no formula for the FLOP and the collectives of this step" in text
    assert "| all-gather | 1 | 48 |\n" in text and "by formula, as in" not in text


def test_the_guides_table_is_that_of_the_record_beside_it(repository):
    folder = repository / "accdistill_jax" / "benchmark"
    record, guide = json.loads((folder / "compiled_for_tpu.json").read_text()), (folder / "README.md").read_text()
    assert [compiled["topology"] for compiled in record["slices"]] == ["v5e:2x2", "v6e:2x2", "v5p:2x2x1"]
    for compiled in record["slices"]:
        assert not {"gather", "scatter"} & set(compiled["unestimated"]) and not compiled["transfers"]
        share = 100 * compiled["flops_per_cycle"] / compiled["cycle_flops"]
        moving = 100 * compiled["moving_cycles"] / compiled["cycles"]
        cells = [f"{compiled['cycles_per_segment'] / 1e3:.1f}, {share:.1f} %", f"{moving:.1f} %"]
        cells.append(f"{compiled['memory']['temporary arrays'] / 2**20:.0f} MiB")
        (row,) = [line for line in guide.splitlines() if line.startswith(f"| {compiled['topology']} |")]
        assert set(cells) <= {cell.strip() for cell in row.split("|")}, (row, cells)


PROFILE = """hlo_op_estimate {{
  hlo_op_name: "{name}"
  estimated_cycles: {cycles}
  num_equivalent_hlos: {times}
  dma_instruction_type: DMA_INSTRUCTION_TYPE_NONE
}}
"""


def test_scheduled_machine_code_counts_for_each_operation_that_shares_it(tmp_path, record):
    for name, cycles, times in (("fusion.13", 900, 2), ("copy_bitcast_fusion.14", 200, 1), ("copy.99", 1000, 1)):
        text = PROFILE.format(name=name, cycles=cycles, times=times)
        (tmp_path / f"{name}_static_llo_profile.textproto").write_text(text)
    counted = compiling.of_code(TEXT, scheduled.read_profiles(str(tmp_path)), batch=2, flops=6e6)
    assert counted["cycles"] == 3000 and counted["cycles_per_segment"] == 1500 and counted["flops_per_cycle"] == 2000
    assert counted["moving_cycles"] == 1200
    assert [(line["source"], line["cycles"]) for line in counted["most_expensive"]] == [
        ("models/attention.py:77", 2000),
        ("", 1000),
    ]
    text = compiling.report(record | {"slices": [record["slices"][0] | {"scheduled": counted}]})
    assert "1.5 K cycles per segment in the scheduled machine code, 1.5% of the matrix peak" in text
    refused = compiling.report(record | {"slices": [record["slices"][0] | {"uncounted": "the compiler crashed"}]})
    assert "The scheduled machine code is not counted: the compiler crashed." in refused


def test_the_flag_for_profiles_follows_the_flags_that_are_set():
    assert scheduled.with_flag("", "/tmp/x") == "--xla_jf_dump_static_llo_profile_to=/tmp/x"
    assert scheduled.with_flag("--a=1", "/tmp/x").startswith("--a=1 --xla_jf_dump")


def test_the_operation_at_which_the_machine_code_fails_a_check_is_named():
    """The message of libtpu 0.0.42, shortened."""
    output = "F1 llo_module.cc:66] Check failed: TakeStatus() is OK (INTERNAL: failure\n%v69 = vpack.c.bf16 in HLO [fusion.363]\n"
    assert scheduled.refused(output) == "a check of its machine code failed at fusion.363"
    assert scheduled.refused("Segmentation fault") == ""


def test_a_compiler_that_crashes_is_a_slice_that_does_not_compile():
    found = compiling.compiled_elsewhere({"topology": "v6e:2x2"}, module="tests.benchmark.commands.crashing")
    assert found == {"compiles": False, "reason": "the compiler crashed (SIGSEGV)"}


def test_a_compiler_that_cannot_count_machine_code_compiles_without_counting():
    found = compiling.compiled_elsewhere(
        {"topology": "v5e:1x1"}, scheduled=True, module="tests.benchmark.commands.crashing"
    )
    assert found == {"compiles": True, "uncounted": "the compiler crashed (gather.1 failed: UNIMPLEMENTED)"}


def test_an_error_of_the_compiling_process_is_raised_as_itself():
    order = {"config": "distill:smoke-mean", "overrides": [], "stage": "student", "batch": 1, "topology": "v9:1x1"}
    with pytest.raises(UserError, match="'v9:1x1' is not a TPU slice"):
        compiling.compiled_elsewhere(order)


@pytest.mark.slow
@pytest.mark.parametrize("mapping, state", [("pmap", "sharded"), ("pmap", "replicated"), ("shard_map", "sharded")])
def test_a_step_is_lowered_for_all_devices_of_a_slice(mapping, state):
    # Augmentation does not depend on the devices.
    changes: dict[str, Any] = {key: 0.0 for key in known_keys() if key.endswith(".probability")}
    changes |= {"runtime.mapping": mapping, "runtime.optimizer_state": state}
    config = changed(load_config("distill:smoke-mean"), changes)
    work, where = program.describe_work(config, "student"), topology.Slice("these", "v5e", jax.devices()[:4])
    lowered, metrics = topology.lower(work, where, batch=4)
    text = lowered.as_text()
    # JAX 0.12 and later write the group of all devices as an axis of the mesh.
    assert "num_partitions = 4" in text
    assert (
        "dense<[[0, 1, 2, 3]]>" in text
        or 'replica_group_mesh_axes<mesh = @mesh_0, axes = [#stablehlo.axis_ref<name = "data">]>' in text
    )
    assert metrics == len(lowered.out_info[1]) and "loss" in lowered.out_info[1]
    assert ("reduce_scatter" in text) and (state == "replicated" or "stablehlo.all_gather" in text)


# Stage and changes of configs whose FLOP and collectives have no formula.
UNCOUNTED = {
    "contrastive teacher with pairs of a person": ("teacher", {"teacher.objective": "contrastive"}),
    "contrastive student without an average": (
        "student",
        {
            "student.objective": "contrastive",
            "student.contrastive.positives": "segment",
            "student.contrastive.momentum": 0.0,
            "student.train.micro_batches": 2,
        },
    ),
    "joint": ("student", {"student.objective": "joint", "student.contrast.temperature_bounds": (0.01, 0.5)}),
    "supervised": ("student", {"student.objective": "supervised"}),
    "sigmoid loss": ("student", {"student.contrast.loss": "sigmoid"}),
    "tokens of a teacher of another architecture": (
        "student",
        {"student.token_weight": 1.0, "teacher.encoder.architecture": "efficientnet"},
    ),
    "Muon with a sharded state": (
        "student",
        {"student.train.optimizer": "muon", "runtime.optimizer_state": "sharded"},
    ),
}


def described(stage: program.Stage, changes: dict[str, Any]) -> tuple[program.Work, topology.Slice]:
    """Small work without augmentation, which has no products and does not depend on the devices; and four devices."""
    off: dict[str, Any] = {key: 0.0 for key in known_keys() if key.endswith(".probability")}
    with platform.tracing_for("tpu"):
        work = program.describe_work(changed(load_config("distill:smoke-mean"), off | changes), stage, uncounted=True)
    return work, topology.Slice("these", "v5e", jax.devices()[:4])


def test_flop_of_the_traced_step_are_those_of_the_formula_without_gradients_of_inputs():
    work, where = described("student", {})
    by_formula = topology.step_flops(work, where, batch=4)
    traced = topology.step_flops(work._replace(uncounted="to be traced"), where, batch=4)
    # The formula counts such gradients, and the step leaves them out: of the signal and of the teacher's embedding.
    (samples, _), *_ = work.objective.student.encoder.tokenizer
    first = program.SAMPLES // samples * work.params["encoder"]["tokenizer_0"]["kernel"].size
    assert by_formula - traced == 4 * 2 * (first + work.params["teacher_head"]["hidden"]["kernel"].size)


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        pytest.param(*of, id=name, marks=[] if name == "supervised" else pytest.mark.slow)
        for name, of in UNCOUNTED.items()
    ],
)
def test_a_step_without_a_formula_is_lowered_and_its_flop_are_counted(stage, changes):
    work, where = described(stage, changes)
    assert "is not counted" in work.uncounted
    lowered, metrics = topology.lower(work, where, batch=4)
    assert metrics == len(lowered.out_info[1]) and "num_partitions = 4" in lowered.as_text()
    facts = compiling.slice_facts(work, where, batch=4)
    encoder = (work.objective.student if hasattr(work.objective, "student") else work.objective.branch).encoder
    channels = lowered.in_avals[0][2]["ppg" if stage == "teacher" else "accel"].shape[-1]
    once = encoder.flops(samples=program.SAMPLES, channels=channels)
    assert facts["flops"] > 4 * 2.5 * once
    assert work.activation_bytes(batch=4) > 0 and sum(work.state_bytes(devices=4, sharded=work.sharded).values()) > 0


def test_tables_in_place_of_the_ppg_teacher_are_part_of_the_step(tmp_path):
    paths = []
    for number, width in enumerate((5, 9)):
        paths.append(str(tmp_path / f"other{number}.npz"))
        np.savez(paths[-1], participant=["a", "b"], start=[0.0, 60.0], embedding=np.eye(2, width, dtype=np.float32))
    work, where = described("student", {"teacher.source": tuple(paths)})
    shapes = work.batch_shapes(3)
    assert shapes["given_0"].shape == (3, 5) and shapes["given_1"].shape == (3, 9) and "ppg" not in shapes
    assert "student.objective = 'distillation': its work is not counted" in work.uncounted
    alone, _ = described("student", {"teacher.source": (paths[1],)})
    assert not alone.uncounted and alone.frozen_flops == 0 and alone.frozen["mean"].shape == (9,)
    traced_alone = topology.step_flops(alone._replace(uncounted="to be traced"), where, batch=4)
    assert topology.step_flops(work, where, batch=4) > traced_alone > 0


def test_memory_counts_donated_arrays_once():
    stats = types.SimpleNamespace(
        argument_size_in_bytes=100,
        output_size_in_bytes=90,
        alias_size_in_bytes=80,
        temp_size_in_bytes=7,
        generated_code_size_in_bytes=5,
    )
    assert list(compiling.memory_by_kind(stats).values()) == [100, 10, 7, 5]


@pytest.mark.parametrize("name", ["v3:2x2", "v5e", "v5e:4", "v5e:axb", "", "v5e:2x2x2x2"])
def test_an_unknown_slice_is_refused(name):
    with pytest.raises(UserError, match="is not a TPU slice: write v4, v5e, v5p, v6e"):
        topology.describe_slice(name)


def test_a_missing_compiler_is_reported_in_a_line(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "libtpu" else real(name, *rest)
    )
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # the other tests keep their devices
    assert command.main(["compile", "--topology", "v5e:2x2"]) == ExitStatus.USER_ERROR
    assert capsys.readouterr().err.startswith(
        "error: libtpu, which contains the TPU's compiler, is not installed: pip install"
    )
    assert command.main(["compile", "--batch", "3", "--config.student.train.micro_batches=2"]) == ExitStatus.USER_ERROR
    assert "a multiple of the 2 micro-batches" in capsys.readouterr().err
    assert command.main(["compile", "--rounds", "3"]) == ExitStatus.USER_ERROR  # nothing is measured
    assert "unknown argument '--rounds'" in capsys.readouterr().err
