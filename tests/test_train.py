"""The loop: what is resumed, repeated, spread over devices or broken comes out as it should."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import coders, recipes
from ferjax import parallel, preemption, train
from ferjax.errors import UserError
from ferjax.methods import METHODS, Entry, ltnet
from ferjax.methods.method import State
from tests import tiny


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    tiny.use_tiny_network(monkeypatch)


def stop_at(monkeypatch, step: int) -> None:
    """Asks the next run to stop after so many of its steps; 0: never."""
    steps = itertools.count(1)
    monkeypatch.setattr(preemption, "requested", lambda: next(steps) == step)


def test_a_stopped_and_resumed_run_equals_a_straight_one(tmp_path, monkeypatch):
    straight = parallel.to_host(train.train(tiny.prepare(tmp_path / "straight"), {}))
    stop_at(monkeypatch, 3)
    with pytest.raises(preemption.Preempted, match="step 3"):
        train.train(tiny.prepare(tmp_path / "stopped"), {})
    stop_at(monkeypatch, 0)
    resumed = parallel.to_host(train.train(tiny.prepare(tmp_path / "stopped"), {}))
    tiny.assert_same(resumed, straight)
    assert tiny.lines(tmp_path / "stopped", "eval") == tiny.lines(tmp_path / "straight", "eval")
    assert tiny.lines(tmp_path / "stopped", "train") == tiny.lines(tmp_path / "straight", "train")


def prepare_with_coders(folder, recipe) -> train.Training:
    """A stage that learns with transition matrices."""
    recipe.batch_size, recipe.epochs = 16, 2.0
    return tiny.prepare(folder, "coders", recipe=tiny.joined(recipe))


def test_ltnet_stopped_with_its_matrices_still_frozen_equals_a_straight_run(tmp_path, monkeypatch):
    recipe = coders.ltnet()
    recipe.transition.update(freeze_epochs=1.0, optimizer="", rate=10.0)

    def learn(name):
        return parallel.to_host(train.train(prepare_with_coders(tmp_path / name, recipe), {}))

    straight = learn("straight")
    stop_at(monkeypatch, 1)
    with pytest.raises(preemption.Preempted, match="step 1"):
        learn("stopped")
    stop_at(monkeypatch, 0)
    tiny.assert_same(learn("stopped"), straight)
    first, *_, last = (x["diagonal/coder"] for x in tiny.lines(tmp_path / "straight", "train"))
    assert first != last, "the matrices moved after the first epoch"


def test_a_layer_that_starts_from_a_networks_confusion_begins_with_it(tmp_path):
    """The layer's rate is 0, so that it ends as it began."""
    baseline = tiny.prepare(tmp_path, "baseline")
    network = train.train(baseline, {})
    recipe = coders.nal(coders.ltnet()).copy_and_resolve_references()
    recipe.needs.network = "baseline"
    recipe.transition.rate = 0.0
    training = prepare_with_coders(tmp_path, recipe)
    state = parallel.to_host(train.train(training, {"network": parallel.to_host(network)}))
    split = training.dataset.train
    probs = baseline.sweep(network, "train")["class"]
    expected = ltnet.confusions(probs, split.labels["annotations"])
    np.testing.assert_allclose(ltnet.learnt_matrices(training.config, state), expected, atol=1e-5)


def test_a_balanced_run_on_pmap_resumes_in_mid_epoch_and_at_its_end(tmp_path, monkeypatch):
    """The rows are drawn anew each epoch, and the pipeline is rebuilt for them."""
    changes = {"teachers.balanced": True, "teachers.epoch_steps": 3, "teachers.epochs": 3.0}

    def prepare(name):
        devices = parallel.find_devices("pmap", jax.devices()[:2])
        return tiny.prepare(tmp_path / name, "baseline", devices=devices, **changes)

    straight = parallel.to_host(train.train(prepare("straight"), {}))
    for step in (2, 1):  # the second session does one step more, to the epoch's end
        stop_at(monkeypatch, step)
        with pytest.raises(preemption.Preempted):
            train.train(prepare("stopped"), {})
    stop_at(monkeypatch, 0)
    resumed = parallel.to_host(train.train(prepare("stopped"), {}))
    tiny.assert_same(resumed, straight)
    assert int(resumed.step) == 9
    assert tiny.lines(tmp_path / "stopped", "eval") == tiny.lines(tmp_path / "straight", "eval")


