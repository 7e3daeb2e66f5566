"""The CCT paper's sweeps: number of networks (Table 8), temperature U (Fig. 5), β (Fig. 2)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ferjax import results
from ferjax.errors import UserError

Recipes = dict[str, ConfigDict]


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
                for count in config.network_counts
            ]
        )
    values, name = {
        "temperature": (config.temperatures, _at_temperature),
        "beta": (config.betas, _at_beta),
    }[config.sweep]
    lines = [f"{config.sweep:>11}  accuracy"]
    return "\n".join(lines + [f"{value:>11}  {per_cent[name(value)]:>8}" for value in values])


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
