"""Parts that all reports share: captioned pictures, a run's configuration, number formats."""

import json
import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from ferjax import workdir, writers
from ferjax.report import page

ORIGIN = ("config", "command", "begun")
"""Fields of `config.json` that are not the versions and devices of a run."""


class Picture(NamedTuple):
    """A figure and its text.

    Attributes:
      file: its name.
      drawing: the figure.
      alt: describes it to those who can't see it.
      caption: tells what it shows.
      links: addresses of the files that it shows, by their names.
    """

    file: str
    drawing: Figure
    alt: str
    caption: str
    links: Mapping[str, str] = MappingProxyType({})


class Pictures:
    """Saves pictures into a folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def show(self, pictures: Iterable[Picture]) -> str:
        """Saves the pictures and returns their HTML."""
        parts = []
        for picture in pictures:
            with warnings.catch_warnings():  # glyphs that the font lacks are drawn as boxes
                warnings.filterwarnings("ignore", "Glyph .* missing from font")
                with writers.replacing(self._folder / picture.file) as temporary:
                    picture.drawing.savefig(temporary, format="png")
            parts.append(page.figure(picture.file, picture.alt, picture.caption))
            if picture.links:
                parts.append(page.details("Files of these faces", page.links(picture.links)))
        return "\n".join(parts)


def configuration(config: ConfigDict, folder: Path) -> str:
    """Returns the HTML of a run's config, versions and devices, folded away."""
    environment = {name: x for name, x in _saved(folder).items() if name not in ORIGIN}
    parts = [page.details("Configuration", _fields(json.loads(config.to_json_best_effort())))]
    if environment:
        parts.append(page.details("Versions and devices", _fields(environment)))
    return "\n".join(parts)


def origin(folder: Path, what: str) -> str:
    """Returns the HTML that says when a run began, what it took, and by which command.

    Args:
      folder: of the run.
      what: a sentence on what it took.
    """
    saved = _saved(folder)
    begun = saved.get("begun")
    if begun:
        at = datetime.fromisoformat(begun)
        what = f"The run began on {at.day} {at:%B %Y at %H:%M}. {what}"
    command = saved.get("command")
    return page.paragraph(what) + (page.code(command) if command else "")


def count(number: int, noun: str) -> str:
    """Returns a number and what is counted, such as '1 class', '1,000 classes'."""
    plural = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{plural}"


def duration(seconds: float) -> str:
    """Formats seconds as seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def percent(share: float) -> str:
    """Formats a probability in whole per cent, with <1% and >99% instead of 0% and 100%."""
    if 0.005 <= share < 0.995:
        return f"{share:.0%}"
    return "<1%" if share < 0.5 else ">99%"


def _saved(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _fields(settings: dict[str, Any]) -> str:
    values = workdir.flat(settings).items()
    return page.fields({x: v if isinstance(v, str) else json.dumps(v) for x, v in values})
