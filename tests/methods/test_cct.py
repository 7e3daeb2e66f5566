"""Consensual collaborative training and its distillation against the paper's formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.errors import UserError
from ferjax.methods import cct, stack, supervised
from ferjax.nn.networks import network
from tests import tiny
from tests.methods import problem

STEP = 70  # epoch 7 of 10: past the start of the ramp, before its end


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_tiny_network(patch)
        yield


def config(stage="teachers", **changes):
    """The recipe of a stage; SGD keeps rounding errors as small as they are."""
    sgd = {"teachers.optimizer.name": "sgd", "student.optimizer.name": "sgd"}
    flat = {f"{stage}.{name}": value for name, value in changes.items()}
    return tiny.stage_config(stage, **sgd | flat)


# --- λ ---


def weights(epochs, **changes):
    """λ at the given epochs of a run of 100, so that e_r is 90."""
    settings = {"peak": 0.9, "beta": 0.65, "ramp": 0.9} | changes
    return [float(cct.consensus_weight(jnp.int32(e), 100.0, **settings)) for e in epochs]


def test_lambda_rises_by_the_papers_formula():
    # 0.9·exp(−0.65·(1 − e/90)²): exp(−0.65), exp(−0.65/4) and exp(−0.0065) of 0.9.
    np.testing.assert_allclose(weights([0, 45, 81]), [0.4698412, 0.7650144, 0.8941690], rtol=1e-5)


def test_lambda_is_held_at_its_largest_after_the_ramp():
    np.testing.assert_allclose(weights([90, 91, 99, 150]), 0.9, rtol=1e-6)


def test_lambda_never_falls():
    assert (np.diff(weights(range(0, 100, 7))) >= 0).all()


def test_lambda_falls_again_after_the_ramp_as_released():
    released = weights([81, 90, 99], falls=True)
    np.testing.assert_allclose(released, [0.8941690, 0.9, 0.8941690], rtol=1e-5)


def test_lambda_follows_its_parameters():
    changed = weights([0, 25, 50, 75], peak=0.5, beta=2.0, ramp=0.5)
    expected = 0.5 * np.exp([-2.0, -0.5, 0.0, 0.0])
    np.testing.assert_allclose(changed, expected, rtol=1e-5)


# --- the networks in consensus ---


@pytest.fixture(scope="module")
def pair():
    """Two networks: the method, a state at `STEP`, the compiled step."""
    made = cct.make_teachers(config(), problem.info())
    state = jax.jit(made.init)(jax.random.key(0), {}).replace(step=jnp.int32(STEP))
    return made, state, jax.jit(made.train_step)


@pytest.fixture(scope="module")
def pair_logits(pair):
    """Each network's logits in training mode, network by network, on the batch's own views."""
    _, state, _ = pair

    @jax.jit
    def logits_of(j):
        weights = jax.tree.map(lambda x: x[j], state.weights)
        return problem.logits_of(config(), weights, state)

    return np.stack([logits_of(j) for j in range(2)])


def by_hand(logits, labelled=problem.SIZE):
    """(Σ_j CE, Σ_j Σ_{k≠j} KL) of two networks, each the mean over the labelled faces."""
    classes = problem.batch()["annotations"][:, 0]
    fit = sum(problem.cross_entropy(one, classes) for one in logits)
    first, second = (problem.log_softmax(one) for one in logits)
    apart = (np.exp(first) * (first - second) + np.exp(second) * (second - first)).sum(axis=1)
    return fit[:labelled].mean(), apart[:labelled].mean()


@pytest.mark.parametrize("labelled", [problem.SIZE, 5])
def test_the_loss_is_the_papers_formula_over_the_labelled_faces(pair, pair_logits, labelled):
    _, state, step = pair
    _, metrics = step(state, problem.batch(labelled=labelled))
    weight = 0.9 * np.exp(-0.65 * (1 - 7 / 9) ** 2)
    fit, apart = by_hand(pair_logits, labelled)
    assert apart > 0.01  # networks that start differently disagree
    np.testing.assert_allclose(metrics["lambda"], weight, rtol=1e-5)
    np.testing.assert_allclose(metrics["supervised"], fit, rtol=1e-5)
    np.testing.assert_allclose(metrics["consistency"], apart, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], (1 - weight) * fit + weight * apart, rtol=1e-5)


def test_accuracy_is_given_for_each_network_and_on_average(pair, pair_logits):
    _, state, step = pair
    _, metrics = step(state, problem.batch())
    given = np.asarray(problem.batch()["annotations"][:, 0])
    hits = (pair_logits.argmax(axis=2) == given).mean(axis=1)
    each = [metrics[f"network_{j}/accuracy"] for j in (1, 2)]
    np.testing.assert_allclose(each, hits, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], hits.mean(), rtol=1e-6)


def test_as_released_both_sums_carry_a_third(pair, pair_logits):
    _, state, _ = pair
    made = cct.make_teachers(config(variant="released"), problem.info())
    _, metrics = jax.jit(made.train_step)(state, problem.batch())
    fit, apart = by_hand(pair_logits)
    np.testing.assert_allclose(metrics["supervised"], 0.33 * fit, rtol=1e-5)
    np.testing.assert_allclose(metrics["consistency"], 0.33 * apart, rtol=1e-4)
    weight = metrics["lambda"]
    expected = 0.33 * ((1 - weight) * fit + weight * apart)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_networks_start_differently_and_the_first_as_the_baseline(pair):
    _, state, _ = pair
    kernel = state.params["classifier"]["kernel"]
    assert (kernel[0] != kernel[1]).any()
    baseline = supervised.make(config("baseline"), problem.info())
    alone = jax.jit(baseline.init)(jax.random.key(0), {})
    problem.assert_close(jax.tree.map(lambda x: x[0], state.params), alone.params, rtol=1e-6)


def test_permuting_the_networks_permutes_what_they_become(pair):
    _, state, step = pair

    def swapped(tree):
        return jax.tree.map(lambda x: x[::-1], tree)

    turned = state.replace(params=swapped(state.params), collections=swapped(state.collections))
    for seed in range(3):
        state, metrics = step(state, problem.batch(seed))
        turned, turned_metrics = step(turned, problem.batch(seed))
    problem.assert_close(swapped(turned.params), state.params, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(turned_metrics["loss"], metrics["loss"], rtol=1e-5)
    np.testing.assert_allclose(
        turned_metrics["network_1/accuracy"], metrics["network_2/accuracy"], rtol=1e-6
    )


def test_one_network_without_consensus_is_supervised_training_step_for_step():
    adam = {"teachers.optimizer.name": "adam"}
    alone = {"teachers.networks": 1, "teachers.lambda_max": 0.0}
    info = problem.info()
    collaborative = cct.make_teachers(tiny.stage_config("teachers", **adam | alone), info)
    plain = supervised.make(tiny.stage_config("baseline", **adam), info)
    states, losses = [], []
    for made in (collaborative, plain):
        state, step = jax.jit(made.init)(jax.random.key(3), {}), jax.jit(made.train_step)
        for seed in range(4):
            state, metrics = step(state, problem.batch(seed, labelled=6))
            losses.append(float(metrics["loss"]))
        states.append(state)
    np.testing.assert_allclose(losses[:4], losses[4:], rtol=1e-5)
    of_one = jax.tree.map(lambda x: x[0], states[0].weights)
    problem.assert_close(of_one, states[1].weights, rtol=1e-4, atol=1e-5)


def test_a_step_reads_images_rows_and_targets_only(pair):
    made, state, _ = pair
    poisoned = problem.batch() | {"truth": jnp.full(problem.SIZE, jnp.nan)}
    read = jax.make_jaxpr(made.train_step)(state, poisoned).jaxpr
    used = {id(variable) for equation in read.eqns for variable in equation.invars}
    names = dict(zip(sorted(poisoned), read.invars[-len(poisoned) :], strict=True))
    assert {name for name, variable in names.items() if id(variable) in used} == {
        "image",
        "index",
        "target",
    }


# --- predictions ---


def test_heads_are_the_average_the_vote_and_each_network_in_this_order(pair):
    _, state, _ = pair
    predictions = problem.predict(config(), state, problem.batch()["image"])
    names = [head.name for head in problem.prediction_of(config()).heads]
    assert names == ["average", "vote", "network_1", "network_2"]
    assert set(predictions) == set(names)
    for probs in predictions.values():
        np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)
    average = (predictions["network_1"] + predictions["network_2"]) / 2
    np.testing.assert_allclose(predictions["average"], average, rtol=1e-5)


def test_two_votes_beat_one_however_sure_and_a_tie_goes_to_the_likelier():
    probs = jnp.array(
        [
            [[0.4, 0.3, 0.3], [0.6, 0.3, 0.1]],
            [[0.4, 0.3, 0.3], [0.1, 0.9, 0.0]],
            [[0.0, 0.0, 1.0], [0.3, 0.3, 0.4]],
        ]
    )
    vote = stack.majority_vote(probs)
    # (votes + half the mean probability) / 3.5
    expected = [2 + 0.4 / 3, 0.1, 1 + 0.8 / 3], [1 + 0.5 / 3, 1.25, 1 + 0.25 / 3]
    np.testing.assert_allclose(vote, np.array(expected) / 3.5, rtol=1e-5)
    np.testing.assert_array_equal(vote.argmax(axis=1), [0, 1])
    np.testing.assert_allclose(vote.sum(axis=1), 1, rtol=1e-6)


# --- distillation ---


@pytest.fixture(scope="module")
def teachers(pair):
    """The two networks after a few steps, so that their running statistics mean something."""
    _, state, step = pair
    for seed in range(3):
        state, _ = step(state, problem.batch(seed))
    return state


@pytest.fixture(scope="module")
def distilled(teachers):
    """Variant -> (student, its start, its state and metrics after a step on 5 labelled of 8)."""
    outcomes, state = {}, None
    for variant in ("paper", "released"):
        made = cct.make_student(config("student", variant=variant), problem.info())
        state = state or jax.jit(made.init)(jax.random.key(5), {"teachers": teachers})
        outcomes[variant] = made, state, *jax.jit(made.train_step)(state, problem.batch(labelled=5))
    return outcomes


@pytest.mark.parametrize(("variant", "hard_terms"), [("paper", 1), ("released", 2)])
def test_the_student_minimises_the_papers_distillation_loss(
    distilled, teachers, variant, hard_terms
):
    """Temperature 2, no factor U²; the hard term once, or as released once for each teacher."""
    _, state, _, metrics = distilled[variant]
    made, batch = config("student"), problem.batch()

    @jax.jit
    def logits():
        images = problem.view_of(made, state).images
        v = problem.logits_of(made, state.weights, state)
        model = network(made.model, 3, (8, 8, 1))
        networks = [jax.tree.map(lambda x, j=j: x[j], teachers.weights) for j in range(2)]
        return v, [model.predict(one, images)["class"] for one in networks]

    v, u = jax.tree.map(lambda x: np.asarray(x, np.float64), logits())
    soft = sum(
        -(np.exp(problem.log_softmax(one / 2)) * problem.log_softmax(v / 2)).sum(axis=1)
        for one in u
    )
    hard = problem.cross_entropy(v, batch["annotations"][:, 0]) * (np.arange(problem.SIZE) < 5)
    expected = 0.5 * soft.mean() + 0.5 * hard_terms * hard.mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_the_student_learns_and_its_teachers_stay_as_they_were(distilled, teachers):
    _, before, after, _ = distilled["paper"]
    tiny.assert_same(after.frozen, teachers.weights)
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), before.params, after.params)
    assert all(jax.tree.leaves(moved))


def test_the_student_predicts_with_one_network(distilled):
    _, state, *_ = distilled["paper"]
    assert problem.prediction_of(config("student")).heads == (("class", "class"),)
    probs = problem.predict(config("student"), state, problem.batch()["image"])["class"]
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-5)


# --- a problem to solve ---


def test_consensus_resists_wrong_labels_that_a_network_alone_learns_by_heart():
    changes = {f"teachers.optimizer.{rate}": 1e-2 for rate in ("learning_rate", "classifier_rate")}
    changes |= {f"augment.{chance}": 0.0 for chance in ("flip", "jitter_affine", "erase")}
    changes |= {"model.width": 8, "teachers.networks": 3}
    alone = problem.accuracy_after_wrong_labels(tiny.stage_config("baseline", **changes))
    assert alone["class"] < 0.9
    together = problem.accuracy_after_wrong_labels(tiny.stage_config("teachers", **changes))
    assert all(accuracy > 0.97 for accuracy in together.values())


# --- what a user can get wrong ---


@pytest.mark.parametrize(
    ("field", "value"),
    [("networks", 0), ("lambda_max", 1.5), ("lambda_max", -0.1), ("ramp", 0.0), ("variant", "new")],
)
def test_a_wrong_setting_of_the_teachers_is_named(field, value):
    with pytest.raises(UserError, match=f"teachers.{field}"):
        cct.make_teachers(config(**{field: value}), problem.info())


@pytest.mark.parametrize(("field", "value"), [("temperature", 0.0), ("variant", "new")])
def test_a_wrong_setting_of_the_student_is_named(field, value):
    with pytest.raises(UserError, match=f"student.{field}"):
        cct.make_student(config("student", **{field: value}), problem.info())
