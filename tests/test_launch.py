"""Several processes of one run: numbers as of one process; stopped, resumed, ended together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ferjax import lock, main, parallel
from ferjax.infer import Inference
from ferjax.truth import Annotations, dawid_skene
from tests import tiny

ROOT = Path(__file__).parents[1]
CONFIG = """
import itertools
import os, signal, time
import jax
from absl import flags
from configs import supervised
from ferjax import preemption
from ferjax.nn import networks
from tests import tiny

networks.NETWORKS[tiny.NETWORK] = tiny.one_block
requested = preemption.requested

calls = itertools.count()  # 0: before the stage

def told():
    "Process 1 alone is told to stop after step 2; slow steps leave time to agree on one."
    if next(calls) == 2 and jax.process_index() == 1:
        signal.raise_signal(signal.SIGTERM)
    time.sleep(0.3)
    return requested()

if "TOLD" in os.environ:
    preemption.requested = told

def get_config():
    config = supervised.get_config()
    config.data.train_size, config.data.test_size, config.data.image_size = 48, 16, 24
    config.model.name, config.model.width = tiny.NETWORK, 4
    config.supervised.batch_size = config.loop.eval_batch_size = 16
    config.supervised.epochs = 10.0
    config.loop.log_steps = 1
    if "ODD" in os.environ:
        config.seed = flags.FLAGS.process
    return config
