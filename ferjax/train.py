"""The training loop, one for all methods: restore → batch → step → log → evaluate → save."""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int32
from ml_collections import ConfigDict

from ferjax import evaluate, parallel, preemption, results
from ferjax.checkpoints import Checkpoints
from ferjax.data import epochs, targets
from ferjax.data.epochs import Epoch
from ferjax.data.pipeline import Batches, check_batch, train_batches
from ferjax.data.record import UNKNOWN, Dataset, Split
from ferjax.errors import UserError
from ferjax.methods import METHODS
from ferjax.methods.method import Info, Method, Prediction, State
from ferjax.nn.networks import network
from ferjax.parallel import Devices
from ferjax.progress import Progress
from ferjax.stages import DONE
from ferjax.writers import MetricsFile


class Training(NamedTuple):
    """One stage of training, ready to run.

    Attributes:
      name: of the stage, as it appears in metrics.
      config: the stage's recipe joined with the run's shared parts.
      dataset: what to learn from and to evaluate on; a split `pool` holds the unlabelled faces that
        the method may draw from.
      faces: training faces, then the pool's, with all labels that the method may see.
      rows: of the faces in the training split of the run's dataset.
      given: [N] the one class that stands for what each training face is trained on, or -1.
      epoch: what each epoch draws from, unless the method says so itself.
      folder: of the stage.
      metrics: the run's `metrics.jsonl`.
      devices: where to compute.
      method: the stage's method.
      prediction: how its model predicts.
      sweeper: `prediction`, run over whole splits.
      steps_per_epoch: `config.epoch_steps`, or ⌊rows of an epoch / batch size⌋.
      total_steps: of the stage.
      eval_every: steps from one evaluation to the next.
      save_every: steps from one checkpoint to the next.
    """

    name: str
    config: ConfigDict
    dataset: Dataset
    faces: Split
    rows: Int32[np.ndarray, " rows"]
    given: Int32[np.ndarray, " faces"]
    epoch: Epoch
    folder: Path
    metrics: MetricsFile
    devices: Devices
    method: Method
    prediction: Prediction
    sweeper: evaluate.Sweeper
    steps_per_epoch: int
    total_steps: int
    eval_every: int
    save_every: int

    def checkpoints(self) -> Checkpoints:
        """Opens the stage's last checkpoints; close them."""
        return Checkpoints(self.folder / "checkpoints", self.config.loop.keep)

    def lines(self, split: str | None = None) -> list[dict[str, Any]]:
        """Returns what the stage has written to `metrics.jsonl`, about one split or all."""
        lines = self.metrics.read()
        return [x for x in lines if x["stage"] == self.name and split in (None, x["split"])]

    def evaluated_steps(self, upto: int) -> set[int]:
        """Returns the steps up to one after which the stage is evaluated."""
        return results.evaluated_steps(self.eval_every, self.total_steps, upto)

    def initial_state(self, inputs: dict[str, Any]) -> State:
        """Returns the state at step 0, on the host."""
        return jax.device_get(jax.jit(self.method.init)(jax.random.key(self.config.seed), inputs))

    def sweep(self, state: State, split: str) -> evaluate.Predictions:
        """Predicts all faces of a split in row order, by a state on the devices.

        Raises:
          UserError: if the dataset has no such split.
        """
        if split not in self.dataset.splits:
            raise UserError(f"{self.name}: {self.config.method} needs faces of the split {split}")
        return self.sweeper(state.weights, self.dataset.splits[split])

    def next_rows(self, state: State, step: int) -> Int32[np.ndarray, " rows"]:
        """Returns the rows that the epoch of a step draws from."""
        if self.method.rows is not None:
            return self.method.rows(state)
        return self.epoch.rows(step // self.steps_per_epoch)


def prepare(
    name: str,
    config: ConfigDict,
    dataset: Dataset,
    folder: Path,
    metrics: MetricsFile,
    devices: Devices,
    posteriors: Float[np.ndarray, "rows classes"] | None = None,
) -> Training:
    """Checks a stage's config against its data and devices, and prepares its training.

    Args:
      name: of the stage.
      config: its recipe joined with the run's shared parts.
      dataset: of the run.
      folder: of the stage.
      metrics: of the run.
      devices: where to compute.
      posteriors: of truth inference, one row for each training face of the run.

    Raises:
      UserError: if the method is unknown, a batch size is not a multiple of the number of devices
        or exceeds the number of faces, or neither steps nor epochs are positive; or as
        `select_training_data` and the method's `make`.
    """
    check_batch(f"{name}: batch_size", config.batch_size, devices.total)
    check_batch("loop.eval_batch_size", config.loop.eval_batch_size, devices.total)
    if config.method not in METHODS:
        raise UserError(f"{name}: method {config.method!r} is none of {', '.join(METHODS)}")
    if config.epoch_steps < 0:
        raise UserError(f"{name}: epoch_steps must be at least 0, not {config.epoch_steps}")
    entry = METHODS[config.method]
    try:
        selected = select_training_data(dataset, config, posteriors)
        info, epoch, steps_per_epoch = _info(selected, config)
        method = entry.make(config, info)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    model = network(config.model, len(info.classes), info.image_shape)
    prediction = entry.prediction(config, model, info.coders)
    return Training(
        name=name,
        config=config,
        dataset=selected.dataset,
        faces=selected.faces,
        rows=selected.rows,
        given=selected.given,
        epoch=epoch,
        folder=folder,
        metrics=metrics,
        devices=devices,
        method=method,
        prediction=prediction,
        sweeper=evaluate.Sweeper(
            prediction.predict, devices, config.loop.eval_batch_size, config.loop.workers
        ),
        steps_per_epoch=steps_per_epoch,
        total_steps=info.total_steps,
        eval_every=duration(config.loop, steps_per_epoch, "eval_", where="loop."),
        save_every=duration(config.loop, steps_per_epoch, "save_", where="loop."),
    )


class Selected(NamedTuple):
    """The data that a stage learns from; see `Training` for the fields."""

    dataset: Dataset
    faces: Split
    rows: Int32[np.ndarray, " rows"]
    given: Int32[np.ndarray, " faces"]


def select_training_data(
    dataset: Dataset,
    config: ConfigDict,
    posteriors: Float[np.ndarray, "rows classes"] | None = None,
) -> Selected:
    """Selects what a stage trains on: faces of its sets, annotations of its coders, its label.

    Faces that none of its coders annotated are left out, unless the recipe keeps them among the
    training faces (`unlabelled`) or as a pool for the method to draw from (`pool`).

    Raises:
      UserError: for a set or coder that there is not, no annotated face, or a label that the data
        lack.
    """
    unknown = set(config.sets) - set(dataset.sets)
    if unknown:
        raise UserError(
            f"sets: no dataset {min(unknown)!r}, there are {', '.join(dataset.sets) or 'none'}"
        )
    if config.unlabelled and config.pool:
        raise UserError("unlabelled and pool exclude each other")
    dataset = dataset.of_coders(config.coders or dataset.coders)
    dataset = dataset._replace(label=config.label or dataset.label)
    labels = dataset.train.labels
    wanted = np.ones(len(dataset.train.images), bool)
    if config.sets:
        wanted &= np.isin(labels["set"], [dataset.sets.index(name) for name in config.sets])
    annotated = (labels["annotations"] != UNKNOWN).any(axis=1)
    annotated |= np.isfinite(labels["va"]).any(axis=(1, 2))
    train = np.flatnonzero(wanted & (annotated | config.unlabelled))
    pool = np.flatnonzero(wanted & ~annotated) if config.pool else np.empty(0, np.int64)
    if not len(train):
        raise UserError(f"no training face was annotated by {', '.join(dataset.coders)}")
    rows = np.concatenate([train, pool]).astype(np.int32)
    faces = dataset.train if len(train) == len(wanted) else dataset.train.take(rows)
    trained_on = targets.targets(
        faces,
        dataset.label,
        coders=dataset.coders,
        classes=len(dataset.classes),
        seed=config.seed,
        posteriors=None if posteriors is None else posteriors[rows],
    )
    va = targets.valence_arousal(faces.labels["va"])
    known = {"va_target": va} if np.isfinite(va).any() else {}
    faces = faces._replace(labels=faces.labels | {"target": trained_on.probs} | known)
    parts = {"train": faces}
    if len(pool):
        count = np.arange(len(rows), dtype=np.int32)
        parts = {"train": faces.take(count[: len(train)]), "pool": faces.take(count[len(train) :])}
    return Selected(
        dataset._replace(splits=dataset.splits | parts), faces, rows, trained_on.given[: len(train)]
    )


def _info(selected: Selected, config: ConfigDict) -> tuple[Info, Epoch, int]:
    """Collects what the method may know, and plans its epochs."""
    dataset = selected.dataset
    count = len(dataset.train.images)
    if config.balanced and config.set_weights:
        raise UserError("balanced and set_weights exclude each other")
    if config.balanced:
        epoch = epochs.balanced(selected.given, len(dataset.classes), config.seed)
    elif config.set_weights:
        sets = dataset.train.labels.get("set", np.zeros(count, np.int32))
        epoch = epochs.in_proportion(sets, config.set_weights, dataset.sets, config.seed)
    else:
        epoch = epochs.every_face(count)
    if config.batch_size > epoch.size:
        raise UserError(f"batch_size {config.batch_size} exceeds the {epoch.size} training faces")
    steps_per_epoch = config.epoch_steps or epoch.size // config.batch_size
    info = Info(
        classes=dataset.classes,
        coders=dataset.coders,
        image_shape=dataset.image_shape,
        label=dataset.label,
        labels=selected.faces.labels,
        steps_per_epoch=steps_per_epoch,
        total_steps=duration(config, steps_per_epoch),
        sets=dataset.sets,
        faces=count,
        pool=len(selected.rows) - count,
    )
    return info, epoch, steps_per_epoch


def train(training: Training, inputs: dict[str, Any]) -> State:
    """Trains to the end, from the newest checkpoint if there is one.

    Args:
      training: what to train.
      inputs: outputs of other stages, by the names that the method knows.

    Returns:
      The final state, on the devices.

    Raises:
      UserError: if a loss is not finite, naming the step and the last good checkpoint; if the
        disk does not take a checkpoint; or if files are damaged so that it cannot go on.
      Preempted: after saving, when the run was asked to stop.
    """
    total_steps, log_every = training.total_steps, training.config.loop.log_steps
    train_step = parallel.compile_step(training.devices, training.method.train_step)
    with closing(training.checkpoints()) as checkpoints:
        fresh = training.initial_state(inputs)
        restored = checkpoints.restore(fresh)
        _check_restored(training, restored)
        state = restored or _begin(training, fresh)
        step = int(state.step)
        training.metrics.forget(training.name, after_step=step, after_epoch=int(state.epoch))
        state = parallel.replicate(training.devices, state)
        with (
            closing(_progress(training, step)) as progress,
            closing(_Feed(training)) as feed,
            closing(_Best(training)) as best,
        ):
            while step < total_steps:
                if not feed.begun or step % training.steps_per_epoch == 0:
                    state = _end_epochs(training, state, step)
                batch, waited = feed.next(state, step)
                state, metrics = train_step(state, batch)
                step += 1
                stop, last = preemption.requested(), step == total_steps
                evaluates = step % training.eval_every == 0 or last
                saves = step % training.save_every == 0 or last or stop
                try:
                    progress.step(step, metrics, waited)
                    if evaluates or saves or step % log_every == 0:
                        progress.write(step)
                except UserError as error:  # the loss is not finite
                    good = checkpoints.latest() or "none yet"
                    raise UserError(f"{error}; last good checkpoint: {good}") from None
                if evaluates:
                    scores = _evaluate(training, state, step, progress.seconds)
                    best.offer(state, scores.get("validation"))
                if saves:
                    checkpoints.save(state)
                if evaluates or saves:
                    progress.restart()
                if stop and not last:
                    raise preemption.Preempted(f"{training.name} saved at step {step}")
    return state


def _check_restored(training: Training, state: State | None) -> None:
    """Checks that a stage can go on where it was, and warns if it begins again.

    Raises:
      UserError: if it was finished before and nothing is left of its weights, or if the evaluations
        before the checkpoint were lost, which would only show at the end.
    """
    if state is not None:
        steps = training.evaluated_steps(int(state.step))
        lines = training.lines()
        results.check_evaluations(training.metrics.path, training.name, lines, steps)
    elif (training.folder / DONE).exists():
        raise UserError(
            f"{training.folder} is done, but a file of it is damaged and its checkpoints are gone: "
            "delete it, and the same command trains the stage again"
        )
    elif training.lines():
        logging.warning(
            "%s has no checkpoints, but was trained before: it begins again at step 0",
            training.folder,
        )


def restore_finished(training: Training, inputs: dict[str, Any]) -> State:
    """Restores the final state, on the host, of a stage that was trained before.

    Raises:
      UserError: if its last checkpoint is gone.
    """
    with closing(training.checkpoints()) as checkpoints:
        state = checkpoints.restore(training.initial_state(inputs))
    if state is None or int(state.step) != training.total_steps:
        raise UserError(
            f"{training.folder} is done but lacks its last checkpoint: delete it, and the same "
            "command trains the stage again"
        )
    return state


def duration(config: ConfigDict, steps_per_epoch: int, prefix: str = "", where: str = "") -> int:
    """Returns a duration in steps, from `<prefix>steps` if positive, else `<prefix>epochs`.

    Raises:
      UserError: if neither is positive.
    """
    steps = config[f"{prefix}steps"] or round(config[f"{prefix}epochs"] * steps_per_epoch)
    if steps < 1:
        raise UserError(f"{where}{prefix}steps or {prefix}epochs must be positive")
    return steps


class _Feed:
    """Batches on the devices; the pipeline is rebuilt when an epoch draws from other rows."""

    def __init__(self, training: Training):
        self._training = training
        self._rows = np.empty(0, np.int32)
        self._batches: Batches | None = None

    def next(self, state: State, step: int) -> tuple[dict[str, Any], float]:
        """Returns the batch of this step, and the seconds spent waiting for it."""
        start = time.perf_counter()
        training = self._training
        if not self.begun or step % training.steps_per_epoch == 0:
            rows = training.next_rows(state, step)
            if not self.begun or not np.array_equal(rows, self._rows):
                self.close()
                self._rows = rows
                self._batches = train_batches(
                    training.faces,
                    rows,
                    seed=training.config.seed,
                    batch_size=training.config.batch_size,
                    start_step=step,
                    process=(jax.process_index(), jax.process_count()),
                    workers=training.config.loop.workers,
                )
        assert self._batches is not None
        batch = next(self._batches)
        waited = time.perf_counter() - start
        return parallel.shard(training.devices, batch), waited

    @property
    def begun(self) -> bool:
        """Returns whether any batch was asked for."""
        return self._batches is not None

    def close(self) -> None:
        if self._batches is not None:
            self._batches.close()


class _Best:
    """Keeps the state that does best on the validation split, in the stage's folder `best`."""

    def __init__(self, training: Training):
        self._checkpoints: Checkpoints | None = None
        if training.dataset.validation is None:
            return
        self._checkpoints = Checkpoints(training.folder / "best", keep=1)
        kept = self._checkpoints.latest_step()  # not the best line: a kill may have come between
        score = evaluate.SCORES[training.prediction.heads[0].kind]
        measured = training.lines("validation")
        self._score = max((x[score] for x in measured if x["step"] == kept), default=-np.inf)

    def offer(self, state: State, score: float | None) -> None:
        """Saves a state whose score on the validation split is better than all before it."""
        if self._checkpoints is not None and score is not None and score > self._score:
            self._score = score
            self._checkpoints.save(state)

    def close(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()


def _progress(training: Training, start: int) -> Progress:
    spent = max((line.get("seconds", 0.0) for line in training.lines()), default=0.0)
    return Progress(
        training.name,
        training.metrics,
        training.method.metrics,
        start=start,
        total_steps=training.total_steps,
        steps_per_epoch=training.steps_per_epoch,
        batch_size=training.config.batch_size,
        spent=spent,
    )


def _begin(training: Training, state: State) -> State:
    """Lets the method change a fresh state, on the host, before the first step."""
    if training.method.begin is None:
        return state
    on_devices = parallel.replicate(training.devices, state)
    return training.method.begin(state, partial(training.sweep, on_devices))


def _end_epochs(training: Training, state: State, step: int) -> State:
    """Runs `end_epoch` for epochs whose steps are done; after a kill at the boundary, once."""
    if training.method.end_epoch is None:
        return state
    while int(state.epoch) < step // training.steps_per_epoch:
        state, metrics = training.method.end_epoch(state, partial(training.sweep, state))
        state = parallel.replicate(training.devices, state.replace(epoch=state.epoch + 1))
        training.metrics.write(
            stage=training.name,
            split="epoch",
            step=step,
            epoch=float(int(state.epoch)),
            **{name: float(value) for name, value in metrics.items()},
        )
    return state


def _evaluate(
    training: Training, state: State, step: int, seconds: Callable[[], float]
) -> dict[str, float]:
    """Measures the test splits and the validation split; returns the main head's score of each."""
    dataset, heads = training.dataset, training.prediction.heads
    splits = {"eval" if name == "test" else f"eval/{name}": x for name, x in dataset.tests.items()}
    if dataset.validation is not None:
        splits["validation"] = dataset.validation
    scores = {}
    for name, split in splits.items():
        right = evaluate.right_classes(split, len(dataset.classes), dataset.label == "multi_target")
        predictions = training.sweeper(state.weights, split)
        measures = evaluate.measure(heads, predictions, split, right)
        training.metrics.write(
            stage=training.name,
            split=name,
            step=step,
            epoch=step / training.steps_per_epoch,
            **measures,
            seconds=seconds(),
        )
        scores[name] = measures[evaluate.SCORES[heads[0].kind]]
    return scores
