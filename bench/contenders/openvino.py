"""OpenVINO, as a contender: inference and streaming, from the same ONNX model as onnxruntime."""

import numpy as np
import openvino as ov

from contenders import CannotDo, graph


class Contender:
    def __init__(self, threads):
        self.core = ov.Core()
        self.config = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }

    def versions(self):
        return {"openvino": ov.__version__.partition("-")[0]}

    def ways(self, case, data):
        if case.mode == "train":
            raise CannotDo("no training")
        if case.dtype != "float32":
            raise CannotDo("its CPU plugin computes float64 in float32")
        model = self.core.compile_model(
            self.core.read_model(graph.model(case, data)), "CPU", self.config
        )
        if case.mode == "stream":
            yield "requests with set tensors", self._stream(model, case, data)
            return
        request = model.create_infer_request()
        request.set_tensor("x", ov.Tensor(data["x"]))

        def infer():
            request.infer()
            return request.get_tensor("y").data

        yield "request with set tensors", infer

    def _stream(self, model, case, data):
        # The state goes to and fro between two sets of tensors, each set in one request.
        names, shape = (["h", "c"] if case.cell == "lstm" else ["h"]), (1, case.B, case.H)
        sets = [{name: ov.Tensor(np.zeros(shape, np.float32)) for name in names} for _ in range(2)]
        requests = [model.create_infer_request() for _ in range(2)]
        for k, request in enumerate(requests):
            request.set_tensor("x", ov.Tensor(data["x"]))
            for name in names:
                request.set_tensor(f"{name}0", sets[k][name])
                request.set_tensor(f"{name}1", sets[1 - k][name])
        turn = 0

        def step():
            nonlocal turn
            request = requests[turn]
            request.infer()
            turn = 1 - turn
            return request.get_tensor("y").data

        return step

    def result(self, raw):
        return {"y": np.array(raw)}
