# Affine: the computing side of Linear, one crossing for the forward pass and one for the backward.
# Included by _core.pyx.


@cython.final
cdef class Affine:
    """``y = x W^T + b`` on the last axis, any leading axes.

    Parameters
    ----------
    in_features, out_features : int
    dtype : dtype
    """
    cdef readonly int64_t inputs, outputs
    cdef readonly object dtype
    cdef fr_dtype kind
    cdef cnp.ndarray w, b, dw, db  # b and db None without bias

    def __init__(self, int64_t in_features, int64_t out_features, dtype):
        self.inputs, self.outputs, self.dtype = in_features, out_features, np.dtype(dtype)
        self.kind = FR_F32 if self.dtype == np.float32 else FR_F64

    def bind(self, params, grads):
        """Take the layer's arrays by name. They are read at every call from now on."""
        self.w, self.dw = params["weight"], grads["weight"]
        self.b, self.db = params.get("bias"), grads.get("bias")

    cdef clear(self):
        self.dw[...] = 0
        if self.db is not None:
            self.db[...] = 0

    cdef fr_gemm_args product(self, int64_t M, int64_t N, int64_t K) noexcept:
        cdef fr_gemm_args g
        memset(&g, 0, sizeof(g))
        g.dtype, g.M, g.N, g.K = self.kind, M, N, K
        g.threads = fr_get_num_threads()  # asked once: another thread may change it meanwhile
        return g

    def run(self, x, bint keep):
        """Return ``(y, None)``, or ``(y, None, tape)`` if `keep`."""
        cdef fr_gemm_args g
        cdef fr_status status
        cdef Block scratch
        cdef cnp.ndarray rows, y
        x = _as_array("x", x)
        if x.dtype != self.dtype:
            raise TypeError(f"x: expected {self.dtype}, got {x.dtype}")
        if x.ndim == 0 or x.shape[x.ndim - 1] != self.inputs:
            raise ValueError(f"x: expected shape (..., {self.inputs}), got {x.shape}")
        rows = _dense(x)
        y = _new_like(rows, self.outputs)
        cdef int64_t n = cnp.PyArray_SIZE(rows) // self.inputs
        if n:
            g = self.product(n, self.outputs, self.inputs)
            g.C, g.A, g.B = _data(y), _data(rows), _data(self.w)
            g.ldc, g.lda, g.ldb, g.transpose_b = self.outputs, self.inputs, self.inputs, 1
            g.bias = NULL if self.b is None else _data(self.b)
            scratch = Block(fr_gemm_scratch_bytes(&g))
            g.scratch = scratch.p
            with nogil:
                status = fr_gemm(&g)
            _check_status("linear", status)
        if not keep:
            return y, None
        cdef AffineTape tape = AffineTape.__new__(AffineTape)
        tape.affine, tape.rows = self, rows
        tape.weights = fingerprint(self.w)
        tape.y_shape = (<object> y).shape
        return y, None, tape


@cython.final
cdef class AffineTape:
    """What `Linear.forward` keeps for its gradient: the input itself."""
    cdef Affine affine
    cdef object y_shape
    cdef uint64_t weights  # of forward: their fingerprint
    cdef cnp.ndarray rows

    def backward(self, dy, dstate=None, *, bint need_dx=True, bint accumulate=True):
        """Add the gradients of weight and bias into ``layer.grads`` and return that of x.

        Parameters
        ----------
        dy : ndarray (..., O), or None for zeros
        dstate : None
        need_dx : bool, default True
            False leaves out the gradient of x.
        accumulate : bool, default True
            False: ``layer.grads`` are set, not added to.

        Returns
        -------
        dx : ndarray (..., I), or None without `need_dx`
        dstate : None

        Raises
        ------
        RuntimeError
            If the weights have changed since `forward`.
        """
        cdef Affine layer = self.affine
        cdef fr_gemm_args g, d
        cdef fr_status status = FR_OK
        cdef Block scratch
        cdef cnp.ndarray dx = None, drows
        cdef int64_t n = cnp.PyArray_SIZE(self.rows) // layer.inputs
        self._check_backward(dstate)
        if dy is None:
            if not accumulate:
                layer.clear()
            return np.zeros((<object> self.rows).shape, layer.dtype) if need_dx else None, None
        dy = _as_array("dy", dy)
        if dy.dtype != layer.dtype:
            raise TypeError(f"dy: expected {layer.dtype}, got {dy.dtype}")
        if (<object> dy).shape != self.y_shape:
            raise ValueError(f"dy: expected shape {self.y_shape}, got {(<object> dy).shape}")
        drows = _dense(dy)
        if need_dx:
            dx = _new_like(self.rows, -1)
        if n == 0:
            if not accumulate:
                layer.clear()
            return dx, None
        # (F1, B2): dW = dy^T x; in passing db, the sums of dy's columns
        g = layer.product(layer.outputs, layer.inputs, n)
        g.C, g.A, g.B = _data(layer.dw), _data(drows), _data(self.rows)
        g.ldc, g.lda, g.ldb, g.transpose_a, g.accumulate = layer.inputs, layer.outputs, layer.inputs, 1, accumulate
        g.sums = NULL if layer.db is None else _data(layer.db)
        # (B1): dx = dy W
        d = layer.product(n, layer.inputs, layer.outputs)
        d.A, d.B, d.ldc, d.lda, d.ldb = _data(drows), _data(layer.w), layer.inputs, layer.outputs, layer.inputs
        scratch = Block(max(fr_gemm_scratch_bytes(&g), fr_gemm_scratch_bytes(&d)))
        g.scratch = d.scratch = scratch.p
        if need_dx:
            d.C = _data(dx)
        with nogil:
            if d.C != NULL:
                status = fr_gemm(&d)
            if g.sums != NULL and not accumulate:
                memset(g.sums, 0, <size_t> layer.outputs * (4 if layer.kind == FR_F32 else 8))
            if status == FR_OK:
                status = fr_gemm(&g)
        _check_status("linear", status)
        return dx, None

    def _check_backward(self, dstate, clip_step=None):
        if dstate is not None:
            raise ValueError("dstate: Linear keeps no state, expected None")
        if fingerprint(self.affine.w) != self.weights:
            raise RuntimeError("backward: the parameters have changed since forward")
