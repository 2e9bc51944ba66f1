# Losses, clipping and optimizers over flat arrays: the boundary to csrc/include/fastrnn_pointwise.h.
#
# Included by _core.pyx. Every function checks all of its arrays before it writes to any, releases the
# GIL around the C call, and allocates nothing. Not here: formulas (csrc/kernels/pointwise.h, optim.py)
# and what is convenient for people (losses.py, clip.py, optim.py).

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_IsContiguous, PyBuffer_Release, PyObject_GetBuffer)
from libc.stdint cimport int64_t, uint64_t, uintptr_t

cdef extern from "fastrnn_pointwise.h" nogil:
    ctypedef struct fr_sgd_options:
        double lr, momentum, weight_decay
        int nesterov

    ctypedef struct fr_dropout_options:
        double p
        uint64_t key
        unsigned int call, layer

    ctypedef struct fr_adagrad_options:
        double lr, eps, weight_decay

    ctypedef struct fr_rmsprop_options:
        double lr, alpha, eps, momentum, weight_decay

    ctypedef struct fr_adam_options:
        double lr, beta1, beta2, eps, weight_decay
        int decoupled
        int64_t step

    Py_ssize_t fr_check_targets(
        Py_ssize_t *counted, const int64_t *targets, Py_ssize_t n, int64_t V, int64_t ignored)

    double fr_softmax_cross_entropy_f32(
        float *dlogits, const float *logits, const int64_t *targets,
        Py_ssize_t n, Py_ssize_t V, int64_t ignored, double scale)
    double fr_bce_with_logits_f32(
        float *dlogits, const float *logits, const float *targets, Py_ssize_t n, double scale)
    double fr_sum_of_squares_f32(const float *x, Py_ssize_t n)
    void fr_scale_f32(float *x, Py_ssize_t n, double factor)
    void fr_clip_f32(float *x, Py_ssize_t n, double low, double high)
    void fr_clear_f32(float *x, Py_ssize_t n)
    void fr_dropout_f32(float *out, const float *x, Py_ssize_t n, const fr_dropout_options *o)
    void fr_scatter_add_f32(
        float *out, const float *rows, const int64_t *ids, Py_ssize_t n, Py_ssize_t D)
    void fr_sgd_f32(float *p, float *buf, const float *g, Py_ssize_t n, const fr_sgd_options *o)
    void fr_adagrad_f32(
        float *p, float *sum, const float *g, Py_ssize_t n, const fr_adagrad_options *o)
    void fr_rmsprop_f32(
        float *p, float *v, float *mean, float *buf, const float *g, Py_ssize_t n,
        const fr_rmsprop_options *o)
    void fr_adam_f32(
        float *p, float *m, float *v, const float *g, Py_ssize_t n, const fr_adam_options *o)

    double fr_softmax_cross_entropy_f64(
        double *dlogits, const double *logits, const int64_t *targets,
        Py_ssize_t n, Py_ssize_t V, int64_t ignored, double scale)
    double fr_bce_with_logits_f64(
        double *dlogits, const double *logits, const double *targets, Py_ssize_t n, double scale)
    double fr_sum_of_squares_f64(const double *x, Py_ssize_t n)
    void fr_scale_f64(double *x, Py_ssize_t n, double factor)
    void fr_clip_f64(double *x, Py_ssize_t n, double low, double high)
    void fr_clear_f64(double *x, Py_ssize_t n)
    void fr_dropout_f64(double *out, const double *x, Py_ssize_t n, const fr_dropout_options *o)
    void fr_scatter_add_f64(
        double *out, const double *rows, const int64_t *ids, Py_ssize_t n, Py_ssize_t D)
    void fr_sgd_f64(double *p, double *buf, const double *g, Py_ssize_t n, const fr_sgd_options *o)
    void fr_adagrad_f64(
        double *p, double *sum, const double *g, Py_ssize_t n, const fr_adagrad_options *o)
    void fr_rmsprop_f64(
        double *p, double *v, double *mean, double *buf, const double *g, Py_ssize_t n,
        const fr_rmsprop_options *o)
    void fr_adam_f64(
        double *p, double *m, double *v, const double *g, Py_ssize_t n, const fr_adam_options *o)


# The arrays of one call: borrowed from Python at its start, given back at its end, so that nobody can
# resize them while the GIL is released. The first one decides about dtype and shape of those "like"
# it.
cdef struct _PwArrays:
    Py_buffer view[5]
    int count


