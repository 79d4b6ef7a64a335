"""The loader: files, overrides, misspelled keys, the answer in one line of every command."""

import subprocess
import sys

import pytest

from accdistill_jax.benchmark import __main__ as benchmark
from accdistill_jax.config import __main__ as documentation
from accdistill_jax.config.convert import parse_config
from accdistill_jax.config.load import load_config, load_for_training, split_overrides
from accdistill_jax.errors import UserError

MISSPELLED = {
    "student.augment.accel.gausian_noise.probability": "student.augment.accel.gaussian_noise.probability",
    "student.encoder.transformer.dept": "student.encoder.transformer.depth",
    "student.head.layers": "",
    "student.train.lerning_rate": "student.train.learning_rate",
    "evaluation.pool_size": "evaluation.pool_sizes",
    "runtime.maping": "runtime.mapping",  # codespell:ignore maping
    "inputs.ppg.band": "inputs.ppg.bands",
    "data.synthetic.participant": "data.synthetic.participants",
    "student.contrastive.temprature": "student.contrastive.temperature",  # codespell:ignore temprature
    "teacher.augment.cutout.strength": "teacher.augment.cut_out.strength",
    "student.objectives.contrastive.temperature": "student.contrastive.temperature",
    "sead": "seed",
}


def file_of(folder, *lines, name="mine.py"):
    """A config file that changes the smoke preset."""
    body = "".join(f"    {line}\n" for line in lines)
    path = folder / name
    path.write_text(
        "from ml_collections import ConfigDict, FieldReference\n"
        "from accdistill_jax.configs import common, distill\n\n\n"
        f"def get_config():\n    config = distill.get_config('smoke').unlock()\n{body}    return config\n"
    )
    return str(path)


def refusal(*arguments, load=load_config) -> str:
    with pytest.raises(UserError) as caught:
        load(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("key", MISSPELLED)
def test_a_misspelled_key_is_refused_with_the_nearest(tmp_path, key):
    *sections, name = key.split(".")
    path = file_of(
        tmp_path,
        "section = config",
        f"for name in {sections}:",
        "    section = section[name] if name in section else section.update({name: {}}) or section[name]",
        f"section[{name!r}] = 1",
    )
    near = MISSPELLED[key]
    for text in (refusal(path), refusal("distill:smoke", [f"--config.{key}=1"])):
        assert text.startswith(f"unknown key config.{key}")
        assert text.endswith(f"; did you mean config.{near}?") if near else "did you mean config.student.head." in text


def test_an_empty_misspelled_section_is_refused(tmp_path):
    path = file_of(tmp_path, "config.student.augment.accel.gausian_noise = {}", "config.data.synthetic = {}")
    assert "unknown key config.student.augment.accel.gausian_noise; did you mean config.student." in refusal(path)


@pytest.mark.parametrize("value", ["None", "5", "'x'"])
def test_a_value_in_place_of_a_section_is_refused(tmp_path, value):
    path = file_of(tmp_path, "del config.student.train", f"config.student.train = {value}")
    assert "config.student.train" in refusal(path) and "must be a section" in refusal(path)


def test_a_file_lists_what_it_likes(tmp_path):
    path = tmp_path / "short.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({'student': {'temperature': 0.5}})\n"
    )
    config = load_config(str(path), ["--config.teacher.train.b1=0.5", "--config.student.augment.ppg.cut_out.knots=9"])
    expected = parse_config(
        {
            "student": {"temperature": 0.5, "augment": {"ppg": {"cut_out": {"knots": 9}}}},
            "teacher": {"train": {"b1": 0.5}},
        }
    )
    assert config == expected and config.seed == 0


def test_an_override_follows_a_reference_in_the_file(tmp_path):
    path = file_of(
        tmp_path,
        "size = FieldReference(32)",
        "config.teacher.train.batch_size = size",
        "config.student.train.batch_size = size * 2",
    )
    assert load_config(path).student.train.batch_size == 64
    config = load_config(path, ["--config.teacher.train.batch_size=8"])
    assert (config.teacher.train.batch_size, config.student.train.batch_size) == (8, 16)


