"""The HTML of a report: functions that build one self-contained page and escape all text."""

from collections.abc import Mapping, Sequence
from html import escape

STYLE = """
:root { color-scheme: light; --ink: #1c2027; --muted: #555c66; --line: #dfe2e6; --mark: #eaf3fa; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 3rem 0 .6rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
.lead { font-size: 1.1rem; color: var(--muted); }
nav { margin: 1.2rem 0 0; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
a { color: #005a8f; }
dl.figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.6rem 0 0; }
dl.figures div { flex: 1 0 auto; min-width: 9.5rem; white-space: nowrap;
  border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
dl.figures dt { font-size: .85rem; color: var(--muted); }
dl.figures dd { margin: 0; font-size: 1.5rem; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.scroll, pre { overflow-x: auto; }
pre { background: #f5f6f7; border-radius: .4rem; padding: .6rem .9rem; font-size: .85rem;
  font-family: ui-monospace, Menlo, Consolas, monospace; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem 1.1rem .4rem .6rem; text-align: right;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
thead th { font-size: .85rem; color: var(--muted); vertical-align: bottom;
  border-bottom: 2px solid #9aa1ab; }
tbody th { font-weight: 500; }
tr.mark { background: var(--mark); } tr.mark th, tr.mark td { font-weight: 700; }
table.plain td { text-align: left; font-family: ui-monospace, Menlo, Consolas, monospace;
  font-size: .85rem; overflow-wrap: anywhere; }
table.plain th { text-align: left; font: 500 .85rem ui-monospace, Menlo, Consolas, monospace; }
figure { margin: 1.2rem 0 2rem; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { max-width: 46rem; margin-top: .5rem; font-size: .95rem; color: var(--muted); }
summary { cursor: pointer; padding: .4rem 0; font-weight: 600; }
@media print { main { max-width: none; } figure, table { break-inside: avoid; } }
"""


def document(title: str, lead: str, sections: Mapping[str, str]) -> str:
    """Builds a whole page.

    Args:
      title: its heading.
      lead: HTML that follows the heading.
      sections: HTML of each section by its heading.
    """
    links = " ".join(
        f'<a href="#section-{n}">{escape(heading)}</a>' for n, heading in enumerate(sections, 1)
    )
    body = "\n".join(
        f'<section id="section-{n}">\n<h2>{escape(heading)}</h2>\n{content}\n</section>'
        for n, (heading, content) in enumerate(sections.items(), 1)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<h1>{escape(title)}</h1>
{lead}
<nav aria-label="Contents">{links}</nav>
</header>
{body}
</main>
</body>
</html>
"""


def paragraph(text: str, css: str = "") -> str:
    """Builds a paragraph of plain text."""
    return f'<p class="{css}">{escape(text)}</p>' if css else f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    """Builds a block of code or of a command."""
    return f"<pre>{escape(text)}</pre>"


def key_figures(figures: Mapping[str, str]) -> str:
    """Builds a list of a few numbers that stand out, with their names."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in figures.items()
    )
    return f'<dl class="figures">{items}</dl>'


def figure(file: str, alt: str, caption: str) -> str:
    """Builds a figure from a picture file beside the page; `alt` is for those who can't see it."""
    return (
        f'<figure><img src="{escape(file)}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(columns: Sequence[str], rows: Mapping[str, Sequence[str]], marked: str = "") -> str:
    """Builds a table of numbers, each row headed by its name; the row `marked` stands out."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "\n".join(
        f"<tr{' class=mark' if name == marked else ''}>" + _cells(name, cells) + "</tr>"
        for name, cells in rows.items()
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def fields(values: Mapping[str, str]) -> str:
    """Builds a plain table of names and values."""
    body = "\n".join(f"<tr>{_cells(name, [value])}</tr>" for name, value in values.items())
    return f'<div class="scroll"><table class="plain"><tbody>\n{body}\n</tbody></table></div>'


def bullets(lines: Sequence[str]) -> str:
    """Builds a bulleted list of plain text."""
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def links(addresses: Mapping[str, str]) -> str:
    """Builds a bulleted list of links, to the address of each text."""
    items = "".join(
        f'<li><a href="{escape(address)}">{escape(text)}</a></li>'
        for text, address in addresses.items()
    )
    return f"<ul>{items}</ul>"


def details(summary: str, content: str) -> str:
    """Folds HTML away behind a summary."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"


def _cells(name: str, cells: Sequence[str]) -> str:
    return f'<th scope="row">{escape(name)}</th>' + "".join(f"<td>{escape(x)}</td>" for x in cells)
