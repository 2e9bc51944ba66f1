# Step: the gradients of a whole model in one call: forward, loss, backward and clipping, without the
# GIL and in memory laid out beforehand. Included by _core.pyx.
#
# A model is a row of stages; each is one layer of a recurrent stack, in one or both directions, or an
# affine map:
#
#     x ──► stage 0 ──given──► stage 1 ──given──► ... ──► loss       given: what the next one reads
#               ◄───dgiven───      ◄───dgiven───              │      dgiven: its gradient
#                                                             ▼
#
# The same C functions on the same numbers in the same order as layer by layer, hence the same bits.

from libc.math cimport INFINITY, isfinite, sqrt

cdef struct StepStage:
    int directions  # of a recurrent layer; 0: an affine map
    bint leads  # the first of two layers of a stack that goes one way
    fr_layer layer
    fr_seq seq
    int use
    void *packed[2]
    fr_weights weights[2]
    fr_forward_args forward[2]
    fr_backward_args backward[2]
    fr_gemm_args y, dx, dw
    int64_t rows, width  # of `given`
    void *out            # of all steps
    void *masked         # the same after dropout, where there was some
    void *given          # `out`; with dropout `masked`; with `only_last` (B, H)
    void *dgiven
    bint only_last
    const void *last     # the final state, which `only_last` gives
    fr_dropout_options drop  # between layers of one stack; p = 0: none

cdef enum StepLoss:
    CROSS_ENTROPY
    MSE
    BCE

cdef enum StepClip:
    CLIP_NOTHING
    CLIP_VALUE
    CLIP_NORM

_STEP_LOSSES = {"cross_entropy": CROSS_ENTROPY, "mse": MSE, "bce_with_logits": BCE}
_STEP_CLIPS = {"": CLIP_NOTHING, "value": CLIP_VALUE, "norm": CLIP_NORM}


cdef double _squared_error(fr_dtype dtype, void *dy, const void *y, const void *target, int64_t n,
                           double factor) noexcept nogil:
    """dy = factor (y - target), as `fastrnn.mse` computes it; returns the sum of squares (X5)."""
    cdef int64_t i
    cdef double total
    if dtype == FR_F64:
        for i in range(n):
            (<double *> dy)[i] = (<const double *> y)[i] - (<const double *> target)[i]
        total = fr_sum_of_squares_f64(<const double *> dy, n)
        fr_scale_f64(<double *> dy, n, factor)
        return total
    for i in range(n):
        (<float *> dy)[i] = (<const float *> y)[i] - (<const float *> target)[i]
    total = fr_sum_of_squares_f32(<const float *> dy, n)
    fr_scale_f32(<float *> dy, n, factor)
    return total


cdef fr_status _forward_two(StepStage *s) noexcept nogil:
    """Two layers of a stack with nothing between them, as `Engine.run` takes them."""
    cdef fr_layer layers[2]
    cdef fr_forward_args args[2]
    cdef fr_status status
    cdef int k
    for k in range(2):
        layers[k], args[k] = s[k].layer, s[k].forward[0]
        status = fr_pack(&layers[k], s[k].use, s[k].packed[0], s[k].weights)
        if status != FR_OK:
            return status
    return fr_forward_two(layers, &s.seq, args)


cdef fr_status _step_forward(StepStage *stage, int count) noexcept nogil:
    cdef fr_status status
    cdef StepStage *s
    cdef int i = -1
    cdef int64_t n
    while i + 1 < count:
        i += 1
        s = &stage[i]
        if not s.directions:
            status = fr_gemm(&s.y)
            if status != FR_OK:
                return status
            continue
        if s.leads and s.given == s.out:
            status = _forward_two(s)
            i += 1
            s = &stage[i]
        elif s.directions == 2:
            status = fr_pack_both(&s.layer, &s.seq, s.use, s.packed, s.weights)
            if status == FR_OK:
                status = fr_forward_both(&s.layer, &s.seq, s.forward)
        else:
            status = fr_pack(&s.layer, s.use, s.packed[0], s.weights)
            if status == FR_OK:
                status = fr_forward(&s.layer, &s.seq, s.forward)
        if status != FR_OK:
            return status
        n = s.rows * s.width
        if s.only_last:
            memcpy(s.given, s.last, <size_t> n * (8 if s.layer.dtype == FR_F64 else 4))
        elif s.given != s.out and s.layer.dtype == FR_F64:
            fr_dropout_f64(<double *> s.given, <const double *> s.out, n, &s.drop)  # (F3)
        elif s.given != s.out:
            fr_dropout_f32(<float *> s.given, <const float *> s.out, n, &s.drop)
    return FR_OK


