# Engine and Tape: a recurrent stack (all layers, both directions) as one call each way.
# Included by _core.pyx.

# A cell's constant, and what a trace calls the slots of its reserve (fr_read_reserve) from the first
# on: the gates, then c, by which a state of two parts is known. Slots without a name are not shown.
_CELLS = {
    "rnn_tanh": (FR_RNN_TANH, ""),
    "rnn_relu": (FR_RNN_RELU, ""),
    "rnn_sigmoid": (FR_RNN_SIGMOID, ""),
    "lstm": (FR_LSTM, "ifgoc"),
    "gru": (FR_GRU, "rzn"),
    "gru_before": (FR_GRU_BEFORE, "rzn"),
}
cdef int _blas_serial = 0


@cython.final
cdef class Packed:
    """Weights of one cell in the kernels' order. Never changed once made: a tape keeps the one its
    forward ran with, so its gradients belong to those weights whatever happened to them since."""
    cdef Block block
    cdef int use, blas
    cdef uint64_t stamp


cdef enum:  # what a cell's calls need memory for
    INFERENCE
    TRAINING
    BACKWARD
    BACKWARD_TOKENS
    BOTH  # added to those above: of both directions in one call
    RESERVE = 2 * BOTH
    NEEDS

cdef enum:
    BRIEF = 1 << 16  # multiply-adds, in 1 to 4 us
    A_ROW = 1 << 10  # what a step of a row takes beside its own


@cython.final
cdef class Cell:
    """One layer in one direction: where its parameters and gradients are."""
    cdef fr_layer layer
    cdef fr_weights weights
    cdef fr_weight_grads grads
    cdef Packed packed
    cdef tuple keep  # the arrays behind the pointers
    # Bytes that calls of this shape need, 0 where nobody has asked yet: a loop asks for the same ones.
    cdef int64_t T, B
    cdef int threads, blas
    cdef size_t bytes[NEEDS]

    cdef size_t need(self, int what, const fr_seq *seq) noexcept:
        """Bytes of scratch, or of the reserve; 0 if sizes overflow."""
        if seq.lengths != NULL:
            return self.count(what, seq)
        if seq.T != self.T or seq.B != self.B or seq.threads != self.threads or self.blas != _blas_serial:
            self.T, self.B, self.threads, self.blas = seq.T, seq.B, seq.threads, _blas_serial
            memset(self.bytes, 0, sizeof(self.bytes))
        if not self.bytes[what]:
            self.bytes[what] = self.count(what, seq)
        return self.bytes[what]

    cdef size_t count(self, int what, const fr_seq *seq) noexcept:
        if what == RESERVE:
            return fr_reserve_bytes(&self.layer, seq)
        if what == BOTH + BACKWARD or what == BOTH + BACKWARD_TOKENS:
            return fr_backward_both_scratch_bytes(&self.layer, seq, what == BOTH + BACKWARD_TOKENS)
        if what >= BOTH:
            return fr_forward_both_scratch_bytes(&self.layer, seq, what == BOTH + TRAINING)
        if what == BACKWARD or what == BACKWARD_TOKENS:
            return fr_backward_scratch_bytes(&self.layer, seq, what == BACKWARD_TOKENS)
        return fr_forward_scratch_bytes(&self.layer, seq, what == TRAINING)

    cdef bint is_brief(self, int64_t T, int64_t B) noexcept:
        """Whether a call (or packing: T = B = 1) takes a few microseconds at most and waits for no other
        thread: then other Python threads wait less for it than it costs to let them in."""
        cdef double weights = 4.0 * self.layer.hidden_size * (self.layer.hidden_size + self.layer.input_size)
        return (weights + A_ROW) * T * B <= BRIEF

    cdef bint has_packed(self, int use, uint64_t stamp) noexcept:
        """Whether the packed weights at hand are those of `stamp`, and good for `use`."""
        cdef Packed p = self.packed
        return p is not None and p.stamp == stamp and p.blas == _blas_serial and \
            (p.use | FR_USE_ALONE) & use == use  # it says only who should pack

    cdef int use_to_pack(self, int use, uint64_t stamp) noexcept:
        """`use`, and what the packed weights at hand are used for if they are still good."""
        cdef Packed p = self.packed
        if p is not None and p.stamp == stamp and p.blas == _blas_serial:
            use |= p.use & ~FR_USE_ALONE  # who packs is this call's own affair
        return use

    cdef Packed to_pack(self, int use, uint64_t stamp):
        """Memory for packed weights, which are still to be made, and kept."""
        cdef Packed p
        use = self.use_to_pack(use, stamp)
        # Unless a tape still needs it, the old block is taken again: it is in the cache.
        self.packed = p = None
        p = Packed()
        p.block = Block(fr_packed_bytes(&self.layer, use))
        p.use, p.stamp, p.blas = use, stamp, _blas_serial
        return p

    cdef Packed pack(self, int use, uint64_t stamp):
        """Packed weights good for `use`, made now unless the ones at hand still are."""
        cdef Packed p
        cdef fr_status status
        if self.has_packed(use, stamp):
            return self.packed
        p = self.to_pack(use, stamp)
        if p.use & FR_USE_ALONE and self.is_brief(1, 1):
            status = fr_pack(&self.layer, p.use, p.block.p, &self.weights)
        else:
            with nogil:
                status = fr_pack(&self.layer, p.use, p.block.p, &self.weights)
        _check_status("packing weights", status)
        self.packed = p
        return p


