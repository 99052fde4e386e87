"""Anatomy: the outlines of a bird's parts in the scene, from a body plan and a pose."""

from dataclasses import dataclass

import numpy as np

from birds.plan import BodyPlan
from birds.pose import Pose
from birds.svg import Frame, Points, closed, curve, oval

SIZE = 224.0
MARGIN = 7.0

# In half lengths and half depths of the torso; they reach beyond the outline, which bounds them.
TORSO_REGIONS = {
    "belly": [(0.52, 0.30), (0.1, 0.16), (-0.5, 0.28), (-1.02, 0.12), (-1.0, 1.3), (0.0, 1.5), (0.62, 1.4)],
    "breast": [(0.50, -0.42), (0.36, 0.10), (0.34, 0.62), (0.42, 1.3), (1.25, 1.1), (1.5, 0.1), (1.0, -0.6)],
    "rump": [(-0.34, -1.3), (-0.44, -0.4), (-0.52, 0.10), (-0.98, 0.16), (-1.3, -0.2), (-1.0, -1.2)],
}
# In radii of the head.
HEAD_REGIONS = {
    "head": oval(1.06, 1.02, -0.05, 0.0),
    "throat": [
        (0.95, 0.22), (0.42, 0.34), (0.04, 0.72), (-0.02, 1.18), (0.45, 1.42), (1.05, 1.1), (1.3, 0.5),
    ],
    "crown": [
        (1.2, -0.30), (0.72, -0.34), (0.24, -0.52), (-0.30, -0.36), (-0.78, -0.02), (-1.12, 0.06), (-1.3, -0.9),
        (0.0, -1.5), (1.1, -1.1),
    ],
}  # fmt: skip
FACE_REGIONS = {
    "cheek": [(0.50, 0.12), (0.1, 0.02), (-0.40, 0.0), (-0.66, 0.26), (-0.44, 0.60), (-0.02, 0.66), (0.38, 0.40)],
    "eye ring": oval(0.315, 0.305, 0.30, -0.16),
    "eye": oval(0.20, 0.20, 0.30, -0.16),
    "glint": oval(0.06, 0.055, 0.35, -0.23),
}
# In half lengths and half depths of the torso, in the wing's frame.
WING_BAR = [
    (-0.30, -0.62), (-0.20, -0.1), (-0.24, 0.42), (-0.36, 1.0), (-0.56, 1.0), (-0.43, 0.42), (-0.38, -0.1),
    (-0.46, -0.62),
]  # fmt: skip


@dataclass(frozen=True)
class Anatomy:
    """Outlines as SVG paths in a scene of 224 x 224 units.

    Attributes:
        plan, pose: what they were made from.
        torso, head, folded: frames of the torso, the head and the wing.
        foot: where it stands, (x, y).
        outline: of torso and head together.
        regions: closed paths inside of which a part lies, as far as `outline` reaches; also those that bound
            themselves (bill, eye, wing, tail, crest).
        legs: open paths of legs and toes, the far one's first.
    """

    plan: BodyPlan
    pose: Pose
    torso: Frame
    head: Frame
    folded: Frame
    foot: tuple[float, float]
    outline: str
    regions: dict[str, str]
    legs: list[str]


def anatomy(plan: BodyPlan, pose: Pose) -> Anatomy:
    """The outlines of a bird that lies wholly in the picture, placed as its pose says."""
    low, high = _bounds(plan, pose, 1.0)
    scale = min(pose.scale, *(SIZE - 2 * MARGIN) / (high - low))
    low, high = low * scale, high * scale
    # The feet keep off the lower edge, so that there is something to stand on.
    free = np.maximum((SIZE - 2 * MARGIN, SIZE - MARGIN - 22) - (high - low), 0)
    x, y = MARGIN + free * pose.place - low
    return _build(plan, pose, (float(x), float(y)), scale)


def _bounds(plan: BodyPlan, pose: Pose, scale: float) -> tuple[Points, Points]:
    """Corners of everything that is drawn of a bird whose feet are at (0, 0)."""
    torso, head, _ = _frames(plan, pose, (0.0, 0.0), scale)
    points = [_outline(plan, torso, head), head(_bill(plan, pose)), torso(_tail(plan, pose)), np.zeros((1, 2))]
    if plan.crest:
        points.append(head(_crest(plan)))
    every = np.vstack(points)
    return every.min(0), every.max(0)


def _frames(plan: BodyPlan, pose: Pose, foot: tuple[float, float], scale: float) -> tuple[Frame, Frame, Frame]:
    ahead = -1 if pose.mirrored else 1
    tilt = np.radians(plan.upright + pose.tilt)
    centre = (foot[0], foot[1] - scale * (plan.legs + 0.84 * plan.depth))
    torso = Frame(centre, tilt, scale, pose.mirrored)
    shoulder = torso((0.66 * plan.length, -0.40 * plan.depth))
    reach = np.add(plan.neck, pose.stretch) * (ahead, -1) * scale
    head = Frame(tuple(shoulder + reach), np.radians(pose.pitch), scale, pose.mirrored)
    joint = torso((0.36 * plan.length, -0.28 * plan.depth))
    folded = Frame(tuple(joint), tilt + np.radians(pose.wing), scale, pose.mirrored)
    return torso, head, folded


