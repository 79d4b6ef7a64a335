"""Masked autoencoding of the PPG alone: a teacher for later distillation, with a report.

    python -m accdistill_jax.main --config=configs/pretrain.py          # minutes on 2 cores, synthetic data
    python -m accdistill_jax.main --config=configs/pretrain.py:paper --config.data.stores="('gs://bucket/store',)"

The teacher is in <workdir>/teacher/export; a distillation takes it by --config.teacher.path=<that folder>.
"""

from ml_collections import ConfigDict

from accdistill_jax.configs import distill

PRESETS = distill.PRESETS


def get_config(preset: str = "default") -> ConfigDict:
    """The config of configs/distill.py without the student."""
    if preset not in PRESETS:
        raise ValueError(f"configs/pretrain.py has no preset {preset!r}; it has: {', '.join(PRESETS)}")
    config = distill.get_config(preset)
    config.stages = ("data", "teacher", "evaluation", "report")
    return config
