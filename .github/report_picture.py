"""Makes the README's picture of a report from the figures of a finished run.

    python .github/report_picture.py runs/cct

Puts the report's test accuracy above the first row of its labels in doubt and writes
`.github/report.png`.
"""

import sys
from pathlib import Path

from PIL import Image

WIDTH, MARGIN = 1000, 20
ROWS_OF_FACES = 3  # that the figure of labels in doubt has


def main(workdir: str) -> None:
    """Joins two figures of the report in `workdir`."""
    report = Path(workdir) / "report"
    accuracy = scaled(Image.open(report / "test_accuracy.png"))
    doubts = scaled(Image.open(report / "doubts.png"))
    first_row = doubts.crop((0, 0, WIDTH, doubts.height // ROWS_OF_FACES))
    top = accuracy.height + MARGIN
    picture = Image.new("RGB", (WIDTH, top + first_row.height), "white")
    picture.paste(accuracy)
    picture.paste(first_row, (0, top))
    picture.quantize(256).save(Path(__file__).with_name("report.png"), optimize=True)


def scaled(image: Image.Image) -> Image.Image:
    """Scales an image to the picture's width."""
    height = round(WIDTH * image.height / image.width)
    return image.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(sys.argv[1])
