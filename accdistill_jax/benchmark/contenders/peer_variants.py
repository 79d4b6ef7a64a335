"""A measuring process for PyTorch's step in several batch sizes, eager and compiled.

The messages are those of `variants.py`:

    order                      -> first steps of each mode, and the entries that failed with their reasons; or {"skipped": REASON}
    {"measure": N, "count": K} -> seconds of K steps of entry number N, or the reason of its failure
    {"profile": N, "count": K} -> kernels of K steps, by the time that the device spent on them
"""

import time
from typing import Any

import numpy as np

from accdistill_jax.benchmark.contenders import peer_pytorch
from accdistill_jax.benchmark.contenders.peer_pytorch import Peer, load_start, on_host, torch
from accdistill_jax.benchmark.contenders.variants import attempted
from accdistill_jax.benchmark.contest import Skipped
from accdistill_jax.runtime.child import Parent, work_for_parent


class PeerEntry:
    """A peer with a batch of a certain size.

    Args:
        peer: eager or compiled training; entries of different sizes share it.
        batch: batch on the host.
        device: device that it runs on.

    Attributes:
        failed: reason of its failure, "" for none.
    """

    def __init__(self, peer: Peer, batch: Any, device: Any):
        self._peer, self._batch, self._device, self.failed = peer, batch, device, ""

    def run(self, steps: int) -> dict[str, float]:
        """As `Peer.run`; afterwards unused memory is released for the other process on this device."""
        try:
            return self._peer.run(self._batch, steps)
        finally:
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def profile(self, steps: int) -> list[dict[str, Any]]:
        """Kernels of a step, the most expensive first: name, source, seconds and calls per step."""
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
    """Path of the parameters of a peer after the compared steps."""
    return f"{share}/peer-{mode or 'eager'}.npz"


def prepare_entries(order: dict[str, Any], device: Any) -> tuple[dict[str, Any], list[PeerEntry]]:
    """Makes a peer per mode, follows the first steps with it, and runs each of its batch sizes once.

    Args:
        order: "share", "config", "follow_steps" and "entries". An entry has a "mode" of torch.compile (None: eager) and "times", the
            number of repetitions of our batch.
        device: device that they run on.

    Returns:
        Facts by mode ("eager" for None), with its first steps or the reason of its failure; and the entries, in the given order.
    """
    peers: dict[str | None, Peer] = {}
    facts: dict[str, Any] = {}
    for mode in dict.fromkeys(entry["mode"] for entry in order["entries"]):
        begun = time.perf_counter()
        start = load_start(order["share"])  # a copy for each mode: layers share the arrays and train them in place
        peer = peers[mode] = Peer(start, order["config"], device=device, mode=mode)
        failed, steps = attempted(_follow, peer, on_host(start["batch"], device), order["follow_steps"])
        np.savez(followed_file(order["share"], mode), **peer.parameters())
        facts[mode or "eager"] = {"failed": failed, "first_steps": steps or [], "seconds": time.perf_counter() - begun}
    entries = []
    batch = load_start(order["share"])["batch"]
    for wanted in order["entries"]:
        entry = PeerEntry(peers[wanted["mode"]], on_host(batch, device, times=wanted["times"]), device)
        entry.failed = facts[wanted["mode"] or "eager"]["failed"]
        if not entry.failed:
            entry.failed, _ = attempted(entry.run, 1)
        entries.append(entry)
    return facts, entries


def _follow(peer: Peer, batch: Any, steps: int) -> list[dict[str, float]]:
    return [peer.run(batch, 1) for _ in range(steps)]


def serve_entries(parent: Parent) -> None:
    """Answers the parent's messages until the last."""
    receive, reply = parent.receive, parent.reply
    order = receive()
    try:
        device = peer_pytorch.choose_device(order)
    except Skipped as reason:
        reply({"skipped": str(reason)})
        return
    facts, entries = prepare_entries(order, device)
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
    work_for_parent(serve_entries)
