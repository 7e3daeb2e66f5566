"""Figures: their text fits, and their axes speak plainly."""

from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text

from ferjax.report import curves, figures
from ferjax.report.figures import Curve
from ferjax.report.figures.text import width

IDS = [f"coder {'W' * 50}{k:04d}" for k in range(4)]  # sixty wide characters


@pytest.fixture(autouse=True)
def _style():
    with matplotlib.rc_context(figures.STYLE):
        yield


def stays_inside(figure) -> bool:
    """Whether nothing that is drawn reaches beyond the picture, by more than a pixel."""
    figure.draw_without_rendering()
    drawn, (wide, high) = figure.get_tightbbox().padded(-0.01), figure.get_size_inches()
    return drawn.x0 >= 0 and drawn.y0 >= 0 and drawn.x1 <= wide and drawn.y1 <= high


def test_a_text_is_shortened_in_its_middle_until_it_fits():
    assert figures.fit("short", 2.0, 10.0) == "short"
    shown = figures.fit(IDS[0], 1.5, 10.0, "bold")
    assert width(shown, 10.0, "bold") <= 1.5 < width(IDS[0], 10.0, "bold")
    assert shown.startswith("cod")
    assert shown.endswith("000")
    assert figures.fit(f"{IDS[0]}\nshort", 1.5, 10.0).endswith("\nshort")


@pytest.mark.parametrize(
    "classes", [["no", "yes"], ["neutral", "happy", "a class of long name " * 3]]
)
@pytest.mark.parametrize("coders", [1, 4])
def test_long_names_stay_inside_matrices(classes, coders):
    confusions = np.tile(np.eye(len(classes)), (coders, 1, 1))
    titles = [f"{name}\n97% of 1,234 right" for name in IDS[:coders]]
    assert stays_inside(figures.confusion_grid(confusions, classes, titles))
    counts = np.eye(len(classes), dtype=np.int64)
    assert stays_inside(figures.confusion_matrix(counts, classes, "a title"))
    assert stays_inside(figures.share_matrix(np.eye(4), IDS, "a title"))


def test_titles_beside_each_other_do_not_touch():
    grid = figures.confusion_grid(np.tile(np.eye(2), (4, 1, 1)), ["no", "yes"], IDS)
    grid.draw_without_rendering()
    boxes = [panel.title.get_window_extent() for panel in grid.axes]
    left = [panel._left_title.get_window_extent() for panel in grid.axes]
    ends = [max(a.x1, b.x1) for a, b in zip(boxes, left, strict=True)]
    assert all(end <= after.x0 for end, after in zip(ends, left[1:], strict=False))


def test_logarithmic_axes_show_numbers_and_no_formulas():
    values = np.repeat([0.1, 0.5], [5000, 3])
    for figure in (
        figures.histogram(values, 1.0, "bits", "tasks"),
        figures.scatter(np.array([1, 20, 3000]), np.array([50.0, 60.0, 70.0]), "labels", "right"),
    ):
        figure.draw_without_rendering()
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert "1,000" in texts
        assert not any("$" in text or "mathdefault" in text for text in texts)


def falling(name, best):
    return Curve(name, np.arange(1.0, 6.0), np.array([0.5, best, 0.65, 0.62, 0.6]))


def test_what_was_best_stands_beside_the_curves_and_not_on_them():
    stages = {
        "one": [falling("one", 0.68)],
        "two": [falling("two", 0.679)],
        IDS[0]: [falling("", 0.9)],
    }
    figure = figures.evaluation_curves(stages)
    assert stays_inside(figure)
    panel = figure.axes[0]
    inside = panel.get_window_extent()
    notes = [text for text in panel.texts if text.get_text()]
    boxes = [Text.get_window_extent(text) for text in notes]  # without their lines to the curves
    texts = {text.get_text() for text in notes}
    assert {"one 60.0, best 68.0", "two 60.0, best 67.9"} < texts
    assert all(box.x0 > inside.x1 for box in boxes)
    boxes.sort(key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))


@pytest.mark.parametrize("count", [1, 20])
def test_weights_of_many_coders_have_room_for_their_names(count):
    group = [Curve(f"{k} {IDS[0]}", np.arange(3.0), np.full(3, 0.9)) for k in range(count)]
    assert stays_inside(figures.weight_curves({"ltnet": group}, "Mean diagonal"))


def test_a_single_epoch_is_drawn_from_its_lines():
    lines = [{"epoch": x, "diagonal/a": 0.5 + x} for x in (0.1, 0.2, 0.3)]
    curve = curves._epoch_means(lines, "diagonal/a")
    np.testing.assert_allclose(curve.values, [0.6, 0.7, 0.8])
    later = curves._epoch_means([*lines, {"epoch": 1.5, "diagonal/a": 0.0}], "diagonal/a")
    np.testing.assert_allclose(later.values, [0.7, 0.0])


def test_long_file_names_stay_below_their_face():
    faces = [figures.Face(np.zeros((8, 8, 1), np.uint8), (IDS[0], "given: sad"), "#000000")] * 7
    figure = figures.face_sheet(faces)
    assert stays_inside(figure)
    figure.draw_without_rendering()
    named = [text.get_window_extent() for text in figure.findobj(Text) if "…" in text.get_text()]
    assert all(a.x1 <= b.x0 for a, b in pairwise(named[:6]))
