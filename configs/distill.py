"""Distillation of a PPG teacher into an accelerometer student, from data to report.

    python -m accdistill_jax.main --config=configs/distill.py           # minutes on 2 cores, synthetic data
    python -m accdistill_jax.main --config=configs/distill.py:hour      # the same models, an hour on 2 cores
    python -m accdistill_jax.main --config=configs/distill.py:paper --config.data.stores="('gs://bucket/store',)"
    python -m accdistill_jax.main --config=configs/distill.py:smoke     # seconds: drives every stage, learns nothing

Expected results and the hardware they were measured on: README.md.
"""

from ml_collections import ConfigDict

from accdistill_jax.configs import common

PRESETS = ("default", "hour", "paper", "smoke")


def get_config(preset="default"):
    """The config of a preset; `--config=distill:PRESET`."""
    if preset not in PRESETS:
        raise ValueError(f"configs/distill.py has no preset {preset!r}; it has: {', '.join(PRESETS)}")
    paper = preset == "paper"
    config = ConfigDict(
        dict(
            seed=0,
            # what to run; a finished stage is recognised and skipped
            stages=("data", "teacher", "student", "evaluation", "report"),
            data=common.data(),
            inputs=dict(
                # see accdistill_jax/inputs/prepare.py
                ppg=common.inputs(),
                accel=common.inputs() if paper else common.inputs("low+high", limit=4.0),
            ),
            teacher=dict(
                path="",  # a teacher trained elsewhere (its export folder); empty: train one
                fingerprint="",  # refuse a teacher with another content hash; empty: any
                # augmented views of every training segment that the teacher embeds once, before the student's training, and
                # keeps beside the store; a step then draws one of them and reads no PPG. 0: it runs in every step
                cached_views=0,
                objective="masked",  # autoencoding, or "contrastive"
                encoder=common.encoder_paper("transformer"),
                autoencoder=common.autoencoder(drop_fraction=0.8, decoder_width=128, decoder_depth=2, decoder_heads=4),
                contrastive=common.contrastive(hidden=1024, output=128),
                augment=common.no_augmentations(),
                train=common.train(duration="100 epochs", batch_size=1024, learning_rate=1e-3),
            ),
            student=dict(
                # "distillation"; or another way to an accelerometer encoder, as a baseline: "masked" or "contrastive"
                # pretraining, "supervised" training, or "joint" training with a PPG encoder (of the teacher's shape)
                objective="distillation",
                encoder=common.encoder_paper("transformer"),
                head=dict(hidden=1024, output=128),
                augment=dict(accel=common.augmentations(), ppg=common.augmentations()),
                drop_fraction=0.0,  # share of its tokens that a Transformer student does without in training
                temperature=0.04,
                teacher_to_student_weight=0.5,  # lambda
                # of distillation: weights of its contrastive loss and of a regression of the teacher's embedding
                contrastive_weight=1.0,
                regression_weight=0.0,
                regression="cosine",  # or "mse"
                autoencoder=common.autoencoder(drop_fraction=0.8, decoder_width=128, decoder_depth=2, decoder_heads=4),
                contrastive=common.contrastive(hidden=1024, output=128),
                supervised=dict(
                    target="hr_bpm",  # a label of accdistill_jax/labels.py
                    label_fraction=1.0,  # of the labelled training segments, participants kept together
                    subset=0,  # seed of the choice
                ),
                train=common.train(duration="100 epochs", batch_size=1024, learning_rate=1e-3),
            ),
            evaluation=dict(
                batch_size=250,
                train_segments=6000
                if not paper
                else 100_000,  # at most this many training segments for fitting the probes
                pool_sizes=(100, 1000),  # besides all test segments
                bootstrap_draws=100,
                examples=4,  # segments shown in the report
            ),
            runtime=dict(
                mapping="shard_map",  # or "pmap"
                optimizer_state="replicated",  # on every device, or "sharded" over them
                compute_dtype="bfloat16" if paper else "float32",
                reader_threads=2,
                prefetch_batches=8,
                rematerialise="none",  # or "blocks": the backward pass computes each block anew; less memory, more time
                compilation_cache="",  # folder of compiled programs; empty: JAX_COMPILATION_CACHE_DIR, else a per-user one; or "off"
                metrics=("tensorboard",),  # besides the JSON lines; also "wandb", "mlflow"
                peer_timeout_s=60.0,  # a process silent for so long is lost, and the others stop
                hang_timeout_s=600.0,  # a training step that takes longer is a hang: stacks are dumped, all processes stop; waits: x 10
            ),
        )
    )
    if paper:
        config.data.synthetic.ppg_channels = 4  # as the predecessor's sensor, arXiv 2312.05409
    else:
        small(config)
    if preset == "hour":
        hour(config)
    if preset == "smoke":
        smoke(config)
    return config


def small(config):
    """Minutes on two cores. What made it learn that fast is told in the README; sizes and durations are our choice."""
    config.teacher.encoder = common.encoder_small("transformer")
    config.teacher.autoencoder = common.autoencoder(
        drop_fraction=0.5, decoder_width=64, decoder_depth=1, decoder_heads=4
    )
    config.teacher.train = common.train(duration="500 steps", batch_size=128, learning_rate=2e-3)
    config.teacher.contrastive = common.contrastive(hidden=256, output=128)
    config.student.encoder = common.encoder_small("transformer")
    config.student.encoder.transformer.update(width=64, mlp=128, tokenizer=((8, 32), (32, 64)), output=128)
    config.student.head = dict(hidden=256, output=128)
    config.student.autoencoder = common.autoencoder(
        drop_fraction=0.5, decoder_width=64, decoder_depth=1, decoder_heads=4
    )
    config.student.contrastive = common.contrastive(hidden=256, output=128)
    config.student.temperature = 0.07
    config.student.train = common.train(duration="700 steps", batch_size=128, learning_rate=2e-3)


def hour(config):
    """The same models, three times the people, a larger contrastive batch, longer."""
    config.data.synthetic.participants = 1200
    config.teacher.train.duration = "1500 steps"
    config.student.train.duration = "2600 steps"
    config.student.train.batch_size = 256


def smoke(config):
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
    config.student.encoder.transformer.output = 32
    config.student.head = dict(hidden=32, output=16)
    config.teacher.contrastive.head = config.student.contrastive.head = dict(hidden=32, output=16)