cdef fr_status _step_backward(StepStage *stage, int count) noexcept nogil:
    cdef fr_status status
    cdef StepStage *s
    cdef int i
    cdef int64_t n
    for i in range(count - 1, -1, -1):
        s = &stage[i]
        if not s.directions:
            status = FR_OK
            if i:
                status = fr_gemm(&s.dx)
            if s.dw.sums != NULL:
                memset(s.dw.sums, 0, <size_t> s.width * (8 if s.dw.dtype == FR_F64 else 4))
            if status == FR_OK:
                status = fr_gemm(&s.dw)
            if status != FR_OK:
                return status
            continue
        n = s.rows * s.width
        if s.drop.p > 0 and s.layer.dtype == FR_F64:
            fr_dropout_f64(<double *> s.dgiven, <const double *> s.dgiven, n, &s.drop)
        elif s.drop.p > 0:  # forward's mask once more (F3)
            fr_dropout_f32(<float *> s.dgiven, <const float *> s.dgiven, n, &s.drop)
        if s.directions == 2:
            status = fr_backward_both(&s.layer, &s.seq, s.backward)
        else:
            status = fr_backward(&s.layer, &s.seq, s.backward)
        if status != FR_OK:
            return status
    return FR_OK


cdef fr_status _step_with_head(StepStage *s, fr_head_args *head) noexcept nogil:
    return fr_train_with_head(&s.layer, &s.seq, s.use, s.packed[0], s.weights, s.forward, s.backward,
                              head)