cdef void _pw_release(_PwArrays *held) noexcept:
    while held.count:
        held.count -= 1
        PyBuffer_Release(&held.view[held.count])


cdef str _pw_shape(Py_buffer *view):
    return str(tuple([view.shape[axis] for axis in range(view.ndim)]))


cdef str _pw_dtype(object a, Py_buffer *view):
    dtype = getattr(a, "dtype", None)
    return view.format.decode() if dtype is None else dtype.str if not dtype.isnative else dtype.name


cdef Py_buffer *_pw_take(_PwArrays *held, object a, str name, int ndim, bint writable) except NULL:
    """The next array: ndim axes, C-contiguous, aligned, writable if it has to be."""
    cdef Py_buffer *view = &held.view[held.count]
    try:
        PyObject_GetBuffer(a, view, PyBUF_STRIDES | PyBUF_FORMAT)
    except (TypeError, BufferError, ValueError):
        raise TypeError(f"{name}: expected an ndarray, got {type(a).__name__}") from None
    held.count += 1
    if view.ndim != ndim:
        raise ValueError(f"{name}: expected {ndim} axes, got shape {_pw_shape(view)}")
    if not PyBuffer_IsContiguous(view, b"C"):
        raise ValueError(f"{name}: expected a C-contiguous array, got strides {a.strides}")
    if <uintptr_t>view.buf % view.itemsize:
        raise ValueError(f"{name}: expected an array aligned to {view.itemsize} bytes")
    if writable and view.readonly:
        raise ValueError(f"{name}: expected a writable array, got a read-only one")
    return view


cdef Py_buffer *_pw_take_first(_PwArrays *held, object a, str name, int ndim, bint writable) except NULL:
    """The first array, whose elements must be native float32 or float64."""
    cdef Py_buffer *view = _pw_take(held, a, name, ndim, writable)
    if view.format[1] or view.format[0] not in b"fd":  # a byte order would stand in front
        raise TypeError(f"{name}: expected float32 or float64, got {_pw_dtype(a, view)}")
    return view


cdef void *_pw_take_like(_PwArrays *held, str first_name, object a, str name, bint writable) except? NULL:
    """Data of the next array, which must have dtype and shape of the first."""
    cdef Py_buffer *first = &held.view[0]
    cdef Py_buffer *view = _pw_take(held, a, name, first.ndim, writable)
    if view.format[0] != first.format[0] or view.format[1]:
        wanted = "float64" if first.format[0] == b"d" else "float32"
        raise TypeError(f"{name}: expected {wanted} like {first_name}, got {_pw_dtype(a, view)}")
    for axis in range(first.ndim):
        if view.shape[axis] != first.shape[axis]:
            raise ValueError(
                f"{name}: expected shape {_pw_shape(first)} like {first_name}, got {_pw_shape(view)}")
    return view.buf


cdef const int64_t *_pw_take_ids(_PwArrays *held, object a, str name, Py_ssize_t n) except? NULL:
    """Data of the next array, which must be n native int64 numbers."""
    cdef Py_buffer *view = _pw_take(held, a, name, 1, False)
    if view.itemsize != 8 or view.format[1] or view.format[0] not in b"lq":
        raise TypeError(f"{name}: expected int64, got {_pw_dtype(a, view)}")
    if view.shape[0] != n:
        raise ValueError(f"{name}: expected shape ({n},), got {_pw_shape(view)}")
    return <const int64_t *>view.buf


cdef void *_pw_take_momentum(_PwArrays *held, object a, double momentum) except? NULL:
    """Data of the momentum buffer, like params; NULL for None, which it is exactly if unused."""
    if (a is None) != (momentum == 0):
        raise ValueError("momentum_buffer: expected an array if momentum is not 0, else None")
    return NULL if a is None else _pw_take_like(held, "params", a, "momentum_buffer", True)


def softmax_cross_entropy(logits, targets, ignore_index, dlogits):
    """Write the gradient of the mean loss to dlogits (n, V); return (sum of losses, counted rows)."""
    cdef _PwArrays held
    held.count = 0
    try:
        return _pw_softmax_cross_entropy(&held, logits, targets, ignore_index, dlogits)
    finally:
        _pw_release(&held)


