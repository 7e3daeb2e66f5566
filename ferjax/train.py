"""The training loop, one for all methods: restore → batch → step → log → evaluate → save."""

import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32
from ml_collections import ConfigDict

from ferjax import evaluate, parallel, preemption
from ferjax.checkpoints import Checkpoints
from ferjax.data import crowd
from ferjax.data.pipeline import Batches, check_batch, train_batches
from ferjax.data.record import UNKNOWN, Dataset
from ferjax.errors import UserError
from ferjax.methods import METHODS
from ferjax.methods.method import Info, Method, State, check_label
from ferjax.parallel import Devices
from ferjax.progress import Progress
from ferjax.writers import MetricsFile


class Training(NamedTuple):
    """One stage of training, ready to run.

    Attributes:
      name: of the stage, as it appears in metrics.
      config: the stage's recipe joined with the run's shared parts.
      dataset: what to learn from and to evaluate on.
      rows: places of its training faces among those of the run's dataset.
      folder: of the stage.
      metrics: the run's `metrics.jsonl`.
      devices: where to compute.
      method: the stage's method.
      sweep: the method's predictions over whole splits.
      steps_per_epoch: `config.epoch_steps`, or ⌊training faces / batch size⌋.
      total_steps: of the stage.
      eval_every: steps from one evaluation to the next.
      save_every: steps from one checkpoint to the next.
    """

    name: str
    config: ConfigDict
    dataset: Dataset
    rows: Int32[np.ndarray, " rows"]
    folder: Path
    metrics: MetricsFile
    devices: Devices
    method: Method
    sweep: evaluate.Sweeper
    steps_per_epoch: int
    total_steps: int
    eval_every: int
    save_every: int

    def checkpoints(self) -> Checkpoints:
        """The stage's last checkpoints; close them."""
        return Checkpoints(self.folder / "checkpoints", self.config.loop.keep)

    def lines(self, split: str | None = None) -> list[dict[str, Any]]:
        """What the stage has written to `metrics.jsonl`, about one split or all."""
        lines = self.metrics.read()
        return [x for x in lines if x["stage"] == self.name and split in (None, x["split"])]

    def initial_state(self, inputs: dict[str, State]) -> State:
        """The state at step 0, on the host."""
        return jax.device_get(jax.jit(self.method.init)(jax.random.key(self.config.seed), inputs))

    def sweep_training_faces(self, state: State) -> Callable[[], evaluate.Predictions]:
        """What gives a state's predictions of all training faces, in row order."""
        return partial(self.sweep, state, self.dataset.train)


def prepare(
    name: str,
    config: ConfigDict,
    dataset: Dataset,
    folder: Path,
    metrics: MetricsFile,
    devices: Devices,
) -> Training:
    """Checks a stage's config against its data and devices, and makes its method.

    Raises:
      UserError: if the batch doesn't divide by the devices or exceeds the faces, or the recipe has
        no length or no such method.
    """
    check_batch(f"{name}: batch_size", config.batch_size, devices.total)
    check_batch("loop.eval_batch_size", config.loop.eval_batch_size, devices.total)
    if config.method not in METHODS:
        raise UserError(f"{name}: method {config.method!r} is none of {', '.join(METHODS)}")
    try:
        dataset, rows = learnt_from(dataset, config)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    faces = len(dataset.train.images)
    if config.batch_size > faces:
        raise UserError(
            f"{name}: batch_size {config.batch_size} exceeds the {faces} training faces"
        )
    if config.epoch_steps < 0:
        raise UserError(f"{name}: epoch_steps must be at least 0, not {config.epoch_steps}")
    steps_per_epoch = config.epoch_steps or faces // config.batch_size
    total_steps = duration(config, steps_per_epoch, where=f"{name}: ")
    info = Info(
        classes=dataset.classes,
        coders=dataset.coders,
        image_shape=dataset.image_shape,
        label=dataset.label,
        labels=dataset.train.labels,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        sets=dataset.sets,
    )
    check_label(info)
    method = METHODS[config.method](config, info)
    sweep = evaluate.Sweeper(method, devices, config.loop.eval_batch_size, config.loop.workers)
    return Training(
        name=name,
        config=config,
        dataset=dataset,
        rows=rows,
        folder=folder,
        metrics=metrics,
        devices=devices,
        method=method,
        sweep=sweep,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        eval_every=duration(config.loop, steps_per_epoch, "eval_", where="loop."),
        save_every=duration(config.loop, steps_per_epoch, "save_", where="loop."),
    )


def learnt_from(dataset: Dataset, config: ConfigDict) -> tuple[Dataset, Int32[np.ndarray, " rows"]]:
    """What a stage trains on: of its sets, by its coders, with its label.

    Without faces that none of its coders annotated, unless the recipe wants these.

    Returns:
      The dataset, and the places of its training faces among those of the run, ascending.

    Raises:
      UserError: for a set or coder that there is not, no annotated face, or labels that truth
        inference cannot make.
    """
    unknown = set(config.sets) - set(dataset.sets)
    if unknown:
        raise UserError(f"sets: no dataset {min(unknown)!r}, there are {', '.join(dataset.sets)}")
    dataset = dataset.of_coders(config.coders or dataset.coders)
    dataset = dataset._replace(label=config.label or dataset.label)
    labels = dataset.train.labels
    wanted = np.ones(len(dataset.train.images), bool)
    if config.sets:
        wanted &= np.isin(labels["set"], [dataset.sets.index(name) for name in config.sets])
    if not config.unlabelled:
        wanted &= (labels["annotations"] != UNKNOWN).any(axis=1)
    rows = np.flatnonzero(wanted).astype(np.int32)
    if not len(rows):
        raise UserError(f"no training face was annotated by {', '.join(dataset.coders)}")
    if not wanted.all():
        dataset = dataset._replace(train=dataset.train.take(rows))
    if dataset.label == "inferred":
        how = config.inference
        dataset = crowd.infer(dataset, start=how.start, soft=how.soft, seed=config.seed)
    return dataset, rows