cdef int _pack_both(Cell first, Cell second, const fr_seq *seq, int use, uint64_t stamp) except -1:
    """`Cell.pack` of two directions, each by the thread that will read it."""
    cdef Packed p, q
    cdef void *blocks[2]
    cdef fr_weights weights[2]
    cdef fr_status status
    if first.has_packed(use, stamp) or second.has_packed(use, stamp) or \
            first.use_to_pack(use, stamp) != second.use_to_pack(use, stamp):  # used in other ways, too
        first.pack(use, stamp)
        second.pack(use, stamp)
        return 0
    p, q = first.to_pack(use, stamp), second.to_pack(use, stamp)
    blocks[0], blocks[1] = p.block.p, q.block.p
    weights[0], weights[1] = first.weights, second.weights
    with nogil:
        status = fr_pack_both(&first.layer, seq, p.use, blocks, weights)
    _check_status("packing weights", status)
    first.packed, second.packed = p, q
    return 0


@cython.final
cdef class Engine:
    """The computing side of RNN, LSTM and GRU.

    Parameters
    ----------
    cell : str
        A key of ``_CELLS``.
    input_size, hidden_size, num_layers : int
    bidirectional, batch_first : bool
    dtype : dtype
    """
    cdef readonly int64_t input_size, hidden_size
    cdef readonly int L, D
    cdef str slots  # one letter each
    cdef readonly bint batch_first, has_c
    cdef readonly object dtype
    cdef int typenum
    cdef size_t real  # bytes of a number
    cdef list cells  # [layer * D + direction]; the list itself never changes
    cdef object version
    cdef uint64_t stamp, fingerprint

    def __init__(self, str cell, int64_t input_size, int64_t hidden_size, int num_layers,
                 bint bidirectional, bint batch_first, dtype):
        cdef Cell c
        self.input_size, self.hidden_size, self.L, self.D = input_size, hidden_size, num_layers, 1 + bidirectional
        constant, self.slots = _CELLS[cell]
        self.batch_first, self.has_c, self.dtype = batch_first, "c" in self.slots, np.dtype(dtype)
        self.typenum = cnp.NPY_FLOAT if self.dtype == np.float32 else cnp.NPY_DOUBLE
        self.real = self.dtype.itemsize
        self.cells = []
        for i in range(self.L * self.D):
            c = Cell()
            c.layer.cell = constant
            c.layer.dtype = FR_F32 if self.dtype == np.float32 else FR_F64
            c.layer.input_size = self.input_size if i < self.D else self.hidden_size * self.D
            c.layer.hidden_size = self.hidden_size
            self.cells.append(c)

    def bind(self, int index, tuple params, tuple grads):
        """Take the arrays of cell `index`: (w_ih, w_hh, b_ih, b_hh), biases None if there are
        none, and their gradients. They are read at every call from now on."""
        cdef Cell c = self.cells[index]
        c.keep, c.packed = (params, grads), None
        c.weights.w_ih, c.weights.w_hh = _data(params[0]), _data(params[1])
        c.grads.w_ih, c.grads.w_hh = _data(grads[0]), _data(grads[1])
        c.weights.b_ih = NULL if params[2] is None else _data(params[2])
        c.weights.b_hh = NULL if params[3] is None else _data(params[3])
        c.grads.b_ih = NULL if grads[2] is None else _data(grads[2])
        c.grads.b_hh = NULL if grads[3] is None else _data(grads[3])

    cdef void refresh(self, module):
        """Notice changed parameters: by version, and where a user may hold the arrays, by value."""
        cdef uint64_t fingerprint
        version = module._version
        if version != self.version:
            self.version = version
            self.stamp += 1
            self.fingerprint = 0
        if module.exposed:
            flat = module._flat
            fingerprint = fr_fingerprint(_data(flat), flat.nbytes)
            if fingerprint != self.fingerprint:
                self.fingerprint = fingerprint
                self.stamp += 1

    cdef cnp.ndarray _check_input(self, x):
        """`x` as the kernels take it: floats with a dense last axis, or int64 tokens."""
        cdef cnp.ndarray a
        if cnp.PyArray_CheckExact(x):  # what usually comes, accepted without asking Python
            a = x
            if _is(a, self.typenum, 3) and cnp.PyArray_DIM(a, 2) == self.input_size and \
                    cnp.PyArray_STRIDE(a, 2) == <Py_ssize_t> self.real:
                return a
            if _is(a, cnp.NPY_INT64, 2):
                return a
        return self._other_input(x)

    cdef cnp.ndarray _other_input(self, x):
        """The same for whatever else there is, or an error that says what was expected."""
        cdef str layout = "(B, T" if self.batch_first else "(T, B"
        given, x = x, _as_array("x", x)
        if not isinstance(given, np.ndarray) and x.dtype == np.float64 and self.dtype == np.float32:
            x = x.astype(np.float32)  # a list has no dtype of its own
        kind = x.dtype.kind
        if kind in "iu":
            if x.ndim != 2:
                raise ValueError(f"x: expected token ids of shape {layout}), got shape {x.shape}")
            return x if x.dtype == np.int64 and cnp.PyArray_ISALIGNED(x) else x.astype(np.int64)
        if x.dtype != self.dtype or not x.dtype.isnative:
            raise TypeError(f"x: expected {self.dtype} or integer token ids, got {_describe(x)}")
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x: expected shape {layout}, {self.input_size}), got {x.shape}")
        if x.strides[2] != x.itemsize or not cnp.PyArray_ISALIGNED(x):
            x = _dense(x)
        return x

    cdef tuple _check_state(self, str prefix, state, int64_t B):
        """(h, c) as arrays or None; c is None for cells that have none."""
        if state is None:
            return None, None
        shape = (self.L * self.D, B, self.hidden_size)
        if not self.has_c:
            return self._as_state(prefix + "h", state, shape), None
        if not isinstance(state, (tuple, list)) or len(state) != 2:
            raise TypeError(f"{prefix}state: expected a pair (h, c), got {_describe(state)}")
        return (self._as_state(prefix + "h", state[0], shape),
                self._as_state(prefix + "c", state[1], shape))

    cdef _as_state(self, str name, array, tuple shape):
        if array is None:
            return None
        cdef cnp.npy_intp dims[3]
        dims[0], dims[1], dims[2] = shape
        if _is_usual(array, self.typenum, 3, dims):
            return array
        if isinstance(array, np.ndarray):
            array = _dense(_as_array(name, array))
        _check_array(name, array, shape, self.dtype)
        return array

    cdef void _token_error(self, x, lengths) except *:
        """Name the first token that is out of range."""
        tokens = x.T if self.batch_first else x
        bad = (tokens < 0) | (tokens >= self.input_size)
        if lengths is not None:
            bad &= np.arange(tokens.shape[0])[:, None] < lengths
        t, b = np.argwhere(bad)[0]
        raise ValueError(f"x: expected token ids in [0, {self.input_size}), got {tokens[t, b]} "
                         f"at t={t}, b={b}")

    cdef cnp.ndarray _new(self, int64_t first, int64_t second, int64_t third):
        cdef cnp.npy_intp dims[3]
        dims[0], dims[1], dims[2] = first, second, third
        return _new_array(3, dims, self.typenum)

    def run(self, module, x, state, lengths, reset, bint keep, bint trace=False, tuple mask=None):
        """Forward through the stack.

        Returns ``(y, state)``, or ``(y, state, tape)`` if `keep`; with `trace`, the tape has one.
        `mask` is (p, key, call) of the dropout between layers, or None."""
        cdef int64_t T, B, layer = 0, index
        cdef int d, k, use, together
        cdef Cell cell
        cdef Packed packed
        cdef Block scratch, reserve
        # The pointers in `a` point into what the others hold when a second layer or direction has theirs.
        cdef Packed first_packed
        cdef cnp.ndarray first_x
        cdef fr_seq seq
        cdef fr_layer layers[2]
        cdef fr_forward_args a[2]  # of each direction, or of two layers
        cdef fr_forward_args *f
        cdef fr_status status
        cdef Tape tape = None
        cdef cnp.ndarray xa, ya, y

        given = _as_array("x", x)  # with the values as they came
        xa = x = self._check_input(x)
        cdef bint tokens = cnp.PyArray_NDIM(xa) == 2
        T, B = cnp.PyArray_DIM(xa, self.batch_first), cnp.PyArray_DIM(xa, not self.batch_first)
        h0, c0 = self._check_state("", state, B)
        if lengths is not None:
            lengths = _check_lengths(lengths, T, B)
        if reset is not None:
            reset = _check_reset(reset, T, B, self.batch_first)
        self.refresh(module)

        hT = self._new(self.L * self.D, B, self.hidden_size)
        cT = self._new(self.L * self.D, B, self.hidden_size) if self.has_c else None
        if keep:
            if h0 is not None:
                h0 = h0.copy()
            if c0 is not None:
                c0 = c0.copy()
            tape = Tape.__new__(Tape)
            tape.engine, tape.lengths, tape.reset, tape.h0, tape.c0 = self, lengths, reset, h0, c0
            tape.T, tape.B, tape.tokens = T, B, tokens
            tape.inputs, tape.outputs, tape.mask = [], [], mask
            tape.reserves, tape.packed, tape.cells = [], [], self.cells
        seq = _sequence(T, B, lengths, reset)
        cdef size_t state_bytes = <size_t> (B * self.hidden_size) * self.real
        while layer < self.L:
            # Two layers of one direction with nothing between them, both directions of a layer, or one.
            together = 2 if self.D == 1 and mask is None and layer + 1 < self.L else 1
            for k in range(together):
                y = self._new(B if self.batch_first else T, T if self.batch_first else B,
                              self.D * self.hidden_size)
                ya, xa = y, x
                if k == 0:
                    first_x = xa
                cell = self.cells[layer * self.D]
                layers[k] = cell.layer
                if keep:
                    use = fr_training_use(&cell.layer, &seq, tokens, not tokens)
                else:
                    use = FR_USE_TOKENS if tokens else FR_USE_DENSE
                if self.D == 2:
                    _pack_both(cell, self.cells[layer * self.D + 1], &seq, use, self.stamp)
                for d in range(self.D):
                    index = layer * self.D + d
                    cell, f = self.cells[index], &a[k + d]
                    packed = cell.pack(use, self.stamp)
                    if k + d == 0:
                        first_packed = packed
                    memset(f, 0, sizeof(fr_forward_args))
                    if keep:
                        reserve = Block(cell.need(RESERVE, &seq))
                        f.reserve = reserve.p
                        tape.reserves.append(reserve)
                        tape.packed.append(packed)
                    f.packed = packed.block.p
                    f.clear_past = 1
                    f.y = self._place(ya, d * self.hidden_size)
                    if tokens:
                        f.tokens = self._place_tokens(xa)
                    else:
                        f.x = self._place(xa, 0)
                    f.hT = <char *> _data(hT) + index * state_bytes
                    if h0 is not None:
                        f.h0 = <char *> _data(h0) + index * state_bytes
                    if self.has_c:
                        f.cT = <char *> _data(cT) + index * state_bytes
                        if c0 is not None:
                            f.c0 = <char *> _data(c0) + index * state_bytes
                if keep:
                    tape.inputs.append(x)
                    tape.outputs.append(y)
                x, tokens = y, False
                layer += 1
            if together == 2:
                scratch = Block(fr_forward_two_scratch_bytes(layers, &seq, keep))
            else:
                scratch = Block(cell.need((TRAINING if keep else INFERENCE) + (BOTH if self.D == 2 else 0), &seq))
            a[0].scratch = a[1].scratch = scratch.p
            if together == 1 and self.D == 1 and cell.is_brief(T, B):
                status = fr_forward(layers, &seq, a)
            else:
                with nogil:
                    if together == 2:
                        status = fr_forward_two(layers, &seq, a)
                    elif self.D == 2:
                        status = fr_forward_both(layers, &seq, a)
                    else:
                        status = fr_forward(layers, &seq, a)
            if status == FR_ETOKEN:
                self._token_error(given, lengths)
            _check_status("forward", status)
            if mask is not None and layer < self.L:
                x = dropout(y, *mask, layer - 1)  # (F3)
        if keep:  # the tape reads each y again; a silent change would be a silently wrong gradient
            for y in tape.outputs:
                cnp.PyArray_CLEARFLAGS(y, cnp.NPY_ARRAY_WRITEABLE)
        final = (hT, cT) if self.has_c else hT
        if trace:
            tape.seen = tape.read_trace()
        return (y, final, tape) if keep else (y, final)

    cdef fr_array _place(self, cnp.ndarray array, int64_t offset):
        """Address and strides of a (T,B,K) or (B,T,K) array, from element `offset` of a row on."""
        cdef fr_array a
        cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(array)
        cdef Py_ssize_t first = cnp.PyArray_STRIDE(array, 0) // size
        cdef Py_ssize_t second = cnp.PyArray_STRIDE(array, 1) // size
        a.p = <char *> _data(array) + offset * size
        a.st, a.sb = (second, first) if self.batch_first else (first, second)
        return a

    cdef fr_tokens _place_tokens(self, cnp.ndarray array):
        cdef fr_tokens a
        cdef fr_array placed
        placed = self._place(array, 0)
        a.p, a.st, a.sb = <const int64_t *> placed.p, placed.st, placed.sb
        return a

    def plan(self, int64_t T, int64_t B, bint backward=False):
        """How a call on (T, B) is split (first layer): dict of threads, rows, units, chunk, ahead, offered (nobody
        is woken for one call), timed (one thread makes it alone where that turns out to be faster), far (weights
        are asked for early) and evenly (parts of unequal size share out what is summed over time); whether it
        is brief; and whether both directions, or two layers, have a thread each (together)."""
        cdef fr_plan p
        cdef fr_seq seq
        cdef fr_layer layers[2]
        cdef Cell cell = self.cells[0], upper
        cdef bint together
        memset(&seq, 0, sizeof(seq))
        seq.T, seq.B = T, B
        status = fr_plan_describe(&p, &cell.layer, &seq, backward)
        _check_status("plan", status)
        together = p.together and self.D == 2
        if self.D == 1 and self.L > 1 and not backward:
            upper = self.cells[1]
            layers[0], layers[1] = cell.layer, upper.layer
            together = fr_forward_two_together(layers, &seq, False)
        return {"threads": p.threads, "rows": p.rows, "units": p.units, "chunk": p.chunk,
                "ahead": bool(p.ahead), "offered": p.offered == 1, "timed": p.offered > 0,
                "far": bool(p.far),
                "evenly": bool(p.evenly),
                "brief": self.D == 1 and cell.is_brief(T, B), "together": together}


