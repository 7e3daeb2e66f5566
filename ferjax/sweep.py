"""The CCT paper's sweeps: number of networks (Table 8), temperature U (Fig. 5), β (Fig. 2)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ferjax import results
from ferjax.errors import UserError

Recipes = dict[str, ConfigDict]


class Table(NamedTuple):
    """Test accuracies of the last epoch in per cent.

    Attributes:
      varied: what was tried with several values.
      columns: what was tried with each.
      rows: the accuracies of each value, one a column.
    """

    varied: str
    columns: tuple[str, ...]
    rows: dict[int | float, list[float]]


def recipes(config: ConfigDict) -> Recipes:
    """The recipe of every stage of the sweep `config.sweep`.

    Raises:
      UserError: for an unknown sweep.
    """
    if config.sweep not in _SWEEPS:
        raise UserError(f"sweep={config.sweep!r} is none of {', '.join(_SWEEPS)}")
    return _SWEEPS[config.sweep](config)


def summarise(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """`result.json` of a sweep: the accuracy of the final weights' main head, stage by stage."""
    names = tuple(recipes(config))
    stages = results.summarise_stages(names, workdir)
    accuracy = {name: results.main_figures(stages[name])["accuracy"] for name in names}
    found = {"sweep": config.sweep, "accuracy": accuracy, "stages": stages}
    return found | results.cost(stages, workdir)


def table(config: ConfigDict, result: dict[str, Any]) -> Table:
    """The sweep as the paper tabulates it, from its `result.json`."""
    per_cent = {name: 100 * value for name, value in result["accuracy"].items()}
    if config.sweep == "networks":
        rows = {x: [per_cent[_alone(x)], per_cent[_agreeing(x)]] for x in config.network_counts}
        return Table("networks", ("without consistency", "with consistency"), rows)
    values, name = {
        "temperature": (config.temperatures, _at_temperature),
        "beta": (config.betas, _at_beta),
    }[config.sweep]
    return Table(config.sweep, ("accuracy",), {x: [per_cent[name(x)]] for x in values})


def format_table(table: Table) -> str:
    """The table that a sweep prints."""
    lines = ["  ".join([f"{table.varied:>11}", *table.columns])]
    for value, accuracies in table.rows.items():
        cells = [
            f"{accuracy:{len(column)}.2f}"
            for column, accuracy in zip(table.columns, accuracies, strict=True)
        ]
        lines.append("  ".join([f"{value:>11}", *cells]))
    return "\n".join(lines)


def _networks(config: ConfigDict) -> Recipes:
    found = {}
    for count in config.network_counts:
        alone = {"networks": count, "lambda_max": 0.0}
        found[_alone(count)] = _changed(config.teachers, **alone)
        found[_agreeing(count)] = _changed(config.teachers, networks=count)
    return found


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


def _at_temperature(value: float) -> str:
    return f"temperature_{value:g}"


def _at_beta(value: float) -> str:
    return f"beta_{value:g}"


_SWEEPS: dict[str, Callable[[ConfigDict], Recipes]] = {
    "networks": _networks,
    "temperature": _temperatures,
    "beta": _betas,
}
