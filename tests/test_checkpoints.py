"""A checkpoint comes back as it was, or not at all, and a damaged one does not stop a run."""

import gc
import resource
import shutil
from contextlib import closing

import jax
import numpy as np
import pytest

from ferjax.checkpoints import Checkpoints
from ferjax.errors import UserError
from ferjax.methods.method import State
from tests import tiny


def state(step: int, size: int = 3) -> State:
    weights = {"layer": {"kernel": np.full((size, 2), step, np.float32), "nothing": {}}}
    number = np.array(step, np.int32)
    return State(number, number, weights, {}, ({}, weights), frozen={"big": np.ones(5)})


def device_state(step: int) -> State:
    return jax.tree.map(jax.numpy.asarray, state(step))


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 1 and 2."""
    with closing(Checkpoints(tmp_path, keep=2)) as checkpoints:
        checkpoints.save(device_state(1))
        checkpoints.save(device_state(2))
    return tmp_path


def restore(folder, template: State) -> State | None:
    with closing(Checkpoints(folder, keep=2)) as checkpoints:
        return checkpoints.restore(template)


def data_files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 100]


def test_the_newest_state_comes_back_with_the_templates_frozen_part(saved):
    template = state(0).replace(frozen={"other": np.zeros(1)})
    found = restore(saved, template)
    tiny.assert_same(found, state(2).replace(frozen={"other": np.zeros(1)}))


def test_an_empty_folder_restores_nothing(tmp_path):
    assert restore(tmp_path / "new", state(0)) is None


def test_only_the_last_ones_are_kept(saved):
    with closing(Checkpoints(saved, keep=2)) as checkpoints:
        checkpoints.save(device_state(3))
    assert sorted(int(path.name) for path in saved.iterdir()) == [2, 3]


def test_a_damaged_newest_checkpoint_falls_back_and_can_be_written_again(saved):
    for path in data_files(saved / "2"):
        path.write_bytes(b"")
    assert int(restore(saved, state(0)).step) == 1
    with closing(Checkpoints(saved, keep=2)) as checkpoints:
        checkpoints.save(device_state(2))
    assert int(restore(saved, state(0)).step) == 2


def test_wrong_numbers_are_found_by_their_checksum(saved, monkeypatch):
    """As after flipped bits on the disk: the arrays of step 1 under the name of step 2."""
    shutil.rmtree(saved / "2" / "state")
    shutil.copytree(saved / "1" / "state", saved / "2" / "state")
    assert int(restore(saved, state(0)).step) == 1
    assert not (saved / "2").exists()


def test_another_models_checkpoint_is_refused_by_name(saved):
    with pytest.raises(UserError, match=r"saved by another model: .*kernel is"):
        restore(saved, state(0, size=4))
    assert (saved / "2").exists()


@pytest.fixture
def no_more_space():
    """When called, no file can grow beyond 50 kB: what a full disk does, as far as Orbax sees."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# Orbax may leave an event loop behind that is closed while a write still waits for it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("when", ["at the next save", "at the end"])
def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before_usable(
    tmp_path, no_more_space, keep, when
):
    message = rf"cannot save a checkpoint in {tmp_path}: File too large.*good checkpoint is .*/1$"

    def run_out_of_space():
        with closing(Checkpoints(tmp_path, keep)) as checkpoints:
            checkpoints.save(large_state(1))
            checkpoints._manager.wait_until_finished()
            no_more_space()
            checkpoints.save(large_state(2))
            if when == "at the next save":
                checkpoints.save(large_state(3))

    with pytest.raises(UserError, match=message):
        run_out_of_space()
    gc.collect()  # the event loop complains here, and not in another test
    with closing(Checkpoints(tmp_path, keep)) as checkpoints:
        assert int(checkpoints.restore(state(0, size=50_000)).step) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name.isdecimal()] == ["1"]


def large_state(step: int) -> State:
    """400 kB of noise, which does not compress."""
    noise = np.random.default_rng(step).normal(size=(50_000, 2)).astype(np.float32)
    weights = {"layer": {"kernel": noise, "nothing": {}}}
    large = state(step).replace(params=weights, opt_state=({}, weights))
    return jax.tree.map(jax.numpy.asarray, large)
