"""Gradient boosting of XGBoost and LightGBM, alone or in scikit-learn's pipelines: skl2onnx learns to convert it.

onnxmltools has the converters (extra ``boosting``). An object of either library is there only if it has been imported.
"""

from __future__ import annotations

import sys
from typing import Any

from glyphc.errors import EnvironmentSetupError

# By library: the estimators, what skl2onnx calls them, whether they classify.
_ESTIMATORS = {
    "xgboost": (("XGBClassifier", True), ("XGBRFClassifier", True), ("XGBRegressor", False), ("XGBRFRegressor", False)),
    "lightgbm": (("LGBMClassifier", True), ("LGBMRegressor", False)),
}
# What onnxmltools' converters write.
TARGET_OPSET = {"": 15, "ai.onnx.ml": 3}


def uses_boosting(estimator: Any) -> bool:
    """Whether an estimator is one of these, or has one inside."""
    parts = [estimator]
    if hasattr(estimator, "get_params"):
        parts += estimator.get_params(deep=True).values()
    return any(type(p).__module__.split(".")[0] in _ESTIMATORS for p in parts)


def register_converters() -> None:
    """Tell skl2onnx of the estimators of those libraries that are loaded. EnvironmentSetupError without onnxmltools."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    for library, estimators in _ESTIMATORS.items():
        module = sys.modules.get(library)
        if module is None:
            continue
        for name, classifies in estimators:
            update_registered_converter(
                getattr(module, name),
                f"{library}{name}",
                calculate_linear_classifier_output_shapes if classifies else calculate_linear_regressor_output_shapes,
                _converter(library),
                options={"nocl": [True, False], "zipmap": [True, False, "columns"]} if classifies else None,
                overwrite=True,
            )


def _converter(library: str) -> Any:
    try:
        if library == "xgboost":
            from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

            return convert_xgboost
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    except ImportError:
        raise EnvironmentSetupError(
            f"models of {library} are converted by onnxmltools, which is not installed: pip install 'glyphc[boosting]'"
        ) from None
    return convert_lightgbm
