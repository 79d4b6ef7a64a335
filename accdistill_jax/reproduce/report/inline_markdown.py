"""The Markdown that a report's texts may contain: `code`, **bold** and [links](https://...). All other text is literal."""

import html
import re
from typing import Literal, NamedTuple

_TOKEN = re.compile(r"`([^`\n]+)`|\*\*(.+?)\*\*|\[([^\]\[]+)\]\(([^()\s]+)\)", re.DOTALL)
_LINK = re.compile(r"https?://[^\s]+|#[\w.-]+|[\w-][\w./-]*")
_SPECIAL = re.compile(r"[*~$\\]|`|<(?=[a-zA-Z/!?])|&(?=#?\w+;)|(?<!\w)_|_(?!\w)|\](?=\()")
_BLOCK = re.compile(r"^(?=[-+>#])|^\d+(?=[.)]\s)")


class InlinePiece(NamedTuple):
    """A piece of text with one kind of markup."""

    kind: Literal["text", "code", "bold", "link"]
    text: str
    address: str = ""


def pieces(text: str) -> list[InlinePiece]:
    """Splits a text into pieces. Incomplete markup, and links to anything but a page, a file or a heading, stay plain text."""
    parts, end = [], 0
    for match in _TOKEN.finditer(text):
        code, bold, label, address = match.groups()
        if address is not None and not _LINK.fullmatch(address):
            continue  # plain text
        if match.start() > end:
            parts.append(InlinePiece("text", text[end : match.start()]))
        end = match.end()
        if code is not None:
            parts.append(InlinePiece("code", code))
        elif bold is not None:
            parts.append(InlinePiece("bold", bold))
        elif address is not None:
            parts.append(InlinePiece("link", label, address))
    if end < len(text):
        parts.append(InlinePiece("text", text[end:]))
    return parts


def to_html(text: str) -> str:
    """Converts a text to HTML and escapes it."""
    parts = []
    for kind, inner, address in pieces(text):
        if kind == "text":
            parts.append(html.escape(inner))
        elif kind == "code":
            parts.append(f"<code>{html.escape(inner)}</code>")
        elif kind == "bold":
            parts.append(f"<strong>{to_html(inner)}</strong>")
        else:
            parts.append(f'<a href="{html.escape(address)}">{html.escape(inner)}</a>')
    return "".join(parts)


def to_markdown(text: str, *, cell: bool = False) -> str:
    """Converts a text to GitHub's Markdown and escapes literal text.

    Args:
        text: one paragraph.
        cell: True inside a table, where line breaks and bars would end the cell.
    """
    parts = []
    for kind, inner, address in pieces(text):
        if kind == "text":
            parts.append(_SPECIAL.sub(_escape, inner))
        elif kind == "code":
            parts.append(f"`{inner}`")
        elif kind == "bold":
            parts.append(f"**{to_markdown(inner)}**")
        else:
            parts.append(f"[{_SPECIAL.sub(_escape, inner)}]({address})")
    joined = " ".join("".join(parts).split())
    if cell:
        return joined.replace("|", "\\|")
    return _BLOCK.sub(lambda match: match[0] + "\\", joined)  # else it could begin a heading or a list


def to_plain(text: str) -> str:
    """Removes the markup from a text, for attributes."""
    return " ".join("".join(to_plain(p.text) if p.kind == "bold" else p.text for p in pieces(text)).split())


def _escape(match: re.Match) -> str:
    return {"<": "&lt;", "&": "&amp;"}.get(match[0], "\\" + match[0])