def _check_lengths(lengths, int64_t T, int64_t B):
    lengths = _as_integers("lengths", lengths)
    if lengths.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected integers, got {_describe(lengths)}")
    if (<object> lengths).shape != (B,):
        raise ValueError(f"lengths: expected shape ({B},), got {(<object> lengths).shape}")
    if B and (lengths.min() < 0 or lengths.max() > T):
        bad = int(np.flatnonzero((lengths < 0) | (lengths > T))[0])
        raise ValueError(f"lengths: expected 0 to {T}, got {lengths[bad]} at b={bad}")
    return np.array(lengths, np.int64)


def _check_reset(reset, int64_t T, int64_t B, bint batch_first):
    """A copy as the kernels take it, (T, B)."""
    shape = (B, T) if batch_first else (T, B)
    reset = _as_array("reset", reset)
    if reset.dtype != np.bool_:
        raise TypeError(f"reset: expected shape {shape} booleans, got {_describe(reset)}")
    if (<object> reset).shape != shape:
        raise ValueError(f"reset: expected shape {shape} booleans, got {(<object> reset).shape}")
    return np.array(reset.T if batch_first else reset, order="C")


cdef fr_seq _sequence(int64_t T, int64_t B, lengths, reset):
    cdef fr_seq seq
    memset(&seq, 0, sizeof(seq))
    seq.T, seq.B = T, B
    seq.threads = fr_get_num_threads()  # asked once: another thread may change it meanwhile
    if lengths is not None:
        seq.lengths = <const int64_t *> _data(lengths)
    if reset is not None:
        seq.reset = <const uint8_t *> _data(reset)
    return seq


