"""The command `accdistill embed`: embeds recordings by the encoder of a run, into a Parquet file."""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from accdistill_jax.api.arguments import encoder_parser
from accdistill_jax.data import recordings
from accdistill_jax.data.prepare.field_flags import add_flags, chosen_fields, dataclass_fields, function_fields
from accdistill_jax.data.prepare.preparation import PreparationSettings, find_recordings
from accdistill_jax.data.prepare.show import print_line, print_not_read
from accdistill_jax.data.preprocessing.settings import PreprocessSettings
from accdistill_jax.data.recognition import recognise
from accdistill_jax.runtime.command import run_command
from accdistill_jax.user_paths import expanded, path_argument

PROG = "accdistill embed"
_PREPARATION = [f for f in dataclass_fields(PreparationSettings) if f.name not in ("engine", "beam_options")]
# The encoder fixes rate and length, and no labels are made.
_FIXED = ("rate_hz", "segment_s", "hop_s", "min_beat_coverage", "min_window_coverage")
_PREPROCESS = [field for field in dataclass_fields(PreprocessSettings) if field.name not in _FIXED]
_PLAIN = "plain"


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
    parser.add_argument("--out", required=True, type=path_argument, metavar="FILE", help="Parquet file to make")
    parser.add_argument(
        "--reader",
        metavar="NAME",
        help=f"format of the files: {', '.join(recordings.names())}, or a file such as my_reader.py (default: found); accdistill "
        "prepare NAME --help describes it",
    )
    add_flags(parser, _PREPARATION)
    named = reader or _PLAIN
    group = parser.add_argument_group(
        f"options of the reader {named}" + ("" if reader else ", for files that nobody described")
    )
    add_flags(group, function_fields(recordings.reader(named).find))
    add_flags(parser.add_argument_group("preprocessing, as in accdistill prepare"), _PREPROCESS)
    return parser


def _named_reader(argv: Sequence[str]) -> str | None:
    """The reader of --reader, which decides the other flags.

    Raises:
        UserError: no such reader, or a file that is none.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--reader")
    try:
        name = first.parse_known_args(argv)[0].reader
    except argparse.ArgumentError:
        return None  # the real parser reports it
    return recordings.named_or_added(name) if name is not None else None


def _embed(argv: Sequence[str], prog: str, console: Console) -> None:
    reader = _named_reader(argv)
    args = embed_parser(prog, reader=reader).parse_args(argv)
    fields = function_fields(recordings.reader(reader or _PLAIN).find)
    given = {
        field.name: value for field in fields if (value := chosen_fields(args, [field])[field.name]) != field.default
    }
    preparation = PreparationSettings(**chosen_fields(args, _PREPARATION))
    # imported here: jax takes a second
    from accdistill_jax.api.embed_files import EmbeddingWork, embed_to_file
    from accdistill_jax.api.encoder import load
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
    work = EmbeddingWork(encoder, contract, encoder.fingerprint, readouts, found, settings)
    summary = embed_to_file(work, args.out, preparation=preparation, report=lambda line: print_line(line, console))
    minutes, rejected = contract.settings.segment_s / 60, {k: n for k, n in summary.rejected.items() if n}
    left_out = f", left out: {', '.join(f'{n * minutes:g} {k}' for k, n in rejected.items())}" if rejected else ""
    predicted = [*(encoder.readouts.targets if encoder.readouts else ()), *encoder.probes]
    labels = f"; predictions: {', '.join(predicted)}" if predicted else ""
    lines = [
        f"{summary.recordings} recordings ({chosen}): {summary.kept * minutes:g} of {summary.examined * minutes:g} minutes embedded{left_out}",
        *(f"left out: recording {name}: {problem}" for name, problem in summary.bad.items()),
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
