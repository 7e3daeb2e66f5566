"""What a method may do between epochs: relabel faces, draw from the pool, look at predictions."""

import itertools

import numpy as np
import pytest

from configs import recipes
from ferjax import losses, parallel, preemption, train
from ferjax.errors import UserError
from ferjax.methods import METHODS, Entry, stack
from ferjax.methods.stack import Loss
from tests import tiny

LABELLED, POOL = 28, 12  # of `tiny.partly_labelled`


def make(config, info):
    """Learns from targets that are rewritten after every epoch, and then also from the pool."""

    def loss(outputs, view):
        target = view.faces["target"][view.batch["index"]]
        everyone = target.sum(axis=1)
        return Loss(view.mean(losses.cross_entropy(outputs["class"], target), everyone))

    def rows(state):
        labelled = np.arange(info.faces, dtype=np.int32)
        if int(state.epoch) == 0:
            return labelled
        return np.concatenate([labelled[4:], info.faces + np.arange(4, dtype=np.int32)])

    def end_epoch(state, sweep):
        probs = np.concatenate([sweep("train")["class"], sweep("pool")["class"]])
        assert len(sweep("validation")["class"]) == 20
        faces = parallel.to_host(state.faces)
        faces["target"] = faces["target"] / 2 + probs / 2
        return state.replace(faces=faces), {"pooled": float(info.pool)}

    start = info.labels["target"].copy()
    method = stack.one_network(config, info, loss, faces={"target": start})
    return method._replace(rows=rows, end_epoch=end_epoch)


@pytest.fixture(autouse=True)
def _relabelling(monkeypatch):
    tiny.use_tiny_network(monkeypatch)
    monkeypatch.setitem(METHODS, "relabelling", Entry(make))


def prepare(folder, mode="jit", validation=True):
    recipe = tiny.joined(recipes.training("relabelling", pool=True, epochs=3.0, batch_size=8))
    data = tiny.partly_labelled()
    data = data.with_split("validation", tiny.split(20, seed=7)) if validation else data
    devices = parallel.find_devices(mode, tiny.jax.devices()[:2])
    return tiny.prepare(folder, "relabelling", data=data, devices=devices, recipe=recipe)


@pytest.mark.parametrize("mode", parallel.MODES)
def test_targets_are_rewritten_and_the_pool_drawn_from_even_after_a_kill(
    tmp_path, monkeypatch, mode
):
    straight = prepare(tmp_path / "straight", mode)
    assert (len(straight.dataset.train.images), len(straight.dataset.splits["pool"].images)) == (
        LABELLED,
        POOL,
    )
    assert straight.steps_per_epoch == LABELLED // 8, "an epoch's length counts labelled faces"
    expected = parallel.to_host(train.train(straight, {}))
    for stop in (3, 1):  # at the boundary of the first epoch, and one step later
        steps = itertools.count(1)
        monkeypatch.setattr(
            preemption, "requested", lambda steps=steps, stop=stop: next(steps) == stop
        )
        with pytest.raises(preemption.Preempted):
            train.train(prepare(tmp_path / "killed", mode), {})
    monkeypatch.setattr(preemption, "requested", lambda: False)
    resumed = parallel.to_host(train.train(prepare(tmp_path / "killed", mode), {}))
    tiny.assert_same(resumed, expected)
    target = resumed.faces["target"]
    assert target.shape == (LABELLED + POOL, 2)
    assert (target[LABELLED:] > 0).any(), "pool faces got targets"
    ends = [(x["epoch"], x["pooled"]) for x in tiny.lines(tmp_path / "killed", "epoch")]
    assert ends == [(1.0, POOL), (2.0, POOL)]


def test_a_split_that_there_is_not_is_named(tmp_path):
    with pytest.raises(UserError, match="relabelling needs faces of the split validation"):
        train.train(prepare(tmp_path, validation=False), {})
