"""Measures speed, compares it with other programs, and shows which resource limits it.

    python -m accdistill_jax.benchmark step       # a training step, against PyTorch if it is installed
    python -m accdistill_jax.benchmark cores      # one CPU device against a device per core
    python -m accdistill_jax.benchmark input      # reading, generating and preparing segments
    python -m accdistill_jax.benchmark startup    # time from the command to the first step; memory by batch size
    python -m accdistill_jax.benchmark embed      # inference, probes and retrieval on many embeddings
    python -m accdistill_jax.benchmark clock RUN  # a finished student, when the clocks of its sensors disagree
    python -m accdistill_jax.benchmark parity RUN # agreement of exported formats with the trained encoder
    python -m accdistill_jax.benchmark compile    # a training step compiled for TPU slices, without a TPU
    python -m accdistill_jax.benchmark plan       # hours for a corpus on given hardware
    python -m accdistill_jax.benchmark gpu        # all measurements of a GPU in minutes, part by part
    python -m accdistill_jax.benchmark tradeoff   # accuracy at equal training time of students that do less work
    python -m accdistill_jax.benchmark scaling    # a model of training on slices and GPU nodes
    python -m accdistill_jax.benchmark weak-scaling --devices 1,2 --processes 2   # training on this machine's cores

Programs are compared within a single run, in turn (`contest.py`). Each runs in its own process, is prepared and warm, and idles
while another is measured. Figures are medians with quartiles. Ratios are computed round by round, so that a drift of the
machine's speed affects both sides.
"""
