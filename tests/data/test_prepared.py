"""Prepared pictures that were damaged are prepared again, whatever was damaged and how."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ferjax.data import prepared
from ferjax.data.record import Names
from tests.faults.damage import DAMAGES


@pytest.fixture
def prepare(tmp_path):
    """Prepares three grey pictures in `tmp_path/cache` and returns their pixels."""
    for value in range(3):
        _, png = cv2.imencode(".png", np.full((8, 8), 100 + value, np.uint8))
        (tmp_path / f"{value}.png").write_bytes(png.tobytes())
    pictures = prepared.Files(tmp_path, Names.of(f"{value}.png" for value in range(3)))

    def run() -> np.ndarray:
        ready = prepared.prepare("greys", pictures, str(tmp_path / "cache"))
        return ready.images(8, 1).faces(np.arange(3))[:, 0, 0, 0]

    return run


def test_whatever_is_damaged_is_prepared_again(prepare, tmp_path, caplog, monkeypatch):
    np.testing.assert_array_equal(prepare(), [100, 101, 102])
    files = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    suffixes = {".json", ".parquet", ".csv", ".array_record-00000-of-00001"}
    assert suffixes <= {path.suffix for path in files}
    for number, path in enumerate(files):
        written = path.read_bytes()
        damage = list(DAMAGES.values())[number % len(DAMAGES)]
        path.write_bytes(damage(written))
        caplog.clear()
        np.testing.assert_array_equal(prepare(), [100, 101, 102])
        assert f"{path} is damaged: all is prepared again" in caplog.text
    monkeypatch.setattr(prepared, "_write", lambda *_: pytest.fail("prepared again"))
    prepare()


def test_what_earlier_versions_prepared_is_used(prepare, tmp_path, monkeypatch):
    prepare()
    (checksums,) = Path(tmp_path, "cache").rglob(prepared.CHECKSUMS)
    checksums.unlink()
    monkeypatch.setattr(prepared, "_write", lambda *_: pytest.fail("prepared again"))
    np.testing.assert_array_equal(prepare(), [100, 101, 102])
