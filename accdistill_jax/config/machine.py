"""The config section of the machine that a run uses: `runtime`."""

import dataclasses

from accdistill_jax.config.fields import each, integer, number, one_of, setting, text


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """Use of the machine: devices, processes, memory, and copies of the metrics."""

    mapping: str = setting(
        "shard_map", one_of("shard_map", "pmap"), "transform that maps a step over devices; same numbers", free=True
    )
    optimizer_state: str = setting(
        "replicated", one_of("replicated", "sharded"), "optimiser state on every device, or split over them", free=True
    )
    compute_dtype: str = setting("float32", one_of("float32", "bfloat16"), "dtype of the encoders' computation")
    reader_threads: int = setting(2, integer(1, 1024), "threads that read batches", free=True)
    prefetch_batches: int = setting(8, integer(1, 65_536), "batches read in advance", free=True)
    rematerialise: str = setting(
        "none",
        one_of("none", "blocks"),
        "parts that the backward pass computes again: none, or each block (less memory, more time)",
        free=True,
    )
    compilation_cache: str = setting(
        "",
        text(),
        'folder of compiled programs; empty: JAX_COMPILATION_CACHE_DIR, else a per-user folder; "off": none',
        free=True,
    )
    metrics: tuple[str, ...] = setting(
        ("tensorboard",),
        each(one_of("tensorboard", "wandb", "mlflow")),
        "copies of the metrics besides the JSON lines, which are always written",
        free=True,
        added=True,
    )
    peer_timeout_s: float = setting(
        60.0, number(1), "silence after which a process counts as lost, and the others stop", unit="s", free=True
    )
    hang_timeout_s: float = setting(
        600.0,
        number(1),
        "longest training step; after it, stacks are dumped and all processes stop; other waits get ten times as long",
        unit="s",
        free=True,
    )
