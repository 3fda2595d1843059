"""Models as Python objects: scikit-learn's estimators and PyTorch's modules, by their exporters to ONNX.

Neither library is needed for anything else: the exporters are extras (``glyphc[sklearn]``, ``glyphc[torch]``).
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto

from glyphc.errors import EnvironmentSetupError, GlyphcError, ModelError
from glyphc.tables import column_names, is_table

from .boosted_trees import TARGET_OPSET, register_converters, uses_boosting

_KINDS = (
    "the path of an .onnx, .glyph or .gir file, an ONNX file's bytes, an onnx.ModelProto, a fitted scikit-learn "
    "estimator or pipeline, a torch.nn.Module, or a glyphc graph"
)


@dataclass(frozen=True, eq=False)
class Exported:
    """A model in a form that files have. columns: names of features, in order, of the inputs where they are known.

    Of the only input, whatever its name, those of the name "".
    """

    model: Any
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def exported(model: Any, calibration: Any, examples: Any = None) -> Exported:
    """A model as :func:`glyphc.sources.read_model` takes it; what is that already stays as it is.

    calibration: samples, whose first one tells PyTorch's exporter the shapes if ``examples`` (a tuple of the module's
    arguments) are not given. TypeError for what is no model; ModelError for one that its exporter refuses;
    EnvironmentSetupError where the exporter is not installed.
    """
    if _is_a(model, "torch.nn", "Module"):
        return Exported(_from_torch(model, calibration, examples))
    if examples is not None:
        raise GlyphcError("examples are the arguments of a torch.nn.Module; other models say themselves what they take")
    if _is_a(model, "sklearn.base", "BaseEstimator"):
        return _from_sklearn(model, calibration)
    if isinstance(model, str | os.PathLike | bytes | ModelProto):
        return Exported(model, {"": column_names(calibration)})
    raise TypeError(f"glyphc.compile takes {_KINDS}; not {_article(type(model))}")


def _is_a(model: object, module: str, name: str) -> bool:
    """Whether an object is an instance of a class of a library, which need not be there."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(model, getattr(loaded, name))


def _article(kind: type) -> str:
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


# -- scikit-learn --


def _from_sklearn(estimator: Any, calibration: Any) -> Exported:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    name = type(estimator).__name__
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        raise ModelError(f"the {name} is not fitted; call fit on it before it is compiled") from None
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError:
        raise EnvironmentSetupError(
            "scikit-learn's models are converted by skl2onnx, which is not installed: pip install 'glyphc[sklearn]'"
        ) from None
    columns = tuple(map(str, getattr(estimator, "feature_names_in_", ())))
    features = getattr(estimator, "n_features_in_", None)
    if features is None:
        raise ModelError(f"the {name} does not say how many features it was fitted on; export it to ONNX yourself")
    one = [("X", FloatTensorType([None, int(features)]))]
    separate = [(c, FloatTensorType([None, 1])) for c in columns]
    by_name = bool(columns) and _selects_by_name(estimator)
    boosted = uses_boosting(estimator)
    if boosted:
        register_converters()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = to_onnx(
                estimator,
                initial_types=separate if by_name else one,
                options=_options(estimator),
                target_opset=dict(TARGET_OPSET) if boosted else None,
            )
    except Exception as e:  # the converter raises whatever the estimators' converters raise
        reason = " ".join(str(e).split())[:300]
        raise ModelError(f"skl2onnx cannot convert the {name}: {reason}") from e
    if not by_name:
        return Exported(converted, {"": columns or column_names(calibration)})
    # one input for each column, in their order; their names have lost what identifiers do not have
    inputs = [i.name for i in converted.graph.input]
    return Exported(converted, {name: (c,) for name, c in zip(inputs, columns, strict=True)})


def _options(estimator: Any) -> dict[type, dict[str, bool]] | None:
    """What skl2onnx has to be told: in a pipeline it asks LinearSVC for options that it has not, unless it has some."""
    from sklearn.svm import LinearSVC

    parts = [estimator, *estimator.get_params(deep=True).values()]
    return {LinearSVC: {"nocl": False}} if any(isinstance(p, LinearSVC) for p in parts) else None


def _selects_by_name(estimator: Any) -> bool:
    """Whether a part of a pipeline picks its columns by their names (a ColumnTransformer)."""
    parts = [estimator, *(p for p in estimator.get_params(deep=True).values() if hasattr(p, "get_params"))]
    chosen = [c for p in parts for *_, c in getattr(p, "transformers_", None) or ()]
    return any(isinstance(c, str) or (isinstance(c, list) and c and isinstance(c[0], str)) for c in chosen)


# -- PyTorch --


def _from_torch(module: Any, calibration: Any, examples: Any) -> ModelProto:
    import onnx
    import torch

    if examples is None:
        examples = tuple(torch.tensor(a) for a in _first_samples(calibration))
    elif not isinstance(examples, tuple):
        examples = (examples,)
    if not examples:
        raise ModelError(
            "a torch.nn.Module does not say what it takes: give examples=(x, ...), its arguments for one or more "
            "samples, or calibration samples"
        )
    file = io.BytesIO()
    names = [f"x{n}" if n else "x" for n in range(len(examples))]
    was_training, fast = module.training, torch.backends.mha.get_fastpath_enabled()
    try:
        module.eval()
        torch.backends.mha.set_fastpath_enabled(False)  # its Transformer layers in one operator have no form in ONNX
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, examples, file, input_names=names, dynamic_axes={n: {0: "batch"} for n in names}, dynamo=False
            )
    except Exception as e:  # tracing runs the module's own code
        raise ModelError(f"PyTorch cannot export the {type(module).__name__}: {' '.join(str(e).split())[:300]}") from e
    finally:
        module.train(was_training)
        torch.backends.mha.set_fastpath_enabled(fast)
    return onnx.load_model_from_string(file.getvalue())


def _first_samples(calibration: Any) -> list[Any]:
    """The first sample of each input, in single precision where it has a fraction."""
    if calibration is None:
        return []
    values = list(calibration.values()) if isinstance(calibration, Mapping) else [calibration]
    arrays = [np.asarray(v.to_numpy() if is_table(v) else v)[:1] for v in values]
    return [a.astype(np.float32) if a.dtype.kind == "f" else a for a in arrays]
