"""Scenes: the content of a picture of the mini crawl, which its caption describes.

A scene has five attributes, and only these are named in its caption. A caption is wrong for a picture when at least
MISMATCH of them differ; with fewer it is partly right, and no threshold has to distinguish it. Rejected: naming the
tone of the ground too (a sixth attribute, so that two may agree in a mismatch, costs accuracy).
"""

from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np

MISMATCH = 4
"""Attributes of five that differ before a caption counts as wrong for a picture."""


class Shape(StrEnum):
    CIRCLE = "circle"
    SQUARE = "square"
    TRIANGLE = "triangle"
    STAR = "star"
    CROSS = "cross"
    HEART = "heart"


class Colour(StrEnum):
    RED = "red"
    ORANGE = "orange"
    YELLOW = "yellow"
    GREEN = "green"
    BLUE = "blue"
    PURPLE = "purple"
    BLACK = "black"
    WHITE = "white"


class Position(StrEnum):
    CENTRE = "centre"
    TOP_LEFT = "top left"
    TOP_RIGHT = "top right"
    BOTTOM_LEFT = "bottom left"
    BOTTOM_RIGHT = "bottom right"


class Texture(StrEnum):
    PLAIN = "plain"
    STRIPED = "striped"
    CHECKERED = "checkered"
    DOTTED = "dotted"
    WAVY = "wavy"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows and its caption says. `count` is 1 to 4."""

    shape: Shape
    colour: Colour
    count: int
    position: Position
    texture: Texture


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene uniformly from all 4,800."""
    return Scene(
        shape=list(Shape)[rng.integers(len(Shape))],
        colour=list(Colour)[rng.integers(len(Colour))],
        count=int(rng.integers(1, 5)),
        position=list(Position)[rng.integers(len(Position))],
        texture=list(Texture)[rng.integers(len(Texture))],
    )


def mismatched_scene(scene: Scene, rng: np.random.Generator) -> Scene:
    """Draw a scene whose caption is wrong for `scene`: at least MISMATCH attributes differ."""
    while different(scene, other := random_scene(rng)) < MISMATCH:
        pass
    return other


def different(scene: Scene, other: Scene) -> int:
    """Count the attributes in which two scenes differ, 0 to 5."""
    return sum(getattr(scene, field.name) != getattr(other, field.name) for field in fields(Scene))
