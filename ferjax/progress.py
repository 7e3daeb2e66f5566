"""The output of a run while it trains: averaged metrics and a progress bar."""

import math
import sys
import time
from collections.abc import Mapping

import jax
import numpy as np
from tqdm import tqdm

from ferjax import parallel
from ferjax.errors import UserError
from ferjax.methods.method import Metrics
from ferjax.writers import MetricsFile

MOST_WEIGHTS = 2
"""Most metrics of kind 'weight' that the bar shows beside the loss."""

BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps, {remaining} left{postfix}"


class Progress:
    """Averages of the steps' metrics, read one step late so that dispatch never waits for them.

    Args:
      stage: name of the stage.
      metrics: the file that lines are written to.
      kinds: of the metrics, see `methods.method`.
      start: steps finished before.
      total_steps: of the stage.
      steps_per_epoch: of the stage.
      batch_size: faces in a global batch.
      spent: seconds that the steps before `start` took.
    """

    def __init__(
        self,
        stage: str,
        metrics: MetricsFile,
        kinds: Mapping[str, str],
        *,
        start: int,
        total_steps: int,
        steps_per_epoch: int,
        batch_size: int,
        spent: float,
    ):
        self._stage, self._metrics, self._kinds = stage, metrics, kinds
        self._steps_per_epoch, self._batch_size = steps_per_epoch, batch_size
        self._pending: tuple[int, Metrics] | None = None
        self._window: list[dict[str, float]] = []
        self._waited = 0.0
        self._since = time.perf_counter()
        self._begin = self._since - spent
        self._total_steps, self._silent = total_steps, jax.process_index() != 0
        self._bar: tqdm | None = None
        if start < total_steps and not self._silent:
            print(f"{stage:<10} compiling", file=sys.stderr, flush=True)

    def step(self, step: int, metrics: Metrics, waited: float) -> None:
        """Takes the metrics of a step just dispatched, and the seconds it `waited` for its data.

        Raises:
          UserError: if the loss of the step before was not finite.
        """
        self.settle()
        self._pending = (step, metrics)
        self._waited += waited
        if self._bar is not None:
            self._bar.update(1)

    def settle(self) -> None:
        """Waits for the metrics of the last step.

        Raises:
          UserError: if its loss was not finite.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        values = {name: float(np.asarray(x)) for name, x in parallel.to_host(metrics).items()}
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"{self._stage}: the loss at step {step} is {values['loss']}; a lower "
                "optimizer.learning_rate may help"
            )
        self._window.append(values)
        if self._bar is None:
            self._bar = self._begin_bar(step)

    def write(self, step: int) -> None:
        """Writes the means since the last line, and shows them on the bar."""
        self.settle()
        if not self._window:
            return
        seconds = max(time.perf_counter() - self._since, 1e-9)
        means = {
            name: sum(values[name] for values in self._window) / len(self._window)
            for name in self._window[0]
        }
        speed = len(self._window) * self._batch_size / seconds
        self._metrics.write(
            stage=self._stage,
            split="train",
            step=step,
            epoch=step / self._steps_per_epoch,
            **means,
            images_per_second=speed,
            data_wait=self._waited / seconds,
            seconds=self.seconds(),
        )
        weights = [name for name in means if self._kinds[name] == "weight"][:MOST_WEIGHTS]
        shown = {name: f"{means[name]:.2f}" for name in weights}
        shown = {"loss": f"{means['loss']:.3f}"} | shown
        assert self._bar is not None  # there were steps
        self._bar.set_postfix(shown | {"images/s": f"{speed:.0f}"}, refresh=False)
        self.restart()

    def seconds(self) -> float:
        """Returns how many seconds the stage has run, including those before a resume."""
        return time.perf_counter() - self._begin

    def restart(self) -> None:
        """Starts a new window, so that evaluation and saving don't count as training time."""
        self._window, self._waited, self._since = [], 0.0, time.perf_counter()

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()

    def _begin_bar(self, step: int) -> tqdm:
        """Begins the bar after the first step, which compiles: the estimate is of the others."""
        return tqdm(
            total=self._total_steps,
            initial=step,
            desc=f"{self._stage:<10}",
            bar_format=BAR,
            file=sys.stderr,
            disable=self._silent,
            mininterval=0.5 if sys.stderr.isatty() else 15,
        )
