"""JAX's cache of compiled programs."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from accdistill_jax.errors import UserError
from accdistill_jax.files import is_address
from accdistill_jax.user_paths import cache_folder, expanded

_log = logging.getLogger(__name__)
KEPT_FROM_S = 0.5  # programs that compile faster are not kept


def _setting(name: str) -> Any:
    """A setting of JAX, which type checkers do not know."""
    return getattr(jax.config, name)


_ENABLED_BY_JAX = _setting("jax_enable_compilation_cache")


def use_compilation_cache(choice: str, *, say: Callable[[str], None] = _log.warning, key: str = "") -> None:
    """Keeps compiled programs in a folder, so that the next start does not compile them again.

    JAX does not write the entries atomically: an entry torn by a kill is compiled again, with a warning.

    Args:
        choice: the folder; "": the folder that JAX is set to (JAX_COMPILATION_CACHE_DIR), else one in the user's cache folder; "off":
            no folder, until a later call in this process.
        say: called with one line if the user has no writable cache folder, so that no programs are kept.
        key: flag of the command that chooses the folder, for this line; "" if it has none.

    Raises:
        UserError: the folder `choice` cannot be created.
    """
    before = _setting("jax_compilation_cache_dir"), _setting("jax_enable_compilation_cache")
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_FROM_S)
    jax.config.update("jax_enable_compilation_cache", choice != "off" and (bool(choice) or _ENABLED_BY_JAX))
    if choice and choice != "off":
        if not is_address(choice):
            choice = os.path.abspath(expanded(choice))
            try:
                Path(choice).mkdir(parents=True, exist_ok=True)
            except OSError as problem:
                raise UserError(
                    f"config.runtime.compilation_cache: cannot make {choice}: {problem.strerror or problem}"
                ) from problem
        jax.config.update("jax_compilation_cache_dir", choice)
    elif not choice and before[0] is None:
        try:
            jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
        except UserError as error:
            say(f"compiled programs are not kept: {error}" + (f", or give {key}=FOLDER" if key else ""))
    if before != (_setting("jax_compilation_cache_dir"), _setting("jax_enable_compilation_cache")):
        compilation_cache.reset_cache()  # else JAX keeps the cache of the first compilation
