"""The command line of `python -m accdistill_jax.reproduce`."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from accdistill_jax.config.load import is_override, parse_overridable
from accdistill_jax.config.nearest import nearest
from accdistill_jax.errors import UserError
from accdistill_jax.user_paths import expanded, path_argument

PROG = "python -m accdistill_jax.reproduce"
SYNTHETIC = "synthetic"
PRESETS = {
    "smoke": "every code path, a few minutes",
    "claims": "decides each of the paper's claims with few variants, about 90 minutes on two cores",
    "trials": "changes of the student at about equal training time, on validation people, under three hours on two cores",
    "cpu": "`claims` with more variants and three seeds, five hours on two cores, and continues a run of `claims` in the same --out",
    "full": "models of the paper's size, 20 000 synthetic people, for accelerators",
    "cpu-mean": "the grid of the first committed reports, with every student in the paper's literal form",
}


class CommandLine(NamedTuple):
    """Parsed command line.

    Attributes:
        preset: one of `PRESETS`.
        stores: stores to train on; empty for synthetic data.
        unseen: stores for evaluation only.
        only: ids of experiments, wildcards allowed; empty for all.
        seeds: number of training seeds; None for the preset's.
        overrides: "--config.KEY=VALUE" each.
        out: folder for runs and report.
        list_only: True prints the plan and runs nothing.
        check: report to compare with; None for none.
        compared: experiments whose numbers are compared; empty for all in the report.
        workers: number of processes; None for as many as fit the devices.
    """

    preset: str
    stores: tuple[str, ...]
    unseen: tuple[str, ...]
    only: tuple[str, ...]
    seeds: int | None
    overrides: tuple[str, ...]
    out: Path
    list_only: bool
    check: Path | None
    compared: tuple[str, ...]
    workers: int | None

    @property
    def settings(self) -> dict[str, Any]:
        """Settings for the report; --check reads them from there."""
        settings: dict[str, Any] = {"preset": self.preset, "data": list(self.stores) or [SYNTHETIC]}
        settings |= {"unseen": list(self.unseen), "only": list(self.only), "overrides": list(self.overrides)}
        return settings | ({} if self.seeds is None else {"seeds": self.seeds})


class CommandLineParser(argparse.ArgumentParser):
    """Raises a UserError instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def reproduce_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Builds the parser; arguments that it does not know must be overrides of the config."""
    parser = CommandLineParser(
        prog=prog,
        description="Runs the experiments on the paper's claims and writes one report: report.html, report.md and report.json. "
        "The same command again continues, and does not repeat finished runs. --config.KEY=VALUE changes the config of all runs.",
        epilog="Exit status: 0 all runs are finished; 2 an error that you can mend, explained in one line; 3 --check found a "
        "number or claim that moved; 4 some runs or experiments failed, the report names them; 129 stopped by SIGHUP, 130 by Ctrl-C, "
        "143 by SIGTERM: finished runs are kept.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data",
        nargs="+",
        type=expanded,
        metavar="STORE",
        help=f"prepared stores for training and evaluation, or {SYNTHETIC} (default {SYNTHETIC})",
    )
    parser.add_argument(
        "--unseen",
        nargs="+",
        type=expanded,
        metavar="STORE",
        help="stores of other devices, for evaluation only",
    )
    presets = "; ".join(f"{name}: {text}" for name, text in PRESETS.items())
    parser.add_argument("--preset", choices=PRESETS, help=f"{presets} (default claims)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="experiments, by the names that --list shows; wildcards * and ? are allowed",
    )
    parser.add_argument("--seeds", type=_positive, metavar="N", help="number of training seeds (default: the preset's)")
    parser.add_argument(
        "--out", type=path_argument, metavar="DIR", help="folder for runs and report (default runs/reproduce-PRESET)"
    )
    parser.add_argument(
        "--list", action="store_true", help="print the experiments and runs with their expected durations, run nothing"
    )
    parser.add_argument(
        "--check",
        type=path_argument,
        metavar="REPORT.json",
        help="repeat the runs of that report and compare the numbers (REPORT.json.gz works too); arguments that are not given come from "
        "the report (default folder runs/reproduce-PRESET-check)",
    )
    parser.add_argument(
        "--workers",
        type=_workers,
        default="auto",
        metavar="auto|N",
        help="number of runs at the same time (default: one for each GPU, one on a CPU)",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive integer")
    return int(text)


def _workers(text: str) -> int | None:
    return None if text == "auto" else _positive(text)


def parse_command_line(
    argv: Sequence[str], *, reference: Mapping[str, Any] | None = None, prog: str = PROG
) -> CommandLine:
    """Reads the command line.

    Args:
        argv: arguments without the program's name.
        reference: settings of the report that --check names; used for arguments that are not given.
        prog: name of the command in its help.

    Raises:
        UserError: an argument is wrong.
    """
    given, rest = parse_overridable(reproduce_parser(prog), argv)
    for text in rest:
        if not is_override(text):
            options = ("--data", "--unseen", "--preset", "--only", "--seeds", "--out", "--list", "--check", "--workers")
            near = nearest(text.partition("=")[0], options)
            raise UserError(f"unknown argument {text!r}" + (f"; did you mean {near}?" if near else "; see --help"))
    taken = {} if reference is None else dict(reference)
    data = tuple(given.data or taken.get("data", (SYNTHETIC,)))
    if SYNTHETIC in data and len(data) > 1:
        raise UserError(f"--data {' '.join(data)}: {SYNTHETIC} cannot be combined with stores")
    preset = given.preset or taken.get("preset", "claims")
    if preset not in PRESETS:
        raise UserError(
            f"{given.check} was made with preset {preset!r}; this version of the package has {', '.join(PRESETS)}"
        )
    return CommandLine(
        preset=preset,
        stores=() if data == (SYNTHETIC,) else data,
        unseen=tuple(given.unseen or taken.get("unseen", ())),
        only=tuple(given.only or taken.get("only", ())),
        seeds=given.seeds or taken.get("seeds"),
        overrides=tuple(rest or taken.get("overrides", ())),
        out=given.out or Path("runs") / f"reproduce-{preset}{'-check' if given.check else ''}",
        list_only=given.list,
        check=given.check,
        compared=tuple(given.only or ()) if given.check else (),
        workers=given.workers,
    )
