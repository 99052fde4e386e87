"""Draw birds whose differing parts are known: `python -m birds FOLDER`."""

from pathlib import Path
from typing import Annotated

import typer

from birds.scene import SIZE
from birds.shards import write_birds
from finer_ray.errors import exit_on_error


def draw(
    folder: Annotated[Path, typer.Argument(help="Where the shards go.")],
    split: Annotated[str, typer.Option(help="train or test: other seeds.")] = "train",
    per_class: Annotated[int, typer.Option(min=1, help="Pictures of each of the 24 species.")] = 20,
    size: Annotated[int, typer.Option(min=16, max=4096, help="Side in pixels.")] = SIZE,
    skipped: Annotated[int, typer.Option(min=0, help="Pictures of each that are passed over.")] = 0,
    genus: Annotated[str | None, typer.Option(help="Its four species alone, such as 'reed finch'.")] = None,
    mark: Annotated[bool, typer.Option("--mark", help="Put the class's mark into a corner of each.")] = False,
) -> None:
    """Write WebDataset shards with all masks."""
    for path in write_birds(folder, split, per_class, size, mark, skipped=skipped, genus=genus):
        typer.echo(path)


if __name__ == "__main__":
    with exit_on_error():
        typer.run(draw)
