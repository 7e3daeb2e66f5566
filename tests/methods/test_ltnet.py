"""LTNet: its losses by hand, what its options do, and a truth that the mixture cannot find."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import parallel, train
from ferjax.data import crowd
from ferjax.errors import UserError
from ferjax.methods import coders, e2e_fc, ltnet, supervised
from ferjax.nn import transition
from ferjax.writers import MetricsFile
from tests import tiny
from tests.methods import problem

PLAIN = {f"augment.{chance}": 0.0 for chance in ("flip", "jitter_affine", "erase")}


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_tiny_network(patch)
        yield


def config(transitions=None, **changes):
    """The baseline's recipe with LTNet's options."""
    names = ("loss", "coder_weights", "method", "reduction")
    own = {name: changes.pop(name) for name in names if name in changes}
    made = tiny.stage_config("baseline", **{"teachers.optimizer.name": "sgd"} | PLAIN | changes)
    made.needs = {}
    made.method, made.loss, made.coder_weights, made.reduction = "ltnet", "paper", (), ""
    made.transition = {
        "constraint": "project",
        "epsilon": 1e-2,
        "shared": False,
        "start": "identity",
        "matrices": (),
        "delta": 0.01,
        "optimizer": "",
        "rate": 1.0,
        "clip": 0.0,
        "weight_decay": 0.0,
        "trace": 0.0,
        "freeze_epochs": 0.0,
    }
    made.update(own)
    made.transition.update(transitions or {})
    return made


def info(**changes):
    """Anna and Ben each annotated some faces."""
    annotations = np.zeros((80, 2), np.int32)
    annotations[:40, 1] = -1
    return problem.info(annotations=annotations, **changes)


def spoken():
    """A batch in which Ben says nothing of three faces, and nobody anything of the last."""
    batch = problem.batch()
    annotations = batch["annotations"].at[2:5, 1].set(-1).at[-1].set(-1)
    return batch | {"annotations": annotations}


def started(made, inputs=None):
    return jax.jit(made.init)(jax.random.key(0), inputs or {})


def matrices_of(state):
    return np.asarray(state.params["transition"]["matrices"])


def logits_of(made, state, batch):
    return problem.logits_of(made, coders.network_of(state.weights), state, batch)


def expected_costs(made, state, batch, weights):
    """−w_c·log(pᵀT^c)[y^c] of each annotation, 0 where there is none; float64 NumPy."""
    probs = np.exp(problem.log_softmax(logits_of(made, state, batch)))
    said = np.einsum("bi,cij->bcj", probs, np.asarray(matrices_of(state), np.float64))
    given = np.asarray(batch["annotations"])
    each = -np.log(np.take_along_axis(said, np.maximum(given, 0)[..., None], axis=2)[..., 0])
    return np.where(given >= 0, each * weights, 0), given >= 0


@pytest.mark.parametrize("weights", [(), (3.0, 0.5)])
def test_the_loss_is_that_of_the_paper(weights):
    made = config(coder_weights=weights)
    learner = ltnet.make(made, info())
    state, batch = started(learner), spoken()
    _, metrics = jax.jit(learner.train_step)(state, batch)
    costs, given = expected_costs(made, state, batch, np.array(weights or (1.0, 1.0)))
    expected = costs.sum() / given.any(axis=1).sum()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_coder_mean_averages_over_each_coders_own_annotations():
    """Ben annotated four of the eight faces, Anna seven: each mean counts once."""
    made = config(coder_weights=(3.0, 0.5), reduction="coder_mean")
    learner = ltnet.make(made, info())
    state, batch = started(learner), spoken()
    _, metrics = jax.jit(learner.train_step)(state, batch)
    costs, given = expected_costs(made, state, batch, np.array([3.0, 0.5]))
    assert given.sum(axis=0).tolist() == [7, 4]
    np.testing.assert_allclose(metrics["loss"], costs.sum(0) @ (1 / given.sum(0)), rtol=1e-5)


@pytest.mark.parametrize("loss", ltnet.LOSSES)
def test_each_loss_is_reduced_as_in_its_source_unless_told_otherwise(loss):
    """Every coder annotates every face: the two reductions differ by nothing then."""
    named = {"paper": "faces", "released": "coder_mean"}[loss]
    values = []
    for reduction in ("", named):
        learner = ltnet.make(config(loss=loss, reduction=reduction), info())
        _, metrics = jax.jit(learner.train_step)(started(learner), spoken())
        values.append(float(metrics["loss"]))
    assert values[0] == values[1]


@pytest.mark.parametrize(("loss", "delta"), [("paper", 0.01), ("released", 0.001)])
def test_a_negative_delta_is_that_of_the_losss_source(loss, delta):
    first, second = (
        started(ltnet.make(config({"delta": chosen}, loss=loss), info()))
        for chosen in (-1.0, delta)
    )
    tiny.assert_same(first.params, second.params)


def test_the_released_loss_by_hand_and_its_bounds():
    """p = (0.8, 0.2) and T = I: log(e^0.8 + e^0.2) − 0.8 for a label 0. Of ten classes the surest
    right network pays log(e + 9) − 1 = 1.461, the surest wrong one 1 more."""
    logits = jnp.log(jnp.array([[0.8, 0.2]]))
    cost = ltnet.annotation_losses("released", logits, jnp.eye(2)[None], jnp.array([[0]]))
    np.testing.assert_allclose(cost, [[np.log(np.exp(0.8) + np.exp(0.2)) - 0.8]], rtol=1e-6)
    sure = jnp.where(jnp.arange(10)[None] == 3, 100.0, 0.0)
    right, wrong, none = (
        float(ltnet.annotation_losses("released", sure, jnp.eye(10)[None], jnp.array([[y]]))[0, 0])
        for y in (3, 4, -1)
    )
    assert (round(right, 3), round(wrong, 3), none) == (1.461, 2.461, 0)


@pytest.mark.parametrize("constraint", transition.CONSTRAINTS)
def test_a_step_moves_network_and_matrices_and_keeps_rows_distributions(constraint):
    made = config({"constraint": constraint, "rate": 100.0})
    learner = ltnet.make(made, info())
    state = started(learner)
    step = jax.jit(learner.train_step)
    after, _ = step(state, spoken())
    after, _ = step(after, spoken())
    assert (matrices_of(after) != matrices_of(state)).any()
    learnt = ltnet.learnt_matrices(made, after)
    np.testing.assert_allclose(learnt.sum(axis=-1), 1, rtol=1e-5)
    assert (learnt >= 0).all()
    said = problem.predict(made, after, spoken()["image"])
    names = [head.name for head in problem.prediction_of(made).heads]
    assert names == ["truth", "as_anna", "as_ben"]
    assert set(said) == set(names)
    np.testing.assert_allclose(said["as_ben"], np.asarray(said["truth"]) @ learnt[1], rtol=1e-4)


def test_no_batch_moves_an_entry_further_than_the_clipped_gradient():
    """The first step of SGD with Nesterov's momentum of 0.9 goes 1.9 times rate times gradient."""
    moves = {}
    for clip in (0.0, 0.05):
        made = config({"clip": clip})
        learner = ltnet.make(made, info())
        state = started(learner)
        after, _ = jax.jit(learner.train_step)(state, spoken())
        moves[clip] = np.abs(matrices_of(after) - matrices_of(state)) / made.optimizer.learning_rate
    bound = 1.9 * 0.05
    np.testing.assert_allclose(moves[0.05], np.minimum(moves[0.0], bound), atol=5e-4)
    assert (moves[0.0] > bound).any()
    assert (moves[0.0] < bound).any()