cdef _pw_softmax_cross_entropy(_PwArrays *held, logits, targets, int64_t ignored, dlogits):
    cdef Py_buffer *x = _pw_take_first(held, logits, "logits", 2, False)
    cdef void *dx = _pw_take_like(held, "logits", dlogits, "dlogits", True)
    cdef Py_ssize_t n = x.shape[0], V = x.shape[1], counted = 0, bad
    cdef const int64_t *t = _pw_take_ids(held, targets, "targets", n)
    cdef double loss, scale
    with nogil:
        bad = fr_check_targets(&counted, t, n, V, ignored)
    if bad < n:
        raise ValueError(
            f"targets: expected values in [0, {V}) or ignore_index {ignored}, "
            f"got {t[bad]} at position {bad}")
    scale = 1.0 / counted if counted else 0.0
    with nogil:
        if x.format[0] == b"d":
            loss = fr_softmax_cross_entropy_f64(
                <double *>dx, <const double *>x.buf, t, n, V, ignored, scale)
        else:
            loss = fr_softmax_cross_entropy_f32(
                <float *>dx, <const float *>x.buf, t, n, V, ignored, scale)
    return loss, counted


def cross_entropy(logits, targets, int64_t ignored):
    """``(loss, dlogits)`` of `fastrnn.cross_entropy`, or None for arrays that it has to look at first:
    any that are not dense, native, of int64, of no subclass and of matching shape. One small call a
    training step."""
    cdef cnp.ndarray x, t, dx
    cdef Py_ssize_t n, V, counted = 0, bad
    cdef double loss, scale
    cdef int axis, kind
    if not cnp.PyArray_CheckExact(logits) or not cnp.PyArray_CheckExact(targets):
        return None
    x, t = logits, targets
    kind = cnp.PyArray_TYPE(x)
    if kind != cnp.NPY_FLOAT and kind != cnp.NPY_DOUBLE or not cnp.PyArray_ISCARRAY_RO(x):
        return None
    if cnp.PyArray_TYPE(t) != cnp.NPY_INT64 or not cnp.PyArray_ISCARRAY_RO(t):
        return None
    if cnp.PyArray_NDIM(x) != cnp.PyArray_NDIM(t) + 1:
        return None
    for axis in range(cnp.PyArray_NDIM(t)):
        if cnp.PyArray_DIM(x, axis) != cnp.PyArray_DIM(t, axis):
            return None
    n, V = cnp.PyArray_SIZE(t), cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
    cdef const int64_t *ids = <const int64_t *> _data(t)
    with nogil:
        bad = fr_check_targets(&counted, ids, n, V, ignored)
    if bad < n:
        return None
    dx = _new_like(x, -1)
    scale = 1.0 / counted if counted else 0.0
    cdef void *to = _data(dx)
    cdef const void *logit = _data(x)
    with nogil:
        if kind == cnp.NPY_DOUBLE:
            loss = fr_softmax_cross_entropy_f64(
                <double *> to, <const double *> logit, ids, n, V, ignored, scale)
        else:
            loss = fr_softmax_cross_entropy_f32(
                <float *> to, <const float *> logit, ids, n, V, ignored, scale)
    return (loss / counted if counted else float("nan")), dx


def bce_with_logits(logits, targets, double factor, dlogits):
    """Write factor times the gradient of the sum of losses to dlogits (n,); return that sum."""
    cdef _PwArrays held
    cdef Py_buffer *x
    cdef void *t
    cdef void *dx
    cdef double loss
    held.count = 0
    try:
        x = _pw_take_first(&held, logits, "logits", 1, False)
        t = _pw_take_like(&held, "logits", targets, "targets", False)
        dx = _pw_take_like(&held, "logits", dlogits, "dlogits", True)
        with nogil:
            if x.format[0] == b"d":
                loss = fr_bce_with_logits_f64(
                    <double *>dx, <const double *>x.buf, <const double *>t, x.shape[0], factor)
            else:
                loss = fr_bce_with_logits_f32(
                    <float *>dx, <const float *>x.buf, <const float *>t, x.shape[0], factor)
        return loss
    finally:
        _pw_release(&held)


def clear(flat):
    """Set a 1-D array to zero, in place, by the threads that clip it and step with it."""
    cdef _PwArrays held
    cdef Py_buffer *x
    held.count = 0
    try:
        x = _pw_take_first(&held, flat, "flat", 1, True)
        with nogil:
            if x.format[0] == b"d":
                fr_clear_f64(<double *>x.buf, x.shape[0])
            else:
                fr_clear_f32(<float *>x.buf, x.shape[0])
    finally:
        _pw_release(&held)


