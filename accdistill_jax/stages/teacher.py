"""The teacher: pretrained in this run, or taken from the export of another run."""

from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from accdistill_jax.config import convert
from accdistill_jax.config.schema import EncoderConfig, InputSettings
from accdistill_jax.config.tree import plain
from accdistill_jax.data.store.opening import limit_rows
from accdistill_jax.data.store.trained_on import said_by, trained_on
from accdistill_jax.encoder import Teacher
from accdistill_jax.errors import UserError
from accdistill_jax.models.build import build_autoencoder, build_encoder, compute_dtype
from accdistill_jax.objectives.base import Branch
from accdistill_jax.objectives.registered import AutoencoderOptions
from accdistill_jax.stages.build_objective import build_objective, trained_encoder
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.fit import StageTraining, train_stage
from accdistill_jax.stages.map_segments import embed
from accdistill_jax.stages.sources import source_of
from accdistill_jax.storage.export import refuse_other
from accdistill_jax.user_paths import expanded

STATISTICS_SEGMENTS = 2000


def run_stage(run: Run) -> None:
    """Pretrains the teacher, unless its export exists or `config.teacher.path` names an export."""
    if run.config.teacher.path:
        teacher = load_teacher(run)
        run.say(f"teacher: {run.config.teacher.path}, fingerprint {teacher.fingerprint[:12]}")
        return
    if run.exists(export_path(run) / "export.json"):
        load_teacher(run)
        run.say("teacher: finished before")
        return
    config = run.config.teacher
    objective = build_objective(run.config, "teacher", samples=run.samples)
    source, frozen = source_of(run, objective.batches)
    fingerprints = {"data": run.data_fingerprint}
    params = train_stage(run, "teacher", StageTraining(objective, frozen, fingerprints, source))
    encoder = build_encoder(trained_encoder(config), dtype=compute_dtype(run.config.runtime.compute_dtype))
    mean, std = embedding_statistics(run, Branch("ppg", encoder, run.inputs("ppg")), params["encoder"])
    meta = {
        "kind": "teacher",
        "objective": config.objective,
        "encoder": plain(trained_encoder(config)),
        "autoencoder": plain(config.objectives.of(AutoencoderOptions)),
        "signal": run.signal_meta("ppg"),
        "representation": run.config.evaluation.representation,
        "fingerprints": fingerprints,
        "trained_on": trained_on(run.stores),
    }
    exported = {"params": params["encoder"], "mean": mean, "std": std}
    if "decoder" in params:
        exported["decoder"] = params["decoder"]
    run.save_params(export_path(run), exported, meta)


def export_path(run: Run) -> Path:
    """Folder of this run's teacher, trained here or elsewhere."""
    return Path(expanded(run.config.teacher.path)) if run.config.teacher.path else run.workdir / "teacher" / "export"


