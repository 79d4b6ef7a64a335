"""A model of how training scales: counted, cited and measured.

    python -m accdistill_jax.benchmark scaling --config=configs/distill.py:paper          # a model for slices and GPU nodes
    python -m accdistill_jax.benchmark weak-scaling --devices 1,2 --processes 2           # what this machine does

What is in the model: flops.py (matrix products of a step), traffic.py (bytes of its collectives), program.py (the real step,
compiled, against which both are checked), hardware.py (vendors' figures and their sources), model.py (time, efficiency,
memory). benchmark/commands/weak_scaling.py runs the real step on this machine's cores.
"""
