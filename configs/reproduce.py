"""Base config of the experiments of `python -m accdistill_jax.reproduce`; each changes some keys (reproduce/plan/grid.py).

All experiments start from the paper's form (a minute's mean token, no token regression), which their claims are about.

python -m accdistill_jax.reproduce --preset=smoke     # two minutes: drives every path, learns nothing
python -m accdistill_jax.reproduce --preset=cpu       # overnight at most, 2 cores, synthetic data, three seeds
python -m accdistill_jax.reproduce --preset=full --data STORE   # sizes of the paper, for accelerators
"""

from ml_collections import ConfigDict

from accdistill_jax.configs import distill

PRESETS = ("smoke", "cpu", "full")


def get_config(preset: str = "cpu") -> ConfigDict:
    """The config from which every experiment of a preset starts."""
    if preset not in PRESETS:
        raise ValueError(f"configs/reproduce.py has no preset {preset!r}; it has: {', '.join(PRESETS)}")
    config = distill.get_config({"smoke": "smoke-mean", "cpu": "mean", "full": "paper-literal"}[preset])
    config.stages = ("data", "teacher", "student")
    if preset == "smoke":
        config.data.synthetic.update(participants=24, segments_per_participant=8)
        for stage in (config.teacher, config.student):
            stage.train.update(
                duration="2 steps", warmup="0 steps", validate_every="2 steps", checkpoint_every="2 steps"
            )
    if preset == "cpu":
        # more participants than in the default config, because targets of participants are probed too
        config.data.synthetic.update(participants=1200, segments_per_participant=36)
        config.evaluation.train_segments = 8000
        config.evaluation.pool_sizes = (100, 1000)
        config.teacher.train.duration = "600 steps"
        config.student.train.duration = "1000 steps"
    if preset == "full":
        config.data.synthetic.update(participants=20_000, segments_per_participant=100)
        config.evaluation.pool_sizes = (100, 1000, 10_000)
    return config
