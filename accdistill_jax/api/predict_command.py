"""The command `accdistill predict`: predicts labels of a recording's minutes, as a figure and tables."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from accdistill_jax.api.arguments import add_out, add_reader, encoder_parser, reader_in, reader_options
from accdistill_jax.data import recordings
from accdistill_jax.data.prepare.show import print_line
from accdistill_jax.data.recognition import recognise
from accdistill_jax.errors import UserError
from accdistill_jax.files import write_atomically
from accdistill_jax.labels import LABELS
from accdistill_jax.runtime.command import run_command
from accdistill_jax.user_paths import expanded

PROG = "accdistill predict"
_FIGURES, _TABLES = (".png", ".pdf", ".svg"), (".csv", ".parquet")


def predict_parser(prog: str = PROG, *, reader: str | None = None) -> argparse.ArgumentParser:
    """Builds the parser.

    Args:
        prog: the command's name in messages.
        reader: the reader whose options become flags; None: those of files that nobody described.
    """
    parser = encoder_parser(
        prog,
        "Predicts labels for each minute of a recording: heart rate, SDNN, RMSSD, respiration rate, and your labels from "
        "accdistill probe. Each prediction has an interval. A minute without a prediction has a reason.",
    )
    parser.add_argument(
        "recording", type=expanded, help="file or folder with a recording, in a format of accdistill prepare"
    )
    files = "files to make: a figure (.png, .pdf, .svg) of one recording, a table (.csv, .parquet) of all"
    add_out(parser, files, metavar="FILE", nargs="+")
    parser.add_argument("--recording", dest="name", metavar="ID", help="the recording of a folder that has several")
    add_reader(parser, reader)
    return parser


def _predict(argv: Sequence[str], prog: str, console: Console) -> None:
    reader = reader_in(argv)
    args = predict_parser(prog, reader=reader).parse_args(argv)
    given = reader_options(args, reader)
    for out in args.out:
        if out.suffix.lower() not in (*_FIGURES, *_TABLES):
            raise UserError(f"--out {out}: give a name that ends in {', '.join((*_FIGURES, *_TABLES))}")
        if not out.parent.is_dir():
            raise UserError(f"--out {out}: there is no folder {out.parent}; make it first")
    # imported here: jax takes a second
    from accdistill_jax.api.loading import load
    from accdistill_jax.api.predicting import predict_recording, prediction_table, source_named
    from accdistill_jax.api.recordings import recording_remarks
    from accdistill_jax.runtime.compilation_cache import use_compilation_cache

    use_compilation_cache("")
    encoder = load(args.run, part=args.part)
    chosen = reader or recognise([args.recording], given).reader
    found = source_named(recordings.find(chosen, args.recording, **given), args.name)
    figures = [out for out in args.out if out.suffix.lower() in _FIGURES]
    if figures and len(found) > 1:
        ids = [source.recording_id for source in found]
        raise UserError(
            f"{args.recording}: a figure shows one of {len(found)} recordings; choose it by --recording {ids[0]} (or "
            f"{', '.join(ids[1:6])}{' ...' if len(ids) > 6 else ''})"
        )
    predicted = []
    for source in found:
        recording = source.load()
        predicted.append(predict_recording(encoder, recording))
        for remark in recording_remarks(recording, encoder.contract):
            print_line(f"recording {source.recording_id}: {remark}", console)
    for out in args.out:
        _write(out, _figure(predicted[0], out) if out in figures else _table(prediction_table(predicted), out))
    for one in predicted:
        count = len(one.start_unix_s)
        left_out = "".join(f", {n} left out: {reason}" for reason, n in one.left_out.items())
        print_line(f"{one.recording} ({one.participant}): {count} minutes{left_out}", console)
        for name, p in one.predictions.items():
            reasons = {str(r): int((p.reason == r).sum()) for r in sorted(set(p.reason[~p.known].tolist()))}
            unknown = "".join(f"; {n} {reason}" for reason, n in reasons.items())
            words = LABELS[name].words if name in LABELS else name
            print_line(f"  {words}: {int(p.known.sum())} of {len(p.value)} predicted{unknown}", console)
    print_line(f"written: {', '.join(map(str, args.out))}", console)


def _figure(one, out: Path) -> bytes:
    from accdistill_jax.api.predict_figure import prediction_figure

    buffer = io.BytesIO()
    prediction_figure(one).savefig(buffer, format=out.suffix[1:].lower(), dpi=150)
    return buffer.getvalue()


def _table(table, out: Path) -> bytes:
    import pyarrow.csv
    import pyarrow.parquet

    buffer = io.BytesIO()
    if out.suffix.lower() == ".csv":
        pyarrow.csv.write_csv(table, buffer)
    else:
        pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def _write(out: Path, content: bytes) -> None:
    try:
        write_atomically(out, content)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error})") from error


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Runs the command.

    Returns:
        The exit status: 0; 2 for an error that the user can fix; 128 plus the signal's number if a signal stopped it.
    """
    argv = sys.argv[1:] if argv is None else argv
    console = Console() if sys.stdout.isatty() else Console(width=140)
    return run_command(lambda: _predict(argv, prog, console))
