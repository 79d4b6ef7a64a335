"""The command `accdistill embed`: embeds recordings by the encoder of a run, into a Parquet file."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from accdistill_jax.api.arguments import add_out, add_reader, encoder_parser, reader_in, reader_options
from accdistill_jax.data.prepare.field_flags import add_flags, chosen_fields, dataclass_fields
from accdistill_jax.data.prepare.preparation import PreparationSettings, find_recordings
from accdistill_jax.data.prepare.show import print_line, print_not_read
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recognition import recognise
from accdistill_jax.runtime.command import run_command
from accdistill_jax.user_paths import expanded

PROG = "accdistill embed"
_PREPARATION = [f for f in dataclass_fields(PreparationSettings) if f.name not in ("engine", "beam_options")]
# The encoder fixes rate, length and the band-pass of the PPG, and no labels are made.
_FIXED = (
    *("rate_hz", "segment_s", "hop_s", "ppg_band_hz", "ppg_filter_order"),
    *("min_beat_coverage", "min_window_coverage", "align_clocks"),
)
_PREPROCESS = [field for field in dataclass_fields(PreprocessSettings) if field.name not in _FIXED]


def embed_parser(prog: str = PROG, *, reader: str | None = None) -> argparse.ArgumentParser:
    """Builds the parser.

    Args:
        prog: the command's name in messages.
        reader: the reader whose options become flags; None: those of files that nobody described.
    """
    parser = encoder_parser(
        prog,
        "Embeds each minute of recordings: a row with participant, recording, start, quality, motion, embedding, and the "
        "predictions of the encoder's read-outs with intervals and reasons.",
        epilog="To continue after an interruption, run the same command again.",
    )
    parser.add_argument("files", nargs="+", type=expanded, help="files and folders with recordings")
    add_out(parser, "Parquet file to make", metavar="FILE")
    add_flags(parser, _PREPARATION)
    add_reader(parser, reader)
    add_flags(parser.add_argument_group("preprocessing, as in accdistill prepare"), _PREPROCESS)
    return parser


def _embed(argv: Sequence[str], prog: str, console: Console) -> None:
    reader = reader_in(argv)
    args = embed_parser(prog, reader=reader).parse_args(argv)
    given = reader_options(args, reader)
    preparation = PreparationSettings(**chosen_fields(args, _PREPARATION))
    # imported here: jax takes a second
    from accdistill_jax.api.embed_files import EmbeddingWork, embed_to_file
    from accdistill_jax.api.loading import load
    from accdistill_jax.readouts.minute_table import content_hash
    from accdistill_jax.runtime.compilation_cache import use_compilation_cache

    use_compilation_cache("")
    encoder = load(args.run, part=args.part)
    contract = encoder.contract
    fixed = {name: getattr(contract.settings, name) for name in _FIXED}
    settings = PreprocessSettings(**chosen_fields(args, _PREPROCESS), **fixed)
    chosen = reader or recognise(args.files, given).reader
    found = find_recordings(chosen, args.files, **given)
    readouts = content_hash(encoder.readouts, encoder.probes)
    work = EmbeddingWork(encoder, contract, encoder.fingerprint, readouts, found, settings, args.files)
    summary = embed_to_file(work, args.out, preparation=preparation, report=lambda line: print_line(line, console))
    minutes, rejected = contract.settings.segment_s / 60, {k: n for k, n in summary.rejected.items() if n}
    left_out = f", left out: {', '.join(f'{n * minutes:g} {k}' for k, n in rejected.items())}" if rejected else ""
    predicted = [*(encoder.readouts.targets if encoder.readouts else ()), *encoder.probes]
    labels = f"; predictions: {', '.join(predicted)}" if predicted else ""
    lines = [
        f"{summary.recordings} recordings ({chosen}): {summary.kept * minutes:g} of {summary.examined * minutes:g} minutes embedded{left_out}",
        *(f"left out: recording {name}: {problem}" for name, problem in summary.bad.items()),
        *([] if encoder.readouts else [f"no predictions of heart rate and the like: {encoder.no_readouts}"]),
        f"{args.out}{' was already complete and is left as it is' if summary.before else ''}: participant, recording, start, quality, "
        f"motion, embedding [{encoder.embedding_size}]{labels}",
    ]
    for line in lines:
        print_line(line, console)
    print_not_read(found.not_read, console)


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Runs the command.

    Returns:
        The exit status: 0; 2 for an error that the user can fix; 128 plus the signal's number if a signal stopped it.
    """
    argv = sys.argv[1:] if argv is None else argv
    console = Console() if sys.stdout.isatty() else Console(width=140)
    return run_command(
        lambda: _embed(argv, prog, console), when_stopped="interrupted; run the same command again to continue"
    )