def test_a_stage_without_its_checkpoints_says_that_it_begins_again(tmp_path, caplog):
    training = tiny.prepare(tmp_path)
    train._check_restored(training, None)
    assert not caplog.text
    training.metrics.write(stage=training.name, split="train", step=1, epoch=0.5)
    train._check_restored(training, None)
    assert "teachers has no checkpoints, but was trained before: it begins again" in caplog.text


def test_a_stage_that_lost_evaluations_is_not_gone_on_with(tmp_path):
    training = tiny.prepare(tmp_path)  # evaluated after steps 2 and 4
    number = np.array(3, np.int32)
    state = State(number, number, {}, {}, ())
    with pytest.raises(UserError, match=r"lacks the evaluation of teachers at step 2 \(1 in all\)"):
        train._check_restored(training, state)
    training.metrics.write(stage=training.name, split="eval", step=2, epoch=1.0)
    train._check_restored(training, state)


def test_metrics_of_steps_that_will_be_run_again_are_dropped(tmp_path, monkeypatch):
    """As after a kill between a step and its checkpoint: only the first epoch was saved."""
    training = tiny.prepare(tmp_path)
    stop_at(monkeypatch, training.steps_per_epoch)
    with pytest.raises(preemption.Preempted):
        train.train(training, {})
    training.metrics.write(stage="teachers", split="train", step=4, epoch=2.0, loss=1.0)
    training.metrics.write(stage="baseline", split="train", step=4, epoch=2.0, loss=1.0)
    stop_at(monkeypatch, 0)
    train.train(tiny.prepare(tmp_path), {})
    steps = [line["step"] for line in tiny.lines(tmp_path, "train") if line["stage"] == "teachers"]
    assert steps == [1, 2, 3, 4]
    assert any(line["stage"] == "baseline" for line in tiny.lines(tmp_path, "train"))


def test_the_state_that_did_best_on_validation_faces_is_kept(tmp_path, monkeypatch):
    """Their labels are turned round, so that the first evaluation, of the least fit, is best."""
    turned = tiny.split(30, seed=5)
    data = tiny.dataset().with_split("validation", turned._replace(truth=1 - turned.truth))
    changes = {"teachers.epochs": 6.0, "loop.keep": 1}
    stop_at(monkeypatch, 6)
    with pytest.raises(preemption.Preempted):
        train.train(tiny.prepare(tmp_path, data=data, **changes), {})
    stop_at(monkeypatch, 0)
    train.train(tiny.prepare(tmp_path, data=data, **changes), {})
    measured = tiny.lines(tmp_path, "validation")
    assert [line["step"] for line in measured] == [2, 4, 6, 8, 10, 12]
    best = max(measured, key=lambda line: line["accuracy"])
    assert best["accuracy"] > measured[-1]["accuracy"]
    kept = tmp_path / "stages/teachers/best"
    assert [path.name for path in kept.iterdir()] == [str(best["step"])]


def test_methods_never_see_the_truth(tmp_path):
    honest, poisoned = tiny.dataset(), tiny.without_truth()
    inputs = [{}, {}]
    for stage in ("baseline", "teachers", "student"):
        states = [
            train.train(tiny.prepare(tmp_path / name, stage, data=data), known)
            for name, data, known in zip("ab", (honest, poisoned), inputs, strict=True)
        ]
        left, right = map(parallel.to_host, states)
        tiny.assert_same(left, right)
        inputs = [{stage: left}, {stage: right}]


