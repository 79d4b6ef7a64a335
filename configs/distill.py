"""Distillation of a PPG teacher into an accelerometer student, from data to report.

    python -m accdistill_jax.main --config=configs/distill.py           # minutes on 2 cores, synthetic data
    python -m accdistill_jax.main --config=configs/distill.py:hour      # the same models, an hour on 2 cores
    python -m accdistill_jax.main --config=configs/distill.py:paper --config.data.stores="('gs://bucket/store',)"
    python -m accdistill_jax.main --config=configs/distill.py:smoke     # seconds: drives every stage, learns nothing

The student of these presets compares windows of time and learns the teacher's tokens, which is not in the paper (`in_windows`).
`mean`, `hour-mean`, `paper-literal` and `smoke-mean` are the same presets without that, in the paper's form: the similarity of
two minutes is that of their mean tokens.

`python -m accdistill_jax.config` prints every key with its default, its rule and a line of documentation. Expected results
and the hardware they were measured on: README.md.
"""

from ml_collections import ConfigDict

from accdistill_jax.configs import common

PRESETS = ("default", "hour", "paper", "smoke", "mean", "hour-mean", "paper-literal", "smoke-mean")


def get_config(preset: str = "default") -> ConfigDict:
    """The config of a preset; `--config=distill:PRESET`."""
    if preset not in PRESETS:
        raise ValueError(f"configs/distill.py has no preset {preset!r}; it has: {', '.join(PRESETS)}")
    config = common.defaults()
    if preset.startswith("paper"):
        paper(config)
    if preset.startswith("hour"):
        hour(config)
    if preset.startswith("smoke"):
        smoke(config)
    if preset in ("default", "hour", "paper", "smoke"):
        in_windows(config)
    if preset == "default":
        config.student.train.duration = "1100 steps"
    return config


def in_windows(config: ConfigDict) -> None:
    """A student that knows when beats come, not only how many: our addition to the paper's method.

    Both projection heads read each second in place of a minute's mean (60 windows; one token each, in `paper` about three), and learn
    how much each counts. A linear map of the student's tokens learns the teacher's tokens of the same time.
    Clocks of the two sensors must agree to about 0.1 s. Every encoder of acceleration sees the envelope of the ballistocardiogram's band beside the signal.
    Probes see mean, standard deviation, mean absolute difference and autocovariance of the tokens, for every encoder alike.
    """
    head = config.student.head
    head.update(windows=60, weighting="learned", hidden=min(head.hidden, 128), output=min(head.output, 32))
    config.student.token_weight = 10.0
    config.student.token_schedule = "constant"
    config.inputs.accel.bands = "low+high+beat"
    config.inputs.accel.limit = 4.0
    config.evaluation.representation = "autocovariance"


def paper(config: ConfigDict) -> None:
    """Sizes and durations of the paper, for accelerators."""
    config.data.synthetic.ppg_channels = 4  # as the sensor of arXiv 2312.05409
    config.inputs.accel = common.inputs()
    for stage in (config.teacher, config.student):
        stage.encoder = common.encoder_paper("transformer")
        stage.autoencoder = common.autoencoder(drop_fraction=0.8, decoder_width=128, decoder_depth=2, decoder_heads=4)
        stage.contrastive = common.contrastive(hidden=1024, output=128)
        stage.train = common.train(duration="100 epochs", batch_size=1024, learning_rate=1e-3)
    config.student.head.hidden = 1024
    config.student.temperature = 0.04
    config.evaluation.train_segments = 100_000
    config.runtime.compute_dtype = "bfloat16"


def hour(config: ConfigDict) -> None:
    """The default models; three times as many participants, a larger contrastive batch, longer training."""
    config.data.synthetic.participants = 1200
    config.teacher.train.duration = "1500 steps"
    config.student.train.duration = "2600 steps"
    config.student.train.batch_size = 256


def smoke(config: ConfigDict) -> None:
    """Seconds: tiny models and few steps, which drive every stage and learn nothing."""
    config.data.synthetic.participants = 12
    config.data.synthetic.segments_per_participant = 12
    config.evaluation.train_segments = 64
    config.evaluation.batch_size = 32
    config.evaluation.bootstrap_draws = 10
    for stage in (config.teacher, config.student):
        stage.train.duration = "6 steps"
        stage.train.batch_size = 16
        stage.train.warmup = "2 steps"
        stage.train.validate_every = "3 steps"
        stage.train.checkpoint_every = "3 steps"
        stage.train.validation_batches = 1
        stage.train.log_every = "1 steps"
        stage.encoder.transformer.update(width=32, depth=1, heads=2, mlp=64)
        stage.encoder.efficientnet.update(stem=(8, 15, 8), stages=((16, 1, 2, 7, 2),), head=32, output=32)
        stage.contrastive.head.update(hidden=32, output=16)
    config.student.encoder.transformer.output = 32
    config.student.head.update(hidden=32, output=16)