def sum_of_squares(flat):
    """Return the sum of squares of a 1-D array, in float64 and in a fixed order."""
    cdef _PwArrays held
    cdef Py_buffer *x
    cdef double total
    held.count = 0
    try:
        x = _pw_take_first(&held, flat, "flat", 1, False)
        with nogil:
            if x.format[0] == b"d":
                total = fr_sum_of_squares_f64(<const double *>x.buf, x.shape[0])
            else:
                total = fr_sum_of_squares_f32(<const float *>x.buf, x.shape[0])
        return total
    finally:
        _pw_release(&held)


def scale(flat, double factor):
    """Multiply a 1-D array by factor, in place."""
    cdef _PwArrays held
    cdef Py_buffer *x
    held.count = 0
    try:
        x = _pw_take_first(&held, flat, "flat", 1, True)
        with nogil:
            if x.format[0] == b"d":
                fr_scale_f64(<double *>x.buf, x.shape[0], factor)
            else:
                fr_scale_f32(<float *>x.buf, x.shape[0], factor)
    finally:
        _pw_release(&held)


def clip(flat, double low, double high):
    """Limit a 1-D array to [low, high], in place; NaN stays NaN."""
    cdef _PwArrays held
    cdef Py_buffer *x
    held.count = 0
    try:
        x = _pw_take_first(&held, flat, "flat", 1, True)
        with nogil:
            if x.format[0] == b"d":
                fr_clip_f64(<double *>x.buf, x.shape[0], low, high)
            else:
                fr_clip_f32(<float *>x.buf, x.shape[0], low, high)
    finally:
        _pw_release(&held)


def dropout(x, double p, uint64_t key, uint64_t call, unsigned int layer=0):
    """A copy of `x` with every element dropped with probability `p`, the others times 1/(1-p).

    Which ones depends on `key`, `call` and `layer` alone: the same numbers drop the same elements."""
    dtype = _real_dtype("x", x)
    x = np.ascontiguousarray(x)
    out = np.empty_like(x)
    cdef Py_ssize_t n = x.size
    cdef fr_dropout_options o
    cdef void *to = _data(out)
    cdef void *source = _data(x)
    cdef bint wide = dtype == np.float64
    o.p, o.key, o.call, o.layer = p, key, <unsigned int> (call & 0xffffffff), layer
    with nogil:
        if wide:
            fr_dropout_f64(<double *> to, <const double *> source, n, &o)
        else:
            fr_dropout_f32(<float *> to, <const float *> source, n, &o)
    return out


def scatter_add(out, ids, rows):
    """out[ids[i]] += rows[i] in the order of i; out (V, D), ids (n,) int64 in [0, V), rows (n, D)."""
    cdef _PwArrays held
    held.count = 0
    try:
        _pw_scatter_add(&held, out, ids, rows)
    finally:
        _pw_release(&held)


cdef _pw_scatter_add(_PwArrays *held, out, ids, rows):
    cdef Py_buffer *to = _pw_take_first(held, out, "out", 2, True)
    cdef Py_buffer *source = _pw_take(held, rows, "rows", 2, False)
    cdef Py_ssize_t V = to.shape[0], D = to.shape[1], n = source.shape[0], counted = 0, bad
    if source.format[0] != to.format[0] or source.format[1]:
        raise TypeError(f"rows: expected {_pw_dtype(out, to)} like out, got {_pw_dtype(rows, source)}")
    if source.shape[1] != D:
        raise ValueError(f"rows: expected shape ({n}, {D}), got {_pw_shape(source)}")
    cdef const int64_t *i = _pw_take_ids(held, ids, "ids", n)
    with nogil:
        bad = fr_check_targets(&counted, i, n, V, V)  # no id is ignored: V is out of range itself
    if bad < n or counted < n:
        raise ValueError(f"ids: expected values in [0, {V}), got {min(ids)} to {max(ids)}")
    with nogil:
        if to.format[0] == b"d":
            fr_scatter_add_f64(<double *>to.buf, <const double *>source.buf, i, n, D)
        else:
            fr_scatter_add_f32(<float *>to.buf, <const float *>source.buf, i, n, D)


