"""Texts of an ONNX file are UTF-8. Protobuf does not see to that: it gives bytes for those that are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto

from glyphc.errors import ModelError


def require_texts(model: ModelProto, label: str) -> None:
    """ModelError, with the model's ``label``, where a text is no UTF-8."""
    wrong = next(_wrong(model), None)
    if wrong is not None:
        raise ModelError(
            f"{label} is not an ONNX file, or is damaged: {wrong} is no text in UTF-8; copy or export it again"
        )


def _wrong(message: Any) -> Iterator[str]:
    """What the texts that are none belong to, e.g. "op_type of a NodeProto"."""
    if isinstance(message, TensorProto):
        # its other fields are numbers, of which ListFields would make copies
        name: object = message.name
        if isinstance(name, bytes):
            yield "name of a TensorProto"
        return
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            texts = (value,) if isinstance(value, str | bytes) else value
            if any(isinstance(text, bytes) for text in texts):
                yield f"{field.name} of a {type(message).__name__}"
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _wrong(part)