def test_old_names_of_keys_are_accepted(tmp_path):
    path = file_of(tmp_path, "config.inputs.accel.rate_share = 0.5", "config.inputs.ppg.step = 0.25")
    inputs = load_config(path, ["--config.inputs.accel.axes=1"]).inputs
    assert (inputs.accel.simulated_rate_fraction, inputs.ppg.simulated_step, inputs.accel.simulated_axes) == (
        0.5,
        0.25,
        1,
    )
    for name in ("rate_share", "simulated_rate_fraction"):
        assert load_config(path, [f"--config.inputs.accel.{name}=0.3"]).inputs.accel.simulated_rate_fraction == 0.3
    both = file_of(
        tmp_path, "config.inputs.accel.rate_share = 0.5", "config.inputs.accel.simulated_rate_fraction = 0.4"
    )
    assert "config.inputs.accel.rate_share is the old name of config.inputs.accel.simulated_rate" in refusal(both)


def test_a_file_made_of_sections_is_accepted(tmp_path):
    lines = (
        "config.data = common.data()",
        "config.data.synthetic = common.synthetic()",
        "config.inputs.accel = common.inputs('high', limit=2.0)",
        "config.teacher.encoder = common.encoder_paper('efficientnet')",
        "config.student.encoder = common.encoder_small('efficientnet')",
        "config.teacher.augment = common.augmentations()",
        "config.student.augment.ppg = common.no_augmentations()",
        "config.teacher.autoencoder = common.autoencoder(drop_fraction=0.6, decoder_width=8, decoder_depth=1, decoder_heads=1)",
        "config.teacher.contrastive = common.contrastive(hidden=8, output=4)",
        "config.student.train = common.train(duration='3 epochs', batch_size=8, learning_rate=0.1)",
    )
    config = load_config(file_of(tmp_path, *lines))
    assert config.inputs.accel.bands == "high" and config.student.train.duration == "3 epochs"
    assert config.teacher.encoder.architecture == config.student.encoder.architecture == "efficientnet"
    assert config.teacher.encoder.options["transformer"].residual == "compute"
    assert config.teacher.augment["cut_out"].probability == 0.4
    assert config.student.augment.ppg["cut_out"].probability == 0.0
    assert config.teacher.objectives["contrastive"].head.output == 4


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--config.seed=0x10"], "seed", 16),
        (["-config.seed", "5"], "seed", 5),
        (["--config.student.temperature=1"], "student.temperature", 1.0),
        (["--config.student.train.duration=3 epochs"], "student.train.duration", "3 epochs"),
        (["--config.teacher.path=123"], "teacher.path", "123"),
        (["--config.runtime.mapping='pmap'"], "runtime.mapping", "pmap"),
        (["--config.data.stores=/a/b"], "data.stores", ("/a/b",)),
        (["--config.data.stores=('a', 'b')"], "data.stores", ("a", "b")),
        (["--config.data.stores=[]"], "data.stores", ()),
        (["--config.evaluation.pool_sizes=5"], "evaluation.pool_sizes", (5,)),
        (
            ["--config.student.encoder.transformer.tokenizer=((8, 4), (16, 8))"],
            "student.encoder.transformer.tokenizer",
            ((8, 4), (16, 8)),
        ),
    ],
)
def test_the_key_decides_how_a_text_is_read(words, key, value):
    from accdistill_jax.config.tree import flatten_section

    others, overrides = split_overrides(["program", *words, "other"])
    assert others == ["program", "other"]
    read = flatten_section(load_config("distill:smoke", overrides))[key]
    assert read == value and type(read) is type(value)


def test_an_override_without_a_value_is_refused():
    _, overrides = split_overrides(["--config.seed"])
    assert refusal("distill:smoke", overrides) == "--config.seed has no value; write --config.seed=VALUE"


BROKEN = {
    "syntax": ("def get_config(:\n", "invalid syntax"),
    "exception": ("def get_config():\n    return 1 / 0\n", "division by zero"),
    "preset": ("def get_config():\n    raise ValueError('no preset x')\n", "no preset x"),
    "no function": ("x = 1\n", "get_config"),
    "no config": ("def get_config():\n    return {'seed': 1}\n", "must return an ml_collections.ConfigDict, not dict"),
    "exit": ("raise SystemExit(0)\n", "config"),
    "key": (
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({'sead': 1})\n",
        "unknown key config.sead; did you mean config.seed?",
    ),
    "type": (
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({'seed': 'a'})\n",
        "config.seed = 'a' must be a whole number",
    ),
}
COMMANDS = ("step", "input", "startup", "embed", "plan", "tradeoff", "scaling", "weak-scaling", "compile")


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_file_is_answered_in_one_line_by_the_loader(tmp_path, broken):
    text, message = BROKEN[broken]
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert message in refusal(str(path))


