"""The stage evaluation: embeds segments, and saves the read-outs beside the exports."""

from collections.abc import Mapping

from accdistill_jax.errors import UserError
from accdistill_jax.evaluation.evaluate import STUDENT, TEACHER
from accdistill_jax.evaluation.predictions import PREDICTION_VERSION, fit_readouts
from accdistill_jax.readouts.readout import Readouts, load_readouts, save_readouts
from accdistill_jax.stages import student as student_stage
from accdistill_jax.stages import teacher as teacher_stage
from accdistill_jax.stages.context import Run
from accdistill_jax.stages.embedding import Encoders, embed_splits, hash_of


def evaluation_stage(run: Run) -> None:
    """Embeds all segments that are evaluated, and saves the read-outs of the run's encoders."""
    encoders, main = embed_splits(run)
    run.peers.from_first("read-outs", lambda: fitted_readouts(run, encoders, main) and None)


def fitted_readouts(run: Run, encoders: Encoders, main: Mapping) -> Readouts | None:
    """Fits the read-outs of the run's encoders and saves them beside their exports; reads those that are there.

    Args:
        run: the run's context.
        encoders: the evaluated encoders.
        main: encoder -> split -> embeddings, of the stores that are trained on.

    Returns:
        The read-outs of the encoder that the report is about; None if no label has enough values.
    """
    trained = {
        TEACHER: (encoders.teacher, teacher_stage.export_path(run)),
        STUDENT: (encoders.student, student_stage.export_path(run)),
    }
    result = None
    for name, (encoder, folder) in trained.items():
        if encoder is None or name not in main:
            continue
        key = hash_of([encoders.key, PREDICTION_VERSION])
        readouts = None
        try:
            readouts = load_readouts(folder, fingerprint=encoder.fingerprint, key=key)
        except UserError as error:
            run.say(f"evaluation: {error}: fitted again")
        if readouts is None:
            readouts = fit_readouts(main[name], fingerprint=encoder.fingerprint, seed=run.config.seed)
            if folder.is_dir() and not (name == TEACHER and run.config.teacher.path):
                save_readouts(folder, readouts, key=key)
        result = readouts if readouts.targets else None
    return result
