"""Displays text that users give (names of folders, participants, devices, channels) unchanged and safely."""

import functools
import os
import re
import sys
import unicodedata

_JOINERS = "\u200c\u200d"  # they shape the letters of several scripts, and neither move nor hide text
_MARKUP = re.compile(r"[\\\\`*_\[\]~!]|^[#+-]")
_LINKED = re.compile(r"(https?|ftp)://", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")


def readable(name: str) -> str:
    """Normalises a name from a file system or a file, so that every locale and machine gives the same text.

    Composed and decomposed forms of the same letters (Linux and macOS write them differently) become the same text (NFC). Bytes that
    are not UTF-8 become backslash escapes.
    """
    if _SURROGATE.search(name):
        try:
            name = os.fsencode(name).decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:
            name = name.encode("utf-8", "backslashreplace").decode()
    return unicodedata.normalize("NFC", name)


def plain_id(name: str) -> str:
    """A participant's id as stores write it: `readable`, and without outer white space, because "P01" and "P01 " are one person."""
    return readable(name).strip()


def one_line(text: object) -> str:
    """Escapes line breaks, terminal escape sequences and changes of text direction, so that a text cannot control a terminal."""
    return "".join(map(_visible, str(text)))


def several_lines(text: object) -> str:
    """`one_line` applied to each line of a text."""
    return "\n".join(map(one_line, str(text).split("\n")))


def for_plot(text: object) -> str:
    """Prepares a text for matplotlib: `$` starts no formula, and letters that the font lacks become backslash escapes."""
    drawable = _drawable()
    shown = "".join(c if ord(c) in drawable else _escaped(c) for c in one_line(text))
    # Matplotlib leaves a label that begins with "_" out of the legend.
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")


def escape_markdown(text: object) -> str:
    """Escapes a text for Markdown, tables included, so that it is shown literally: no markup, HTML, link or end of a cell."""
    shown = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
    return _LINKED.sub(r"\1&#58;//", _MARKUP.sub(r"\\\g<0>", shown)).replace("www.", "www&#46;")


def print_error(error: object) -> None:
    """Prints the final error of a command on stderr, escaped for every terminal and locale."""
    print(f"error: {several_lines(error)}", file=sys.stderr)


def _visible(c: str) -> str:
    if c.isprintable() or c in _JOINERS:
        return c
    category = unicodedata.category(c)
    return _escaped(c) if category in ("Cc", "Cs", "Cf", "Zl", "Zp") else c


def _escaped(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c.encode("unicode_escape").decode()


@functools.cache
def _drawable() -> frozenset[int]:
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return frozenset(font.get_charmap())
