# Memory and array checks of the boundary. Included by _core.pyx.

cdef extern from *:
    """
    #ifdef _WIN32
    #include <malloc.h>
    #define fr_aligned_malloc(n) _aligned_malloc(n, 64)
    #define fr_aligned_free _aligned_free
    #else
    #include <stdlib.h>
    static void *fr_aligned_malloc(size_t n)
    {
        void *p = NULL;
        return posix_memalign(&p, 64, n) ? NULL : p;
    }
    #define fr_aligned_free free
    #endif
    """
    void *fr_aligned_malloc(size_t n) nogil
    void fr_aligned_free(void *p) nogil


# Freed blocks wait here for the next call of the same size: a training loop asks for the same few
# sizes again and again, and fresh pages from the system would cost a fault every 4 KB. Guarded by
# the GIL.
cdef enum:
    POOL_SLOTS = 32
    POOL_MOST = 1 << 28  # bytes kept at most

cdef struct PoolSlot:
    void *p
    size_t bytes

cdef PoolSlot _pool[POOL_SLOTS]
cdef int _pool_count = 0
cdef size_t _pool_bytes = 0


cdef void *_take(size_t bytes, size_t *got) noexcept:
    global _pool_count, _pool_bytes
    cdef int i, best = -1
    cdef void *p
    for i in range(_pool_count):  # not more than a quarter too large
        if _pool[i].bytes >= bytes and _pool[i].bytes - bytes <= bytes // 4 + 4096:
            if best < 0 or _pool[i].bytes < _pool[best].bytes:
                best = i
    if best >= 0:
        p = _pool[best].p
        got[0] = _pool[best].bytes
        _pool_count -= 1
        _pool[best] = _pool[_pool_count]
        _pool_bytes -= got[0]
        return p
    got[0] = bytes
    return fr_aligned_malloc(bytes)


cdef void _give_back(void *p, size_t bytes) noexcept:
    global _pool_count, _pool_bytes
    cdef int i
    while _pool_count and (_pool_count == POOL_SLOTS or _pool_bytes + bytes > POOL_MOST):
        fr_aligned_free(_pool[0].p)  # the oldest
        _pool_bytes -= _pool[0].bytes
        _pool_count -= 1
        for i in range(_pool_count):
            _pool[i] = _pool[i + 1]
    if bytes > POOL_MOST:
        fr_aligned_free(p)
        return
    _pool[_pool_count].p = p
    _pool[_pool_count].bytes = bytes
    _pool_count += 1
    _pool_bytes += bytes


@cython.final
cdef class Block:
    """Aligned memory that lives as long as this object. The C core answers 0 for sizes that
    overflow, and no request is for 0 bytes otherwise."""
    cdef void *p
    cdef size_t bytes

    def __cinit__(self, size_t bytes):
        if bytes == 0:
            raise ValueError("sizes are out of range: a product of them overflows")
        self.p = _take(bytes, &self.bytes)
        if self.p == NULL:
            raise MemoryError(f"cannot allocate {bytes} bytes")

    def __dealloc__(self):
        if self.p != NULL:
            _give_back(self.p, self.bytes)


cdef enum:
    LARGE_ARRAY = 1 << 16


cdef cnp.ndarray _new_array(int ndim, cnp.npy_intp *dims, int typenum):
    """An array like NumPy's own; a large one lives in a Block. The system takes NumPy's large arrays
    back when they are freed and hands out fresh pages, one fault every 4 KB: a tenth of a training
    step, on the days when the C library decides so."""
    cdef cnp.npy_intp bytes = 4 if typenum == cnp.NPY_FLOAT else 8
    cdef int axis
    cdef Block block
    cdef cnp.ndarray array
    for axis in range(ndim):
        if dims[axis] and bytes > (<cnp.npy_intp> 1 << 62) // dims[axis]:
            bytes = 0  # NumPy's error says it best
            break
        bytes *= dims[axis]
    if bytes < LARGE_ARRAY:
        return cnp.PyArray_EMPTY(ndim, dims, typenum, 0)
    block = Block(bytes)
    array = cnp.PyArray_SimpleNewFromData(ndim, dims, typenum, block.p)
    cnp.set_array_base(array, block)
    return array


