"""Runs programs one after another, each in a fork of a process that has imported everything, which saves seconds for each.

Nothing but imports happens before the fork, so that a child differs from a process that a user starts in having less to
import. Reads requests as JSON lines from stdin and answers each with the exit status.
"""

import importlib
import json
import os
import resource
import runpy
import signal
import sys

_IMPORTS = (
    "grain",
    "matplotlib.pyplot",
    "optax",
    "orbax.checkpoint",
    "pyarrow.csv",
    "pyarrow.parquet",
    "rich.console",
    "scipy.io",
    "scipy.signal",
    "sklearn.linear_model",
    "tensorboardX",
    "tensorstore",
    "yaml",
    "accdistill_jax.run",
    "accdistill_jax.data.prepare.preparation",
    "accdistill_jax.data.prepare.show",
    "accdistill_jax.data.synthetic.synthetic",
)


def main() -> None:
    """Serves until stdin ends."""
    for name in _IMPORTS:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            return run(request)
        print(json.dumps({"pid": child}), flush=True)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


def run(request: dict) -> None:
    """Becomes `python -m MODULE ARGUMENTS`."""
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name, descriptor in (("out", 1), ("error", 2)):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_AS, (request["memory_bytes"], resource.RLIM_INFINITY))
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