def test_a_loss_that_is_not_finite_names_the_step_and_the_last_checkpoint(tmp_path):
    rates = ("learning_rate", "classifier_rate")
    changes = {f"teachers.optimizer.{rate}": 1e30 for rate in rates} | {"loop.save_steps": 1}
    with pytest.raises(UserError, match=r"teachers: the loss at step [23] is (nan|inf).*checkpo"):
        train.train(tiny.prepare(tmp_path, **changes), {})
    kept = sorted(int(path.name) for path in (tmp_path / "stages/teachers/checkpoints").iterdir())
    assert kept
    assert max(kept) < 3


def test_the_student_learns_from_frozen_teachers_and_is_restored_as_it_was(tmp_path):
    teachers = parallel.to_host(train.train(tiny.prepare(tmp_path), {}))
    inputs = {"teachers": teachers}
    student = parallel.to_host(train.train(tiny.prepare(tmp_path, "student"), inputs))
    again = train.restore_finished(tiny.prepare(tmp_path, "student"), inputs)
    tiny.assert_same(again, student)
    tiny.assert_same(student.frozen, teachers.weights)


def test_the_second_step_compiles_nothing(tmp_path):
    training = tiny.prepare(tmp_path)
    step = parallel.compile_step(training.devices, training.method.train_step)
    state = parallel.replicate(training.devices, training.initial_state({}))
    for number in range(3):
        batch, _ = _feed(training).next(state, number)
        state, _ = step(state, batch)
    assert step._cache_size() == 1


def test_nothing_compiles_after_the_first_epoch(tmp_path, monkeypatch):
    compiled, after_step = [], []

    def listen(event: str, seconds: float, **_) -> None:
        if "backend_compile" in event:
            compiled.append(event)

    def asked() -> bool:  # once a step
        after_step.append(len(compiled))
        return False

    monkeypatch.setattr(preemption, "requested", asked)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        train.train(tiny.prepare(tmp_path, **{"teachers.epochs": 3.0}), {})
    finally:
        jax.monitoring.clear_event_listeners()
    first_of_second_epoch = after_step[2]
    assert first_of_second_epoch > 0
    assert len(compiled) == first_of_second_epoch


def test_each_epoch_is_closed_once_even_after_a_kill_at_its_boundary(tmp_path, monkeypatch):
    closed = []

    def make(config, info):
        plain = METHODS["supervised"].make(config, info)

        def end_epoch(state: State, sweep) -> tuple[State, dict[str, float]]:
            assert len(sweep("train")["class"]) == 40
            closed.append(int(state.step))
            return state, {"closed": 1.0}

        return plain._replace(end_epoch=end_epoch)

    monkeypatch.setitem(METHODS, "closing", Entry(make))
    changes = {"teachers.method": "closing"}
    training = tiny.prepare(tmp_path, **changes)
    stop_at(monkeypatch, training.steps_per_epoch)
    with pytest.raises(preemption.Preempted):
        train.train(training, {})
    stop_at(monkeypatch, 0)
    assert int(train.train(tiny.prepare(tmp_path, **changes), {}).epoch) == 1
    assert closed == [training.steps_per_epoch]
    ends = tiny.lines(tmp_path, "epoch")
    assert [(line["step"], line["epoch"], line["closed"]) for line in ends] == [(2, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teachers.batch_size": 15},
            r"teachers: batch_size must be a positive multiple of the 2 devices",
        ),
        ({"teachers.batch_size": 64}, r"teachers: batch_size 64 exceeds the 40 training faces"),
        (
            {"loop.eval_batch_size": 3},
            r"loop.eval_batch_size must be a positive multiple of the 2 devices",
        ),
        ({"teachers.method": "magic"}, r"teachers: method 'magic' is none of supervised, cct"),
        ({"teachers.epochs": 0.0}, r"teachers: steps or epochs must be positive"),
        ({"teachers.epoch_steps": -1}, r"teachers: epoch_steps must be at least 0, not -1"),
        ({"model.width": 0}, r"model.width must be at least 1, not 0"),
    ],
)
def test_mistakes_in_a_recipe_are_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train.train(tiny.prepare(tmp_path, **changes), {})


