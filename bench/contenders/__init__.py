"""The contenders: one module each, imported only in a process of its own.

A module has a class ``Contender(threads)`` with

    versions()          {package: version}
    ways(case, data)    yields (name, call): every way its users have of doing this work. A call
                        does it once and returns something; the fastest way is the one measured
    result(raw)         that something as {name: ndarray}, by torch's names: ``y`` (T, B, H), for
                        training ``dx`` and the gradient of every parameter

and raises `CannotDo` for what its library has not got. A call of ``stream`` is one step, and goes
on from the state that the last one left.
"""

# What a contender's environment is made of; None: the environment that fastrnn lives in.
PACKAGES = {
    "fastrnn": None,
    "numpy": None,
    "torch": ("torch==2.13.0",),
    "onnxruntime": ("onnxruntime==1.32.0", "onnx"),
    "openvino": ("openvino==2026.4.1", "onnx"),
    "jax": ("jax==0.10.2",),
    "keras": ("tensorflow-cpu==2.21.0", "keras"),
}


class CannotDo(Exception):
    """A library has no way of doing a case; says why."""
