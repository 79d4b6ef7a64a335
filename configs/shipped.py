"""The runs whose encoders are part of the package: `accdistill_jax.load("synthetic-small")`.

    accdistill train --config=shipped:synthetic --workdir=runs/shipped/synthetic    # minutes on 2 cores
    accdistill train --config=shipped:wrist --workdir=runs/shipped/wrist
    python -m accdistill_jax.shipped runs/shipped                                   # makes the runs that are missing, and packs them

`synthetic` is an earlier default of `distill` (12 windows, the envelope of the fast band): a fine, quiet sensor. `wrist` trains on
generator 2, whose sensors, clocks and wrists are as measured, with one PPG channel, as most watches have.
"""

from ml_collections import ConfigDict

from accdistill_jax.configs import distill

PRESETS = ("synthetic", "wrist")


def get_config(preset: str = "synthetic") -> ConfigDict:
    """The config of a preset; `--config=shipped:PRESET`."""
    if preset not in PRESETS:
        raise ValueError(f"configs/shipped.py has no preset {preset!r}; it has: {', '.join(PRESETS)}")
    config = distill.get_config("default")
    # The form that the shipped parameters were trained in. Another form needs new parameters and cards.
    config.student.head.update(windows=12, hidden=256, output=128)
    config.inputs.accel.bands = "low+high+envelope"
    if preset == "wrist":
        config.data.synthetic.update(generator=2, participants=300, ppg_channels=1)
        config.teacher.train.duration = "400 steps"
        config.student.train.duration = "1000 steps"
    return config