_CLIPS = {"value": FR_CLIP_VALUE, "norm": FR_CLIP_NORM}


def _check_clip_step(clip_step):
    try:
        kind, limit = clip_step
        clip, limit = _CLIPS[kind], float(limit)
        if limit > 0:
            return clip, limit
    except (TypeError, ValueError, KeyError):
        pass
    raise ValueError('clip_step: expected ("value", limit) or ("norm", limit) with a limit above 0, '
                     f"got {clip_step!r}")


@cython.final
cdef class Tape:
    """What `backward` needs of one `forward`. Read-only: it may be run any number of times, and
    gives the gradient at the weights that forward used even if they have changed since."""
    cdef Engine engine
    cdef int64_t T, B
    cdef bint tokens
    cdef object lengths, reset, h0, c0
    cdef list inputs, outputs  # of every layer; dropout may stand between one's y and the next one's x
    cdef tuple mask
    cdef list reserves, packed, cells
    cdef object seen

    @property
    def trace(self):
        """`Trace` of every step's states and gates; forward must have been called with trace=True."""
        if self.seen is None:
            raise AttributeError("tape.trace: forward was called without trace=True")
        return self.seen

    def _check_backward(self, dstate, clip_step=None):
        self.engine._check_state("d", dstate, self.B)
        if clip_step is not None:
            _check_clip_step(clip_step)

    cdef _per_step(self):
        """Zeros of shape (L*D, T, B, H)."""
        cdef Engine e = self.engine
        return np.zeros((e.L * e.D, self.T, self.B, e.hidden_size), e.dtype)

    cdef fr_array _at_step(self, cnp.ndarray array, int64_t index) noexcept:
        """Entry `index` of what `_per_step` returned."""
        cdef fr_array a
        a.p = <char *> _data(array) + index * cnp.PyArray_STRIDE(array, 0)
        a.sb = self.engine.hidden_size
        a.st = a.sb * self.B
        return a

    cdef read_trace(self):
        cdef Engine e = self.engine
        cdef Cell cell
        cdef Block reserve
        cdef fr_array at
        cdef fr_seq seq = _sequence(self.T, self.B, self.lengths, self.reset)
        cdef int64_t index, H = e.hidden_size
        cdef fr_status status
        h = self._per_step()
        for index in range(e.L * e.D):
            y = self.outputs[index // e.D][..., index % e.D * H:(index % e.D + 1) * H]
            h[index] = y.swapaxes(0, 1) if e.batch_first else y
        slots = {name: self._per_step() for name in e.slots}
        for slot, array in enumerate(slots.values()):
            for index in range(e.L * e.D):
                cell, reserve = self.cells[index], self.reserves[index]
                seq.reverse = index % e.D
                at = self._at_step(array, index)
                status = fr_read_reserve(&cell.layer, &seq, slot, &at, reserve.p)
                _check_status("trace", status)
        return Trace(h, slots.pop("c", None), slots)

    def backward(self, dy, dstate=None, *, bint need_dx=True, bint per_step=False,
                 clip_step=None, bint accumulate=True, bint need_dstate=True):
        """Add the gradients of all parameters to ``layer.grads`` and return those of the inputs.

        Parameters
        ----------
        dy : ndarray of y's shape and dtype, or None
            Gradient of the loss with respect to y; None: no loss depends on y directly.
        dstate : ndarray or (ndarray, ndarray), optional
            Gradient with respect to the final state, of its shape; either of an LSTM's may be None.
        need_dx : bool, default True
            False leaves out the gradient of x, which the first layer of a model has no use for.
        per_step : bool, default False
            Return the gradient that reaches the state of each step, too.
        clip_step : (str, float), optional
            Clip the gradient that reaches each step's state, before it goes through the cell:
            ``("value", limit)`` each element to [-limit, limit], ``("norm", limit)`` each row of
            hidden units to an L2 norm of at most `limit`. In an LSTM first that of h, then that of
            c; (C3) and (C4) of docs/math.md. The gradient of the initial state is not clipped.
        accumulate : bool, default True
            False: ``layer.grads`` are set, not added to: the same numbers as after
            ``layer.zero_grad()``, which takes 1 to 10% of a training step.
        need_dstate : bool, default True
            False leaves out the gradient of the initial state: half a step of backward less.

        Returns
        -------
        dx : ndarray of x's shape, or None
            None for token input, or without `need_dx`.
        dstate : ndarray of shape (L*D, B, H), or for LSTM a pair of them; or None
            Gradient with respect to the initial state (also if it was None: zeros); None without
            `need_dstate`.
        steps : StepGradients
            Only with `per_step`: ``steps.dh`` of shape (L*D, T, B, H), and for LSTM ``steps.dc``.

        Raises
        ------
        ValueError, TypeError
            ``dy: expected shape ..., got ...``. No gradient has been changed.
        """
        cdef Engine e = self.engine
        cdef int64_t layer, index
        cdef int d
        cdef Cell cell
        cdef Packed packed
        cdef Block scratch, reserve
        cdef fr_seq seq
        cdef fr_backward_args a[2]  # of each direction
        cdef fr_status status
        cdef cnp.ndarray xa, ya, dya, dxa
        cdef object dx = None

        ya = self.outputs[e.L - 1]
        if dy is not None and not _is_usual(dy, e.typenum, 3, cnp.PyArray_DIMS(ya)):
            shape = (<object> self.outputs[e.L - 1]).shape
            if isinstance(dy, np.ndarray) and dy.dtype == e.dtype and dy.shape == shape:
                dy = _dense(_as_array("dy", dy))
            _check_array("dy", dy, shape, e.dtype)
        dhT, dcT = e._check_state("d", dstate, self.B)
        cdef fr_clip clip = FR_CLIP_NONE
        cdef double limit = 0
        if clip_step is not None:
            clip, limit = _check_clip_step(clip_step)
        dh0 = e._new(e.L * e.D, self.B, e.hidden_size) if need_dstate else None
        dc0 = e._new(e.L * e.D, self.B, e.hidden_size) if need_dstate and e.has_c else None
        step_dh = self._per_step() if per_step else None
        step_dc = self._per_step() if per_step and e.has_c else None
        seq = _sequence(self.T, self.B, self.lengths, self.reset)
        cdef size_t state_bytes = <size_t> (self.B * e.hidden_size) * e.real
        for layer in range(e.L - 1, -1, -1):
            x, y = self.inputs[layer], self.outputs[layer]
            tokens = layer == 0 and self.tokens
            wanted = not tokens and (layer > 0 or need_dx)
            dx = None
            if wanted:
                dx = _new_like(x, -1)
            xa, ya = x, y
            cell = self.cells[layer * e.D]
            scratch = Block(cell.need((BACKWARD_TOKENS if tokens else BACKWARD) + (BOTH if e.D == 2 else 0), &seq))
            for d in range(e.D):
                index = layer * e.D + d
                cell, packed = self.cells[index], self.packed[index]
                reserve = self.reserves[index]
                memset(&a[d], 0, sizeof(fr_backward_args))
                a[d].scratch, a[d].packed, a[d].reserve = scratch.p, packed.block.p, reserve.p
                a[d].grads = cell.grads
                a[d].y = e._place(ya, d * e.hidden_size)
                if tokens:
                    a[d].tokens = e._place_tokens(xa)
                else:
                    a[d].x = e._place(xa, 0)
                if wanted:
                    dxa = dx
                    a[d].dx = e._place(dxa, 0)
                if dy is not None:
                    dya = dy
                    a[d].dy = e._place(dya, d * e.hidden_size)
                if need_dstate:
                    a[d].dh0 = <char *> _data(dh0) + index * state_bytes
                if self.h0 is not None:
                    a[d].h0 = <char *> _data(self.h0) + index * state_bytes
                if dhT is not None:
                    a[d].dhT = <char *> _data(dhT) + index * state_bytes
                if e.has_c:
                    if need_dstate:
                        a[d].dc0 = <char *> _data(dc0) + index * state_bytes
                    if self.c0 is not None:
                        a[d].c0 = <char *> _data(self.c0) + index * state_bytes
                    if dcT is not None:
                        a[d].dcT = <char *> _data(dcT) + index * state_bytes
                a[d].clip_step, a[d].clip_limit, a[d].set = clip, limit, not accumulate
                a[d].clear_past = 1
                if per_step:
                    a[d].step_dh = self._at_step(step_dh, index)
                    if e.has_c:
                        a[d].step_dc = self._at_step(step_dc, index)
            if e.D == 2:
                with nogil:
                    status = fr_backward_both(&cell.layer, &seq, a)
            elif cell.is_brief(self.T, self.B):
                status = fr_backward(&cell.layer, &seq, a)
            else:
                with nogil:
                    status = fr_backward(&cell.layer, &seq, a)
            _check_status("backward", status)
            dy = dx
            if self.mask is not None and layer > 0:
                dy = dropout(dx, *self.mask, layer - 1)  # (F3): forward's mask once more
        dinitial = (dh0, dc0) if need_dstate and e.has_c else dh0
        if per_step:
            return dx, dinitial, StepGradients(step_dh, step_dc)
        return dx, dinitial
