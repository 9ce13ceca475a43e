"""``iterand-compress recipes``."""

from __future__ import annotations

import click

from .options import json_option, print_json
from .table import print_table

__all__ = ["command"]


@click.command(
    "recipes",
    short_help="List the shipped recipes, or show one.",
    epilog="Example: iterand-compress recipes cifar10-conv6",
)
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the shipped recipes; of one NAME (or FILE.toml), show every setting as TOML.

    What is printed is a recipe itself: change a copy and give it to train --recipe. Single settings are changed with
    train --set SECTION.KEY=VALUE.
    """
    from ..compress.training.recipe import dense_settings, load_recipe, recipe_names, to_toml

    if name is not None:
        recipe = load_recipe(name)
        if as_json:
            print_json(recipe.model_dump(mode="json"))
        else:
            click.echo(to_toml(recipe, dense_settings(name)), nl=False)
        return
    recipes = [
        {
            "name": known,
            "data": recipe.data.name,
            "model": recipe.model.name,
            "method": recipe.subnetwork.method,
            "sparsity": recipe.subnetwork.sparsity,
            "epochs": recipe.train.epochs,
        }
        for known, recipe in ((known, load_recipe(known)) for known in recipe_names())
    ]
    if as_json:
        print_json({"recipes": recipes})
    else:
        print_table([tuple(recipes[0]), *(tuple(map(str, row.values())) for row in recipes)], left=range(4))
