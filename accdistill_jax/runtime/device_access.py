"""Checks that JAX can use the devices of this machine; gives a one-line error if it cannot."""

import json
import os
import subprocess
import sys

from accdistill_jax.errors import UserError

_ASK = "import jax, json; d = jax.local_devices(); print(); print(json.dumps([d[0].platform, len(d)]))"
_PATIENCE_S = 300.0


def local_devices() -> tuple[str, int]:
    """Platform and number of the devices that JAX finds; another process asks, as asking reserves the devices.

    Raises:
        UserError: JAX finds none; quotes its last line.
    """
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "cpu", 1
    asked = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, timeout=_PATIENCE_S)
    if asked.returncode:
        lines = [line.strip() for line in asked.stderr.splitlines() if line.strip()]
        raise UserError(_no_devices(lines[-1] if lines else "it said nothing"))
    platform, count = json.loads(asked.stdout.splitlines()[-1])
    return platform, count


def check_named_platforms() -> None:
    """Raises UserError if JAX_PLATFORMS names a platform that JAX cannot use; without that variable JAX uses any device.

    For commands whose child processes use the devices.
    """
    if os.environ.get("JAX_PLATFORMS"):
        local_devices()


def take_devices() -> None:
    """Reserves the devices for this process, as the first use of JAX would; raises UserError if that fails."""
    import jax

    try:
        jax.local_devices()
    except Exception as problem:  # JAX has assertions and runtime errors for it
        lines = str(problem).strip().splitlines()
        raise UserError(_no_devices(": ".join([type(problem).__name__, *lines[:1]]))) from problem


def _no_devices(reason: str) -> str:
    reason = {"AssertionError": "JAX is not installed for them"}.get(reason, reason)  # JAX's error for a missing plugin
    named = os.environ.get("JAX_PLATFORMS")
    advice = f"; JAX_PLATFORMS={named} asks for them: name others, as JAX_PLATFORMS=cpu, or unset it" if named else ""
    return f"JAX cannot use this machine's devices: {reason}{advice}"
