"""Measurements of speed, comparisons with other programs, and the limits that bind.

    python -m accdistill_jax.benchmark step       # a training step, against PyTorch where it is installed
    python -m accdistill_jax.benchmark input      # reading, generating and preparing segments
    python -m accdistill_jax.benchmark startup    # from command to first step; memory by batch size
    python -m accdistill_jax.benchmark embed      # inference, probes and retrieval on many embeddings
    python -m accdistill_jax.benchmark plan       # hours for a corpus on given hardware
    python -m accdistill_jax.benchmark gpu        # all of a GPU in minutes, part by part
    python -m accdistill_jax.benchmark tradeoff   # accuracy at equal time of students trained with less work
    python -m accdistill_jax.benchmark scaling    # a model of training on slices and GPU nodes
    python -m accdistill_jax.benchmark weak-scaling --devices 1,2 --processes 2   # training on this machine's cores

Things that are compared are measured within one run, in turn (`contest.py`): each in a process of its own, prepared and warm,
waiting without work while another is measured. Figures are medians with their spread; ratios are taken round by round, so
that a drift of the machine meets both sides.
"""
