"""What reports of all kinds have in common: pictures with their words, and what a run was."""

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
    """A figure and its words: the file's name, for those who can't see it, and what to look for."""

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
        """The HTML of the pictures, saved."""
        parts = []
        for picture in pictures:
            with warnings.catch_warnings():  # a script that the font lacks is drawn as boxes
                warnings.filterwarnings("ignore", "Glyph .* missing from font")
                picture.drawing.savefig(self._folder / picture.file)
            parts.append(page.figure(picture.file, picture.alt, picture.caption))
        return "\n".join(parts)


def configuration(config: ConfigDict, folder: Path) -> str:
    """The HTML of a run's config and of what it ran with, folded away."""
    path = folder / "config.json"
    saved = json.loads(path.read_text()) if path.exists() else {}
    circumstances = {name: value for name, value in saved.items() if name != "config"}
    parts = [page.details("Configuration", _fields(json.loads(config.to_json_best_effort())))]
    if circumstances:
        parts.append(page.details("Versions and devices", _fields(circumstances)))
    return "\n".join(parts)


def duration(seconds: float) -> str:
    """For people to read."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def percent(share: float) -> str:
    """A probability in whole per cent; what would be rounded to none or all is said to be near."""
    if 0.005 <= share < 0.995:
        return f"{share:.0%}"
    return "<1%" if share < 0.5 else ">99%"


def _fields(settings: dict[str, Any]) -> str:
    values = workdir.flat(settings).items()
    return page.fields({x: v if isinstance(v, str) else json.dumps(v) for x, v in values})
