"""A case as an ONNX model: the graph that onnxruntime and OpenVINO both read.

ONNX orders LSTM's gates i o f c and GRU's z r h where torch has i f g o and r z n, keeps both
directions in one tensor, and returns Y as (T, directions, B, H).
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

ORDER = {"rnn": [0], "lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}


def model(case, data):
    """Serialise the model: input ``x``, for streaming ``h0`` (and ``c0``) too; outputs likewise."""
    real = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
    stream, T, B, H = case.mode == "stream", case.T, case.B, case.H
    nodes, constants, here = [], [], "x"
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.INT64, (T, B))
        if case.tokens
        else helper.make_tensor_value_info("x", real, (T, B, case.I))
    ]
    outputs = [helper.make_tensor_value_info("y", real, (T, B, H * case.directions))]
    states = (["h", "c"] if case.cell == "lstm" else ["h"]) if stream else []
    for name in states:
        inputs.append(helper.make_tensor_value_info(f"{name}0", real, (1, B, H)))
        outputs.append(helper.make_tensor_value_info(f"{name}1", real, (1, B, H)))

    def constant(name, value):
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    if case.tokens:
        rows = constant("rows", np.eye(case.I, dtype=case.dtype))
        nodes.append(helper.make_node("Gather", [rows, "x"], ["one_hot"]))
        here = "one_hot"
    lengths = constant("lengths", data["lengths"].astype(np.int32)) if case.ragged else ""
    for k in range(case.layers):
        ends = [f"_l{k}", f"_l{k}_reverse"][: case.directions]
        args = [
            here,
            constant(f"W{k}", [_reorder(case, data["weight_ih" + end]) for end in ends]),
            constant(f"R{k}", [_reorder(case, data["weight_hh" + end]) for end in ends]),
            constant(f"B{k}", [_biases(case, data, end) for end in ends]),
            lengths,
            *(f"{name}0" for name in states),
        ]
        attributes = {"linear_before_reset": 1} if case.cell == "gru" else {}
        finals = [f"{name}1" for name in states]
        direction = "bidirectional" if case.bidirectional else "forward"
        kind = case.cell.upper()
        nodes.append(
            helper.make_node(
                kind, args, [f"Y{k}", *finals], hidden_size=H, direction=direction, **attributes
            )
        )
        # (T, D, B, H) to (T, B, D H)
        here = "y" if k == case.layers - 1 else f"y{k}"
        if case.bidirectional:
            nodes.append(helper.make_node("Transpose", [f"Y{k}"], [f"Z{k}"], perm=[0, 2, 1, 3]))
            shape = constant(f"shape{k}", np.array([T, B, 2 * H], np.int64))
            nodes.append(helper.make_node("Reshape", [f"Z{k}", shape], [here]))
        else:
            axis = constant(f"axis{k}", np.array([1], np.int64))
            nodes.append(helper.make_node("Squeeze", [f"Y{k}", axis], [here]))
    graph = helper.make_graph(nodes, case.cell, inputs, outputs, constants)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def _reorder(case, weight):
    gates = weight.reshape(-1, case.H, *weight.shape[1:])
    return gates[ORDER[case.cell]].reshape(weight.shape)


def _biases(case, data, end):
    return np.concatenate([_reorder(case, data[f"bias_{kind}{end}"]) for kind in ("ih", "hh")])
