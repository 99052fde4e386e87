"""Traits of a pair for the screen."""

from collections.abc import Sequence
from itertools import groupby

from rich.table import Table
from rich.text import Text

from finer_ray.traits.trait import Trait

NUMBERS = ("rank", "evidence", "in images", "of the other", "stability")


def shown_traits(traits: Sequence[Trait], classes: Sequence[str]) -> list[Table]:
    """A table for each kind and pair of classes.

    Args:
        traits: those of one kind and pair together, ranked.
        classes: names, of the export's manifest.
    """
    groups = groupby(traits, key=lambda trait: (trait.kind, trait.a, trait.b))
    return [_table(list(group), classes) for _, group in groups]


def _table(traits: list[Trait], classes: Sequence[str]) -> Table:
    first = traits[0]
    a, b = classes[first.a], "" if first.b is None else classes[first.b]
    heads = {"pair": f"{a} rather than {b}", "shared": f"{a} and {b}", "class": f"{a} rather than its references"}
    counts = f"{first.images_a} images" + (f" and {first.images_b}" if first.b is not None else "")
    table = Table(title=Text(f"{heads[first.kind]} ({counts})"), title_justify="left")
    for head in NUMBERS:
        table.add_column(head, justify="right")
    named = [head for head in ("part", "attribute", "text") if any(getattr(trait, head) for trait in traits)]
    for head in [*named, "rows that show it most"]:
        table.add_column(head)
    for trait in traits:
        numbers = (trait.mass, trait.prevalence_a, trait.prevalence_b, trait.stability)
        cells = [str(trait.rank), *("-" if value is None else f"{value:.2f}" for value in numbers)]
        cells += [_named(trait, head) for head in named]
        table.add_row(*map(Text, [*cells, " ".join(str(cell.row) for cell in trait.cells)]))
    return table


def _named(trait: Trait, head: str) -> str:
    """A part, an attribute or a text, and how far it is above chance."""
    if head == "part" and trait.part is not None:
        return f"{trait.part} {trait.part_share:.0%} ({trait.part_lift:.1f}x)"
    if head == "attribute" and trait.attribute is not None:
        return f"{trait.attribute} ({trait.attribute_lift:.1f}x)"
    if head == "text" and trait.text is not None:
        return f"{trait.text} ({trait.text_score:.2f})"
    return "-"
