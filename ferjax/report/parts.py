"""Parts that all reports share: captioned pictures, a run's configuration, number formats."""

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from ml_collections import ConfigDict

from ferjax import workdir
from ferjax.report import page


class Picture(NamedTuple):
    """A figure and its text.

    Attributes:
      file: its name.
      drawing: the figure.
      alt: describes it to those who can't see it.
      caption: tells what it shows.
    """

    file: str
    drawing: Figure
    alt: str
    caption: str


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
                picture.drawing.savefig(self._folder / picture.file)
            parts.append(page.figure(picture.file, picture.alt, picture.caption))
        return "\n".join(parts)


def configuration(config: ConfigDict, folder: Path) -> str:
    """Returns the HTML of a run's config, versions and devices, folded away."""
    path = folder / "config.json"
    saved = json.loads(path.read_text()) if path.exists() else {}
    environment = {name: value for name, value in saved.items() if name != "config"}
    parts = [page.details("Configuration", _fields(json.loads(config.to_json_best_effort())))]
    if environment:
        parts.append(page.details("Versions and devices", _fields(environment)))
    return "\n".join(parts)


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


def _fields(settings: dict[str, Any]) -> str:
    values = workdir.flat(settings).items()
    return page.fields({x: v if isinstance(v, str) else json.dumps(v) for x, v in values})
