"""Weights of an ONNX graph under the names of the modules that they were exported from. Nothing is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from omni.convert.checkpoint import Floats, Shape
from omni.errors import FormatError, ModelFileError

# Names of the weights among the inputs of a node, after its data input.
_INPUTS = {
    "Conv": ("weight", "bias"),
    "LayerNormalization": ("weight", "bias"),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
}
# Nodes with one weight at either side.
_BINARY = {"MatMul": "weight", "Mul": "weight", "Add": "bias"}


class OnnxFile:
    """The float weights of a graph, named by the modules that they belong to.

    The node `/blocks.0/attn/query/MatMul` gives `blocks.0.attn.query.weight`: exporters number the weights
    and keep the path in the node, so the node decides. Matrix products hold their matrices transposed; they
    are turned back to `[outputs, inputs]`. Raises FormatError if the file is no ONNX graph or keeps its
    weights elsewhere.
    """

    def __init__(self, path: Path) -> None:
        import onnx
        from google.protobuf.message import DecodeError

        self.path = path
        try:
            model = onnx.load(path, load_external_data=False)
        except DecodeError as error:
            raise FormatError(f"{path}: not an ONNX file, or damaged: {error}") from error
        except OSError as error:
            raise ModelFileError(f"{path}: can't be read: {error.strerror or error}") from error
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                stored[node.output[0]] = next((a.t for a in node.attribute if a.name == "value"), None)
            elif node.op_type == "Identity" and node.input[0] in stored:
                stored[node.output[0]] = stored[node.input[0]]
        self._weights: dict[str, tuple[Any, bool]] = {}
        for node in model.graph.node:
            self._add(node, stored)

    def shapes(self) -> dict[str, Shape]:
        """Shape of every weight, slowest dimension first."""
        return {name: tuple(t.dims)[:: -1 if turned else 1] for name, (t, turned) in self._weights.items()}

    def read(self, name: str, first: int = 0, last: int | None = None) -> Floats:
        """Rows `first` to `last` of a weight, as float32."""
        from onnx import numpy_helper

        tensor, turned = self._weights[name]
        try:
            values = np.asarray(numpy_helper.to_array(tensor), np.float32)
        except (ValueError, TypeError) as error:
            raise FormatError(f"{self.path}: weight '{name}' is damaged: {error}") from error
        return np.ascontiguousarray((values.T if turned else values)[first:last])

    def _add(self, node: Any, stored: dict[str, Any]) -> None:
        module = module_path(node.name)
        if node.op_type in _INPUTS:
            for part, name in zip(_INPUTS[node.op_type], node.input[1:], strict=False):
                self._keep(f"{module}.{part}", stored.get(name), False)
        elif node.op_type in _BINARY:
            for name in node.input:
                tensor = stored.get(name)
                if tensor is not None and len(tensor.dims) in (1, 2):
                    self._keep(f"{module}.{_BINARY[node.op_type]}", tensor, node.op_type == "MatMul")

    def _keep(self, name: str, tensor: Any, turned: bool) -> None:
        from onnx import TensorProto

        if tensor is None or tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            return
        if tensor.data_location == TensorProto.EXTERNAL:
            raise FormatError(f"{self.path}: keeps its weights in other files; export it as one file")
        self._weights.setdefault(name, (tensor, turned))


def module_path(node: str) -> str:
    """`/head/layer1/layer1.0/conv1/Conv` to `head.layer1.0.conv1`: scopes repeat the name of their list."""
    scopes = node.strip("/").split("/")[:-1]
    following = [*scopes[1:], ""]
    return ".".join(
        scope
        for scope, inner in zip(scopes, following, strict=False)
        if not re.fullmatch(re.escape(scope) + r"\.\d+", inner)
    )
