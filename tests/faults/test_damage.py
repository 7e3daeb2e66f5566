"""A damaged file of a finished run is made again, or named with a way on; see `damage.py`."""

import shutil
from pathlib import Path

import pytest

from ferjax.report import training as training_report
from ferjax.stages import DONE, STAGE
from tests.faults import damage

OWN = Path("stages/supervised")
FINISHED = [
    (Path("config.json"), "garbled", "named"),
    (Path("data.json"), "emptied", "named"),
    (Path("metrics.jsonl"), "cut", "named"),
    (OWN / DONE, "cut", "mended"),
    (OWN / STAGE, "garbled", "mended"),
]


@pytest.fixture(scope="module", autouse=True)
def _no_report():
    """Draws no figures: they are drawn anew by every command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_report, "write", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> damage.Case:
    """A run of training that came to its end."""
    workdir = tmp_path_factory.mktemp("damage") / "run"
    assert damage.run(damage.train, workdir)[0] == 0
    return damage.Case(workdir, damage.train, damage.trained)


@pytest.mark.parametrize(("path", "kind", "expected"), FINISHED)
def test_a_damaged_file_is_made_again_or_named_with_a_way_on(finished, path, kind, expected):
    outcome, said = damage.outcome(finished, path, kind, finished.result(finished.workdir))
    assert outcome == expected, said
    assert path.name in said


def test_what_only_the_last_checkpoint_could_mend_says_what_to_delete(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished.workdir, workdir)
    shutil.rmtree(workdir / OWN / "checkpoints")
    (workdir / OWN / STAGE).write_text("")
    code, said = damage.run(damage.train, workdir)
    assert code == 1
    assert f"error: {workdir / OWN} is done, but" in said
    assert "delete it, and the same command trains the stage again" in said
