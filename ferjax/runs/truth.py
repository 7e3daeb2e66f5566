"""Truth inference on a crowd's annotations; then tables and a report."""

from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ferjax import infer
from ferjax.report import truth as truth_report
from ferjax.stages import Plan, Stage
from ferjax.writers import MetricsFile

MAY_CHANGE = {"annotations", "earlier", "gold", "skills", "table", "truth"}
"""What is in the files is checked by itself."""


def plan(config: ConfigDict, folder: Path) -> Plan:
    """Plans one stage, which infers."""
    crowd = infer.read(config)
    path = folder / "stages" / "truth" / "found.npz"

    def work(_: dict[str, Any]) -> infer.Inference:
        inferred = infer.infer(config, crowd)
        if jax.process_index() == 0:
            infer.log(crowd, inferred, "truth", MetricsFile(folder / "metrics.jsonl"))
            inferred.save(path)
        return inferred

    def finish(_: Any) -> None:
        inferred = infer.Inference.load(path)
        result = infer.write(config, crowd, inferred, folder)
        truth_report.write(config, folder, crowd, inferred, result)
        print(infer.format_result(result))
        print(f"report: {folder / 'report' / 'index.html'}")

    stage = Stage("truth", (), work, lambda _: infer.Inference.load(path))
    return Plan((stage,), infer.fingerprint(crowd), finish)
