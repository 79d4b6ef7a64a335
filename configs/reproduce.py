"""Base config of the experiments of `python -m accdistill_jax.reproduce`; each changes some keys (reproduce/plan/).

Students compare windows and learn tokens, as in configs/distill.py; a variant has the paper's literal form. Every encoder, baselines
included, has the same input bands and the same read-out (statistics and autocovariance of its tokens).

python -m accdistill_jax.reproduce --preset=smoke     # minutes: drives every path, learns nothing
python -m accdistill_jax.reproduce --preset=claims    # about 90 minutes on 2 cores: each of the paper's claims, few variants
python -m accdistill_jax.reproduce --preset=trials    # changes of the student at equal training time, on validation people
python -m accdistill_jax.reproduce --preset=cpu       # five hours on 2 cores (estimated): more variants, three seeds
python -m accdistill_jax.reproduce --preset=full --data STORE   # models of the paper's size, for accelerators
python -m accdistill_jax.reproduce --preset=cpu-mean  # the grid of the first committed reports: every student in the paper's form
"""

from ml_collections import ConfigDict

from accdistill_jax.configs import distill

PRESETS = ("smoke", "claims", "trials", "cpu", "full", "cpu-mean")
_FROM = {
    "smoke": "smoke",
    "claims": "default",
    "trials": "default",
    "cpu": "default",
    "full": "paper",
    "cpu-mean": "mean",
}


def get_config(preset: str = "claims") -> ConfigDict:
    """The config from which every experiment of a preset starts."""
    if preset not in PRESETS:
        raise ValueError(f"configs/reproduce.py has no preset {preset!r}; it has: {', '.join(PRESETS)}")
    config = distill.get_config(_FROM[preset])
    config.stages = ("data", "teacher", "student")
    if preset == "smoke":
        config.data.synthetic.update(participants=24, segments_per_participant=8)
        for stage in (config.teacher, config.student):
            stage.train.update(
                duration="2 steps", warmup="0 steps", validate_every="2 steps", checkpoint_every="2 steps"
            )
    if preset in ("claims", "trials", "cpu"):
        # more participants than in the default config, because targets of participants are probed too
        config.data.synthetic.update(participants=600, segments_per_participant=30)
        config.evaluation.train_segments = 6000
        config.teacher.train.duration = "450 steps"
        config.student.train.duration = "500 steps"
    if preset == "cpu-mean":
        config.data.synthetic.update(participants=1200, segments_per_participant=36)
        config.evaluation.train_segments = 8000
        config.evaluation.pool_sizes = (100, 1000)
        config.teacher.train.duration = "600 steps"
        config.student.train.duration = "1000 steps"
    if preset == "full":
        config.data.synthetic.update(participants=20_000, segments_per_participant=100)
        config.evaluation.pool_sizes = (100, 1000, 10_000)
    return config
