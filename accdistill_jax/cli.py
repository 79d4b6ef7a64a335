"""The console command `accdistill`: one name for all commands of the package.

A sub-command hands its arguments to the command's module, which is imported only then: `accdistill --help` needs no jax.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Literal, NamedTuple

import accdistill_jax
from accdistill_jax.runtime import early_stop, streams


class SubCommand(NamedTuple):
    """A sub-command.

    Attributes:
        module: where its entry point is.
        text: for --help.
        product: "files" if it goes on without a readable standard output, "output" if that is its result.
        function: entry point, called with the arguments and `prog`, the command's name in messages; returns the exit status.
        plain: True if the entry point leaves signals and lost output to its caller.
    """

    module: str
    text: str
    product: Literal["files", "output"] = "files"
    function: str = "main"
    plain: bool = False


COMMANDS = {
    "train": SubCommand(
        "accdistill_jax.main", "train a teacher and a student, evaluate them, write a report", function="start"
    ),
    "prepare": SubCommand(
        "accdistill_jax.data.prepare.__main__", "make a store from recordings; show or verify a store"
    ),
    "predict": SubCommand(
        "accdistill_jax.api.predict_command", "predict labels of a recording's minutes: a figure and tables"
    ),
    "probe": SubCommand(
        "accdistill_jax.api.probe_command", "fit a read-out of your own label on the embeddings of a store"
    ),
    "export": SubCommand(
        "accdistill_jax.api.export_command",
        "write a trained encoder as ONNX, StableHLO, npz or safetensors, with a model card",
        plain=True,
    ),
    "embed": SubCommand(
        "accdistill_jax.api.embed_command", "embed each minute of recordings by a trained encoder, into a Parquet file"
    ),
    "embed-teacher": SubCommand(
        "accdistill_jax.api.embed_teacher_command",
        "embed the PPG of stores by an open PPG encoder (PaPaGei, Pulse-PPG), as a teacher for train",
        plain=True,
    ),
    "demo": SubCommand(
        "accdistill_jax.api.demo_command", "write a static web page that runs a student in the browser", plain=True
    ),
    "encoders": SubCommand(
        "accdistill_jax.api.encoders_command", "list the encoders that come with the package", "output", plain=True
    ),
    "reproduce": SubCommand(
        "accdistill_jax.reproduce.__main__", "run the grid of experiments behind the claims, or check a report"
    ),
    "benchmark": SubCommand(
        "accdistill_jax.benchmark.__main__", "measure training, input and inference on this machine", "output"
    ),
    "config": SubCommand(
        "accdistill_jax.config.__main__", "print the keys of a config: default, rule, meaning", "output", plain=True
    ),
    "mirror": SubCommand(
        "accdistill_jax.storage.mirror", "list or fetch a work directory in an object store", "output"
    ),
}
_INNER = {"show": "prepare show", "verify": "prepare verify"}  # sub-commands of sub-commands that may be looked for
_EXAMPLES = """\
Examples:
  accdistill train --config=distill:smoke
  accdistill prepare generic recordings/ --out store/
  accdistill prepare show store/
  accdistill embed runs/distill recordings/ --out embeddings.parquet
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command.

    Args:
        argv: without the program's name; None for those of the process.

    Returns:
        The exit status: the sub-command's; 0 for help and version; 2 for an unknown sub-command.
    """
    argv = sys.argv[1:] if argv is None else argv
    name = argv[0] if argv else "--help"
    command = COMMANDS.get(name)
    if command is not None:
        early_stop.install(product=command.product)
        entry = getattr(importlib.import_module(command.module), command.function)
        if command.plain:
            from accdistill_jax.runtime.command import run_command

            return run_command(lambda: entry(argv[1:], prog=f"accdistill {name}"))
        return entry(argv[1:], prog=f"accdistill {name}")
    streams.secure(product="output")
    return _answer(name)


def _answer(name: str) -> int:
    """Answers a first word that is no sub-command; returns the exit status."""
    # not at the top: a sub-command handles signals before it imports more
    from accdistill_jax.config.nearest import nearest
    from accdistill_jax.errors import ExitStatus
    from accdistill_jax.runtime.command import run_command
    from accdistill_jax.text import print_error

    if name in ("-h", "--help"):
        return run_command(lambda: print(help_text(), end=""))
    if name == "--version":
        return run_command(lambda: print(f"accdistill {accdistill_jax.__version__}"))
    near = nearest(name, [*COMMANDS, *_INNER])
    hint = f"; did you mean accdistill {_INNER.get(near, near)}?" if near else ""
    print_error(f"unknown command {name!r}{hint} (accdistill --help lists the commands)")
    return ExitStatus.USER_ERROR


def help_text() -> str:
    """Usage, the sub-commands with a line each, and examples."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.text}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: accdistill COMMAND [ARGUMENTS]",
            "",
            (accdistill_jax.__doc__ or "").partition("\n")[0],
            "",
            "Commands (accdistill COMMAND --help lists the arguments):",
            *lines,
            "",
            "Options:",
            "  -h, --help  print this help",
            "  --version   print the version",
            "",
            _EXAMPLES,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
