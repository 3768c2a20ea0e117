"""The pieces of a page: texts made harmless, the document, sections, tables and figures."""

from __future__ import annotations

import html
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

STYLE = Path(__file__).with_name("style.css")


class Html(str):
    """A text that is HTML already. Every other text is escaped where it enters the page."""


class Section(NamedTuple):
    """A part of the page with an entry in its table of contents. name: its id."""

    name: str
    title: str
    content: str


def escaped(text: object) -> Html:
    """``text`` as HTML and as XML: names come from files, which may hold anything.

    What cannot be printed becomes a replacement character: control characters, which XML forbids, marks that turn the
    direction of writing, halves of surrogate pairs, which no file can be written with.
    """
    if isinstance(text, Html):
        return text
    return Html(html.escape(_harmless(str(text))))


def _harmless(text: str) -> str:
    return "".join(_printable(letter) for letter in text)


def _printable(letter: str) -> str:
    if letter.isprintable() or letter in "\n\t":
        return letter
    return " " if letter.isspace() else "\ufffd"


def short(text: str, most: int) -> str:
    """``text`` in at most ``most`` letters, its middle left out where it is longer."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    tail = most - 1 - head
    return f"{text[:head]}…{text[len(text) - tail :]}"


def document(title: str, intro: str, sections: Sequence[Section], style: str = "") -> str:
    """A whole page: its title, ``intro``, a table of contents, and the sections.

    The policy in its head forbids the browser to load or run anything. style: rules of this page alone.
    """
    contents = "".join(f'<li><a href="#{section.name}">{escaped(section.title)}</a></li>' for section in sections)
    bodies = "\n".join(
        f'<section id="{section.name}" aria-labelledby="{section.name}-title">'
        f'<h2 id="{section.name}-title">{escaped(section.title)}</h2>{section.content}</section>'
        for section in sections
    )
    rules = STYLE.read_text(encoding="utf-8") + style
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escaped(title)}</title>\n<style>\n{rules}</style>\n</head>\n<body>\n"
        f"<header><h1>{escaped(title)}</h1>{intro}</header>\n"
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav>\n<main>\n{bodies}\n</main>\n</body>\n</html>\n'
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str, kind: str = "") -> Html:
    """A table whose rows have a heading, their first cell. On narrow pages each row becomes a list of titles and cells;
    the roles keep it a table for those who hear it. kind: a class of the style sheet."""
    titles = "".join(f'<th scope="col" role="columnheader">{escaped(title)}</th>' for title in header)
    lines = []
    for head, *cells in rows:
        row = [f'<th scope="row" role="rowheader">{escaped(head)}</th>']
        for title, cell in zip(header[1:], cells, strict=True):
            empty = "" if str(cell) else ' class="empty"'
            row.append(f'<td role="cell"{empty} data-title="{escaped(title)}"><span>{escaped(cell)}</span></td>')
        lines.append(f'<tr role="row">{"".join(row)}</tr>')
    return Html(
        f'<table role="table" class="{kind}"><caption>{escaped(caption)}</caption>'
        f'<thead role="rowgroup"><tr role="row">{titles}</tr></thead>'
        f'<tbody role="rowgroup">{"".join(lines)}</tbody></table>'
    )


def facts(entries: Sequence[tuple[str, object]]) -> Html:
    """A list of names and values."""
    items = [f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in entries]
    return Html(f'<dl class="facts">{"".join(items)}</dl>')


def figure(title: str, drawing: str, legend: str = "", words: str = "") -> Html:
    """A drawing under its title, with its legend and what there is to say of it."""
    told = f'<p class="soft">{escaped(words)}</p>' if words else ""
    return Html(f"<figure><figcaption>{escaped(title)}</figcaption>{drawing}{legend}{told}</figure>")


def grid(figures: Sequence[str], kind: str = "panels") -> Html:
    """Figures side by side, as many as the page has room for."""
    return Html(f'<div class="{kind}">{"".join(figures)}</div>')


def paragraph(text: object) -> Html:
    return Html(f"<p>{escaped(text)}</p>")


def listed(texts: Sequence[object]) -> Html:
    items = "".join(f"<li>{escaped(text)}</li>" for text in texts)
    return Html(f"<ul>{items}</ul>")


def heading(text: str) -> Html:
    """Of a part of a section."""
    return Html(f"<h3>{escaped(text)}</h3>")


def commands(lines: Sequence[Sequence[str]]) -> Html:
    """Command lines, given as their words, between which they are folded on narrow pages, and not at their hyphens."""
    folded = []
    for line in lines:
        quoted = (shlex.quote(_harmless(word)) for word in line)
        folded.append(" ".join(f"<span>{escaped(word)}</span>" for word in quoted))
    listed = "\n".join(folded)
    return Html(f"<pre><code>{listed}</code></pre>")
