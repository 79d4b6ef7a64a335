"""The scaling model against XLA's counts, the collectives of the compiled step and published examples."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from accdistill_jax.benchmark.model import hardware, model, operations, program, tables, traffic
from accdistill_jax.config.convert import changed, known_keys
from accdistill_jax.config.load import load_config
from accdistill_jax.errors import ExitStatus, UserError
from accdistill_jax.models import attention, ops
from accdistill_jax.models.autoencoder import MaskedAutoencoder
from accdistill_jax.models.build import build_encoder
from accdistill_jax.models.efficientnet import EfficientNetEncoder, Stage
from accdistill_jax.models.heads import ProjectionHead
from accdistill_jax.models.transformer import TransformerEncoder
from accdistill_jax.runtime import platform
from accdistill_jax.runtime.parallel import Parallel

SAMPLES, CHANNELS = 240, 2
TRANSFORMER = TransformerEncoder(patch=20, width=24, depth=2, heads=2, mlp=40, tokenizer=((5, 6), (10, 8)), output=12)
STEM = TransformerEncoder(patch=20, width=24, depth=1, heads=2, mlp=40, stem=((6, 4, 2), (8, 7, 5)), output=12)
EFFICIENTNET = EfficientNetEncoder(
    stem=(8, 7, 2), stages=(Stage(8, 1, 1, 3, 1), Stage(20, 2, 2, 5, 3)), head=16, output=6
)
METRICS_BYTES = 64  # tolerance of the formula: norms and similar scalars


def forward_flops(module, *arguments) -> int:
    """FLOP per segment of a module's forward pass; the arguments have batches of 3."""
    variables = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    with platform.tracing_for(
        "gpu"
    ):  # the CPU computes some operations in another form, and a TPU selects rows by products
        traced = jax.make_jaxpr(lambda v: module.apply(v, *[jnp.zeros(a.shape, a.dtype) for a in arguments]))(variables)
    return operations.traced_flops(traced.jaxpr) / 3


def signal(samples=SAMPLES, channels=CHANNELS):
    return jax.ShapeDtypeStruct((3, samples, channels), jnp.float32)


def test_flops_of_encoders_and_head_are_those_of_the_traced_modules():
    for encoder in (TRANSFORMER, STEM, EFFICIENTNET):
        assert encoder.flops(samples=SAMPLES, channels=CHANNELS) == forward_flops(encoder, signal())
    head = ProjectionHead(hidden=7, output=5)
    assert head.flops(features=9) == forward_flops(head, jax.ShapeDtypeStruct((3, 9), jnp.float32))