def load_teacher(run: Run) -> Teacher:
    """The teacher of this run, built as its export says.

    Raises:
        UserError: missing or damaged; modality, rate, length or channel count differ from the data's; the fingerprint is not
            `config.teacher.fingerprint`; or it was trained in this work directory on other data.
    """
    path = export_path(run)
    params, meta = run.load_params(path)
    if meta.get("kind") != "teacher":
        raise UserError(
            f"{path} holds no teacher (kind {meta.get('kind')!r}); point config.teacher.path at a teacher/export"
        )
    signal = run.signal_meta("ppg")
    for key in ("modality", "rate_hz", "samples", "channels"):
        if meta["signal"][key] != signal[key]:
            raise UserError(f"the teacher in {path} reads {key} = {meta['signal'][key]}, the data has {signal[key]}")
    for key in ("ppg_band_hz", "ppg_filter_order"):
        if meta["signal"].get(key, signal[key]) != signal[key]:  # exports of earlier commits do not say
            raise UserError(
                f"the teacher in {path} reads PPG with {key} = {meta['signal'][key]}, the data has {signal[key]}; prepare the data alike"
            )
    wanted = run.config.teacher.fingerprint
    if wanted and not meta["fingerprint"].startswith(wanted):
        raise UserError(
            f"the teacher in {path} has fingerprint {meta['fingerprint']}, config.teacher.fingerprint asks for {wanted}"
        )
    if not run.config.teacher.path:
        refuse_other(meta["fingerprints"], {"data": run.data_fingerprint}, where=str(path))
    dtype = compute_dtype(run.config.runtime.compute_dtype)
    encoder = build_encoder(convert.parse_section(EncoderConfig, meta["encoder"], at="teacher.encoder"), dtype=dtype)
    chex.assert_shape([params["mean"], params["std"]], (encoder.embedding_width,))
    autoencoder = None
    if "decoder" in params:
        options = convert.parse_section(AutoencoderOptions, meta["autoencoder"], at="teacher.autoencoder")
        model = build_autoencoder(encoder, options, samples=run.samples, dtype=dtype)
        autoencoder = (model, {"encoder": params["params"], "decoder": params["decoder"]})
    return Teacher(
        Branch(
            "ppg",
            encoder,
            convert.parse_section(InputSettings, meta["signal"]["inputs"], at="inputs.ppg"),
            representation=run.config.evaluation.representation,
        ),
        {key: params[key] for key in ("params", "mean", "std")},
        meta["fingerprint"],
        autoencoder,
        meta["fingerprints"]["data"],
        said_by(meta),
    )


def embedding_statistics(run: Run, branch: Branch, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per dimension of the embedding over training segments, [D] float32 each."""

    def apply(params, batch):
        return {"z": branch.embed(params, branch.prepare(batch))}

    rows = limit_rows([run.training_rows(store) for store in run.stores], STATISTICS_SEGMENTS, seed=run.config.seed)
    z = embed(
        apply,
        params,
        zip(run.stores, rows, strict=True),
        batch_size=run.config.evaluation.batch_size,
        parallel=run.parallel,
    )["z"]
    return z.mean(axis=0), z.std(axis=0) + 1e-6


def teacher_token_statistics(run: Run, teacher: Teacher) -> dict[str, np.ndarray]:
    """Mean and standard deviation per dimension over all tokens of training segments: "token_mean", "token_std" [D'] float32.

    All processes call it together.
    """

    def apply(frozen, batch):
        tokens = teacher.branch.encode(frozen["params"], teacher.branch.prepare(batch)).tokens
        return {"mean": tokens.mean(axis=1), "square": jnp.square(tokens).mean(axis=1)}

    rows = limit_rows([run.training_rows(store) for store in run.stores], STATISTICS_SEGMENTS, seed=run.config.seed)
    of_segments = embed(
        apply,
        teacher.frozen,
        zip(run.stores, rows, strict=True),
        batch_size=run.config.evaluation.batch_size,
        parallel=run.parallel,
    )
    mean, square = (of_segments[name].mean(axis=0, dtype=np.float64) for name in ("mean", "square"))
    std = np.sqrt(np.maximum(square - mean**2, 0)) + 1e-6
    return {"token_mean": mean.astype(np.float32), "token_std": std.astype(np.float32)}


def reconstruction(teacher: Teacher, batch: dict[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
    """Reconstructions by the autoencoder of segments with a part of their patches dropped.

    Args:
        teacher: a teacher with an autoencoder.
        batch: from `Store.read`.
        seed: seed of the mask.

    Returns:
        ppg [K, time, C], reconstruction [K, time, C] float32 (normalised), dropped [K, tokens] bool.
    """
    if teacher.autoencoder is None:
        raise ValueError("the teacher has no autoencoder")
    model, params = teacher.autoencoder
    x = teacher.branch.prepare(batch)
    keys = jax.random.split(jax.random.key(seed), x.shape[0])
    return jax.device_get(model.apply({"params": params}, x, keys, method="reconstruct"))
