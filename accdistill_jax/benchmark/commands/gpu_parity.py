"""Compares PyTorch's step with ours: loss and gradient norm of the first steps, and the parameters after them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from accdistill_jax.benchmark.commands.step import COMPARED_STEPS, PARAMETER_PARITY, PARITY, TF32, accelerated
from accdistill_jax.benchmark.contenders.peer_pytorch import parameter_difference
from accdistill_jax.benchmark.contenders.peer_variants import followed_file
from accdistill_jax.benchmark.contenders.training import FOLLOWED


def compare(share: str, ours: Mapping[str, Any], modes: Mapping[str, Any], *, dtype: str) -> dict[str, dict[str, Any]]:
    """Compares every mode of PyTorch with ours.

    Args:
        share: folder in which both processes wrote their parameters.
        ours: facts of our variant, with "first_steps".
        modes: facts of PyTorch's step, by mode.
        dtype: compute dtype; float32 is TF32 on an accelerator.

    Returns:
        By mode: "difference", the largest relative difference of loss and gradient norm; "parameters", the mean distance of the
        parameters relative to their movement; "allowed", the limits of both; "agrees", True if both are within their limits.
    """
    kind = TF32 if dtype == "float32" and accelerated() else dtype
    start = {
        name.removeprefix("params/"): value
        for name, value in _arrays(f"{share}/start.npz").items()
        if name.startswith("params/")
    }
    trained = _arrays(f"{share}/{FOLLOWED}")
    compared = {}
    for mode, facts in modes.items():
        if facts["failed"]:
            continue
        theirs = _arrays(followed_file(share, None if mode == "eager" else mode))
        pairs = zip(ours["first_steps"][:COMPARED_STEPS], facts["first_steps"][:COMPARED_STEPS], strict=True)
        difference = max(abs(b[name] - a[name]) / abs(a[name]) for a, b in pairs for name in a)
        parameters = parameter_difference(start, trained, theirs)
        agrees = difference <= PARITY[kind] and parameters <= PARAMETER_PARITY[kind]
        allowed = [PARITY[kind], PARAMETER_PARITY[kind]]
        compared[mode] = {"difference": difference, "parameters": parameters, "allowed": allowed, "agrees": agrees}
    return compared


def _arrays(path: str) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)
