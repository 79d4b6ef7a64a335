"""Runs a preparation with Apache Beam. Only the machine that starts it and Beam itself import this module.

Create(batches) | Reshuffle | prepare -> outcomes -> polarity, decided once over all recordings
Create(batches) | Reshuffle | prepare again, where the polarity changes
all outcomes | combine | write the store, the manifest last
"""

import functools
import shlex

from accdistill_jax.data import recordings
from accdistill_jax.data.prepare.batches import StoreJob, changes_of
from accdistill_jax.errors import UserError
from accdistill_jax.text import one_line

_REMOTE_RUNNERS = ("DataflowRunner",)  # their workers see no local folder


def run_with_beam(job: StoreJob, found: recordings.Found, *, options: str) -> None:
    """Prepares recordings into the job's store.

    Args:
        job: the store and its settings.
        found: the recordings.
        options: Beam's pipeline options, as on its command line. Without --runner, Beam's FnApiRunner runs the pipeline in this process.

    Raises:
        UserError: Beam is not installed, the options do not fit, or the preparation was refused.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
        from apache_beam.runners.portability.fn_api_runner import FnApiRunner
        from apache_beam.runners.runner import create_runner
    except ImportError as error:
        raise UserError(
            f"--engine=beam: Apache Beam is missing ({one_line(error)}); it has an environment of its own: "
            "pip install --require-hashes -r launch/requirements-beam.lock"
        ) from error
    try:
        flags = shlex.split(options)
    except ValueError as error:
        raise UserError(f"--beam-options: {error}: {options}") from error
    chosen = PipelineOptions(flags)
    name = chosen.view_as(StandardOptions).runner
    if name in _REMOTE_RUNNERS and (found.is_local or job.writer.staging.is_local):
        raise UserError(
            f"--beam-options: the workers of {name} see no local folder; give addresses (gs://, s3://) for recordings and --out"
        )
    # Named: Beam's default runner fetches a program from the network.
    try:
        runner = create_runner(name) if name else FnApiRunner()
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--beam-options: the runner {name!r} cannot be used: {one_line(str(error))}") from error
    batches = job.write_batches(found)
    with beam.Pipeline(runner=runner, options=chosen) as pipeline:
        names = pipeline | "Batches" >> beam.Create(batches)
        first = names | "Spread" >> beam.Reshuffle() | "Prepare" >> beam.FlatMap(job.prepare)
        changes = (
            first
            | "Votes" >> beam.combiners.ToList()
            | "Polarity" >> beam.Map(functools.partial(changes_of, earlier=dict(found.earlier)))
        )
        again = (
            names
            | "Spread again" >> beam.Reshuffle()
            | "Prepare again" >> beam.FlatMap(job.prepare_again, beam.pvalue.AsSingleton(changes))
        )
        outcomes = (first, again) | "Outcomes" >> beam.Flatten()
        _ = outcomes | "All" >> beam.combiners.ToList() | "Write the store" >> beam.Map(job.finish)
    job.check()