@pytest.mark.parametrize("encoder", [TRANSFORMER, STEM, EFFICIENTNET], ids=["transformer", "stem", "efficientnet"])
def test_flops_of_an_autoencoder_are_those_of_the_traced_module(encoder):
    autoencoder = MaskedAutoencoder(
        encoder.clone(output=0) if encoder is not EFFICIENTNET else encoder,
        patch=20,
        keep=5,
        decoder_width=8,
        decoder_depth=2,
        decoder_heads=2,
    )
    order = jax.ShapeDtypeStruct((3, SAMPLES // 20), jnp.int32)
    counted = autoencoder.flops(samples=SAMPLES, channels=CHANNELS)
    assert counted == forward_flops(autoencoder, signal(), order)


def test_matrix_products_are_nearly_all_of_xla_s_count_for_the_paper_sized_encoder(monkeypatch):
    for module in (attention, ops):  # XLA counts the body of a loop once, and the CPU's form has loops
        monkeypatch.setattr(module, "on_cpu", lambda: False)
    config = load_config("distill:paper-literal").student.encoder
    encoder = build_encoder(config, dtype=jnp.bfloat16)
    x = signal(3840, 3)
    params = jax.eval_shape(encoder.init, jax.random.key(0), x)
    counted_by_xla = jax.jit(encoder.apply).lower(params, x).cost_analysis()["flops"]
    share = 3 * encoder.flops(samples=3840, channels=3) / counted_by_xla
    assert 0.93 < share <= 1.0


@pytest.mark.slow
def test_regressions_and_windows_add_their_heads_to_the_work_of_distillation():
    plain, tokens, regression, windows, alone = (
        program.describe_work(small_config(**changes), "student")
        for changes in (
            {},
            {"student.token_weight": 1.0, "student.token_schedule": "linear"},
            {"student.regression_weight": 1.0},
            {"student.head.windows": 12},
            {"student.regression_weight": 1.0, "student.contrastive_weight": 0.0},
        )
    )
    student, teacher = (plain.objective.student.encoder, plain.objective.teacher.encoder)
    token_head = 2 * student.token_width * teacher.token_width
    assert tokens.trained_flops - plain.trained_flops == program.SAMPLES // teacher.patch * token_head
    embedding_head = 2 * student.embedding_width * teacher.embedding_width
    assert regression.trained_flops - plain.trained_flops == embedding_head
    assert windows.projection == 12 * plain.projection and windows.trained_flops > plain.trained_flops
    assert alone.projection == 0 and alone.trained_flops < regression.trained_flops


def small_config(**changes):
    # Without augmentation, which has no collectives, the step compiles in half the time.
    unaugmented = {key: 0.0 for key in known_keys() if key.endswith(".probability")}
    return changed(load_config("distill:smoke-mean"), unaugmented | changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, changes",
    [
        ("student", {}),
        ("teacher", {}),
        ("student", {"runtime.optimizer_state": "sharded", "student.train.micro_batches": 2}),
        ("student", {"student.head.windows": 12, "student.token_weight": 1.0, "student.regression_weight": 1.0}),
    ],
    ids=[
        "distillation",
        "masked autoencoding",
        "distillation, sharded state, micro-batches",
        "windows, regression onto tokens and embedding",
    ],
)
def test_collectives_of_the_compiled_step_are_those_of_the_formula(stage, changes):
    work = program.describe_work(small_config(**changes), stage)
    counted, expected = program.count_collectives(work, Parallel())
    counted_bytes, expected_bytes = traffic.total(counted, 4), traffic.total(expected, 4)
    assert counted_bytes.keys() == expected_bytes.keys() and sum(expected_bytes.values()) > 0
    assert abs(counted_bytes.pop("all-reduce") - expected_bytes.pop("all-reduce")) <= METRICS_BYTES
    assert counted_bytes == expected_bytes


def test_collectives_are_read_from_a_program_text():
    text = """
      %a = (f32[32,16]{1,0}, bf16[8]{0}, /*index=2*/f32[]) all-reduce(%x, %y, %z), replica_groups={{0,1},{2,3}}, to_apply=%add
      %b = f32[4,16]{1,0} reduce-scatter(%g), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
      %c = f32[64,3]{1,0} all-gather(%h), channel_id=2, replica_groups={{0,1,2,3}}, dimensions={0}
      %d = f32[64,3]{1,0} add(%all-gather.1, %c)
    """
    collectives = [(collective.kind, collective.array_bytes) for collective in traffic.counted_collectives(text)]
    assert collectives == [("all-reduce", 4 * 512 + 2 * 8 + 4), ("reduce-scatter", 8 * 4 * 64), ("all-gather", 4 * 192)]


def test_groups_written_as_axes_of_a_mesh_are_read():
    """JAX 0.12 and later write groups in this form."""
    text = """
      %a = f32[16]{0} all-reduce(%x), channel_id=1, replica_groups=mesh['d'=4] {'d'}, use_global_device_ids=true, to_apply=%add
      %b = f32[4,16]{1,0} reduce-scatter(%g), channel_id=1, replica_groups=mesh['host'=2,'d'=4] {'host','d'}, dimensions={0}
      %c = f32[4,16]{1,0} reduce-scatter(%g), channel_id=1, replica_groups=mesh['host'=2,'d'=4] {'d'}, dimensions={0}
    """
    collectives = [(collective.kind, collective.array_bytes) for collective in traffic.counted_collectives(text)]
    assert collectives == [("all-reduce", 64), ("reduce-scatter", 8 * 256), ("reduce-scatter", 4 * 256)]


def test_an_all_reduce_sends_twice_the_bytes_of_a_gather_and_a_single_device_sends_nothing():
    sent = {kind: traffic.Collective("", kind, 1000).sent(4) for kind in ("all-reduce", "all-gather")}
    assert sent == {"all-reduce": 1500.0, "all-gather": 750.0}
    assert traffic.Collective("", "all-reduce", 1000).sent(1) == 0


def test_published_all_gather_on_v5e_lies_within_the_bounds():
    """A gather of bf16[2048, 8192] over a line of 4 chips took 680 us. Source: How To Scale Your Model, sharding, pop quiz 2."""
    level = hardware.torus((4,), link=50e9, rings=False)
    machine = hardware.Hardware("", 1.0, 1.0, 1.0, (level,), 1, ())
    slow, fast = model.collective_seconds(traffic.Collective("", "all-gather", 2 * 2048 * 8192), machine)
    assert fast < 680e-6 == pytest.approx(slow, rel=0.02)


def test_rings_double_the_bandwidth_of_lines_and_halve_the_path():
    line, ring = (hardware.torus((16, 16), link=1e9, rings=rings) for rings in (False, True))
    assert ring.bandwidth == 2 * line.bandwidth == 4e9
    assert ring.latency_s < 0.6 * line.latency_s


@pytest.fixture(scope="module")
def paper():
    return program.describe_work(load_config("distill:paper-literal"), "student")


def test_bounds_are_ordered(paper):
    for machine in hardware.known():
        estimate = model.estimate(paper, machine, batch=128, mfu=0.4)
        assert 0 < estimate.efficiency_serial < estimate.efficiency_overlapped <= 1
        assert 0 < estimate.fast_s < estimate.slow_s
        assert estimate.sent_bytes["gradients"] == pytest.approx(8 * 7_122_944 * (1 - 1 / machine.devices))
        assert set(machine.sources) <= hardware.SOURCES.keys()


@pytest.mark.slow
def test_a_sharded_state_sends_the_same_bytes_in_more_exchanges(paper):
    config = load_config("distill:paper-literal", ["--config.runtime.optimizer_state=sharded"])
    machine = hardware.tpu("v5e", (16, 16), rings=True)
    whole, split = (
        model.estimate(work, machine, batch=128, mfu=0.4) for work in (paper, program.describe_work(config, "student"))
    )
    assert sum(split.sent_bytes.values()) == pytest.approx(sum(whole.sent_bytes.values()), rel=1e-3)
    assert split.state_bytes < whole.state_bytes
    assert split.slow_s > whole.slow_s and split.fast_s == pytest.approx(whole.fast_s, rel=1e-3)


def test_a_slower_device_hides_more_of_its_communication(paper):
    machine = hardware.gpu("H100", 4)
    efficiencies = [model.estimate(paper, machine, batch=128, mfu=mfu).efficiency_serial for mfu in (0.6, 0.3, 0.1)]
    assert efficiencies == sorted(efficiencies)


def test_gathered_projections_outgrow_gradients_with_the_global_batch(paper):
    sent = {
        devices: {
            collective.what: collective.sent(devices)
            for collective in paper.collectives(devices=devices, global_batch=128 * devices)
        }
        for devices in (16, 1024)
    }
    assert sent[16]["student's projections"] < sent[16]["gradients"] < sent[1024]["student's projections"]


def test_memory_is_sixteen_bytes_per_trained_parameter_and_splitting_saves_the_moments(paper):
    whole, split = (paper.state_bytes(devices=8, sharded=sharded) for sharded in (False, True))
    frozen = whole.pop("frozen teacher")
    assert frozen == split.pop("frozen teacher") > 0
    assert sum(whole.values()) == model.BYTES_REPLICATED * 7_122_944
    assert sum(split.values()) == (8 + 8 / 8) * 7_122_944
    assert model.largest_model(16e9) == 0.5e9
    assert 1.7 < model.largest_model(16e9, devices=8) / model.largest_model(16e9) < 2


def test_micro_batches_divide_activations_and_cost_a_forward_pass():
    whole = program.describe_work(small_config(), "student")
    pieces = program.describe_work(small_config(**{"student.train.micro_batches": 4}), "student")
    assert pieces.activation_bytes(batch=16) == whole.activation_bytes(batch=16) / 4 > 0
    more = pieces.step_flops(batch=16, global_batch=16) - whole.step_flops(batch=16, global_batch=16)
    assert more == 16 * whole.trained_flops


def test_dropped_tokens_and_a_cached_teacher_are_not_counted():
    whole = program.describe_work(small_config(), "student")
    lean = program.describe_work(small_config(**{"student.drop_fraction": 0.5, "teacher.cached_views": 1}), "student")
    assert lean.frozen_flops == 0 < whole.frozen_flops
    assert 0.4 < lean.trained_flops / whole.trained_flops < 0.6
    assert lean.activation_bytes(batch=16) < 0.7 * whole.activation_bytes(batch=16)
    ppg = 3840 * 2 * 2 + 2 * 2 * 4  # samples of two channels, scales and offsets
    assert whole.segment_bytes - lean.segment_bytes == ppg - 4 * lean.cached_embedding == ppg - 4 * 32


def test_windows_make_wider_heads_and_wider_cached_views():
    whole = program.describe_work(small_config(**{"teacher.cached_views": 1}), "student")
    windowed = program.describe_work(small_config(**{"teacher.cached_views": 1, "student.head.windows": 4}), "student")
    width = whole.batch_shapes(2)["teacher"].shape[1]
    assert windowed.batch_shapes(2)["teacher"].shape == (2, 4 * width)
    assert windowed.params["teacher_head"]["hidden"]["kernel"].shape[0] == width
    assert windowed.projection == 4 * whole.projection
    assert windowed.trained_flops > whole.trained_flops and "token_mean" in windowed.frozen


def test_tables_have_a_row_per_machine(paper):
    rows = [[model.estimate(paper, machine, batch=32, mfu=mfu) for mfu in (0.1, 0.4)] for machine in hardware.known()]
    lines = tables.time_table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    for row, line in zip(rows, lines[2:], strict=True):
        assert ("(a)" in line) == ("SXM" in line), "assumed figures are marked"
        assert row[0].compute_s == pytest.approx(4 * row[1].compute_s)
        for estimate in row:
            json.dumps(estimate.as_record())


def test_latency_between_nodes_matches_the_published_points():
    for nodes, seconds in ((2, 46e-6), (32, 63e-6)):
        assert 2 * hardware.gpu("H100", nodes).levels[1].latency_s == pytest.approx(seconds)


def test_settings_on_the_command_line_reach_the_config(repository):
    config = load_config(str(repository / "configs/distill.py:smoke-mean"), ["--config.student.train.micro_batches=2"])
    assert config.student.train.micro_batches == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["scaling", "--config=configs/distill.py:papper"], "no preset 'papper'"),
        (["scaling", "--config=configs/distil.py"], "no config file configs/distil.py"),
        (["scaling", "--config.student.temperatre=0.1"], "did you mean config.student.temperature?"),
        (["scaling", "--count-devices=1"], "--count-devices must be at least 2"),
        (["weak-scaling", "--devices=4096"], "4096 devices need 4096 cores"),
        (["scaling", "--nonsense"], "unknown argument '--nonsense'"),
    ],
)
def test_errors_of_the_user_are_reported_in_a_line(repository, arguments, message):
    done = run_benchmark(repository, *arguments)
    assert done.returncode == ExitStatus.USER_ERROR
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_command_prints_tables_and_writes_all_numbers(repository, tmp_path):
    done = run_benchmark(
        repository,
        "scaling",
        "--config=configs/distill.py:smoke-mean",
        "--batch-per-device=4,8",
        "--count-devices=2",
        f"--json={tmp_path / 'numbers.json'}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "TPU v5e, 256 chips" in done.stdout and "4 x 8 H100 SXM" in done.stdout
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert len(numbers["estimates"]) == 2 * 2 * 3 * len(hardware.known())
    assert {collective["from"] for collective in numbers["collectives"]} == {"compiled", "formula"}


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
@pytest.mark.long
def test_measurement_runs_every_arrangement(repository, tmp_path):
    done = run_benchmark(
        repository,
        "weak-scaling",
        "--stage=teacher",
        "--batch-per-device=2",
        "--steps=2",
        "--rounds=2",
        f"--json={tmp_path / 'm.json'}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    measured = json.loads((tmp_path / "m.json").read_text())["arrangements"]
    assert [(arrangement["name"], arrangement["devices"]) for arrangement in measured] == [
        ("1 device alone", 1),
        ("2 unconnected", 2),
        ("1 process, 2 devices", 2),
        ("2 processes, 1 device each", 2),
    ]
    assert all(
        len(arrangement["segments_per_s"]) == 2 and min(arrangement["segments_per_s"]) > 0 for arrangement in measured
    )


def run_benchmark(repository, *arguments):
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "accdistill_jax.benchmark", *arguments],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.mark.parametrize(
    "changes,stage,message",
    [
        (
            {"teacher.objective": "contrastive"},
            "teacher",
            "teacher.objective = 'contrastive': its work is not counted, only that of masked autoencoding",
        ),
        ({"student.objective": "joint"}, "student", "student.objective = 'joint': its work is not counted"),
        (
            {"student.token_weight": 1.0, "teacher.encoder.architecture": "efficientnet"},
            "student",
            "regression onto tokens with a Transformer as the teacher",
        ),
    ],
)
def test_objectives_without_a_count_are_refused(changes, stage, message):
    with pytest.raises(UserError, match=message):
        program.describe_work(small_config(**changes), stage)
