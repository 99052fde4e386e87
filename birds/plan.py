"""Body plans: what the species of a genus have in common beside their attributes."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BodyPlan:
    """Proportions, in scene units of a bird at scale 1 (the scene is 224 wide), and base plumage.

    Attributes:
        length, depth: half axes of the torso.
        upright: how far the torso's axis is raised, degrees.
        head: radius of the head.
        neck: (ahead, up) from where the torso ends to the centre of the head.
        bill, bill_depth: length and depth at its base.
        bill_form: a seed eater's cone, an insect eater's needle, or a dagger.
        crest: height above the crown, 0 for none.
        tail, tail_width: length beyond the torso, and width at its end.
        wing: how far it reaches back, in torso half lengths.
        legs, leg_width: what shows of them, and their thickness.
        colours: of head, back, wing, tail, breast, and of the breast's pattern.
    """

    length: float
    depth: float
    upright: float
    head: float
    neck: tuple[float, float]
    bill: float
    bill_depth: float
    bill_form: Literal["cone", "needle", "dagger"]
    crest: float
    tail: float
    tail_width: float
    wing: float
    legs: float
    leg_width: float
    colours: dict[str, str]


def _colours(head: str, back: str, wing: str, tail: str, breast: str, pattern: str) -> dict[str, str]:
    return {"head": head, "back": back, "wing": wing, "tail": tail, "breast": breast, "pattern": pattern}


PLANS = {
    "reed finch": BodyPlan(
        length=46, depth=34, upright=24, head=25, neck=(5, 5), bill=22, bill_depth=21, bill_form="cone", crest=0,
        tail=44, tail_width=19, wing=0.98, legs=17, leg_width=4.2,
        colours=_colours("#86725c", "#8f6c46", "#69492f", "#57402d", "#cdb083", "#6a4a2c"),
    ),
    "willow warbler": BodyPlan(
        length=46, depth=28, upright=18, head=22.5, neck=(6, 5), bill=17, bill_depth=8, bill_form="needle", crest=0,
        tail=46, tail_width=21, wing=0.95, legs=21, leg_width=3.4,
        colours=_colours("#7f8848", "#7b8443", "#5d6636", "#566031", "#dcd59f", "#8b8a50"),
    ),
    "hill thrush": BodyPlan(
        length=51, depth=35, upright=34, head=25, neck=(5, 7), bill=20, bill_depth=9, bill_form="needle", crest=0,
        tail=42, tail_width=20, wing=0.98, legs=26, leg_width=4.2,
        colours=_colours("#7b6958", "#74604c", "#634f3c", "#5b4939", "#ece1c6", "#4a3524"),
    ),
    "marsh tit": BodyPlan(
        length=41, depth=34, upright=18, head=28, neck=(4, 3), bill=12, bill_depth=9, bill_form="cone", crest=15,
        tail=47, tail_width=16, wing=0.98, legs=15, leg_width=3.8,
        colours=_colours("#667d97", "#7287a0", "#4c627c", "#455a73", "#e2dac8", "#7c776a"),
    ),
    "river kingfisher": BodyPlan(
        length=44, depth=34, upright=40, head=28, neck=(4, 3), bill=46, bill_depth=14, bill_form="dagger", crest=5,
        tail=24, tail_width=18, wing=0.72, legs=8, leg_width=5.0,
        colours=_colours("#2c7cae", "#2c8abb", "#1f6496", "#1c5581", "#dc9650", "#a4602a"),
    ),
    "sand plover": BodyPlan(
        length=50, depth=32, upright=12, head=23, neck=(8, 12), bill=21, bill_depth=9, bill_form="dagger", crest=0,
        tail=24, tail_width=17, wing=1.0, legs=40, leg_width=5.2,
        colours=_colours("#a99270", "#a68d69", "#8c7453", "#6f5b42", "#f0e9da", "#33291f"),
    ),
}  # fmt: skip
