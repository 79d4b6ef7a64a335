"""A measuring process for PyTorch's step in several sizes, eager and compiled: the peer of `variants.py`, asked in the same way.

order                      -> first steps of each mode, and which entries failed and why; or {"skipped": why}
{"measure": N, "count": K} -> seconds of K steps of entry number N, or why it failed
{"profile": N, "count": K} -> its kernels by the time that the device spent on them
"""

import time
from typing import Any

import numpy as np

from accdistill_jax.benchmark.contenders import peer_pytorch
from accdistill_jax.benchmark.contenders.peer_pytorch import Peer, load_start, on_host, torch
from accdistill_jax.benchmark.contenders.variants import attempted
from accdistill_jax.benchmark.contest import Skipped
from accdistill_jax.runtime.child import Parent, work_for_parent


class Entry:
    """A peer at one batch size.

    Args:
        peer: eager or compiled; one of several sizes.
        batch: on the host.
        device: where it runs.

    Attributes:
        failed: why it cannot be measured; "".
    """

    def __init__(self, peer: Peer, batch: Any, device: Any):
        self._peer, self._batch, self._device, self.failed = peer, batch, device, ""

    def run(self, steps: int) -> dict[str, float]:
        """See `Peer.run`; memory that is no longer used goes back, for the other process on this device."""
        try:
            return self._peer.run(self._batch, steps)
        finally:
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def profile(self, steps: int) -> list[dict[str, Any]]:
        """Kernels of a step, dearest first: name, source, seconds and calls a step."""
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self._device.type == "cuda":
            kinds = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=kinds) as recorded:
            self._peer.run(self._batch, steps)
        on_device = self._device.type == "cuda"
        kernels = [
            (row.key, row.self_device_time_total if on_device else row.self_cpu_time_total, row.count)
            for row in recorded.key_averages()
        ]
        return [
            {"name": name, "source": "", "seconds": us / 1e6 / steps, "calls": count / steps}
            for name, us, count in sorted(kernels, key=lambda kernel: -kernel[1])
        ]


def followed_file(share: str, mode: str | None) -> str:
    """Where a peer of a mode leaves its parameters after the steps that are compared."""
    return f"{share}/peer-{mode or 'eager'}.npz"


def prepare(order: dict[str, Any], device: Any) -> tuple[dict[str, Any], list[Entry]]:
    """One peer of each mode, follows the first steps with it, and runs each of its sizes once.

    Args:
        order: "share", "config", "follow_steps", and "entries": "mode" of torch.compile or None, "times" the segments left by ours.
        device: where it runs.

    Returns:
        Facts by mode ("eager" for None): the first steps, or why it failed; and the entries in the order's order.
    """
    peers: dict[str | None, Peer] = {}
    facts: dict[str, Any] = {}
    for mode in dict.fromkeys(entry["mode"] for entry in order["entries"]):
        begun = time.perf_counter()
        start = load_start(order["share"])  # anew for each: layers share the arrays, and train them
        peer = peers[mode] = Peer(start, order["config"], device=device, mode=mode)
        failed, steps = attempted(_follow, peer, on_host(start["batch"], device), order["follow_steps"])
        np.savez(followed_file(order["share"], mode), **peer.parameters())
        facts[mode or "eager"] = {"failed": failed, "first_steps": steps or [], "seconds": time.perf_counter() - begun}
    entries = []
    batch = load_start(order["share"])["batch"]
    for wanted in order["entries"]:
        entry = Entry(peers[wanted["mode"]], on_host(batch, device, times=wanted["times"]), device)
        entry.failed = facts[wanted["mode"] or "eager"]["failed"]
        if not entry.failed:
            entry.failed, _ = attempted(entry.run, 1)
        entries.append(entry)
    return facts, entries


def _follow(peer: Peer, batch: Any, steps: int) -> list[dict[str, float]]:
    return [peer.run(batch, 1) for _ in range(steps)]


def main(parent: Parent) -> None:
    """Answers the parent's messages until there are no more."""
    receive, reply = parent.receive, parent.reply
    order = receive()
    try:
        device = peer_pytorch.choose_device(order)
    except Skipped as reason:
        reply({"skipped": str(reason)})
        return
    facts, entries = prepare(order, device)
    versions = {"torch": torch.__version__}
    reply({"versions": versions, "modes": facts, "failed": [entry.failed for entry in entries]})
    while (command := receive()) is not None:
        entry = entries[command["measure" if "measure" in command else "profile"]]
        if "profile" in command:
            failed, operations = attempted(entry.profile, command["count"])
            reply({"failed": failed, "operations": operations or []})
        else:
            begun = time.perf_counter()
            failed, _ = attempted(entry.run, command["count"])
            peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
            reply({"failed": failed, "seconds": time.perf_counter() - begun, "device_peak_bytes": peak})


if __name__ == "__main__":
    work_for_parent(main)
