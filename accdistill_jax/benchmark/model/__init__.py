"""A model of how training scales, from counted work, cited figures and measurements.

    python -m accdistill_jax.benchmark scaling --config=configs/distill.py:paper-literal          # a model for slices and GPU nodes
    python -m accdistill_jax.benchmark weak-scaling --devices 1,2 --processes 2           # what this machine does

Parts of the model: flops.py (matrix products of a step), traffic.py (bytes of its collectives), program.py (the real compiled
step, which checks both), hardware.py (vendors' figures and their sources), model.py (time, efficiency, memory), budget.py (hours
of a training). benchmark/commands/weak_scaling.py runs the real step on this machine's cores.
"""
