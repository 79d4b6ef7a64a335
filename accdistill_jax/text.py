"""Text that users give (names of folders, participants, devices, channels), shown as it is and safely everywhere."""

import functools
import os
import re
import sys
import unicodedata

_JOINERS = "\u200c\u200d"  # shape the letters of several scripts; they move and hide nothing
_MARKUP = re.compile(r"[\\\\`*_\[\]~!]|^[#+-]")
_LINKED = re.compile(r"(https?|ftp)://", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")


def readable(name: str) -> str:
    """A name from a file system or a file, as one text whatever the locale and the machine it comes from.

    Composed and decomposed forms of the same letters (Linux and macOS write them differently) become the same text (NFC); bytes
    that are no UTF-8 become backslash escapes such as Ren\\xe9.
    """
    if _SURROGATE.search(name):
        try:
            name = os.fsencode(name).decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:
            name = name.encode("utf-8", "backslashreplace").decode()
    return unicodedata.normalize("NFC", name)


def one_line(text: object) -> str:
    """A text that cannot command a terminal: line breaks, escape sequences and changes of direction become backslash escapes."""
    return "".join(map(_visible, str(text)))


def several_lines(text: object) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(one_line, str(text).split("\n")))


def for_plot(text: object) -> str:
    """A text for matplotlib: `$` is no formula, and letters that its font lacks become backslash escapes rather than equal boxes."""
    drawable = _drawable()
    shown = "".join(c if ord(c) in drawable else _escaped(c) for c in one_line(text))
    # A leading "_" would leave a line out of its legend.
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")


def literal(text: object) -> str:
    """A text in Markdown that is shown as it is, also within a table: no markup, HTML, link or end of a cell."""
    shown = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;")
    return _LINKED.sub(r"\1&#58;//", _MARKUP.sub(r"\\\g<0>", shown)).replace("www.", "www&#46;")


def print_error(error: object) -> None:
    """Prints what a command ends with on stderr, in terms that no terminal, locale or closed stream can trip over."""
    print(f"error: {several_lines(error)}", file=sys.stderr)


def _visible(c: str) -> str:
    if c.isprintable() or c in _JOINERS:
        return c
    category = unicodedata.category(c)
    return _escaped(c) if category in ("Cc", "Cs", "Cf", "Zl", "Zp") else c


def _escaped(c: str) -> str:
    if "\udc80" <= c <= "\udcff":  # a byte of a file's name that is no UTF-8
        return f"\\x{ord(c) - 0xDC00:02x}"
    return c.encode("unicode_escape").decode()


@functools.cache
def _drawable() -> frozenset[int]:
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return frozenset(font.get_charmap())