"""


def launch(
    folder: Path, *arguments: str, config: str = "", **environment: str
) -> subprocess.CompletedProcess:
    """Two processes with one CPU device each; what one launch compiled the next ones reuse."""
    fixed = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "launch/local.py", "--processes=2", "--"]
    (folder / "config.py").write_text(CONFIG)
    config = config or str(folder / "config.py")
    return subprocess.run(
        [*command, f"--config={config}", f"--workdir={folder / 'run'}", *arguments],
        env=os.environ | fixed | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_agree(several: Path, one: Path) -> None:
    """While rounding hasn't grown: the losses of three steps, and the evaluation after them."""
    losses = [[line["loss"] for line in tiny.lines(run, "train")[:3]] for run in (several, one)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert tiny.lines(several, "eval")[0] == tiny.lines(one, "eval")[0]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> Path:
    """The workdir of one process with two devices."""
    folder = tmp_path_factory.mktemp("one")
    place: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_tiny_network(patch)
        two = {mode: parallel.find_devices(mode, jax.devices()[:2]) for mode in parallel.MODES}
        patch.setattr(parallel, "find_devices", two.get)
        exec(CONFIG, place)
        config = place["get_config"]()
        config.supervised.epochs = 1.0
        assert main.execute(config.copy_and_resolve_references(), folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """The workdir of two processes that ran straight to the end."""
    folder = tmp_path_factory.mktemp("two")
    done = launch(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1
    return folder / "run"


def test_two_processes_compute_what_one_does(two_processes, one_process):
    assert_agree(two_processes, one_process)
    assert json.loads((two_processes / "config.json").read_text())["process_count"] == 2


def test_two_processes_compute_what_one_does_with_pmap(tmp_path, one_process):
    done = launch(tmp_path, "--config.parallel=pmap", "--config.supervised.epochs=1")
    assert done.returncode == 0, done.stderr
    assert_agree(tmp_path / "run", one_process)


def test_one_process_told_to_stop_stops_both_and_the_same_command_goes_on(tmp_path, two_processes):
    stopped = launch(tmp_path, TOLD="1")
    assert stopped.returncode == 75, stopped.stderr
    assert "[1] stopped: supervised saved at step" in stopped.stderr
    assert not (tmp_path / "run/stages/supervised/done.json").exists()
    resumed = launch(tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    for split in ("train", "eval"):
        assert tiny.lines(tmp_path / "run", split) == tiny.lines(two_processes, split)


def test_two_processes_infer_the_truth_that_one_does(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        (t, w, t % 3 if rng.random() < 0.7 else rng.integers(3)) for t in range(50) for w in "abc"
    ]
    csv = "task,worker,label\n" + "".join(f"{t},{w},{y}\n" for t, w, y in rows)
    (tmp_path / "labels.csv").write_text(csv)
    asked = f"--config.annotations={tmp_path / 'labels.csv'}"
    done = launch(tmp_path, asked, "--config.tolerance=0.0", config="configs/truth.py")
    assert done.returncode == 0, done.stderr
    found = Inference.load(tmp_path / "run/stages/truth/found.npz")
    annotations = Annotations.from_table(tmp_path / "labels.csv")
    alone = dawid_skene(annotations, prior="diagonal", tolerance=0.0)
    np.testing.assert_allclose(found.posteriors, alone.posteriors, atol=1e-6)
    np.testing.assert_allclose(found.confusions, alone.confusions, atol=1e-6)
    assert json.loads((tmp_path / "run/config.json").read_text())["process_count"] == 2
    assert "not converged" in done.stdout


def test_two_processes_learn_from_an_inferred_truth_and_one_of_them_reports(tmp_path):
    done = launch(tmp_path, "--config.supervised.label=inferred", "--config.supervised.epochs=1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/report/index.html").exists()


def test_a_process_that_fails_alone_ends_the_others(tmp_path):
    failed = launch(tmp_path, ODD="1")
    assert failed.returncode == 1
    assert "[1] error: " in failed.stderr
    assert "seed was 0, is 1" in failed.stderr
    assert "process 1 of 2 ended with exit code 1" in failed.stderr


def start_with(folder: Path, program: str) -> subprocess.Popen:
    """The launcher of two processes of a program that stands for `ferjax.main`."""
    (folder / "ferjax").mkdir()
    (folder / "ferjax" / "main.py").write_text("import os, sys, time\n" + program)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "launch" / "local.py"), "--processes=2", "--", "--flag"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such signal")
def test_processes_end_with_a_launcher_that_is_killed(tmp_path):
    program = "open(f'{os.getpid()}.pid', 'w').close()\ntime.sleep(600)"
    launcher = start_with(tmp_path, program)
    while len(list(tmp_path.glob("*.pid"))) < 2:
        time.sleep(0.01)
    launcher.kill()
    launcher.communicate(timeout=60)  # returns once nobody holds stdout and stderr any more
    for path in tmp_path.glob("*.pid"):
        while lock._start(int(path.stem)) is not None:
            time.sleep(0.01)


def test_a_process_that_dies_is_named_with_its_last_lines(tmp_path):
    program = """
if "--process=1" in sys.argv:
    print(*range(30), sep="\\n", file=sys.stderr, flush=True)
    os.kill(os.getpid(), 9)
time.sleep(600)
"""
    launcher = start_with(tmp_path, program)
    _, error = launcher.communicate(timeout=60)
    assert launcher.returncode == 128 + signal.SIGKILL
    named = error[error.index("process 1 of 2 ended with signal SIGKILL") :].splitlines()
    assert named[1:] == [f"[1] {number}" for number in range(20, 30)]


SRUN = """#!/bin/bash
shift 2  # --kill-on-bad-exit=0 python
exec "$PYTHON" -c '
import jax
from unittest.mock import Mock
from jax._src import distributed, xla_bridge

distributed._jax = Mock()  # the coordination service, which is not there
jax.distributed.initialize()
print(distributed.global_state.num_processes, xla_bridge.CUDA_VISIBLE_DEVICES.value)
'
"""


@pytest.mark.parametrize(("gpus", "taken"), [("8", "0,1,2,3,4,5,6,7"), ("1", "0")])
def test_jax_takes_all_gpus_of_a_slurm_node(tmp_path, gpus, taken):
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "JAX_PLATFORMS": "cpu",
        "SLURM_JOB_ID": "1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_GPUS_ON_NODE": gpus,
    }
    command = ["bash", "launch/slurm.sh", "--config=configs/cct.py"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == f"2 {taken}\n", done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--processes=2", "--process=0"],
        ["--coordinator=localhost", "--processes=2", "--process=0"],
        ["--coordinator=localhost:1", "--processes=2", "--process=2"],
    ],
)
def test_flags_that_name_no_place_among_processes_are_refused(tmp_path, arguments):
    command = [sys.executable, "-m", "ferjax.main", "--config=configs/cct.py", *arguments]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "--coordinator=host:port" in done.stderr
    assert not (tmp_path / "run").exists()
