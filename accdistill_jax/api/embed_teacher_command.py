"""The command `accdistill embed-teacher`: embeds the PPG of stores by an open PPG encoder, into a table for `teacher.source`."""

import argparse
import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from accdistill_jax.api.arguments import add_out, add_quiet, command_parser
from accdistill_jax.api.open_ppg import MODELS, LoadedModel, embed_store
from accdistill_jax.api.store import open_store
from accdistill_jax.errors import UserError
from accdistill_jax.files import write_atomically
from accdistill_jax.runtime.progress import progress_bar
from accdistill_jax.user_paths import expanded

PROG = "accdistill embed-teacher"


def embed_teacher_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = command_parser(
        prog,
        "Embeds the PPG of stores by an open PPG encoder, whose weights you have downloaded, and writes a table that "
        "config.teacher.source reads: participant, recording, start, quality, motion, embedding. Nothing in the file of weights is executed.",
    )
    parser.add_argument("model", choices=tuple(MODELS), help="papagei: PaPaGei-S; pulse-ppg: Pulse-PPG")
    parser.add_argument("weights", type=expanded, help="PyTorch file of the model's weights")
    parser.add_argument("stores", nargs="+", type=expanded, help="stores with PPG")
    add_out(parser, "Parquet file to make", metavar="FILE")
    parser.add_argument("--channel", type=int, default=0, help="number of the PPG channel (default: 0)")
    add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> None:
    """Writes the table, and prints a line about it.

    Args:
        argv: without the program's name; None for those of the process.
        prog: the command's name in messages.

    Raises:
        UserError: weights of another model, a store without PPG, or a file that cannot be written.
    """
    args = embed_teacher_parser(prog).parse_args(argv)
    if args.out.suffix.lower() not in (".parquet", ".pq"):
        raise UserError(f"--out {args.out}: the result is a Parquet file; give a name that ends in .parquet")
    stores = [open_store(path) for path in args.stores]
    loaded, tables = LoadedModel(args.model, args.weights), []
    with progress_bar(not args.quiet) as bar:
        task = bar.add_task("embedding minutes", total=sum(store.num_segments for store in stores))
        for store in stores:
            tables.append(embed_store(loaded, store, channel=args.channel, advance=lambda n: bar.advance(task, n)))
    table, content = pa.concat_tables(tables), io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.out, content.getvalue())
    except OSError as error:
        raise UserError(f"{args.out}: cannot be written ({error.strerror or error})") from error
    width = table["embedding"].type.list_size
    print(f"{args.out}: {table.num_rows} minutes, {width} numbers each ({loaded.model.source})")