def test_matrices_stay_for_the_first_epochs():
    learner = ltnet.make(config({"freeze_epochs": 0.2}), info())  # of ten steps
    state = first = started(learner)
    step = jax.jit(learner.train_step)
    moved = []
    for _ in range(4):
        state, _ = step(state, spoken())
        moved.append(not np.allclose(matrices_of(state), matrices_of(first), atol=1e-7))
    assert moved == [False, False, True, True]


def test_the_rate_of_matrices_falls_to_nothing_by_the_end_of_the_run_however_long_they_stayed():
    """Ten steps, the first two frozen: the last one has an eighth of the rate left."""
    # Adam moves by up to the rate, and logits need no projection.
    chosen = {"freeze_epochs": 0.2, "optimizer": "adam", "constraint": "softmax"}
    made = config(chosen, **{"teachers.optimizer.power": 1.0})
    made.optimizer.epoch_decay = 1.0
    learner = ltnet.make(made, info(total_steps=10))
    state = started(learner)
    step = jax.jit(learner.train_step)
    for _ in range(10):
        before, (state, _) = state, step(state, spoken())
    moved = abs(matrices_of(state) - matrices_of(before)).max() / made.optimizer.learning_rate
    assert 0.06 < moved < 0.15


@pytest.mark.parametrize("name", ["ltnet", "e2e_fc"])
def test_it_never_sees_the_truth(tmp_path, name):
    made = config(method=name)
    states = []
    devices = parallel.find_devices("jit", jax.devices()[:2])
    for place, data in (("honest", tiny.dataset()), ("poisoned", tiny.without_truth())):
        folder = tmp_path / place
        metrics = MetricsFile(folder / "metrics.jsonl")
        training = train.prepare(name, made, data, folder / "stages", metrics, devices)
        states.append(parallel.to_host(train.train(training, {})))
    tiny.assert_same(*states)