def _build(plan: BodyPlan, pose: Pose, foot: tuple[float, float], scale: float) -> Anatomy:
    torso, head, folded = _frames(plan, pose, foot, scale)
    # A head that turns to the viewer shows its face further ahead.
    ball = Frame((0.0, 0.0), scale=plan.head)
    face = Frame((0.28 * pose.turn * plan.head, 0.0), scale=plan.head)
    egg = (plan.length, plan.depth)
    regions = {
        **{name: closed(torso(np.multiply(points, egg))) for name, points in TORSO_REGIONS.items()},
        **{name: closed(head(ball(points))) for name, points in HEAD_REGIONS.items()},
        **{name: closed(head(face(points))) for name, points in FACE_REGIONS.items()},
        "wing": closed(folded(_wing(plan))),
        "wing bar": closed(folded(np.multiply(WING_BAR, egg))),
        "tail": closed(torso(_tail(plan, pose))),
        "tail tip": closed(torso(_tail(plan, pose, 0.60))),
        "crest": closed(head(_crest(plan))),
        "bill": closed(head(_bill(plan, pose))),
        "gape": curve(head(_gape(plan, pose))),
    }
    outline, legs = closed(_outline(plan, torso, head)), _legs(plan, torso, foot)
    return Anatomy(plan, pose, torso, head, folded, foot, outline, regions, legs)


def _outline(plan: BodyPlan, torso: Frame, head: Frame) -> Points:
    """The hull of an egg and a ball, drawn in a little where it bridges the neck."""
    t = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    egg = np.stack([plan.length * np.cos(t), plan.depth * np.sin(t) * (1 + 0.24 * np.cos(t))], 1)
    ball = oval(plan.head, 0.97 * plan.head, count=60)
    points = np.vstack([torso(egg), head(ball)])
    # The hull's corners are the farthest points along each direction.
    directions = np.stack([np.cos(t), np.sin(t)])
    corners = points[(points @ directions).argmax(0)]
    corners = corners[np.any(corners != np.roll(corners, 1, 0), axis=1)]
    found = []
    for a, b in zip(corners, np.roll(corners, -1, 0), strict=True):
        found.append(a)
        gap = b - a
        length = float(np.hypot(*gap))
        if length > 0.4 * plan.head * torso.scale:
            inward = np.array([-gap[1], gap[0]]) * 0.10
            found += [a + gap * share + inward * 4 * share * (1 - share) for share in (0.2, 0.4, 0.6, 0.8)]
    return np.array(found)


def _bill(plan: BodyPlan, pose: Pose) -> Points:
    """In the frame of the head."""
    r, half = plan.head, plan.bill_depth / 2
    length = plan.bill * (1 - 0.35 * pose.turn)
    base, tip = 0.86 * r, 0.92 * r + length
    full = {"cone": 0.78, "needle": 0.62, "dagger": 0.80}[plan.bill_form]
    middle = base + 0.5 * (tip - base)
    points = np.array([
        (base, -half), (middle, -half * full), (tip, 0.10 * half), (middle, half * full * 0.8), (base, half * 0.9),
        (base - 0.12 * r, 0.0),
    ])  # fmt: skip
    lowered: Points = np.add(points, (0.0, 0.06 * r))
    return lowered


def _gape(plan: BodyPlan, pose: Pose) -> Points:
    """The line between the mandibles."""
    bill = _bill(plan, pose)
    start, end = np.add(bill[5], (0.06 * plan.head, 0.0)), bill[2]
    return np.array([start, start + (end - start) * 0.5 + (0, 0.06 * plan.bill_depth), end])


def _crest(plan: BodyPlan) -> Points:
    r, high = plan.head, plan.crest
    return np.array([
        (0.45 * r, -0.80 * r), (0.05 * r, -0.98 * r - 0.35 * high), (-0.75 * r, -0.95 * r - high),
        (-0.55 * r, -0.85 * r - 0.2 * high), (-0.72 * r, -0.55 * r), (0.0, -0.62 * r),
    ])  # fmt: skip


def _tail(plan: BodyPlan, pose: Pose, start: float = 0.0) -> Points:
    """The tail from a share of its length on, in the frame of the torso."""
    a, half = plan.length, plan.tail_width / 2
    root, reach = -0.72 * a, -(0.28 * a + plan.tail)
    x = np.array([start, 0.5 + start / 2, 0.97, 1.0, 0.97, 0.5 + start / 2, start]) * reach
    widen = 0.62 + 0.38 * np.array([start, 0.5 + start / 2, 0.97])
    upper = np.append(-half * widen, 0.0)
    y = np.concatenate([upper, half * widen[::-1]])
    return Frame((root, -0.04 * plan.depth), np.radians(-pose.tail))(np.stack([x, y], 1))


def _wing(plan: BodyPlan) -> Points:
    """A folded wing in its own frame, whose origin is the joint."""
    a, b = plan.length, plan.depth
    tip = -(0.42 + plan.wing) * a
    return np.array([
        (0.16 * a, 0.10 * b), (0.02 * a, -0.28 * b), (-0.40 * a, -0.36 * b), (0.55 * tip, -0.26 * b),
        (0.86 * tip, -0.02 * b), (tip, 0.24 * b), (0.80 * tip, 0.40 * b), (-0.50 * a, 0.74 * b), (-0.16 * a, 0.76 * b),
        (0.10 * a, 0.46 * b),
    ])  # fmt: skip


def _legs(plan: BodyPlan, torso: Frame, foot: tuple[float, float]) -> list[str]:
    scale, ahead = torso.scale, -1 if torso.mirrored else 1
    paths = []
    for side in (0.34, -0.26):
        hip = torso((0.06 * plan.length + 10 * side, 0.70 * plan.depth))
        sole = np.add(foot, (side * 26 * scale * ahead, 0))
        knee = (hip + sole) / 2 + np.array([-2.2 * ahead, 0]) * scale
        paths.append(curve(np.array([hip, knee, sole])))
        for reach, drop in ((9.0, 3.2), (6.0, 5.0), (-5.0, 3.6)):
            end = sole + np.array([reach * ahead, drop]) * scale
            paths.append(curve(np.array([sole, np.add(sole + end, (0, -2.4 * scale)) / 2, end])))
    return paths
