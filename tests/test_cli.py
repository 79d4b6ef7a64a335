"""The console command: help, version, unknown commands, and sub-commands with their names, statuses and signals."""

import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest

import accdistill_jax
from accdistill_jax import cli


@pytest.fixture
def command(repository, tmp_path):
    """Runs the console command in an empty folder."""
    environment = os.environ | {"PYTHONPATH": str(repository), "COLUMNS": "120"}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "accdistill_jax.cli", *arguments],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(command, arguments):
    done = command(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    listed = re.findall(r"^  (\w[\w-]*) +\w.*$", done.stdout, re.MULTILINE)
    assert [name for name in listed if name != "accdistill"] == list(cli.COMMANDS)
    assert {"train", "prepare", "reproduce", "benchmark", "mirror"} <= set(cli.COMMANDS)


def test_the_version_is_the_packages(command):
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"accdistill {accdistill_jax.__version__}\n")


def test_help_imports_no_library(repository):
    program = """
        import sys
        from accdistill_jax import cli
        assert cli.main(["--help"]) == 0
        print({"jax", "numpy", "scipy", "absl", "ml_collections", "rich"} & set(sys.modules), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=repository, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "set()\n")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trin", "unknown command 'trin'; did you mean accdistill train?"),
        ("verify", "unknown command 'verify'; did you mean accdistill prepare verify?"),
        ("shw", "unknown command 'shw'; did you mean accdistill prepare show?"),
        ("0", "unknown command '0' (accdistill --help lists the commands)"),
        ("--config=distill", "unknown command '--config=distill'"),
    ],
)
def test_an_unknown_command_gets_one_line(command, word, message):
    done = command(word)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_help_of_a_command_names_it(command, name):
    done = command(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(rf"^usage: accdistill {name}\b", done.stdout, re.MULTILINE | re.IGNORECASE)
    assert "python -m" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train",), "error: no config given"),
        (("train", "--config=distill:smok"), "has no preset 'smok'"),
        (("train", "--config=distill:smoke", "--config.seeed=1"), "did you mean config.seed?"),
        (("prepare", "show"), "accdistill prepare show: error: the following arguments are required: store"),
        (("prepare", "show", "nowhere"), "not a store"),
        (("reproduce", "--presets=cpu"), "did you mean --preset?"),
        (("benchmark", "stepp"), "accdistill benchmark: error:"),
        (("mirror", "ls"), "accdistill mirror ls: error: the following arguments are required: address"),
    ],
)
def test_mistakes_of_a_command_end_with_its_status_and_name(command, arguments, message):
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_command_is_imported_ends_it_with_one_line(repository, tmp_path, number):
    (tmp_path / "slow.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    program = """
        import sys
        from accdistill_jax import cli
        cli.COMMANDS["slow"] = cli.SubCommand("slow", "imports slowly")
        sys.exit(cli.main(["slow"]))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=os.environ | {"PYTHONPATH": f"{repository}:{tmp_path}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert error.startswith(f"stopped by {number.name}; nothing was begun") and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_training_with_its_status(repository, tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "accdistill_jax.cli", "train", "--config=distill:smoke", "--workdir=run"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repository)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline()  # the run has begun
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number and "Traceback" not in error


def test_a_command_gets_its_arguments_as_they_are(repository):
    program = """
        import sys
        from accdistill_jax import cli
        from accdistill_jax.storage import mirror
        mirror.main = lambda argv, *, prog: print(argv, prog) or 7
        sys.exit(cli.main(["mirror", "ls", "--", "gs://bucket/--help"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=repository, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout == "['ls', '--', 'gs://bucket/--help'] accdistill mirror\n"
