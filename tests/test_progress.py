"""What a run says while it trains: that it compiles, then what is left of the other steps."""

import jax.numpy as jnp
import pytest

from ferjax import progress
from ferjax.writers import MetricsFile


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns, for the bar."""
    now = [1000.0]
    monkeypatch.setattr(progress.tqdm, "monitor_interval", 0)
    begin = progress.Progress._begin_bar

    def begin_bar(self, step):
        bar = begin(self, step)
        bar._time = lambda: now[0]
        bar.start_t = bar.last_print_t = now[0]
        return bar

    monkeypatch.setattr(progress.Progress, "_begin_bar", begin_bar)
    return now


def test_compilation_is_told_and_left_out_of_the_estimate(tmp_path, capsys, clock):
    bar = progress.Progress(
        "baseline",
        MetricsFile(tmp_path / "metrics.jsonl"),
        {"loss": "loss"},
        start=0,
        total_steps=101,
        steps_per_epoch=10,
        batch_size=4,
        spent=0.0,
    )
    assert capsys.readouterr().err == "baseline   compiling\n"
    loss = {"loss": jnp.ones(())}
    clock[0] += 500  # of compiling
    bar.step(1, loss, 0.0)
    for step in range(2, 12):
        clock[0] += 1
        bar.step(step, loss, 0.0)
    bar.settle()
    shown = str(bar._bar)
    bar.close()
    assert "11/101 steps" in shown
    assert "01:" in shown  # 90 steps of a second, and not of 46