cdef cnp.ndarray _new_like(cnp.ndarray array, cnp.npy_intp last):
    """A dense array of `array`'s type and shape, but for the length of its last axis (-1: as it is)."""
    cdef cnp.npy_intp dims[64]  # as many as an array can have
    cdef int axis, ndim = cnp.PyArray_NDIM(array)
    for axis in range(ndim):
        dims[axis] = cnp.PyArray_DIM(array, axis)
    if last >= 0:
        dims[ndim - 1] = last
    return _new_array(ndim, dims, cnp.PyArray_TYPE(array))


cdef int _check_status(str what, fr_status status) except -1:
    """Raise what stands for this status: a system that starts no thread is nobody's bad value."""
    if status == FR_OK:
        return 0
    message = f"{what}: {fr_status_text(status).decode()}"
    raise (RuntimeError if status == FR_ETHREAD else ValueError)(message)


# ---- checks --------------------------------------------------------------------------------------

cdef inline void *_data(cnp.ndarray array) noexcept:
    return cnp.PyArray_DATA(array)


cdef inline bint _is(cnp.ndarray array, int typenum, int ndim) noexcept:
    """Whether `array` has this type and number of axes, and elements that C can read."""
    return cnp.PyArray_TYPE(array) == typenum and cnp.PyArray_NDIM(array) == ndim and \
        cnp.PyArray_ISBEHAVED_RO(array)


cdef inline bint _is_usual(value, int typenum, int ndim, const cnp.npy_intp *dims) noexcept:
    """Whether `value` is a C-contiguous array, of no subclass, of this type and shape: what usually comes,
    accepted without asking Python."""
    cdef int axis
    cdef cnp.ndarray array
    if not cnp.PyArray_CheckExact(value):
        return False
    array = value
    if not _is(array, typenum, ndim) or not cnp.PyArray_IS_C_CONTIGUOUS(array):
        return False
    for axis in range(ndim):
        if cnp.PyArray_DIM(array, axis) != dims[axis]:
            return False
    return True


def _dense(array):
    """`array`, copied unless it is C-contiguous and aligned (a field of packed records is not)."""
    return array if cnp.PyArray_ISCARRAY_RO(array) else np.array(array, order="C")


def _as_array(str name, value):
    """`value` as an array; lists of different lengths are none, and what has a mask is refused."""
    if cnp.PyArray_CheckExact(value):
        return value
    if isinstance(value, np.ndarray):
        if hasattr(value, "mask"):  # asking np.ma would import it
            raise TypeError(f"{name}: expected an array without a mask, got a {type(value).__name__}; "
                            "compress it, or leave out what it masks by lengths or an ignore_index")
        return value
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: expected an array, got a {type(value).__name__} with rows of "
                         "different length; fastrnn.pad_sequences makes one of them") from None


def fingerprint(cnp.ndarray array):
    """A number that another content of this C-contiguous array would hardly have, too."""
    return fr_fingerprint(_data(array), cnp.PyArray_NBYTES(array))


def _as_integers(str name, value):
    """The same where integers are wanted: an empty list is one of them, not of NumPy's float64."""
    array = _as_array(name, value)
    return array if isinstance(value, np.ndarray) or array.size else array.astype(np.int64)


def _describe(value):
    if isinstance(value, np.ndarray):
        order = "" if value.dtype.isnative else " of foreign byte order"
        kind = "an array" if type(value) is np.ndarray else f"a {type(value).__name__}"
        return f"{kind} of {value.dtype.name}{order} with shape {value.shape}"
    return type(value).__name__


def _real_dtype(str name, array):
    """dtype of `array`, which must be native float32 or float64."""
    if not isinstance(array, np.ndarray) or not array.dtype.isnative or \
            array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name}: expected an array of float32 or float64, got {_describe(array)}")
    return array.dtype


def _check_array(str name, array, tuple shape, dtype):
    """Raise unless `array` is a C-contiguous array of this shape and native dtype."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: expected an array of {dtype} with shape {shape}, "
                        f"got {_describe(array)}")
    if array.dtype != dtype or not array.dtype.isnative:
        raise TypeError(f"{name}: expected {dtype}, got {_describe(array)}")
    if (<object> array).shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {(<object> array).shape}")
    if not cnp.PyArray_IS_C_CONTIGUOUS(array):
        raise ValueError(f"{name}: expected a C-contiguous array")
