"""Argument types for argparse."""

import argparse


def positive(text: str) -> int:
    """A positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive integer")
    return int(text)


def integers(text: str) -> list[int]:
    """Positive integers, separated by commas: "1,2"."""
    return [positive(part) for part in text.split(",")]
