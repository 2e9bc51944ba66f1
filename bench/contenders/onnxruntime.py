"""onnxruntime, as a contender: inference and streaming."""

import numpy as np
import onnxruntime as ort

from contenders import CannotDo, graph


class Contender:
    def __init__(self, threads):
        self.options = ort.SessionOptions()
        self.options.intra_op_num_threads, self.options.inter_op_num_threads = threads, 1
        self.options.log_severity_level = 4

    def versions(self):
        return {"onnxruntime": ort.__version__}

    def ways(self, case, data):
        if case.mode == "train":
            raise CannotDo("no training")
        try:
            session = ort.InferenceSession(
                graph.model(case, data), self.options, providers=["CPUExecutionProvider"]
            )
            yield from (
                self._stream(session, case, data)
                if case.mode == "stream"
                else (self._infer(session, case, data))
            )
        # A type or option it has no kernel for; its own exception is not Python's.
        except (ort.capi.onnxruntime_pybind11_state.NotImplemented, NotImplementedError) as error:
            raise CannotDo(str(error).splitlines()[0]) from error

    def _infer(self, session, case, data):
        feed = {"x": data["x"]}
        yield "run", lambda: session.run(None, feed)
        # Both arrays stay where they are from call to call.
        binding = session.io_binding()
        x = ort.OrtValue.ortvalue_from_numpy(data["x"])
        y = _empty((case.T, case.B, case.H * case.directions), case)
        binding.bind_ortvalue_input("x", x)
        binding.bind_ortvalue_output("y", y)

        def bound():
            session.run_with_iobinding(binding)
            return [y]

        yield "run with bound arrays", bound

    def _stream(self, session, case, data):
        names = ["h", "c"] if case.cell == "lstm" else ["h"]
        feed = {"x": data["x"]}
        feed |= {f"{name}0": np.zeros((1, case.B, case.H), case.dtype) for name in names}

        def run():
            y, *state = session.run(None, feed)
            for name, value in zip(names, state, strict=True):
                feed[f"{name}0"] = value
            return [y]

        yield "run", run
        # The state goes to and fro between two sets of arrays that stay bound.
        x = ort.OrtValue.ortvalue_from_numpy(data["x"])
        y = _empty((case.T, case.B, case.H), case)
        sets = [{name: _empty((1, case.B, case.H), case) for name in names} for _ in range(2)]
        bindings = [session.io_binding() for _ in range(2)]
        for k, binding in enumerate(bindings):
            binding.bind_ortvalue_input("x", x)
            binding.bind_ortvalue_output("y", y)
            for name in names:
                binding.bind_ortvalue_input(f"{name}0", sets[k][name])
                binding.bind_ortvalue_output(f"{name}1", sets[1 - k][name])
        turn = 0

        def bound():
            nonlocal turn
            session.run_with_iobinding(bindings[turn])
            turn = 1 - turn
            return [y]

        yield "run with bound arrays", bound

    def result(self, raw):
        y = raw[0]
        return {"y": y if isinstance(y, np.ndarray) else y.numpy()}


def _empty(shape, case):
    return ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, case.dtype))
