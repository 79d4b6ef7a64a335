"""The valid name nearest to a misspelled one, for error messages."""

import difflib
from collections.abc import Iterable


def nearest(text: str, known: Iterable[str]) -> str | None:
    """The known name most like a text, or None if none is like it.

    Args:
        text: a name, or a dotted key; of a key, the last part alone may decide.
        known: valid names.
    """
    known = list(dict.fromkeys(known))
    close = difflib.get_close_matches(text, known, n=1, cutoff=0.5)
    if not close:
        last = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
        ends = difflib.get_close_matches(text.rsplit(".", 1)[-1], list(last), n=1, cutoff=0.6)
        close = [last[name] for name in ends]
    return close[0] if close else None


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """The words "; did you mean X?" for the end of a message; empty if no known name is like the text."""
    near = nearest(text, known)
    return f"; did you mean {near}?" if near else ""
