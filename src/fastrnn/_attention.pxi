# Additive attention: the boundary to csrc/attention.c, included by _core.pyx. Everything around the
# scores (linear maps, softmax, contexts) is in layers/attention.py.


cdef fr_attention_args _attention_args(q, k, v, lengths) except *:
    """Checked arguments of both directions; q (B,T,M), k (B,S,M), v (M,), lengths (B,) int64."""
    cdef fr_attention_args a
    memset(&a, 0, sizeof(a))
    dtype = _real_dtype("q", q)
    for name, array in (("q", q), ("k", k)):
        if getattr(array, "ndim", None) != 3:
            raise ValueError(f"{name}: expected 3 axes, got {_describe(array)}")
    a.B, a.T, a.M = q.shape
    a.S = k.shape[1]
    _check_array("q", q, q.shape, dtype)
    _check_array("k", k, (a.B, a.S, a.M), dtype)
    _check_array("v", v, (a.M,), dtype)
    _check_array("lengths", lengths, (a.B,), np.dtype(np.int64))
    a.dtype = FR_F32 if dtype == np.float32 else FR_F64
    a.q, a.k, a.v = _data(q), _data(k), _data(v)
    a.len = <const int64_t *> _data(lengths)
    a.threads = fr_get_num_threads()
    return a


def attention_scores(q, k, v, lengths):
    """Return e (B, T, S), ``tanh(q_t + k_s) . v``; zeros from each row's length on."""
    cdef fr_attention_args a = _attention_args(q, k, v, lengths)
    cdef fr_status status
    e = np.zeros((a.B, a.T, a.S), q.dtype)
    a.e = _data(e)
    with nogil:
        status = fr_attention_scores(&a)
    _check_status("attention", status)
    return e


def attention_backward(q, k, v, lengths, de):
    """Return dq (B, T, M), dk (B, S, M) and dv (M,) from the gradient of the scores."""
    cdef fr_attention_args a = _attention_args(q, k, v, lengths)
    cdef fr_status status
    _check_array("de", de, (a.B, a.T, a.S), q.dtype)
    dq, dk, dv = np.empty_like(q), np.empty_like(k), np.empty((a.B, a.M), q.dtype)
    a.dq, a.dk, a.dv, a.de = _data(dq), _data(dk), _data(dv), _data(de)
    with nogil:
        status = fr_attention_backward(&a)
    _check_status("attention", status)
    return dq, dk, dv.sum(axis=0)