def sgd(params, grads, momentum_buffer, double lr, double momentum, bint nesterov,
        double weight_decay):
    """One step of SGD in place; momentum_buffer is None exactly if momentum is 0."""
    cdef _PwArrays held
    cdef Py_buffer *p
    cdef void *g
    cdef void *buf
    cdef fr_sgd_options o = fr_sgd_options(
        lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    held.count = 0
    try:
        p = _pw_take_first(&held, params, "params", 1, True)
        g = _pw_take_like(&held, "params", grads, "grads", False)
        buf = _pw_take_momentum(&held, momentum_buffer, momentum)
        with nogil:
            if p.format[0] == b"d":
                fr_sgd_f64(<double *>p.buf, <double *>buf, <const double *>g, p.shape[0], &o)
            else:
                fr_sgd_f32(<float *>p.buf, <float *>buf, <const float *>g, p.shape[0], &o)
    finally:
        _pw_release(&held)


def adagrad(params, grads, square_sum, double lr, double eps, double weight_decay):
    """One step of Adagrad in place; lr is the rate of this step, already decayed."""
    cdef _PwArrays held
    cdef Py_buffer *p
    cdef void *g
    cdef void *s
    cdef fr_adagrad_options o = fr_adagrad_options(lr=lr, eps=eps, weight_decay=weight_decay)
    held.count = 0
    try:
        p = _pw_take_first(&held, params, "params", 1, True)
        g = _pw_take_like(&held, "params", grads, "grads", False)
        s = _pw_take_like(&held, "params", square_sum, "square_sum", True)
        with nogil:
            if p.format[0] == b"d":
                fr_adagrad_f64(<double *>p.buf, <double *>s, <const double *>g, p.shape[0], &o)
            else:
                fr_adagrad_f32(<float *>p.buf, <float *>s, <const float *>g, p.shape[0], &o)
    finally:
        _pw_release(&held)


def rmsprop(params, grads, square_mean, mean, momentum_buffer, double lr, double alpha, double eps,
            double momentum, double weight_decay):
    """One step of RMSprop in place; mean None: not centered; momentum_buffer as for sgd."""
    cdef _PwArrays held
    cdef Py_buffer *p
    cdef void *g
    cdef void *v
    cdef void *m = NULL
    cdef void *buf
    cdef fr_rmsprop_options o = fr_rmsprop_options(
        lr=lr, alpha=alpha, eps=eps, momentum=momentum, weight_decay=weight_decay)
    held.count = 0
    try:
        p = _pw_take_first(&held, params, "params", 1, True)
        g = _pw_take_like(&held, "params", grads, "grads", False)
        v = _pw_take_like(&held, "params", square_mean, "square_mean", True)
        if mean is not None:
            m = _pw_take_like(&held, "params", mean, "mean", True)
        buf = _pw_take_momentum(&held, momentum_buffer, momentum)
        with nogil:
            if p.format[0] == b"d":
                fr_rmsprop_f64(<double *>p.buf, <double *>v, <double *>m, <double *>buf,
                               <const double *>g, p.shape[0], &o)
            else:
                fr_rmsprop_f32(<float *>p.buf, <float *>v, <float *>m, <float *>buf,
                               <const float *>g, p.shape[0], &o)
    finally:
        _pw_release(&held)


def adam(params, grads, mean, square_mean, int64_t step, double lr, double beta1, double beta2,
         double eps, double weight_decay, bint decoupled):
    """One step of Adam, or with decoupled of AdamW, in place; step is 1 for the first."""
    cdef _PwArrays held
    cdef Py_buffer *p
    cdef void *g
    cdef void *m
    cdef void *v
    cdef fr_adam_options o = fr_adam_options(
        lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, decoupled=decoupled,
        step=step)
    if step < 1:
        raise ValueError(f"step: expected 1 or more, got {step}")
    held.count = 0
    try:
        p = _pw_take_first(&held, params, "params", 1, True)
        g = _pw_take_like(&held, "params", grads, "grads", False)
        m = _pw_take_like(&held, "params", mean, "mean", True)
        v = _pw_take_like(&held, "params", square_mean, "square_mean", True)
        with nogil:
            if p.format[0] == b"d":
                fr_adam_f64(<double *>p.buf, <double *>m, <double *>v, <const double *>g,
                            p.shape[0], &o)
            else:
                fr_adam_f32(<float *>p.buf, <float *>m, <float *>v, <const float *>g,
                            p.shape[0], &o)
    finally:
        _pw_release(&held)