def test_every_command_answers_a_broken_file_in_one_line(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(BROKEN["exception"][0])
    expected = f"error: config {path}: division by zero\n"
    for command in COMMANDS:
        assert benchmark.main([command, f"--config={path}"]) == 2, command
        assert capsys.readouterr().err == expected, command
    assert documentation.main([f"--config={path}"]) == 2
    assert capsys.readouterr().err == expected


def test_main_answers_a_broken_file_in_one_line(tmp_path, repository):
    path = tmp_path / "mine.py"
    path.write_text(BROKEN["syntax"][0])
    command = [sys.executable, "-m", "accdistill_jax.main", f"--config={path}"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: config {path}: invalid syntax (mine.py, line 1)\n"


def test_reading_a_config_imports_no_jax():
    """Checking a config must be instant, for example to refuse a wrong command line."""
    program = "import sys; from accdistill_jax.config import load; load.load_config('distill'); sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


@pytest.mark.parametrize("argument", ["distill:smoke", "file"])
def test_an_objective_on_the_command_line_drops_what_it_does_not_read_of_the_file(argument, tmp_path):
    argument = file_of(tmp_path) if argument == "file" else argument
    for objective, windows in (("supervised", 1), ("masked", 1), ("contrastive", 1), ("joint", 60)):
        student = load_config(argument, [f"--config.student.objective={objective}"]).student
        assert (student.head.windows, student.token_weight, student.token_schedule) == (windows, 0.0, "constant")
    student = load_config(argument, ["--config.student.objective=distillation"]).student
    assert (student.head.windows, student.token_weight, student.token_schedule) == (60, 10.0, "constant")


def test_what_the_command_line_sets_without_effect_is_refused(tmp_path):
    supervised = "--config.student.objective=supervised"
    assert refusal("distill:smoke", [supervised, "--config.student.head.windows=6"]) == (
        "config.student.head.windows = 6 is for distillation and joint alone; set it to 1 with config.student.objective = 'supervised'"
    )
    assert "token_weight = 0.5 is for distillation alone" in refusal(
        "distill:smoke-mean", ["--config.student.token_weight=0.5", "--config.student.objective=joint"]
    )
    path = file_of(tmp_path, "config.student.objective = 'supervised'")
    assert "token_weight = 10.0 is for distillation alone; set it to 0.0" in refusal(path)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("student.objective=joint", "student.regression_weight=1.0"), "student.objective = 'joint' does not read it"),
        (
            ("student.objective=supervised", "student.temperature=0.5"),
            "student.objective = 'supervised' does not read it",
        ),
        (("student.objective=masked", "student.head.hidden=64"), "student.objective = 'masked' does not read it"),
        (("student.supervised.label_fraction=0.1",), "only with config.student.objective = 'supervised', which is"),
        (("teacher.train.muon.momentum=0.9",), "only with config.teacher.train.optimizer = 'muon', which is 'adamw'"),
        (("student.encoder.efficientnet.output=64",), "only with config.student.encoder.architecture = 'efficientnet'"),
        (("student.regression=mse",), "config.student.regression_weight is 0.0"),
        (("teacher.source_weights=(2.0,)",), "config.teacher.source names a single teacher"),
    ],
)
def test_an_override_without_effect_is_refused(overrides, reason):
    words = [f"--config.{one}" for one in overrides]
    load_config("distill:smoke", words)  # the base of a grid, in which the override may count
    text = refusal("distill:smoke", words, load=load_for_training)
    assert text.startswith(f"config.{overrides[-1].partition('=')[0]} = ") and " has no effect: " in text
    assert reason in text


def test_an_override_that_counts_or_repeats_the_default_is_taken():
    for overrides in (
        ("student.objective=supervised", "student.supervised.label_fraction=0.1", "student.temperature=0.07"),
        ("student.objective=joint", "student.temperature=0.5", "student.head.hidden=64"),
        ("student.regression=mse", "student.regression_weight=1.0"),
        ("student.encoder.architecture=efficientnet", "student.encoder.efficientnet.output=64"),
    ):
        load_for_training("distill:smoke", [f"--config.{one}" for one in overrides])
