"""The CCT paper's sweeps: number of networks (Table 8), temperature U (Fig. 5), β (Fig. 2)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ferjax import results
from ferjax.errors import UserError


class Cell(NamedTuple):
    """A stage of training by one recipe.

    Attributes:
      name: of the stage.
      recipe: the stage's config.
      needs: the stages whose final states it takes, by the name that its method knows them by.
    """

    name: str
    recipe: ConfigDict
    needs: dict[str, str]


def cells(config: ConfigDict) -> tuple[Cell, ...]:
    """Every training of the sweep `config.sweep`.

    Raises:
      UserError: for an unknown sweep.
    """
    if config.sweep not in _CELLS:
        raise UserError(f"sweep={config.sweep!r} is none of {', '.join(_CELLS)}")
    return _CELLS[config.sweep](config)


def summarise(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """`result.json` of a sweep: the accuracy of the final weights' main head, cell by cell."""
    names = tuple(cell.name for cell in cells(config))
    stages = results.summarise_stages(names, workdir)
    accuracy = {name: results.main_figures(stages[name])["accuracy"] for name in names}
    return {"sweep": config.sweep, "accuracy": accuracy, "stages": stages}


def format_table(config: ConfigDict, result: dict[str, Any]) -> str:
    """The sweep as the paper prints it; accuracies of the last epoch in per cent."""
    per_cent = {name: f"{100 * value:.2f}" for name, value in result["accuracy"].items()}
    if config.sweep == "networks":
        lines = ["networks  without consistency  with consistency"]
        return "\n".join(
            lines
            + [
                f"{count:>8}  {per_cent[_alone(count)]:>19}  {per_cent[_agreeing(count)]:>16}"
                for count in config.networks
            ]
        )
    values, name = {
        "temperature": (config.temperatures, _at_temperature),
        "beta": (config.betas, _at_beta),
    }[config.sweep]
    lines = [f"{config.sweep:>11}  accuracy"]
    return "\n".join(lines + [f"{value:>11}  {per_cent[name(value)]:>8}" for value in values])


def _networks(config: ConfigDict) -> tuple[Cell, ...]:
    found = []
    for count in config.networks:
        found.append(_cell(_alone(count), config.teachers, networks=count, lambda_max=0.0))
        found.append(_cell(_agreeing(count), config.teachers, networks=count))
    return tuple(found)


def _temperatures(config: ConfigDict) -> tuple[Cell, ...]:
    students = (
        _cell(_at_temperature(value), config.student, {"teachers": "teachers"}, temperature=value)
        for value in config.temperatures
    )
    return (_cell("teachers", config.teachers), *students)


def _betas(config: ConfigDict) -> tuple[Cell, ...]:
    return tuple(_cell(_at_beta(value), config.teachers, beta=value) for value in config.betas)


def _cell(
    name: str, recipe: ConfigDict, needs: dict[str, str] | None = None, **changes: Any
) -> Cell:
    changed = recipe.copy_and_resolve_references()
    changed.update(changes)
    return Cell(name, changed, needs or {})


def _alone(count: int) -> str:
    return f"networks_{count}_without_consistency"


def _agreeing(count: int) -> str:
    return f"networks_{count}_with_consistency"


def _at_temperature(value: float) -> str:
    return f"temperature_{value:g}"


def _at_beta(value: float) -> str:
    return f"beta_{value:g}"


_CELLS: dict[str, Callable[[ConfigDict], tuple[Cell, ...]]] = {
    "networks": _networks,
    "temperature": _temperatures,
    "beta": _betas,
}