@cython.final
cdef class Step:
    """What `fastrnn.TrainStep` computes with.

    Parameters
    ----------
    engines : tuple of Engine or Affine
        In the order of the layers.
    modules : tuple of Module
        The layers themselves.
    roots : tuple of Module
        Whose flat buffers hold all parameters of the layers.
    loss : str
        A key of ``_STEP_LOSSES``.
    total : bool
        The loss is the sum over the counted targets, not their mean.
    last : bool
        Of the last recurrent layer only the final state is read.
    ignored : int
    clip : str
        A key of ``_STEP_CLIPS``.
    limit : float
    """
    cdef tuple engines, modules, roots
    cdef tuple drawing  # modules that may have dropout between their layers
    cdef object dtype
    cdef fr_dtype kind
    cdef StepLoss loss
    cdef StepClip clip
    cdef bint total, last, busy
    cdef double limit
    cdef int64_t ignored
    cdef readonly double norm  # of the last call's gradients, before they were clipped
    # laid out for inputs of one shape
    cdef int64_t first, second
    cdef bint tokens
    cdef int threads, count, blas
    cdef list blocks
    cdef StepStage *stage
    cdef bint has_head  # the last two stages can go along with each other,
    cdef readonly bint headed  # and have in the last call
    cdef fr_head_args head
    cdef cnp.ndarray y  # what the last stage gives

    def __init__(self, tuple engines, tuple modules, tuple roots, str loss, bint total, bint last,
                 int64_t ignored, str clip, double limit):
        self.engines, self.modules, self.roots = engines, modules, roots
        self.drawing = tuple(module for module, engine in zip(modules, engines)
                             if isinstance(engine, Engine) and (<Engine> engine).L > 1)
        self.loss, self.total, self.last, self.ignored = _STEP_LOSSES[loss], total, last, ignored
        self.clip, self.limit = _STEP_CLIPS[clip], limit
        self.dtype = engines[0].dtype
        self.kind = FR_F32 if self.dtype == np.float32 else FR_F64
        self.first, self.norm = -1, float("nan")

    @property
    def output(self):
        """What the last layer gave in the last call, read-only; the next one writes over it."""
        if self.y is None:
            return None
        view = self.y.view()
        view.flags.writeable = False
        return view

    # ---- memory

    cdef void *take(self, size_t bytes) except NULL:
        cdef Block block = Block(bytes)
        self.blocks.append(block)
        return block.p

    cdef void *take_rows(self, StepStage *s) except NULL:
        cdef size_t real = 8 if self.kind == FR_F64 else 4
        if s.rows > (<int64_t> 1 << 60) // s.width:
            raise ValueError("sizes are out of range: a product of them overflows")
        return self.take(<size_t> (s.rows * s.width) * real)

    cdef fr_gemm_args product(self, int64_t M, int64_t N, int64_t K) noexcept:
        cdef fr_gemm_args g
        memset(&g, 0, sizeof(g))
        g.dtype, g.M, g.N, g.K, g.threads = self.kind, M, N, K, self.threads
        return g

    cdef size_t lay_out_affine(self, StepStage *s, Affine f) except 0:
        """The products of `Affine.run` and `AffineTape.backward`; returns bytes of scratch."""
        cdef int64_t n = s.rows, inputs = f.inputs, outputs = f.outputs
        s.width = outputs
        s.y = self.product(n, outputs, inputs)
        s.y.ldc, s.y.lda, s.y.ldb, s.y.transpose_b = outputs, inputs, inputs, 1
        s.dx = self.product(n, inputs, outputs)
        s.dx.ldc, s.dx.lda, s.dx.ldb = inputs, outputs, inputs
        s.dw = self.product(outputs, inputs, n)
        s.dw.ldc, s.dw.lda, s.dw.ldb, s.dw.transpose_a = inputs, outputs, inputs, 1
        return max(fr_gemm_scratch_bytes(&s.y), fr_gemm_scratch_bytes(&s.dx),
                   fr_gemm_scratch_bytes(&s.dw))

    cdef size_t lay_out_layer(self, StepStage *s, int64_t T, int64_t B, bint tokens, bint need_dx) except 0:
        """Memory of a recurrent layer; returns bytes of scratch."""
        cdef int d
        s.seq.T, s.seq.B, s.seq.threads = T, B, self.threads
        s.use = fr_training_use(&s.layer, &s.seq, tokens, need_dx)
        for d in range(s.directions):
            s.packed[d] = self.take(fr_packed_bytes(&s.layer, s.use))
            s.forward[d].packed = s.backward[d].packed = s.packed[d]
            s.forward[d].reserve = self.take(fr_reserve_bytes(&s.layer, &s.seq))
            s.backward[d].reserve = s.forward[d].reserve
        if s.directions == 2:
            return max(fr_forward_both_scratch_bytes(&s.layer, &s.seq, True),
                       fr_backward_both_scratch_bytes(&s.layer, &s.seq, tokens))
        return max(fr_forward_scratch_bytes(&s.layer, &s.seq, True),
                   fr_backward_scratch_bytes(&s.layer, &s.seq, tokens))

    cdef int lay_out(self, int64_t first, int64_t second, bint tokens) except -1:
        """All memory for inputs of shape (first, second), and whatever stays from call to call."""
        cdef Engine e
        cdef Cell cell
        cdef StepStage *s = NULL
        cdef size_t scratch_bytes = 0
        cdef void *scratch
        cdef fr_layer pair[2]
        cdef int i = 0, d, layer, k, recurrent = -1
        cdef int64_t rows = first * second
        self.first = -1  # until all of it is there
        self.blocks, self.y = [], None
        self.tokens, self.threads, self.blas = tokens, fr_get_num_threads(), _blas_serial
        self.count = 0
        for k, engine in enumerate(self.engines):
            self.count += 1
            if isinstance(engine, Engine):
                self.count += (<Engine> engine).L - 1
                recurrent = k
        self.stage = <StepStage *> self.take(self.count * sizeof(StepStage))
        memset(self.stage, 0, self.count * sizeof(StepStage))
        for k, engine in enumerate(self.engines):
            if isinstance(engine, Affine):
                s = &self.stage[i]
                s.rows = rows
                scratch_bytes = max(scratch_bytes, self.lay_out_affine(s, engine))
                s.given = s.out = self.take_rows(s)
                i += 1
                continue
            e = engine
            for layer in range(e.L):
                s = &self.stage[i]
                cell = e.cells[layer * e.D]
                s.directions, s.rows, s.width, s.layer = e.D, rows, e.D * e.hidden_size, cell.layer
                s.leads = e.D == 1 and layer % 2 == 0 and layer + 1 < e.L
                scratch_bytes = max(scratch_bytes, self.lay_out_layer(
                    s, second if e.batch_first else first, first if e.batch_first else second,
                    tokens and i == 0, i > 0))
                if layer % 2 == 1 and e.D == 1:
                    pair[0], pair[1] = self.stage[i - 1].layer, s.layer
                    scratch_bytes = max(scratch_bytes, fr_forward_two_scratch_bytes(pair, &s.seq, True))
                s.given = s.out = self.take_rows(s)
                i += 1
            if self.last and k == recurrent:
                s.only_last = True
                s.rows = rows = first if e.batch_first else second
                s.given = self.take_rows(s)
        scratch = self.take(scratch_bytes)
        for i in range(self.count):
            s = &self.stage[i]
            s.dgiven = self.take_rows(s)
            s.y.scratch = s.dx.scratch = s.dw.scratch = scratch
            for d in range(s.directions):
                s.forward[d].scratch = s.backward[d].scratch = scratch
        self.lay_out_head()
        self.y = np.empty(s.rows * s.width, self.dtype)
        self.y = self.y.reshape((s.rows, s.width)) if self.last else \
            self.y.reshape((first, second, s.width))
        if s.given == s.out:
            s.out = _data(self.y)
        s.given = _data(self.y)
        self.first, self.second = first, second
        return 0

    cdef int lay_out_head(self) except -1:
        """Whether the last two stages, a layer and its head, go along with each other: head.c."""
        cdef StepStage *s
        cdef Engine e
        cdef Py_ssize_t before = len(self.engines) - 2
        cdef int alone = self.head.pace.alone  # of another shape, but of the same cores
        self.has_head = False
        memset(&self.head, 0, sizeof(self.head))
        self.head.pace.alone = alone
        if self.loss != CROSS_ENTROPY or len(self.roots) > 1 or before < 0 or \
                not isinstance(self.engines[before], Engine) or \
                not isinstance(self.engines[before + 1], Affine):
            return 0
        e, s = self.engines[before], &self.stage[self.count - 2]
        if e.D == 2 or s.only_last or (e.batch_first and s.seq.B > 1) or (e.L > 1 and e.L % 2 == 0):
            return 0  # of an even number of layers the last one follows another: _forward_two
        self.head.V, self.head.ignored = s[1].width, self.ignored
        self.has_head = fr_head_at_once(&s.layer, &s.seq, self.tokens and self.count == 2, s[1].width)
        if self.has_head:
            self.head.scratch = self.take(fr_head_scratch_bytes(&s.layer, &s.seq, s[1].width))
        return 0

    cdef bint aim_head(self, const int64_t *targets, double factor):
        """0 if the gradients do not lie as head.c takes them."""
        cdef StepStage *s = &self.stage[self.count - 2]
        cdef StepStage *end = s + 1
        cdef fr_head_args *h = &self.head
        cdef cnp.ndarray flat = self.roots[0]._flat_grad
        h.w, h.b, h.dw, h.db = end.y.B, end.y.bias, end.dw.C, end.dw.sums
        h.logits, h.dlogits, h.targets, h.scale = end.given, end.dgiven, targets, factor
        h.clip = self.limit if self.clip == CLIP_VALUE else INFINITY
        return fr_head_grads_end(&s.layer, &s.backward[0].grads, h) == \
            <char *> _data(flat) + cnp.PyArray_NBYTES(flat)

    # ---- pointers, which may be others in every call

    cdef int aim_affine(self, StepStage *s, const void *x, void *dx, Affine f) except -1:
        s.y.C, s.y.A, s.y.B = s.given, x, _data(f.w)
        s.y.bias = NULL if f.b is None else _data(f.b)
        s.dx.C, s.dx.A, s.dx.B = dx, s.dgiven, _data(f.w)
        s.dw.C, s.dw.A, s.dw.B = _data(f.dw), s.dgiven, x
        s.dw.sums = NULL if f.db is None else _data(f.db)
        return 0

    cdef int aim_dropout(self, StepStage *s, module, int layer) except -1:
        """Dropout behind `layer` of a stack, as much as the module has now."""
        s.drop.p, s.given = module.dropout, s.out
        if s.drop.p > 0:
            s.drop.layer, s.drop.key = layer, module._key
            s.drop.call = <unsigned int> (module._calls & 0xffffffff)
            if s.masked == NULL:
                s.masked = self.take_rows(s)
            s.given = s.masked
        return 0

    cdef int aim_layer(self, StepStage *s, Engine e, int layer, cnp.ndarray xa, const void *x, void *dx,
                       int64_t inputs, tuple initial, tuple final) except -1:
        """Layer `layer` of `e`: x is the array `xa`, or else a dense one of `inputs` columns at `x`."""
        cdef fr_forward_args *f
        cdef fr_backward_args *b
        cdef Cell cell
        cdef int d
        cdef int64_t T = s.seq.T, B = s.seq.B, H = e.hidden_size
        cdef Py_ssize_t real = 8 if self.kind == FR_F64 else 4
        cdef Py_ssize_t at
        for d in range(s.directions):
            f, b, cell = &s.forward[d], &s.backward[d], e.cells[layer * e.D + d]
            s.weights[d], b.grads, b.set = cell.weights, cell.grads, 1
            if xa is None:
                f.x = self.dense(e, <void *> x, T, B, inputs)
            elif self.tokens:
                f.tokens = e._place_tokens(xa)
            else:
                f.x = e._place(xa, 0)
            f.y = self.dense(e, <char *> s.out + d * H * real, T, B, s.directions * H)
            at = (layer * e.D + d) * B * H * real
            f.h0 = NULL if initial[0] is None else <char *> _data(initial[0]) + at
            f.c0 = NULL if initial[1] is None else <char *> _data(initial[1]) + at
            f.hT = <char *> _data(final[0]) + at
            f.cT = NULL if final[1] is None else <char *> _data(final[1]) + at
            b.x, b.tokens, b.y, b.h0, b.c0 = f.x, f.tokens, f.y, f.h0, f.c0
            if dx != NULL:
                b.dx = self.dense(e, dx, T, B, inputs)
            if s.only_last:
                s.last, b.dhT = f.hT, s.dgiven
            else:
                b.dy = self.dense(e, <char *> s.dgiven + d * H * real, T, B, s.directions * H)
        return 0

    cdef fr_array dense(self, Engine e, void *p, int64_t T, int64_t B, int64_t width) noexcept:
        """A dense (T,B,width) or (B,T,width) array as the kernels take it."""
        cdef fr_array a
        a.p = p
        a.st, a.sb = (width, T * width) if e.batch_first else (B * width, width)
        return a

    cdef tuple aim(self, cnp.ndarray x, tuple states):
        """Every pointer of this call; returns the final states, and keeps the initial ones alive."""
        cdef Engine e
        cdef StepStage *s
        cdef StepStage *before = NULL
        cdef cnp.ndarray xa = x  # None behind the first stage
        cdef int i = 0, layer, k
        cdef int64_t inputs = 0
        cdef list finals = [], kept = []
        for k, engine in enumerate(self.engines):
            if isinstance(engine, Affine):
                if states[k] is not None:
                    raise ValueError("state: Linear keeps no state, expected None")
                s = &self.stage[i]
                self.aim_affine(s, _data(xa) if before == NULL else before.given,
                                NULL if before == NULL else before.dgiven, engine)
                before, xa = s, None
                finals.append(None)
                i += 1
                continue
            e = engine
            module = self.modules[k]
            B = self.stage[i].seq.B
            h0, c0 = e._check_state("", states[k], B)
            initial = self.kept_apart(h0), self.kept_apart(c0)
            hT = e._new(e.L * e.D, B, e.hidden_size)
            cT = e._new(e.L * e.D, B, e.hidden_size) if e.has_c else None
            for layer in range(e.L):
                s = &self.stage[i]
                if layer < e.L - 1:
                    self.aim_dropout(s, module, layer)
                self.aim_layer(s, e, layer, xa, NULL if before == NULL else before.given,
                               NULL if before == NULL else before.dgiven,
                               0 if before == NULL else before.width, initial, (hT, cT))
                before, xa = s, None
                i += 1
            kept.append(initial)
            finals.append((hT, cT) if e.has_c else hT)
        return tuple(finals), kept

    # ---- one call

    def gradients(self, x, targets, tuple states):
        """Set the gradients of all layers to those of the loss, clipped; return (loss, states).

        `x` (T, B, I) or token ids (T, B), or with batch_first (B, T, ...); `states` one entry for
        each layer. Raises what `TrainStep` documents; gradients are then as before, or, if the norm
        was not finite, not clipped."""
        if self.busy:  # the memory is one call's
            raise RuntimeError("step: another thread is inside; use a TrainStep for each thread")
        self.busy = True
        try:
            return self.compute(x, targets, states)
        finally:
            self.busy = False

    cdef tuple compute(self, given, targets, tuple states):
        cdef Engine e
        cdef cnp.ndarray x
        cdef StepStage *end
        cdef cnp.ndarray t
        cdef Py_ssize_t counted = 0, bad
        cdef int64_t n, rows
        cdef double loss, factor
        cdef fr_status status
        given = _as_array("x", given)
        if isinstance(self.engines[0], Engine):
            e = self.engines[0]
            x = e._check_input(given)
        else:
            e, x = None, self.check_dense(given)
        cdef bint tokens = cnp.PyArray_NDIM(x) == 2
        cdef int64_t first = cnp.PyArray_DIM(x, 0), second = cnp.PyArray_DIM(x, 1)
        if not first * second:
            raise ValueError("x: expected at least one step of one row, got shape "
                             f"{(<object> x).shape}")
        if first != self.first or second != self.second or tokens != self.tokens or \
                self.threads != fr_get_num_threads() or self.blas != _blas_serial:
            self.lay_out(first, second, tokens)
        end = &self.stage[self.count - 1]
        n, rows = end.rows * end.width, end.rows
        x = self.kept_apart(x)
        t = self.kept_apart(self.check_targets(targets))
        cdef void *wanted = _data(t)
        cdef const int64_t *ids = <const int64_t *> wanted
        if self.loss == CROSS_ENTROPY:
            bad = fr_check_targets(&counted, ids, rows, end.width, self.ignored)
            if bad < rows:
                raise ValueError(f"targets: expected values in [0, {end.width}) or ignore_index "
                                 f"{self.ignored}, got {ids[bad]} at position {bad}")
            if not counted:
                raise ValueError(f"targets: expected some that count, got only {self.ignored}")
        else:
            counted = n
        final, kept = self.aim(x, states)
        factor = 1.0 if self.total else 1.0 / counted
        self.headed = self.has_head and self.aim_head(ids, factor)
        cdef int apart = self.count - 2 if self.headed else self.count
        with nogil:
            status = _step_forward(self.stage, apart)
            if self.headed and status == FR_OK:
                status = _step_with_head(&self.stage[apart], &self.head)
        if status == FR_ETOKEN:
            e._token_error(given, None)
        _check_status("forward", status)
        if self.headed:
            loss = self.head.loss
        else:
            with nogil:
                loss = self.compute_loss(end, wanted, n, rows, factor)
        if not isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}")
        if apart:
            with nogil:
                status = _step_backward(self.stage, apart)
            _check_status("backward", status)
        for module in self.drawing:
            if module._random_layers():
                module._calls += 1
        if apart or self.clip != CLIP_VALUE:  # or head.c has
            self.clip_gradients()
        return (loss if self.total else loss / counted), final

    cdef kept_apart(self, array):
        """`array`, copied if it is a part of `output`, which this call writes over."""
        if array is None:
            return None
        cdef char *p = <char *> _data(array)
        cdef char *first = <char *> _data(self.y)
        if first <= p < first + cnp.PyArray_NBYTES(self.y):
            return np.array(array, order="C")
        return array

    cdef double compute_loss(self, StepStage *end, void *targets, int64_t n, int64_t rows,
                             double factor) noexcept nogil:
        """The sum of the losses; dgiven = factor times its gradient."""
        if self.loss == MSE:
            return _squared_error(self.kind, end.dgiven, end.given, targets, n, 2 * factor)
        if self.kind == FR_F64 and self.loss == BCE:
            return fr_bce_with_logits_f64(<double *> end.dgiven, <double *> end.given,
                                          <double *> targets, n, factor)
        if self.loss == BCE:
            return fr_bce_with_logits_f32(<float *> end.dgiven, <float *> end.given,
                                          <float *> targets, n, factor)
        if self.kind == FR_F64:
            return fr_softmax_cross_entropy_f64(<double *> end.dgiven, <double *> end.given,
                                                <int64_t *> targets, rows, end.width, self.ignored,
                                                factor)
        return fr_softmax_cross_entropy_f32(<float *> end.dgiven, <float *> end.given,
                                            <int64_t *> targets, rows, end.width, self.ignored, factor)

    cdef int clip_gradients(self) except -1:
        """(C1) or (C2), as `fastrnn.clip_grad_norm_` and `clip_grad_value_`."""
        cdef cnp.ndarray flat
        cdef double squares = 0, factor
        if self.clip == CLIP_NOTHING:
            return 0
        for module in self.roots:
            flat = module._flat_grad
            if self.kind == FR_F64 and self.clip == CLIP_VALUE:
                fr_clip_f64(<double *> _data(flat), flat.shape[0], -self.limit, self.limit)
            elif self.clip == CLIP_VALUE:
                fr_clip_f32(<float *> _data(flat), flat.shape[0], -self.limit, self.limit)
            elif self.kind == FR_F64:
                squares += fr_sum_of_squares_f64(<double *> _data(flat), flat.shape[0])
            else:
                squares += fr_sum_of_squares_f32(<float *> _data(flat), flat.shape[0])
        if self.clip == CLIP_VALUE:
            return 0
        self.norm = sqrt(squares)
        if not isfinite(self.norm):
            raise FloatingPointError(f"the norm of the gradients is {self.norm}")
        factor = self.limit / (self.norm + 1e-6)
        if factor >= 1:
            return 0
        for module in self.roots:
            flat = module._flat_grad
            if self.kind == FR_F64:
                fr_scale_f64(<double *> _data(flat), flat.shape[0], factor)
            else:
                fr_scale_f32(<float *> _data(flat), flat.shape[0], factor)
        return 0

    # ---- checks

    cdef check_dense(self, x):
        """x of a model whose first layer is an affine map."""
        cdef Affine f = self.engines[0]
        if x.dtype != self.dtype or not x.dtype.isnative:
            raise TypeError(f"x: expected {self.dtype}, got {_describe(x)}")
        if x.ndim != 3 or x.shape[2] != f.inputs:
            raise ValueError(f"x: expected shape (T, B, {f.inputs}), got {x.shape}")
        return _dense(x)

    cdef cnp.ndarray check_targets(self, targets):
        """Targets as the loss takes them: dense, int64 or of the model's dtype."""
        if self.loss == CROSS_ENTROPY and _is_usual(
                targets, cnp.NPY_INT64, cnp.PyArray_NDIM(self.y) - 1, cnp.PyArray_DIMS(self.y)):
            return targets
        targets = _as_array("targets", targets)
        shape = (<object> self.y).shape
        if self.loss == CROSS_ENTROPY:
            shape = shape[:self.y.ndim - 1]
            if targets.dtype.kind not in "iu":
                raise TypeError(f"targets: expected integers, got {targets.dtype}")
            if targets.dtype == np.uint64 and targets.size and targets.max() > np.iinfo(np.int64).max:
                raise ValueError(f"targets: expected values in [0, {self.y.shape[self.y.ndim - 1]}) or "
                                 f"ignore_index {self.ignored}, got {targets.max()}")
            dtype = np.int64
        else:
            if targets.dtype.kind not in "fiub":
                raise TypeError(f"targets: expected real numbers, got {targets.dtype}")
            dtype = self.dtype
        if targets.shape != shape:
            raise ValueError(f"targets: expected shape {shape}, got {targets.shape}")
        return _dense(targets if targets.dtype == dtype and targets.dtype.isnative
                      else targets.astype(dtype))
