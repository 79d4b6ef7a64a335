"""The runs whose encoders are part of the package: `accdistill_jax.load("synthetic-small")`.

    accdistill train --config=shipped:synthetic --workdir=runs/shipped/synthetic    # minutes on 2 cores
    accdistill train --config=shipped:wrist --workdir=runs/shipped/wrist
    python -m accdistill_jax.shipped runs/shipped                                   # makes the runs that are missing, and packs them

`synthetic` is the default of `distill`: a fine, quiet sensor. `wrist` trains on generator 2, whose sensors and wrists are as measured,
with one PPG channel, as most watches have, and one clock, as both sensors of a watch have. The lag of the PPG varies in training by a
sixteenth of a second, because filters of watches differ. Weight of the token regression and read-out are those of the former default: the tables of
results on real wrists were made with them.
"""

from ml_collections import ConfigDict

from accdistill_jax.configs import distill

PRESETS = ("synthetic", "wrist")


def get_config(preset: str = "synthetic") -> ConfigDict:
    """The config of a preset; `--config=shipped:PRESET`."""
    if preset not in PRESETS:
        raise ValueError(f"configs/shipped.py has no preset {preset!r}; it has: {', '.join(PRESETS)}")
    config = distill.get_config("default")
    if preset == "wrist":
        config.data.synthetic.update(generator=2, participants=600, ppg_channels=1, clock_error=0.0)
        config.teacher.train.duration = "400 steps"
        config.student.train.duration = "2000 steps"
        config.student.update(token_weight=1.0, token_schedule="linear")
        config.evaluation.representation = "statistics"
        config.student.augment.accel.clock_offset.update(probability=0.8, strength=4.0)
    return config
