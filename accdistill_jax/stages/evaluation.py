"""The stage evaluation: embeds segments, saves the read-outs beside the exports, and a table of the embedded minutes."""

from collections.abc import Mapping
from pathlib import Path

from accdistill_jax.data.store.separation import SAME_PERSON
from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import STUDENT, TEACHER
from accdistill_jax.evaluation.heartless import HEARTLESS_VERSION
from accdistill_jax.evaluation.predictions import PREDICTION_VERSION, fit_readouts
from accdistill_jax.readouts.readout import Readouts, load_readouts, save_readouts
from accdistill_jax.stages import student as student_stage
from accdistill_jax.stages import teacher as teacher_stage
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.embedding import Embedded, embed_splits, hash_of
from accdistill_jax.stages.embedding_tables import write_tables
from accdistill_jax.stages.evaluated_encoders import Encoders
from accdistill_jax.stages.heartless import heartless_embeddings
from accdistill_jax.storage.export import change_meta, load_params


def evaluation_stage(run: Run) -> None:
    """Embeds all segments that are evaluated, and saves the read-outs of the run's encoders and the tables of minutes."""
    embedded = embed_splits(run)
    heartless = heartless_embeddings(run, embedded.encoders)
    run.peers.from_first("read-outs", lambda: _save(run, embedded, heartless))


def _save(run: Run, embedded: Embedded, heartless: Mapping) -> None:
    write_tables(run, embedded, fitted_readouts(run, embedded.encoders, embedded.main, heartless))


def fitted_readouts(run: Run, encoders: Encoders, main: Mapping, heartless: Mapping) -> dict[str, Readouts]:
    """Fits the read-outs of the run's encoders and saves them beside their exports; reads those that are there.

    Args:
        run: the run's context.
        encoders: the evaluated encoders.
        main: encoder -> split -> embeddings, of the stores that are trained on.
        heartless: encoder -> split -> embeddings, of minutes without a heart.

    Returns:
        Encoder -> its read-outs, that of the student last; they have no targets if no label has enough values.
    """
    trained = {
        TEACHER: (encoders.teacher, teacher_stage.export_path(run)),
        STUDENT: (encoders.student, student_stage.export_path(run)),
    }
    fitted = {}
    for name, (encoder, folder) in trained.items():
        if encoder is None or name not in main:
            continue
        key = hash_of(_fitted_on(run, encoders))
        ours = folder.is_dir() and not (name == TEACHER and run.config.teacher.path)
        if ours:
            _load_as_evaluated(folder, run.config.evaluation.representation)
        readouts = None
        try:
            readouts = load_readouts(folder, fingerprint=encoder.fingerprint, key=key)
        except UserError as error:
            run.say(f"evaluation: {error}: fitted again")
        if readouts is None:
            readouts = fit_readouts(
                main[name], fingerprint=encoder.fingerprint, seed=run.config.seed, heartless=heartless.get(name)
            )
            if ours:
                save_readouts(folder, readouts, key=key)
        fitted[name] = readouts
    return fitted


def _fitted_on(run: Run, encoders: Encoders) -> list:
    """Everything that read-outs are fitted on; people share calibration and folds, so their names count where stores share names."""
    described: list = [encoders.key, PREDICTION_VERSION, HEARTLESS_VERSION]
    if len(run.stores) > 1 and run.config.data.same_names != SAME_PERSON:
        described.append(run.config.data.same_names)
    return described


def _load_as_evaluated(folder: Path, representation: str) -> None:
    """Makes an export load with the representation that its read-outs see, which may have changed since the training."""
    if load_params(folder).meta.get("representation", "mean") != representation:
        change_meta(folder, {"representation": representation})


def readouts_of_report(fitted: Mapping[str, Readouts]) -> Readouts | None:
    """The read-outs of the encoder that the report is about; None if no label has enough values."""
    main = fitted.get(STUDENT, fitted.get(TEACHER))
    return main if main is not None and main.targets else None
