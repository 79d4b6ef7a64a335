"""Packages that a measurement needs, and that a machine lent for minutes may lack."""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterable

from accdistill_jax.errors import ExitStatus
from accdistill_jax.text import print_error

# Distributions whose versions change a measured speed, and those that a lent machine often lacks.
REPORTED = (
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
    "nvidia-cublas",
    "nvidia-cublas-cu12",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorstore",
    "numpy",
    "torch",
    "grain",
    "ml-collections",
    "tensorboardX",
)


def installed_versions() -> dict[str, str]:
    """Versions of the installed distributions of `REPORTED`, by name; those that are not installed are left out."""
    versions = {}
    for name in REPORTED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def missing_line(modules: Iterable[str]) -> str:
    """One line that names the modules which cannot be imported here and says what to do; "" if none is missing."""
    missing = [name for name in modules if not _is_installed(name)]
    if not missing:
        return ""
    return (
        f"not installed here: {', '.join(missing)}; install it, or unpack its wheel (python -m zipfile -e FILE.whl FOLDER) and set "
        "PYTHONPATH=FOLDER"
    )


def require(*modules: str) -> None:
    """Ends the process with one line and the status of a user's error if a module cannot be imported."""
    if line := missing_line(modules):
        print_error(line)
        sys.exit(ExitStatus.USER_ERROR)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # `sys.modules` names it without a spec, or as None: an import would fail
        return False
