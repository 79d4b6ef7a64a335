"""Runs generated bad inputs: `python -m tests.bad_inputs --count 330 --seed 0 [--category store]`.

Prints a line for each bad input with a wrong outcome, and a summary; exits with 1 if there is a wrong outcome.
"""

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path

from tests.bad_inputs.bases import make_bases
from tests.bad_inputs.generate import CATEGORIES, generate
from tests.bad_inputs.runner import Runner


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bad_inputs", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=330, help="bad inputs in all (default: 330)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--category", choices=CATEGORIES, help="of this category only")
    parser.add_argument("--jobs", type=int, default=2, help="programs at a time (default: 2)")
    parser.add_argument("--bases", type=Path, help="folder that keeps the whole inputs for later calls")
    parser.add_argument("--show", action="store_true", help="print the output of the programs")
    args = parser.parse_args()
    counts = {name: collections.Counter() for name in CATEGORIES}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bad-inputs-") as scratch, Runner(args.jobs) as runner:
        root = args.bases or Path(scratch) / "bases"
        bases = make_bases(root.absolute())
        cases = generate(args.count, seed=args.seed, bases=bases, category=args.category)
        category = {id(case): name for name, own in cases.items() for case in own}
        everything = [case for own in cases.values() for case in own]
        for result in runner.run(everything, Path(scratch) / "cases", bases=root.absolute()):
            name = category[id(result.case)]
            counts[name]["cases"] += 1
            if result.wrong:
                counts[name]["failures"] += 1
                print(f"FAILED {name}: {result.case.name}: {result.wrong}")
            elif result.outcome.status == 0:
                counts[name]["went on"] += 1
            if result.wrong or args.show:
                print(
                    f"    {result.case.name}: status {result.outcome.status}: "
                    + " / ".join(result.outcome.error.strip().splitlines()[-3:])[:600],
                    flush=True,
                )
    print(f"\n{'category':12} {'cases':>6} {'refused':>8} {'went on':>8} {'failures':>9}")
    for name, own in counts.items():
        refused = own["cases"] - own["failures"] - own["went on"]
        print(f"{name:12} {own['cases']:6} {refused:8} {own['went on']:8} {own['failures']:9}")
    print(f"seed {args.seed}, {time.monotonic() - begin:.0f} s")
    return int(any(own["failures"] for own in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
