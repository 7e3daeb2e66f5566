"""The CCT paper's sweeps: number of networks (Table 8), temperature U (Fig. 5), β (Fig. 2)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ferjax import results, writers
from ferjax.errors import UserError
from ferjax.report import sweep as sweep_report
from ferjax.report.sweep import Table
from ferjax.runs.train import Run, plan_recipes
from ferjax.stages import Outputs, Plan

Recipes = dict[str, ConfigDict]


def plan(config: ConfigDict, folder: Path) -> Plan:
    """Plans a stage for every cell of the sweep `config.sweep`."""
    if config.sweep not in _SWEEPS:
        raise UserError(f"sweep={config.sweep!r} is none of {', '.join(_SWEEPS)}")
    cells = _SWEEPS[config.sweep](config)

    def finish(run: Run, outputs: Outputs) -> None:
        stages = results.summarise_stages(tuple(cells), folder)
        accuracy = {name: results.main_figures(stages[name])["last"] for name in cells}
        result = {"sweep": config.sweep, "accuracy": accuracy, "stages": stages}
        writers.write_json(folder / "result.json", result | results.cost(stages, folder))
        table = tabulate(config, accuracy)
        sweep_report.write(config, folder, run.dataset, table)
        print(sweep_report.format_table(table))
        print(f"report: {folder / 'report' / 'index.html'}")

    return plan_recipes(cells, config, folder, finish)


def tabulate(config: ConfigDict, accuracy: dict[str, float]) -> Table:
    """Arranges the stages' accuracies as the paper does, in per cent."""
    percent = {name: 100 * value for name, value in accuracy.items()}
    if config.sweep == "networks":
        rows: dict[int | float, list[float]] = {
            count: [percent[name(count)] for name in (_alone, _agreeing, _student_of)]
            for count in config.network_counts
        }
        return Table("networks", ("without consistency", "with consistency", "student"), rows)
    values, name = {
        "temperature": (config.temperatures, _at_temperature),
        "beta": (config.betas, _at_beta),
    }[config.sweep]
    return Table(config.sweep, ("accuracy",), {x: [percent[name(x)]] for x in values})


def _networks(config: ConfigDict) -> Recipes:
    """M networks without and with consistency, and the student of the latter.

    The paper's Table 8 reports the distilled student, as its text says; the average of the networks
    is shown beside it.
    """
    cells = {}
    for count in config.network_counts:
        cells[_alone(count)] = _changed(config.teachers, networks=count, lambda_max=0.0)
        cells[_agreeing(count)] = _changed(config.teachers, networks=count)
        student = _changed(config.student)
        student.needs.teachers = _agreeing(count)
        cells[_student_of(count)] = student
    return cells


def _temperatures(config: ConfigDict) -> Recipes:
    students = {
        _at_temperature(value): _changed(config.student, temperature=value)
        for value in config.temperatures
    }
    return {"teachers": config.teachers} | students


def _betas(config: ConfigDict) -> Recipes:
    return {_at_beta(value): _changed(config.teachers, beta=value) for value in config.betas}


def _changed(recipe: ConfigDict, **changes: Any) -> ConfigDict:
    changed = recipe.copy_and_resolve_references()
    changed.update(changes)
    return changed


def _alone(count: int) -> str:
    return f"networks_{count}_without_consistency"


def _agreeing(count: int) -> str:
    return f"networks_{count}_with_consistency"


def _student_of(count: int) -> str:
    return f"student_of_{count}"


def _at_temperature(value: float) -> str:
    return f"temperature_{value:g}"


def _at_beta(value: float) -> str:
    return f"beta_{value:g}"


_SWEEPS: dict[str, Callable[[ConfigDict], Recipes]] = {
    "networks": _networks,
    "temperature": _temperatures,
    "beta": _betas,
}
