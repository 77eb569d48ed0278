"""Labels beside the points of a plot, each where it is near its point and covers nothing.

All lengths are in points (1/72 inch). A box is (left, bottom, right, top); arrays of boxes have one in each row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.patheffects import withStroke

Array = np.ndarray

_DISTANCES = np.array([7, 11, 16, 22, 30, 40, 52])
_ANGLES = np.radians([0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200])
_FAR = 13  # a label farther away is tied to its point
_TIE = (0.5, 0.6, 0.7, 0.8, 0.9)  # parts of its way where it may run into something
_MARKER, _GAP, _FONT = 4.5, 1.0, 8.0
# What a place costs: each square point of a label, a point or a line under it, a crossing of its tie, its distance.
_COVERED, _LINE, _CROSSED, _DISTANCE = 1.0, 0.1, 10.0, 0.2


class Label(NamedTuple):
    text: str
    x: float
    y: float
    colour: str


def place(axis: Any, labels: list[Label], lines: list[Any]) -> list[Any]:
    """The texts, off each other and the points and, where there is room, off the lines.

    The axes must have their final size and limits.
    """
    renderer, scale = axis.figure.canvas.get_renderer(), 72 / axis.figure.dpi
    points = [scale * axis.transData.transform((label.x, label.y)) for label in labels]
    taken = [np.concatenate([point - _MARKER, point + _MARKER]) for point in points]
    barred = np.array([_padded(scale * line.get_window_extent(renderer).extents) for line in lines])
    inside = scale * axis.bbox.extents
    texts = []
    for label, point in zip(labels, points, strict=True):
        offset = {"xytext": (0, 0), "textcoords": "offset points"}
        text = axis.annotate(label.text, (label.x, label.y), color=label.colour, fontsize=_FONT, **offset)
        text.set_path_effects([withStroke(linewidth=2, foreground="white")])
        boxes = _places(point, scale * text.get_window_extent(renderer).size)
        box = boxes[_cost(point, boxes, np.array(taken), barred, inside).argmin()]
        text.set_position(box[:2] - point)
        _tie(axis, label, _way(point, box))
        taken.append(_padded(box))
        texts.append(text)
    return texts


def _places(point: Array, size: Array) -> Array:
    """Boxes of a text of this size around the point."""
    around = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
    corners = point + _DISTANCES[:, None, None] * around + (around - 1) / 2 * size
    corners = corners.reshape(-1, 2)
    return np.concatenate([corners, corners + size], axis=1)


def _cost(point: Array, boxes: Array, taken: Array, barred: Array, inside: Array) -> Array:
    way = _way(point, boxes)
    distance = np.hypot(*way.T)
    crossed = (distance > _FAR) * sum(_hits(point + step * way, taken) for step in _TIE)
    outside = (boxes[:, 2:] - boxes[:, :2]).prod(1) - _overlaps(boxes, inside[None])
    covered = _overlaps(boxes, taken) + outside
    return _COVERED * covered + _LINE * _overlaps(boxes, barred) + _CROSSED * crossed + _DISTANCE * distance


def _way(point: Array, boxes: Array) -> Array:
    """From the point to the nearest point of each box."""
    return point.clip(boxes[..., :2], boxes[..., 2:]) - point


def _overlaps(boxes: Array, others: Array) -> Array:
    """Area of each box that others cover."""
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    return (high - low).clip(0).prod(2).sum(1)


def _hits(points: Array, boxes: Array) -> Array:
    """How many boxes each point lies in."""
    return ((points[:, None] > boxes[:, :2]) & (points[:, None] < boxes[:, 2:])).all(2).sum(1)


def _padded(box: Array) -> Array:
    return box + _GAP * np.array([-1, -1, 1, 1])


def _tie(axis: Any, label: Label, way: Array) -> None:
    if np.hypot(*way) > _FAR:
        looks = {"arrowstyle": "-", "color": label.colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": _MARKER}
        axis.annotate("", (label.x, label.y), xytext=way, textcoords="offset points", arrowprops=looks)
