"""Types of the benchmarks' arguments, for argparse."""

import argparse


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def integers(text: str) -> list[int]:
    """Whole numbers from 1 on: "1,2"."""
    return [positive(part) for part in text.split(",")]