@pytest.mark.parametrize(
    ("label", "message"),
    [("nobody", r"label='nobody' is none of majority"), ("votes", r"needs a dataset with votes")],
)
def test_a_label_that_the_data_lack_is_named(tmp_path, label, message):
    with pytest.raises(UserError, match=message):
        tiny.prepare(tmp_path, data=tiny.dataset()._replace(label=label))


LAYOUTS = {
    "one device": ("jit", 1),
    "jit on four": ("jit", 4),
    "pmap on four": ("pmap", 4),
}


def two_heads() -> ConfigDict:
    recipe = tiny.joined(recipes.supervised())
    recipe.model.heads, recipe.model.dropout = ("class", "va"), 0.5
    return recipe


def pair() -> ConfigDict:
    own = {"networks": 2, "forget_rate": 0.4, "ramp_epochs": 2.0, "exponent": 1.0}
    return tiny.joined(recipes.training("co_teaching", **own))


RECIPES = {
    "teachers": lambda: tiny.stage_config("teachers"),
    "student": lambda: tiny.stage_config("student"),
    "co_teaching": pair,
    "elr": lambda: tiny.joined(recipes.training("elr", momentum=0.7, regularisation=3.0)),
    "two heads with dropout": two_heads,
}


def run_steps(
    tmp_path, stage: str, mode: str, count: int, steps: int, dtype=np.float32
) -> tuple[State, list]:
    """Steps on faces that are not all labelled, so that devices hold unlike numbers of labels."""
    devices = parallel.find_devices(mode, jax.devices()[:count])
    trainings = {}
    for name in ("teachers", stage):
        recipe = RECIPES[name]()
        recipe.model.dtype, recipe.batch_size, recipe.unlabelled = np.dtype(dtype).name, 16, True
        trainings[name] = tiny.prepare(
            tmp_path, name, data=tiny.partly_labelled(), devices=devices, recipe=recipe
        )
    training, teachers = trainings[stage], trainings["teachers"].initial_state({})
    step = parallel.compile_step(devices, training.method.train_step)
    state = jax.tree.map(
        lambda x: x.astype(dtype) if x.dtype == np.float32 else x,
        training.initial_state({"teachers": teachers}),
    )
    state = parallel.replicate(devices, state)
    feed, losses = _feed(training), []
    for number in range(steps):
        batch, _ = feed.next(state, number)
        state, metrics = step(state, batch)
        losses.append(float(parallel.to_host(metrics)["loss"]))
    feed.close()
    return parallel.to_host(state), losses


@pytest.mark.parametrize("stage", RECIPES)
def test_layouts_and_modes_agree_in_float64(tmp_path, stage):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        runs = [run_steps(tmp_path, stage, *layout, 20, np.float64) for layout in LAYOUTS.values()]
    for state, losses in runs[1:]:
        np.testing.assert_allclose(losses, runs[0][1], rtol=1e-10)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-10), state, runs[0][0])


def test_layouts_and_modes_agree_in_float32(tmp_path):
    runs = [run_steps(tmp_path, "teachers", *layout, 20)[1] for layout in LAYOUTS.values()]
    for losses in runs[1:]:
        np.testing.assert_allclose(losses[:3], runs[0][:3], rtol=1e-5)
        np.testing.assert_allclose(losses[-1], runs[0][-1], rtol=2e-2)


def test_the_sharded_step_gathers_no_activations(tmp_path):
    devices = parallel.find_devices("jit")
    training = tiny.prepare(tmp_path, devices=devices)
    state = jax.eval_shape(lambda: training.initial_state({}))
    batch = {
        "image": jax.ShapeDtypeStruct((16, 8, 8, 1), jnp.uint8),
        "index": jax.ShapeDtypeStruct((16,), jnp.int32),
        "target": jax.ShapeDtypeStruct((16, 2), jnp.float32),
    }
    step = parallel.compile_step(devices, training.method.train_step)
    text = step.lower(state, batch).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text


def _feed(training: train.Training) -> train._Feed:
    return train._Feed(training)
