"""Trains a convolutional network that forecasts sea surface temperatures and writes elnino-cnn.onnx.

Data: monthly means of the region Nino 1+2 off Peru, 1950 to 2010, where El Nino shows first. From 36 months the network
forecasts the next 6. Trained on the months up to 1994, tested on those from 1995 on, 1997's El Nino among them.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from datasets import DATA_DIR
from export import Dense, GraphWriter, Step, check_forecast
from gradient_training import TRAINER, Parameters, convolution, convolve, dense, fit, squared_error

SEED = 0
PAST, FUTURE = 36, 6
FIRST_YEAR, FIRST_TEST_YEAR = 1950, 1995
MODEL = Path(__file__).resolve().with_name("elnino-cnn.onnx")
FloatArray = npt.NDArray[np.float32]


class Windows(NamedTuple):
    """Months before (samples, PAST) and after (samples, FUTURE) every possible moment, in degrees Celsius."""

    past: FloatArray
    future: FloatArray


def windows(series: FloatArray) -> Windows:
    """All windows of a series of months."""
    every = np.lib.stride_tricks.sliding_window_view(series, PAST + FUTURE)
    return Windows(np.ascontiguousarray(every[:, :PAST]), np.ascontiguousarray(every[:, PAST:]))


def load() -> tuple[Windows, Windows]:
    """Training and test windows; no month that is forecast in one is seen in the other."""
    from statsmodels.datasets import elnino

    months = elnino.load_pandas().data.iloc[:, 1:].to_numpy(dtype=np.float32).reshape(-1)
    split = 12 * (FIRST_TEST_YEAR - FIRST_YEAR)
    return windows(months[:split]), windows(months[split:])


def initial(seed: int) -> Parameters:
    """Random parameters."""
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "conv1": convolution(keys[0], 8, 1, 5),
        "conv2": convolution(keys[1], 8, 8, 3),
        "forecast": dense(keys[2], 8 * 14, FUTURE),
    }


def forward(parameters: Parameters, x: jax.Array) -> jax.Array:
    """Forecast (samples, FUTURE) of standardised temperatures (samples, PAST), standardised too."""
    x = jax.nn.relu(convolve(x[:, None, :], parameters["conv1"]))
    x = jax.nn.relu(convolve(x, parameters["conv2"], window_strides=(2,), rhs_dilation=(2,)))
    return x.reshape(len(x), -1) @ parameters["forecast"]["weights"] + parameters["forecast"]["bias"]


def export(parameters: Parameters, mean: np.float32, spread: np.float32, metadata: dict[str, str]) -> None:
    """Write past (N, PAST) -> forecast (N, FUTURE), both in degrees Celsius."""
    graph = GraphWriter("past")
    graph.step(Step("centre", "Sub", mean))
    graph.step(Step("standardise", "Div", spread))
    graph.reshape("channel", (1, PAST))
    graph.conv("conv1", parameters["conv1"])
    graph.node("Relu", "relu1")
    graph.conv("conv2", parameters["conv2"], strides=[2], dilations=[2])
    graph.node("Relu", "relu2")
    graph.node("Flatten", "flatten", axis=1)
    graph.gemm("forecast", Dense(**parameters["forecast"]))
    graph.step(Step("scale", "Mul", spread))
    graph.step(Step("shift", "Add", mean))
    graph.save(MODEL, (PAST,), "temperatures", (FUTURE,), metadata)


def mape(forecast: npt.NDArray[np.floating], truth: npt.NDArray[np.floating]) -> float:
    """Mean absolute percentage error."""
    return float(np.mean(np.abs(forecast - truth) / np.abs(truth))) * 100


def main() -> None:
    """Train, export, check."""
    train, test = load()
    for name, value in (("train", train.past), ("test", test.past), ("test-targets", test.future)):
        np.save(DATA_DIR / f"elnino-{name}.npy", value)

    mean, spread = np.float32(train.past.mean()), np.float32(train.past.std())
    parameters = fit(
        forward,
        initial(SEED),
        (train.past - mean) / spread,
        (train.future - mean) / spread,
        squared_error,
        epochs=60,
        batch=16,
        rate=3e-3,
        decay=0.3,
        seed=SEED,
    )
    expected = np.asarray(forward(parameters, (test.past - mean) / spread)) * spread + mean
    season = np.stack([test.past[:, PAST - 12 + i] for i in range(FUTURE)], axis=1)
    print(f"  mean absolute percentage error {mape(expected, test.future):.2f} %")
    print(f"  (of the same months a year ago {mape(season, test.future):.2f} %)")
    metadata = {
        "data_source": "NOAA ERSST.V3B, Nino 1+2, as in statsmodels.datasets.elnino",
        "data_license": "public domain",
        "train_size": str(len(train.past)),
        "test_size": str(len(test.past)),
        "float_test_mape": f"{mape(expected, test.future):.4f}",
        "script": Path(__file__).name,
        "trainer": TRAINER,
        "seed": str(SEED),
    }
    export(parameters, mean, spread, metadata)
    check_forecast(MODEL, test.past, expected)


if __name__ == "__main__":
    main()