def test_the_trace_is_counted_once_and_pushes_the_diagonal_down():
    plain, pressed = (ltnet.make(config({"trace": trace}), info()) for trace in (0.0, 0.5))
    state = started(plain)
    after, metrics = jax.jit(plain.train_step)(state, spoken())
    lower, more = jax.jit(pressed.train_step)(state, spoken())
    trace = np.trace(matrices_of(state), axis1=1, axis2=2).sum()
    np.testing.assert_allclose(more["loss"] - metrics["loss"], 0.5 * trace, rtol=1e-4)
    diagonal = np.diagonal(matrices_of(lower) - matrices_of(after), axis1=1, axis2=2)
    assert (diagonal < 0).all()


def test_it_may_start_from_a_network_that_was_trained_before():
    before = jax.jit(supervised.make(config(), info()).init)(jax.random.key(5), {})
    state = started(ltnet.make(config(), info()), {"network": before})
    tiny.assert_same(state.params["network"], before.params)


@pytest.mark.parametrize("reduction", ["faces", "coder_mean"])
def test_jit_and_pmap_agree(reduction):
    learner = ltnet.make(config({"trace": 0.1}, reduction=reduction), info())
    state, batch = started(learner), spoken()
    one, metrics = jax.jit(learner.train_step)(state, batch)
    two, mapped = problem.mapped(learner.train_step)(state, batch)
    problem.assert_close(two.params, one.params, rtol=1e-4, atol=1e-5)
    problem.assert_close(mapped, metrics, rtol=1e-5)


ERRS = 0.65


def biased(size, seed):
    """Anna calls most faces of class 1 class 0, Ben is right about a fifth of all."""
    images, truth = problem.striped(size, seed)
    rng = np.random.default_rng([seed, 1])
    anna = np.where((truth == 1) & (rng.random(size) < ERRS), 0, truth)
    ben = np.where(rng.random(size) < 0.2, truth, -1)
    return images, truth, np.stack([anna, ben], axis=1).astype(np.int32)