def train(training: Training, inputs: dict[str, State]) -> State:
    """Trains to the end, from the newest checkpoint if there is one.

    Args:
      training: what to train.
      inputs: final states of the stages before, by name.

    Returns:
      The final state, on the devices.

    Raises:
      UserError: if a loss is not finite, naming the step and the last good checkpoint, or if the
        disk does not take a checkpoint.
      Preempted: after saving, when the run was asked to stop.
    """
    total_steps, log_every = training.total_steps, training.config.loop.log_steps
    train_step = parallel.compile_step(training.devices, training.method.train_step)
    with closing(training.checkpoints()) as checkpoints:
        fresh = training.initial_state(inputs)
        state = checkpoints.restore(fresh) or _begin(training, fresh)
        step = int(state.step)
        training.metrics.forget(training.name, after_step=step)
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
                    accuracy = _evaluate(training, state, step, progress.seconds)
                    best.offer(state, accuracy.get("validation"))
                if saves:
                    checkpoints.save(state)
                if evaluates or saves:
                    progress.restart()
                if stop and not last:
                    raise preemption.Preempted(f"{training.name} saved at step {step}")
    return state


def restore_finished(training: Training, inputs: dict[str, State]) -> State:
    """The final state, on the host, of a stage that was trained before.

    Raises:
      UserError: if its last checkpoint is gone.
    """
    with closing(training.checkpoints()) as checkpoints:
        state = checkpoints.restore(training.initial_state(inputs))
    if state is None or int(state.step) != training.total_steps:
        raise UserError(
            f"{training.folder} is done but lacks its last checkpoint: delete it to train again"
        )
    return state


def duration(config: ConfigDict, steps_per_epoch: int, prefix: str = "", where: str = "") -> int:
    """A duration in steps, from `<prefix>steps` if positive, else `<prefix>epochs`.

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
        """The batch of this step, and the seconds spent waiting for it."""
        start = time.perf_counter()
        training = self._training
        if not self.begun or step % training.steps_per_epoch == 0:
            rows = training.method.rows(state)
            if not self.begun or not np.array_equal(rows, self._rows):
                self.close()
                self._rows = rows
                self._batches = train_batches(
                    training.dataset.train,
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
        """Whether any batch was asked for."""
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
        measured = training.lines("validation")
        self._accuracy = max((x["accuracy"] for x in measured if x["step"] == kept), default=-1.0)

    def offer(self, state: State, accuracy: float | None) -> None:
        """Saves a state that is better than all before it; `accuracy` on the validation split."""
        if self._checkpoints is not None and accuracy is not None and accuracy > self._accuracy:
            self._accuracy = accuracy
            self._checkpoints.save(state)

    def close(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()


def _progress(training: Training, start: int) -> Progress:
    spent = max((line["seconds"] for line in training.lines()), default=0.0)
    return Progress(
        training.name,
        training.metrics,
        start=start,
        total_steps=training.total_steps,
        steps_per_epoch=training.steps_per_epoch,
        batch_size=training.config.batch_size,
        spent=spent,
    )


def _begin(training: Training, state: State) -> State:
    """A fresh state, on the host, as the method wants to begin with it."""
    if training.method.begin is None:
        return state
    on_devices = parallel.replicate(training.devices, state)
    return training.method.begin(state, training.sweep_training_faces(on_devices))


def _end_epochs(training: Training, state: State, step: int) -> State:
    """Runs `end_epoch` for epochs whose steps are done; after a kill at the boundary, once."""
    if training.method.end_epoch is None:
        return state
    while int(state.epoch) < step // training.steps_per_epoch:
        state = training.method.end_epoch(state, training.sweep_training_faces(state))
        state = state.replace(epoch=state.epoch + 1)
    return state


def _evaluate(
    training: Training, state: State, step: int, seconds: Callable[[], float]
) -> dict[str, float]:
    """Writes the measures of the test and the validation split; returns each one's accuracy."""
    dataset = training.dataset
    multi_target = dataset.label == "multi_target"
    accuracy = {}
    for name, split in (("eval", dataset.test), ("validation", dataset.validation)):
        if split is None:
            continue
        right = evaluate.right_classes(split, len(dataset.classes), multi_target)
        measures = evaluate.measure(training.method, training.sweep(state, split), split, right)
        epoch = step / training.steps_per_epoch
        training.metrics.write(
            stage=training.name,
            split=name,
            step=step,
            epoch=epoch,
            **measures,
            seconds=seconds(),
        )
        accuracy[name] = measures["accuracy"]
    return accuracy
