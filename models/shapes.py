"""Draws small colour images of shapes: a data set of CIFAR's form that nobody has to download."""

import numpy as np
import numpy.typing as npt

SIDE = 32
CLASSES = ("disc", "ring", "square", "frame", "triangle", "cross", "rows", "columns")
# Grey levels, of 256: noise of every value, and how far the colours of shape and background differ at least.
NOISE, CONTRAST = 16, 90

Plane = npt.NDArray[np.float64]


def outline(name: str, y: Plane, x: Plane) -> npt.NDArray[np.bool_]:
    """Which pixels a shape covers, by their rows and columns from its middle, in units of its half width."""
    round_, square = np.hypot(y, x), np.maximum(abs(y), abs(x))
    covered = {
        "disc": round_ < 1,
        "ring": (round_ < 1) & (round_ > 0.6),
        "square": square < 0.9,
        "frame": (square < 0.9) & (square > 0.5),
        "triangle": (abs(y) < 0.9) & (abs(x) < (y + 0.9) / 1.8),
        "cross": (np.minimum(abs(y), abs(x)) < 0.3) & (square < 1),
        "rows": (square < 1) & (np.floor(y * 3) % 2 == 0),
        "columns": (square < 1) & (np.floor(x * 3) % 2 == 0),
    }
    return np.asarray(covered[name])


def draw(name: str, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """One image (3, SIDE, SIDE), grey levels 0..255 of red, green and blue."""
    size = random.uniform(7, 13)
    middle = random.uniform(size, SIDE - size, 2)
    places = np.arange(SIDE) + 0.5
    y, x = (places[:, None] - middle[0]) / size, (places[None, :] - middle[1]) / size
    while True:
        inside, outside = random.uniform(0, 255, (2, 3))
        if abs(inside - outside).max() > CONTRAST:
            break
    image = np.where(outline(name, y, x), inside[:, None, None], outside[:, None, None])
    image += random.normal(0, NOISE, image.shape)
    return np.round(np.clip(image, 0, 255)).astype(np.float32)


def draw_all(count: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """So many images (count, 3, SIDE, SIDE) and their classes (count,), of every class as many as of the others."""
    random = np.random.default_rng(seed)
    classes = np.arange(count, dtype=np.int64) % len(CLASSES)
    return np.array([draw(CLASSES[c], random) for c in classes]), classes