def trained(make, made, label="anna"):
    """The state after 40 epochs on biased faces, and the accuracy of the main head on others."""
    images, _, annotations = biased(240, seed=0)
    rng = np.random.default_rng(1)
    learner = make(made, problem.info(label, annotations=annotations, total_steps=400))
    state, step = started(learner), jax.jit(learner.train_step)
    for rows in np.concatenate([rng.permutation(240).reshape(10, 24) for _ in range(40)]):
        index = jnp.asarray(rows, jnp.int32)
        batch = {"image": images[index], "index": index}
        batch |= {"annotations": jnp.asarray(annotations[rows])}
        state, _ = step(state, problem.with_target(batch))
    test_images, test_truth, _ = biased(200, seed=2)
    main = problem.prediction_of(made).heads[0].name
    found = problem.predict(made, state, test_images)[main]
    return state, (np.argmax(found, axis=1) == test_truth).mean()


def test_it_learns_how_coders_err_and_what_the_truth_is_where_the_mixture_does_not():
    rates = {f"teachers.optimizer.{x}": 1e-2 for x in ("learning_rate", "classifier_rate")}
    made = config({"rate": 3.0}, **rates, **{"teachers.optimizer.name": "adam", "model.width": 8})
    plain = made.copy_and_resolve_references()
    plain.method = "supervised"
    _, mixture = trained(supervised.make, plain, "random")
    state, accuracy = trained(ltnet.make, made)
    assert mixture < 0.85
    assert accuracy > 0.95
    true = np.tile(np.eye(3), (2, 1, 1))
    true[0, 1] = ERRS, 1 - ERRS, 0
    assert np.abs(np.asarray(ltnet.learnt_matrices(made, state)) - true).mean() < 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "old"}, "loss='old' is none of paper, released"),
        (
            {"transitions": {"constraint": "none"}},
            "transition.constraint='none' is none of project",
        ),
        ({"coder_weights": (1.0,)}, "coder_weights: 1 numbers for the 2 coders anna, ben"),
        ({"coder_weights": (1.0, -1.0)}, "coder_weights must be numbers from 0 on"),
        ({"coder_weights": (1.0, float("nan"))}, "coder_weights must be numbers from 0 on"),
        ({"coder_weights": (1.0, float("inf"))}, "coder_weights must be numbers from 0 on"),
        ({"coder_weights": ("1", "2")}, "coder_weights must be numbers from 0 on, not ('1', '2')"),
        ({"transitions": {"optimizer": "best"}}, "transition.optimizer='best' is none of adam"),
        ({"transitions": {"delta": float("nan")}}, "transition.delta must be finite, not nan"),
        ({"reduction": "sum"}, "reduction='sum' is none of faces, coder_mean"),
        ({"transitions": {"rate": -1.0}}, "transition.rate must not be negative"),
        ({"transitions": {"clip": float("nan")}}, "transition.clip must not be negative"),
        ({"transitions": {"start": "magic"}}, "transition.start='magic' is none of identity"),
        (
            {"transitions": {"start": "confusion"}},
            "needs a stage to start from: give the config one",
        ),
        ({"transitions": {"start": "given"}}, "for each of 2 coders, 3 rows of 3 numbers"),
        (
            {"transitions": {"start": "given", "matrices": (((0.5,) * 3,) * 3,) * 2}},
            "every row must be probabilities",
        ),
        (
            {"transitions": {"start": "given", "matrices": (((0.0, 0.5, 0.5),) * 3,) * 2}},
            "but zeros in the column of",
        ),
        ({"transitions": {"start": "dawid_skene"}}, "needs a stage of kind 'infer': name it in"),
    ],
)
def test_a_wrong_setting_is_named(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        ltnet.make(config(**changes), info())


def test_it_may_start_from_matrices_that_are_given_or_that_em_infers():
    given = np.stack([np.eye(3), 0.4 * np.eye(3) + 0.2])
    made = config({"start": "given", "matrices": given.tolist()})
    np.testing.assert_allclose(matrices_of(started(ltnet.make(made, info()))), given, atol=1e-6)
    said = np.random.default_rng(0).integers(-1, 3, (80, 2)).astype(np.int32)
    made = config({"start": "dawid_skene"})
    made.needs.truth = "consensus"
    learner = ltnet.make(made, problem.info(annotations=said))
    consensus = crowd.dawid_skene(said, 3, start="majority", seed=0)
    state = started(learner, {"truth": consensus})
    np.testing.assert_allclose(matrices_of(state), consensus.confusions, atol=1e-6)
    assert ltnet.inputs(made) == ("truth",)
    made.transition.start = "identity"
    assert ltnet.inputs(made) == ()


def test_confusions_follow_goldberger_and_ben_reuven():
    """p(0) = 0.8, 0.5 and labels 0, 1: row 0 is (0.8, 0.5)/1.3, row 1 (0.2, 0.5)/0.7."""
    probs = np.array([[0.8, 0.2], [0.5, 0.5], [0.3, 0.7]])
    found = ltnet.confusions(probs, np.array([[0], [1], [-1]], np.int32))
    np.testing.assert_allclose(found[0], [[0.8 / 1.3, 0.5 / 1.3], [0.2 / 0.7, 0.5 / 0.7]])
    nobody = ltnet.confusions(probs, np.full((3, 1), -1, np.int32))
    np.testing.assert_allclose(nobody, 0.5)


def test_a_noise_adaptation_layer_has_one_matrix_that_starts_from_the_networks_confusion():
    chosen = {"shared": True, "constraint": "softmax", "start": "confusion"}
    made = config(chosen, coder_weights=(0.5, 0.5))
    made.needs.network = "baseline"
    learner = ltnet.make(made, info())
    state = started(learner)
    assert matrices_of(state).shape == (1, 3, 3)
    names = [head.name for head in problem.prediction_of(made).heads]
    assert names == ["truth", "as_everybody"]
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 80)
    begun = learner.begin(state, lambda split: {"train": {"truth": probs}}[split])
    annotations = info().labels["annotations"]
    both = np.repeat(probs, 2, axis=0), annotations.reshape(-1, 1)
    expected = np.maximum(ltnet.confusions(*both), transition.LEAST_SOFTMAX)
    expected /= expected.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(ltnet.learnt_matrices(made, begun), expected, atol=1e-6)
    after, metrics = jax.jit(learner.train_step)(begun, spoken())
    assert np.isfinite(metrics["loss"])
    assert (matrices_of(after) != matrices_of(begun)).any()


