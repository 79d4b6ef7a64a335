"""Bad configs and command lines of training and preparation."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from accdistill_jax.config import tree
from accdistill_jax.config.load import load_config
from tests.bad_inputs.bases import SMOKE, Bases, run_arguments
from tests.bad_inputs.case import MAIN, OUT, PREPARE, Case
from tests.bad_inputs.mutations import HUGE

_INTEGERS = ("-1", "1.5", "nan", "inf", "1e400", "abc", "None", "()", "[1]", "", str(HUGE), str(-HUGE))
_NUMBERS = ("-1", "nan", "inf", "-inf", "1e400", "abc", "None", "(1.0,)", "", "1,5")
_DURATIONS = (
    "",
    "0 steps",
    "-5 steps",
    "5",
    "steps",
    "5 parsecs",
    "nan steps",
    "inf epochs",
    "1e400 steps",
    "5 steps 6 steps",
    "9" * 400 + " steps",
    "9" * 30 + " epochs",
    "1.5.2 epochs",
    "None",
)
_CHOICES = ("", "xyz", "5", "None", "('full',)")
_TUPLES = ("abc", "(", "(None,)", "(nan,)", "({},)", "((1,),)", "(('a','b'),)", "(1e400,)")
_ZERO_IS_WRONG = (
    "batch_size",
    "participants",
    "segments_per_participant",
    "workers",
    "reader_threads",
    "prefetch_batches",
    "heads",
    "width",
    "depth",
    "mlp",
    "learning_rate",
    "temperature",
    "hidden",
    "output",
    "bootstrap_draws",
    "train_segments",
    "decoder_width",
    "ppg_channels",
)
_HUGE_IS_WRONG_TOO = ("participants", "width", "depth")

# arguments, text that the message must contain
_MAIN = [
    ([], "--config"),
    (["--config"], "config"),
    (["--config="], "config"),
    (["--config=configs/distil.py"], "configs/distill.py"),
    (["--config=configs"], "configs"),
    (["--config={}/nothing.py"], "{}/nothing.py"),
    (["--config=configs/distill.py:smok"], "smok"),
    (["--config=configs/distill.py:"], "configs/distill.py|config"),
    (["--config=configs/distill.py:smoke:paper"], "smoke:paper"),
    (["--config=README.md"], "README.md"),
    ([SMOKE, "leftover"], "leftover"),
    ([SMOKE, "--wrkdir=x"], "workdir"),
    ([SMOKE, "--workdir=/proc/no/such"], "/proc/no/such"),
    ([SMOKE, "--workdir=/dev/null/run"], "/dev/null/run"),
    ([SMOKE, "--verbosity=loud"], "verbosity"),
    ([SMOKE, "--config.seed"], "config.seed"),
    ([SMOKE, "--config.=1"], "config"),
    ([SMOKE, "--config..seed=1"], "config"),
    ([SMOKE, "--config.seed.more=1"], "config.seed"),
    ([SMOKE, "--config.student=5"], "config.student"),
    ([SMOKE, "--config.student.train", "1"], "config.student.train"),
    ([SMOKE, "--config.stages=('data','student','teacher')"], "config.stages"),
    ([SMOKE, "--config.stages=('data','data')"], "config.stages"),
    ([SMOKE, "--config.stages=('data','evaluate')"], "config.stages"),
    ([SMOKE, "--config.stages=()"], "config.stages"),
    ([SMOKE, "--config.stages=('student',)"], "data|teacher"),
    ([SMOKE, "--config.stages=('report',)"], "data|report|embeddings"),
    ([SMOKE, "--config.data.stores=('',)"], "config.data.stores"),
    ([SMOKE, "--config.data.stores=(5,)"], "config.data.stores"),
    ([SMOKE, "--config.data.stores=('{}/none',)"], "{}/none"),
    ([SMOKE, "--config.data.stores=('ftp://x/y',)"], "ftp://x/y"),
    ([SMOKE, "--config.data.stores=('a\\0b',)"], "config.data.stores"),
    ([SMOKE, "--config.data.stores=('{}',)"], "{}"),
    ([SMOKE, "--config.data.stores=('README.md',)"], "README.md"),
    ([SMOKE, "--config.data.unseen_stores=('{}/none',)"], "{}/none"),
    ([SMOKE, "--config.data.weights=(1.0,)"], "config.data.weights"),
    ([SMOKE, "--config.data.weights=(1.0,2.0)", "--config.data.stores=('{}',)"], "config.data.weights"),
    ([SMOKE, "--config.data.weights=(0.0,)", "--config.data.stores=('{}',)"], "config.data.weights"),
    ([SMOKE, "--config.data.weights=(1e400,)", "--config.data.stores=('{}',)"], "config.data.weights"),
    ([SMOKE, "--config.student.train.warmup=6 steps"], "config.student.train.warmup"),
    ([SMOKE, "--config.teacher.train.batch_size=18"], "config.teacher.train.batch_size"),
    ([SMOKE, "--config.student.train.batch_size=1"], "config.student.train.batch_size"),
    ([SMOKE, "--config.teacher.encoder.transformer.heads=5"], "config.teacher.encoder.transformer"),
    ([SMOKE, "--config.teacher.encoder.transformer.tokenizer=((7,32),)"], "tokenizer"),
    ([SMOKE, "--config.student.encoder.transformer.tokenizer=((0,32),)"], "tokenizer"),
    ([SMOKE, "--config.student.encoder.transformer.tokenizer=((100000,32),)"], "tokenizer"),
    ([SMOKE, "--config.student.encoder.efficientnet.stages=()"], "config.student.encoder.efficientnet.stages"),
    ([SMOKE, "--config.student.encoder.efficientnet.stem=(8,15)"], "config.student.encoder.efficientnet.stem"),
    ([SMOKE, "--config.teacher.autoencoder.drop_fraction=1.0"], "config.teacher.autoencoder.drop_fraction"),
    ([SMOKE, "--config.teacher.path={}/none"], "{}/none"),
    ([SMOKE, "--config.teacher.path=README.md"], "README.md"),
    ([SMOKE, "--config.student.teacher_to_student_weight=1.5"], "config.student.teacher_to_student_weight"),
    ([SMOKE, "--config.student.train.b1=1.0"], "config.student.train.b1"),
    ([SMOKE, "--config.evaluation.pool_sizes=(1,)"], "config.evaluation.pool_sizes"),
    ([SMOKE, "--config.evaluation.pool_sizes=many"], "config.evaluation.pool_sizes"),
]

# content of a config file, text that the message must contain besides the file
_FILES = [
    ("", "get_config"),
    ("def get_config(:\n", "syntax|line|invalid"),
    ("import nothing_of_this_name\n", "nothing_of_this_name"),
    ("def get_config():\n    return undefined\n", "undefined"),
    ("def get_config():\n    pass\n", "config|None"),
    ("def get_config():\n    return [1]\n", "config|list"),
    ("def get_config():\n    return {'seed': 0}\n", "config|dict"),
    ("def get_config():\n    return get_config()\n", "recursion"),
    ("raise SystemExit(0)\n", "config"),
    ("get_config = 5\n", "callable|config"),
    ("\0", "null"),
    ("\x80\xff", "utf|config"),
    ("from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'sede': 0})\n", "config.sede"),
    ("from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'seed': 'x'})\n", "config.seed"),
    (
        "from configs import distill\ndef get_config():\n    c = distill.get_config('smoke')\n    c.unlock()\n    c.sede = 1\n    return c\n",
        "config.sede",
    ),
    (
        "from configs import distill\ndef get_config():\n    c = distill.get_config('smoke').unlock()\n    c.student.heed = {}\n    return c\n",
        "config.student.heed",
    ),
    (
        "from configs import distill\ndef get_config():\n    c = distill.get_config('smoke').unlock()\n    c.runtime.mappingg = 'pmap'\n    return c\n",
        "config.runtime.mappingg",
    ),
    (
        "from configs import distill\ndef get_config():\n    c = distill.get_config('smoke').unlock()\n    c.student.train.b1 = 'x'\n    return c\n",
        "config.student.train.b1",
    ),
    (
        "from configs import distill\ndef get_config():\n    c = distill.get_config('smoke').unlock()\n    c.student.train.b1 = object()\n    return c\n",
        "config.student.train.b1",
    ),
    (
        "from configs import distill\ndef get_config():\n    c = distill.get_config('smoke').unlock()\n    c.student = None\n    return c\n",
        "config.student",
    ),
]

_SYNTHETIC = (
    "synthetic",
    "--out",
    "{}/out",
    "--workers",
    "1",
    "--quiet",
    "--participants",
    "1",
    "--segments-per-participant",
    "2",
)
# flags of the preparation, text that the message must contain
_PREPARATION = [
    ("--participants 0", "participants"),
    ("--participants -1", "participants"),
    (f"--participants {HUGE}", "participants"),
    ("--participants 1.5", "participants"),
    ("--participants nan", "participants"),
    ("--segments-per-participant 0", "segments"),
    (f"--segments-per-participant {HUGE}", "segments_per_participant"),
    ("--ppg-channels 0", "ppg_channels"),
    ("--ppg-channels 99", "ppg_channels"),
    ("--seed -1", "seed"),
    (f"--first-participant {HUGE}", "first_participant"),
    ("--workers 0", "workers"),
    ("--workers -3", "workers"),
    ("--workers many", "workers"),
    ("--split-fractions 0.5 0.5 0.5", "split fractions"),
    ("--split-fractions nan 0.5 0.5", "split fractions"),
    ("--split-fractions -1 1 1", "split fractions"),
    ("--split-fractions 1 0", "split-fractions"),
    ("--split-fractions inf 0 0", "split fractions"),
    ("--split-file {}/none.csv", "{}/none.csv"),
    ("--split-file README.md", "README.md"),
    ("--split-file configs", "configs"),
    ("--rate-hz 0", "rate_hz"),
    ("--rate-hz -64", "rate_hz"),
    ("--rate-hz nan", "rate_hz"),
    ("--rate-hz inf", "rate_hz"),
    ("--rate-hz 1e400", "rate_hz"),
    ("--rate-hz 1e18", "rate_hz"),
    ("--segment-s 0", "segment_s"),
    ("--segment-s 1e300", "segment_s"),
    ("--segment-s inf", "segment_s"),
    ("--hop-s 0", "hop_s"),
    ("--hop-s nan", "hop_s"),
    ("--hop-s inf", "hop_s"),
    ("--hop-s 1e300", "hop_s"),
    ("--ppg-band-hz 8 0.5", "ppg_band_hz"),
    ("--ppg-band-hz 0 8", "ppg_band_hz"),
    ("--ppg-band-hz 0.5 60", "ppg_band_hz"),
    ("--ppg-band-hz nan 8", "ppg_band_hz"),
    ("--ppg-filter-order 0", "ppg_filter_order"),
    ("--ppg-filter-order 99", "ppg_filter_order"),
    ("--max-motion-g -1", "max_motion_g"),
    ("--max-motion-g nan", "max_motion_g"),
    ("--min-ppg-quality 2", "min_ppg_quality"),
    ("--max-clipped-fraction -0.1", "max_clipped_fraction"),
    ("--max-gap-s -1", "max_gap_s"),
    ("--gap-s 0", "gap_s"),
    ("--min-beat-coverage 7", "min_beat_coverage"),
    ("--nonsense", "--nonsense"),
    ("--out /proc/no/such", "/proc/no/such"),
    ("--out ftp://x/y", "ftp://x/y"),
]
_OTHER_COMMANDS = [
    ([], "COMMAND"),
    (["prepar"], "prepar"),
    (["verify"], "store"),
    (["verify", "{}/none"], "{}/none"),
    (["verify", "README.md"], "README.md"),
    (["show", "{}/none"], "{}/none"),
    (["show", "{}"], "{}"),
    (["empatica_e4", "{}/none", "--out", "{}/out"], "{}/none"),
    (["empatica_e4", "{}", "--out", "{}/out"], "{}"),
    (["troika", "README.md", "--out", "{}/out"], "README.md"),
    (["generic", "README.md", "--out", "{}/out"], "README.md"),
    (["empatica_e4", "{}"], "--out"),
    (["empatica_e4", "{}", "--out", "{}/out", "--participant-from", "moon"], "moon"),
]


def cases(rng: random.Random, bases: Bases) -> Iterator[Case]:
    """Fixed mistakes and random wrong values, in turn, without end."""
    fixed = [*_mistakes(bases), *_preparations(bases)]
    rng.shuffle(fixed)
    values = _wrong_values(rng)
    yield from itertools.chain.from_iterable(zip(fixed, values, strict=False))
    yield from values


def _mistakes(bases: Bases) -> Iterator[Case]:
    for arguments, named in _MAIN:
        workdir = [] if any(argument.startswith("--workdir") for argument in arguments) else ["--workdir={}/run"]
        yield Case("main " + " ".join(arguments)[:120], MAIN, (*arguments, *workdir), (named,))
    for number, (content, named) in enumerate(_FILES):

        def build(folder: Path, content: str = content) -> None:
            (folder / "mine.py").write_bytes(content.encode("latin-1"))

        yield Case(
            f"main with config file {number}",
            MAIN,
            ("--config={}/mine.py", "--workdir={}/run"),
            ("{}/mine.py|config.", named),
            build,
        )
    arguments = (
        *run_arguments(bases, "{}/run"),
        "--config.teacher.fingerprint=123",
        f"--config.teacher.path={bases.run}/teacher/export",
    )
    yield Case("main with another teacher's fingerprint", MAIN, arguments, ("config.teacher.fingerprint",))
    yield Case(
        "main with a student for a teacher",
        MAIN,
        (*run_arguments(bases, "{}/run"), f"--config.teacher.path={bases.run}/student/export"),
        (f"{bases.run}/student/export",),
    )
    yield Case(
        "main with a store's folder for a teacher",
        MAIN,
        (*run_arguments(bases, "{}/run"), f"--config.teacher.path={bases.store}"),
        (str(bases.store),),
    )
    yield Case(
        "main with a run's folder for a store",
        MAIN,
        (SMOKE, "--workdir={}/run", f"--config.data.stores=('{bases.run}',)"),
        (str(bases.run),),
    )


def _preparations(bases: Bases) -> Iterator[Case]:
    for flags, named in _PREPARATION:
        # of two equal flags the last one counts
        yield Case(f"prepare synthetic {flags}", PREPARE, (*_SYNTHETIC, *flags.split()), (named,), outputs=OUT)
    for arguments, named in _OTHER_COMMANDS:
        yield Case(f"prepare {' '.join(arguments)}", PREPARE, tuple(arguments), (named,), outputs=OUT)
    yield Case(
        "prepare over another store",
        PREPARE,
        ("synthetic", "--out", str(bases.store), "--participants", "3"),
        (str(bases.store),),
    )
    yield Case("show without segments", PREPARE, ("show", str(bases.store), "--segments", "0"), ("--segments",))
    yield Case(
        "show into no folder", PREPARE, ("show", str(bases.store), "--plot", "{}/none/x.png"), ("{}/none/x.png",)
    )


# Any text is a valid name of a file or folder, or a hash.
_FREE_TEXTS = ("teacher.path", "teacher.fingerprint", "runtime.compilation_cache")


def _wrong_values(rng: random.Random) -> Iterator[Case]:
    config = tree.flatten_section(load_config("distill:smoke"))
    seen = set()
    while True:
        key = rng.choice([key for key in config if key not in _FREE_TEXTS])
        value = rng.choice(_wrong_for(key, config[key]))
        if rng.random() < 0.1:
            wrong_key = key[:-2] + key[-1] + "x"
            case = Case(
                f"unknown key {wrong_key}",
                MAIN,
                (SMOKE, f"--config.{wrong_key}={config[key]}", "--workdir={}/run"),
                (f"config.{wrong_key}",),
            )
        else:
            case = Case(
                f"{key}={value[:40]}", MAIN, (SMOKE, f"--config.{key}={value}", "--workdir={}/run"), (f"config.{key}",)
            )
        if case.name not in seen:
            seen.add(case.name)
            yield case


def _wrong_for(key: str, value: object) -> list[str]:
    name = key.rpartition(".")[2]
    zero = ["0"] if name in _ZERO_IS_WRONG else []
    if isinstance(value, tuple):
        return list(_TUPLES)
    if isinstance(value, str):
        durations = name in ("duration", "warmup") or name.endswith("_every")
        return (
            [value for value in _DURATIONS if name != "warmup" or value != "0 steps"] if durations else list(_CHOICES)
        )
    if isinstance(value, int):
        return [*_INTEGERS, *zero, *(["1000000000"] if name in _HUGE_IS_WRONG_TOO else [])]
    return [*_NUMBERS, *zero]
