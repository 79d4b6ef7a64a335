"""Command line of data preparation: recordings or a generator in, a store out; checks and shows stores."""

from accdistill_jax.runtime import streams  # isort: skip

if __name__ == "__main__":
    streams.secure(product="files")

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from accdistill_jax.data import recordings
from accdistill_jax.data.prepare import show
from accdistill_jax.data.prepare.field_flags import add_flags, chosen, dataclass_fields, parameter_fields
from accdistill_jax.data.prepare.preparation import find_recordings, prepare
from accdistill_jax.data.preprocessing.settings import MEASURED_ONLY, PreprocessSettings
from accdistill_jax.data.store.manifest import verify_checksums
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.synthetic import synthetic
from accdistill_jax.errors import CommandParser, UserError
from accdistill_jax.runtime.command import run_command
from accdistill_jax.user_paths import expanded

_PREPROCESS = dataclass_fields(PreprocessSettings)
_PREPROCESS_SYNTHETIC = [
    field for field in _PREPROCESS if field.name not in ("ppg_channels", *MEASURED_ONLY)
]  # channels are a number, there
_SYNTHETIC = dataclass_fields(synthetic.SyntheticSettings)


def build_parser() -> argparse.ArgumentParser:
    """The parser, with one sub-command for each reader of recordings."""
    parser = CommandParser(
        prog="python -m accdistill_jax.data.prepare",
        description="Prepares stores of 60 s segments for training, checks them and shows what is in them.",
        epilog="An interrupted preparation continues when the same command is run again; what was prepared is kept, also where "
        "recordings have changed since (--overwrite prepares them again).",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in recordings.names():
        own = commands.add_parser(
            name,
            help=recordings.summary(name),
            description=recordings.reader(name).__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        own.add_argument("root", nargs="+", type=expanded, help="folder or file with recordings; several may be given")
        _add_output_flags(own)
        own.add_argument(
            "--skip-bad",
            action="store_true",
            help="leave out recordings that cannot be read (they are listed), instead of stopping",
        )
        options = parameter_fields(recordings.options(name))
        if options:
            add_flags(own.add_argument_group("reading"), options)
        add_flags(own.add_argument_group("preprocessing"), _PREPROCESS)
    own = commands.add_parser("synthetic", help="synthetic recordings of a generated population")
    _add_output_flags(own)
    add_flags(own.add_argument_group("population"), _SYNTHETIC)
    add_flags(own.add_argument_group("preprocessing"), _PREPROCESS_SYNTHETIC)
    own = commands.add_parser("verify", help="check every file of a store against its checksum")
    own.add_argument("store", type=expanded, help="folder or URL")
    own = commands.add_parser("show", help="say what is in a store")
    own.add_argument("store", type=expanded, help="folder or URL")
    own.add_argument("--plot", type=expanded, metavar="PNG", help="also draw a few segments into this file")
    own.add_argument("--segments", type=int, default=4, help="how many to draw (default: 4)")
    return parser


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", required=True, type=expanded, metavar="STORE", help="folder or URL of the store to make"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--overwrite", action="store_true", help="replace the store that is there")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    group = parser.add_argument_group("split")
    group.add_argument(
        "--split-file",
        type=expanded,
        metavar="FILE",
        help="CSV (participant,split) or JSON (participant: split); split is train, validation or test",
    )
    group.add_argument(
        "--split-seed",
        type=int,
        default=0,
        metavar="SEED",
        help="of the hash that splits participants without a file (default: 0); choose another, or other "
        "fractions, where few participants leave a split too small",
    )
    group.add_argument(
        "--split-fractions",
        type=float,
        nargs=3,
        default=SplitRule.fractions,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="of that hash (default: 0.8 0.1 0.1)",
    )


def _split(args: argparse.Namespace) -> SplitRule:
    if args.split_file:
        return SplitRule.from_file(args.split_file, seed=args.split_seed)
    return SplitRule(seed=args.split_seed, fractions=tuple(args.split_fractions))


def _run(args: argparse.Namespace, console: Console) -> None:
    if args.command == "verify":
        size = verify_checksums(args.store)
        store = Store.open(args.store)
        show.print_line(
            f"{store.path}: whole; {len(store.manifest['files'])} files, {size / 1e6:.1f} MB, "
            f"fingerprint {store.fingerprint}",
            console,
        )
        return
    if args.command == "show":
        if args.segments < 1:
            raise UserError(f"--segments {args.segments}: at least 1 is needed")
        store = Store.open(args.store)
        show.print_summary(store, console)
        if args.plot:
            show.plot_segments(store, args.plot, count=args.segments)
            show.print_line(f"picture: {args.plot}", console)
        return
    common = {"split": _split(args), "workers": args.workers, "overwrite": args.overwrite, "progress": not args.quiet}
    not_read: dict[str, str] = {}
    if args.command == "synthetic":
        population = synthetic.SyntheticSettings(**chosen(args, _SYNTHETIC))
        settings = PreprocessSettings(**chosen(args, _PREPROCESS_SYNTHETIC))
        store = synthetic.write_store(args.out, population, settings, **common)
    else:
        settings = PreprocessSettings(**chosen(args, _PREPROCESS))
        options = chosen(args, parameter_fields(recordings.options(args.command)))
        sources = find_recordings(args.command, args.root, **options)
        not_read = sources.not_read
        store = prepare(
            sources,
            args.out,
            reader=args.command,
            options=options,
            settings=settings,
            skip_bad=args.skip_bad,
            not_read=not_read,
            apart=recordings.can_crash(args.command),
            say=lambda line: show.print_line(line, console),
            **common,
        )
    show.print_summary(store, console)
    known = store.manifest.get("not_read") or {}  # a store that was there already may not know what is new
    show.print_not_read({path: reason for path, reason in not_read.items() if path not in known}, console)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status: 0, 2 for what the user can fix, 128 and a signal's number when interrupted."""

    def work() -> None:
        args = build_parser().parse_args(argv)
        _run(args, Console() if sys.stdout.isatty() else Console(width=140))

    return run_command(work, when_stopped="interrupted; run the same command again to continue")


if __name__ == "__main__":
    sys.exit(main())