def test_e2e_fc_is_a_softmax_layer_per_coder_on_probabilities():
    made = config(method="e2e_fc")
    learner = e2e_fc.make(made, info())
    state, batch = started(learner), spoken()
    layers = state.params["layers"]
    assert layers["kernel"].shape == (2, 3, 3)
    _, metrics = jax.jit(learner.train_step)(state, batch)
    probs = np.exp(problem.log_softmax(logits_of(made, state, batch)))
    said = problem.log_softmax(np.einsum("bi,cij->bcj", probs, layers["kernel"]))
    given = np.asarray(batch["annotations"])
    each = -np.take_along_axis(said, np.maximum(given, 0)[..., None], axis=2)[..., 0]
    expected = np.where(given >= 0, each, 0).sum() / (given >= 0).any(axis=1).sum()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    found = problem.predict(made, state, batch["image"])
    assert set(found) == {"truth", "as_anna", "as_ben"}
    np.testing.assert_allclose(found["as_ben"].sum(axis=1), 1, rtol=1e-5)


def test_coders_without_annotations_or_with_an_unknown_class_are_named():
    silent = np.zeros((80, 2), np.int32)
    silent[:, 1] = -1
    with pytest.raises(UserError, match="no training face was annotated by coder ben"):
        ltnet.make(config(), problem.info(annotations=silent))
    silent[3, 1] = 3
    with pytest.raises(UserError, match="coder ben gives class 3, but there are only 3"):
        ltnet.make(config(), problem.info(annotations=silent))
