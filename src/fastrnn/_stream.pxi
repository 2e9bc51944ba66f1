# Stepper: one time step of a stack per call, everything allocated beforehand. Included by _core.pyx.

@cython.final
cdef class Stepper:
    """State and buffers of one stream. The state is kept twice: a step reads one copy and writes
    the other, so a step that fails has changed nothing."""
    cdef Engine engine
    cdef object module, version
    cdef int64_t B
    cdef int now      # which copy is current
    cdef int threads  # that scratch is laid out for
    cdef list packed_dense, packed_tokens
    cdef Block states, scratch
    cdef size_t row  # bytes of one (B, H) array

    def __init__(self, Engine engine, module, int64_t batch):
        self.engine, self.module, self.B = engine, module, batch
        self.row = <size_t> (batch * engine.hidden_size * engine.dtype.itemsize)
        try:
            self.states = Block(4 * engine.L * self.row)
            self.allocate()
        except MemoryError as error:
            raise MemoryError(f"batch: {batch} rows: {error}") from None
        self.reset()

    cdef void allocate(self) except *:
        """Scratch for the threads there are now."""
        cdef fr_seq seq
        cdef Cell cell
        cdef size_t most = 0
        memset(&seq, 0, sizeof(seq))
        seq.T, seq.B, seq.threads = 1, self.B, fr_get_num_threads()
        for cell in self.engine.cells:
            most = max(most, fr_forward_scratch_bytes(&cell.layer, &seq, False))
        self.scratch = Block(most)
        self.threads = seq.threads

    cdef char *at(self, int which, int layer, bint c) noexcept:
        return <char *> self.states.p + ((which * self.engine.L + layer) * 2 + c) * self.row

    def reset(self):
        """Return to the zero state, with the weights as they are now."""
        memset(self.states.p, 0, 4 * self.engine.L * self.row)
        self.now = 0
        self.engine.refresh(self.module)
        self.version = self.module._version
        self.packed_dense = self.packed_tokens = None

    cdef list pack(self, bint tokens):
        cdef Cell cell
        cdef list packed = []
        for i, cell in enumerate(self.engine.cells):
            packed.append(cell.pack(FR_USE_TOKENS if tokens and i == 0 else FR_USE_DENSE,
                                    self.engine.stamp))
        if tokens:
            self.packed_tokens = packed
        else:
            self.packed_dense = packed
        return packed

    def step(self, x, out):
        """Advance every layer by one step; return `out` (B, H), or a new array, with the last h."""
        cdef Engine e = self.engine
        cdef cnp.ndarray xa
        cdef int layer, after = 1 - self.now
        cdef bint tokens
        cdef Cell cell
        cdef Packed p
        cdef fr_seq seq
        cdef fr_forward_args a
        cdef fr_status status
        out = self.new_out() if out is None else self.check_out(out)
        if type(x) is not np.ndarray:
            x = np.asarray(_as_array("x", x))
        given = xa = x
        tokens = xa.descr.kind in (c"i", c"u")
        if _is(xa, e.typenum, 2) and cnp.PyArray_IS_C_CONTIGUOUS(xa) and \
                cnp.PyArray_DIM(xa, 0) == self.B and cnp.PyArray_DIM(xa, 1) == e.input_size:
            pass  # what usually comes, accepted without asking Python
        elif tokens:
            if xa.ndim != 1 or xa.shape[0] != self.B:
                raise ValueError(f"x: expected {self.B} token ids, got shape {x.shape}")
            if x.dtype != np.int64 or xa.strides[0] % 8:
                xa = x = x.astype(np.int64)
        else:
            if x.dtype != e.dtype or not x.dtype.isnative:
                raise TypeError(
                    f"x: expected {e.dtype} or integer token ids, got {_describe(x)}")
            if xa.ndim != 2 or xa.shape[0] != self.B or xa.shape[1] != e.input_size:
                raise ValueError(
                    f"x: expected shape {(self.B, e.input_size)}, got {x.shape}")
            if not cnp.PyArray_IS_C_CONTIGUOUS(xa):
                xa = x = np.ascontiguousarray(x)
        if self.version != self.module._version:  # new weights: an optimizer, load_state_dict
            e.refresh(self.module)
            self.version = self.module._version
            self.packed_dense = self.packed_tokens = None
        packed = self.packed_tokens if tokens else self.packed_dense
        if packed is None:
            packed = self.pack(tokens)

        if self.threads != fr_get_num_threads():
            self.allocate()
        memset(&seq, 0, sizeof(seq))
        seq.T, seq.B, seq.threads = 1, self.B, self.threads
        for layer in range(e.L):
            cell, p = e.cells[layer], packed[layer]
            memset(&a, 0, sizeof(a))
            a.scratch, a.packed = self.scratch.p, p.block.p
            a.y.p, a.y.sb = self.at(after, layer, False), e.hidden_size
            if layer:
                a.x.p, a.x.sb = self.at(after, layer - 1, False), e.hidden_size
            elif tokens:
                a.tokens.p = <const int64_t *> _data(xa)
                a.tokens.sb = xa.strides[0] // 8
            else:
                a.x.p, a.x.sb = _data(xa), e.input_size
            a.h0 = self.at(self.now, layer, False)
            if e.has_c:
                a.c0, a.cT = self.at(self.now, layer, True), self.at(after, layer, True)
            status = fr_forward(&cell.layer, &seq, &a)
            if status == FR_ETOKEN:
                bad = int(np.flatnonzero((x < 0) | (x >= e.input_size))[0])
                raise ValueError(
                    f"x: expected token ids in [0, {e.input_size}), got {given[bad]} at b={bad}")
            _check_status("step", status)
        memcpy(_data(out), self.at(after, e.L - 1, False), self.row)
        self.now = after
        return out

    cdef cnp.ndarray new_out(self):
        cdef cnp.npy_intp dims[2]
        dims[0], dims[1] = self.B, self.engine.hidden_size
        return _new_array(2, dims, self.engine.typenum)

    cdef cnp.ndarray check_out(self, out):
        """`out`, if a step can write to it."""
        cdef Engine e = self.engine
        cdef cnp.ndarray a
        if type(out) is np.ndarray:
            a = out
            if _is(a, e.typenum, 2) and cnp.PyArray_ISCARRAY(a) and \
                    cnp.PyArray_DIM(a, 0) == self.B and cnp.PyArray_DIM(a, 1) == e.hidden_size:
                return a
        got = _describe(out)
        if isinstance(out, np.ndarray) and not out.flags.carray:
            got += ", read-only" if not out.flags.writeable else ", not in C order"
        raise ValueError(f"out: expected a writeable C-contiguous array of {e.dtype} with shape "
                         f"{(self.B, e.hidden_size)}, got {got}")

    def get_state(self):
        """Copies: h (L, B, H), for LSTM (h, c)."""
        cdef int layer, c
        arrays = [np.empty((self.engine.L, self.B, self.engine.hidden_size), self.engine.dtype)
                  for _ in range(1 + self.engine.has_c)]
        for c in range(1 + self.engine.has_c):
            for layer in range(self.engine.L):
                memcpy(<char *> _data(arrays[c]) + layer * self.row,
                       self.at(self.now, layer, c), self.row)
        return tuple(arrays) if self.engine.has_c else arrays[0]

    def set_state(self, state):
        """Take this state, of the shape that `get_state` returns; None is zeros."""
        cdef int layer, c
        arrays = self.engine._check_state("", state, self.B)
        for c in range(1 + self.engine.has_c):
            for layer in range(self.engine.L):
                if arrays[c] is None:
                    memset(self.at(self.now, layer, c), 0, self.row)
                else:
                    memcpy(self.at(self.now, layer, c),
                           <char *> _data(arrays[c]) + layer * self.row, self.row)
