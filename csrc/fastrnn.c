/* fastrnn.c: the entry points. Each checks what it is given, lays out memory, and hands the
 * call to the kernels of the current instruction set. No arithmetic on data happens here. */
#include "fastrnn.h"

#include <string.h>

#include "internal.h"

const char *fr_status_text(fr_status status)
{
    switch (status) {
    case FR_OK:
        return "ok";
    case FR_EDIM:
        return "a size is out of range, or a product of sizes overflows";
    case FR_EARG:
        return "a required argument is missing, or an option is unknown";
    case FR_EPACK:
        return "packed weights do not belong to this layer and instruction set";
    case FR_EISA:
        return "instruction set unknown or not available on this machine";
    case FR_ETHREAD:
        return "the system would not start a thread";
    case FR_ETOKEN:
        return "a token is outside [0, input_size)";
    case FR_ELENGTH:
        return "a length is outside [0, T]";
    case FR_EBLAS:
        return "the BLAS failed on a product of known matrices";
    }
    return "unknown status";
}

/* ---- cells -------------------------------------------------------------------------------- */

/* clang-format off */
#define FR_RNN_TRAITS {.name = "rnn", .gates = 1, .slots = 0, .dslots = 1, .phases = 1}

const fr_cell_traits fr_cells[FR_CELLS] = {
    [FR_RNN_TANH] = FR_RNN_TRAITS,
    [FR_RNN_RELU] = FR_RNN_TRAITS,
    [FR_RNN_SIGMOID] = FR_RNN_TRAITS,
    [FR_LSTM] = {.name = "lstm", .gates = 4, .slots = 5, .dslots = 4, .phases = 1, .has_c = 1,
                 .slot_of_gate_r = {0, 1, 2, 3}, .w_gate = {0, 1, 2, 3}, .r_gate = {0, 1, 2, 3}},
    [FR_GRU] = {.name = "gru", .gates = 3, .slots = 4, .dslots = 4, .phases = 1, .splits_bias = 1,
                .slot_of_gate_r = {0, 1, 3}, .w_gate = {0, 1, 2, -1}, .r_gate = {0, 1, -1, 2}},
    [FR_GRU_BEFORE] = {.name = "gru_before", .gates = 3, .slots = 4, .dslots = 3, .phases = 2,
                       .rh_slot = 3,
                       .slot_of_gate_r = {0, 1, 2}, .w_gate = {0, 1, 2}, .r_gate = {0, 1, 2},
                       .r_from_rh = {0, 0, 1}},
};
/* clang-format on */

/* ---- sizes -------------------------------------------------------------------------------- */

static int multiply(size_t *product, size_t a, size_t b)
{
    if (b && a > SIZE_MAX / 2 / b)
        return 0;
    *product = a * b;
    return 1;
}

/* A running offset: sections are placed one after the other, each aligned; `ok` turns 0 for
 * good once anything overflows. */
typedef struct arena {
    char *base;
    size_t used;
    int ok;
} arena;

static size_t reserve_bytes(arena *a, size_t x, size_t y, size_t z, size_t w)
{
    size_t n;
    const size_t at = (a->used + FR_ALIGN - 1) / FR_ALIGN * FR_ALIGN;
    a->ok = a->ok && multiply(&n, x, y) && multiply(&n, n, z) && multiply(&n, n, w) &&
            n <= SIZE_MAX / 4 && at <= SIZE_MAX / 4;
    if (a->ok)
        a->used = at + n;
    return at;
}

static char *place(arena *a, size_t x, size_t y, size_t z, size_t w)
{
    const size_t at = reserve_bytes(a, x, y, z, w);
    return a->base ? a->base + at : NULL;
}

static size_t real_bytes(const fr_layer *layer)
{
    return layer->dtype == FR_F64 ? 8 : 4;
}

static const struct fr_typed *typed(const fr_layer *layer)
{
    return &fr_current_kernels()->typed[layer->dtype];
}

static int64_t panel_units(const fr_layer *layer)
{
    const int nr = typed(layer)->nr;
    return (layer->hidden_size + nr - 1) / nr * nr;
}

/* Elements from one row of some Hp each to the next: an odd number of cache lines. With H a multiple
 * of 128 all rows would begin in the same few sets of the first-level cache, and a tile, which
 * touches a line of every slot of several rows, would drive out its own. */
static size_t row_elements(const fr_layer *layer, int slots)
{
    const size_t bytes = (size_t)slots * (size_t)panel_units(layer) * real_bytes(layer);
    return slots ? ((bytes + FR_ALIGN - 1) / FR_ALIGN | 1) * FR_ALIGN / real_bytes(layer) : 0;
}

static fr_status check_layer(const fr_layer *layer)
{
    if (!layer || (unsigned)layer->cell >= FR_CELLS || (unsigned)layer->dtype >= FR_DTYPES)
        return FR_EARG;
    /* 2^40 of anything is beyond memory; below it no index below can overflow 64 bits early. */
    if (layer->input_size < 1 || layer->hidden_size < 1 || layer->input_size >= (1ll << 40) ||
        layer->hidden_size >= (1ll << 40))
        return FR_EDIM;
    return FR_OK;
}

int fr_threads_of_call(const fr_seq *seq)
{
    return seq->threads ? seq->threads : fr_get_num_threads();
}

static fr_status check_seq(const fr_seq *seq)
{
    if (!seq || seq->threads < 0 || seq->threads > FR_MAX_THREADS)
        return FR_EARG;
    if (seq->T < 0 || seq->B < 0 || seq->T >= (1ll << 40) || seq->B >= (1ll << 40) ||
        (seq->B && seq->T > (1ll << 56) / seq->B)) /* so many rows can be counted */
        return FR_EDIM;
    if (seq->lengths)
        for (int64_t b = 0; b < seq->B; b++)
            if (seq->lengths[b] < 0 || seq->lengths[b] > seq->T)
                return FR_ELENGTH;
    return FR_OK;
}

/* ---- packed weights ----------------------------------------------------------------------- */

static const uint64_t packed_magic = 0x66617374726e6e31; /* "fastrnn1" */

static int packed_layout(const fr_layer *layer, int use, fr_packed_layout *at)
{
    arena a = {NULL, sizeof(fr_packed_header), 1};
    const size_t G = (size_t)fr_cells[layer->cell].gates, real = real_bytes(layer);
    const size_t H = (size_t)layer->hidden_size, I = (size_t)layer->input_size,
                 Hp = (size_t)panel_units(layer);
    const size_t nr = (size_t)typed(layer)->nr;
    memset(at, 0, sizeof *at);
    if (use & (FR_USE_DENSE | FR_USE_TOKENS)) {
        at->bias = reserve_bytes(&a, 4, Hp, real, 1);
        at->R = reserve_bytes(&a, G, Hp, H, real);
    }
    if (use & FR_USE_DENSE)
        at->W = reserve_bytes(&a, G, Hp, I, real);
    if (use & FR_USE_TOKENS)
        at->table = reserve_bytes(&a, G, Hp, I, real);
    if (use & FR_USE_BACKWARD)
        at->Rb = reserve_bytes(&a, G, Hp, H, real);
    if (use & FR_USE_DX)
        at->Wb = reserve_bytes(&a, G, (I + nr - 1) / nr * nr, H, real);
    if (fr_blas_serial() && (use & (FR_USE_DENSE | FR_USE_DX)))
        at->plain = reserve_bytes(&a, G, Hp, I, real);
    at->bytes = a.used;
    return a.ok;
}

static fr_packed_header header_of(const fr_layer *layer, int use)
{
    fr_packed_header h;
    memset(&h, 0, sizeof h);
    h.magic = packed_magic;
    h.kernels = fr_current_kernels();
    h.I = layer->input_size;
    h.H = layer->hidden_size;
    h.cell = (int32_t)layer->cell;
    h.dtype = (int32_t)layer->dtype;
    h.use = use;
    h.blas = fr_blas_serial();
    return h;
}

size_t fr_packed_bytes(const fr_layer *layer, int use)
{
    fr_packed_layout at;
    if (check_layer(layer) != FR_OK || !packed_layout(layer, use, &at))
        return 0;
    return at.bytes;
}

/* Fewer bytes than these are packed sooner than a thread is woken. */
enum { PACK_ALONE = 384 << 10 };

fr_status fr_pack(const fr_layer *layer, int use, void *packed, const fr_weights *w)
{
    fr_pack_call call = {.layer = layer, .weights = w, .packed = packed, .use = use};
    const fr_status status = check_layer(layer);
    if (status != FR_OK)
        return status;
    if (!packed || !w || !w->w_ih || !w->w_hh || use < 1 || use > 31 || use == FR_USE_ALONE)
        return FR_EARG;
    if (!packed_layout(layer, use, &call.at))
        return FR_EDIM;
    call.threads = use & FR_USE_ALONE || call.at.bytes < PACK_ALONE ? 1 : fr_get_num_threads();
    const fr_status packing = fr_team_run(call.threads, typed(layer)->pack, &call, sizeof call);
    if (packing == FR_OK) {
        const fr_packed_header header = header_of(layer, use);
        memcpy(packed, &header, sizeof header);
    }
    return packing;
}

/* Packed weights name what they were made for; a call that needs more is refused. */
static fr_status check_packed(const fr_layer *layer, const void *packed, int use,
                              fr_packed_layout *at)
{
    fr_packed_header have;
    if (!packed)
        return FR_EARG;
    memcpy(&have, packed, sizeof have);
    const fr_packed_header want = header_of(layer, have.use);
    if (memcmp(&have, &want, sizeof have) || (have.use & use) != use)
        return FR_EPACK;
    return packed_layout(layer, have.use, at) ? FR_OK : FR_EDIM;
}

/* ---- the rows of a ragged batch ----------------------------------------------------------- */

int64_t fr_longest(const fr_seq *seq)
{
    int64_t T = seq->lengths ? 0 : seq->T;
    if (seq->lengths)
        for (int64_t b = 0; b < seq->B; b++)
            if (seq->lengths[b] > T)
                T = seq->lengths[b];
    return T;
}

static int64_t total_rows(const fr_seq *seq)
{
    int64_t n = 0;
    if (!seq->lengths)
        return seq->T * seq->B;
    for (int64_t b = 0; b < seq->B; b++)
        n += seq->lengths[b];
    return n;
}

/* Longest first, ties in order of batch index: a counting sort, so that a result never depends
 * on a sorting routine. Fills order, len and first. */
static void sort_rows(const fr_seq *seq, int64_t T, int64_t *order, int64_t *len, int64_t *first)
{
    memset(first, 0, (size_t)(T + 1) * sizeof *first);
    for (int64_t b = 0; b < seq->B; b++)
        first[seq->lengths[b]]++; /* first[l]: rows of length l */
    int64_t longer = 0;
    for (int64_t l = T; l >= 0; l--) { /* first[l]: rows longer than l, where length l begins */
        const int64_t n = first[l];
        first[l] = longer;
        longer += n;
    }
    for (int64_t b = 0; b < seq->B; b++) {
        const int64_t j = first[seq->lengths[b]]++;
        order[j] = b;
        len[j] = seq->lengths[b];
    }
    /* Now first[l] counts the rows of length >= l, so first[s + 1] those active at step s. */
    int64_t sum = 0;
    for (int64_t s = 0; s < T; s++) {
        const int64_t active = first[s + 1];
        first[s] = sum;
        sum += active;
    }
    first[T] = sum;
}

/* ---- one call ----------------------------------------------------------------------------- */

/* Parts of the batch either share out the units of every weight gradient, and then read each other's
 * dG from each other's caches and meet at every chunk; or each adds up its own rows' share in
 * gradients of its own, which are then added. The second is faster from about as many rows as W and R have
 * columns: RNN with H = 200 and 700 rows 2 to 5%, and more where others use the caches, too.
 * Returns the bytes of such a set, 0 without one, and more than any memory has if they overflow. */
static size_t own_bytes(const fr_call *call, size_t G, int tokens)
{
    const fr_layer *layer = &call->layer;
    const size_t I = (size_t)layer->input_size, H = (size_t)layer->hidden_size;
    const int64_t columns = layer->hidden_size + (tokens ? 0 : layer->input_size);
    /* In double: sizes that no memory holds are asked about, too. */
    const double rows = (double)call->rows.B * (double)call->rows.T;
    if (call->plan.rows < 2 || call->plan.evenly || rows < 1.25 * (double)columns)
        return 0;
    size_t weights, table, bytes;
    if (!multiply(&weights, G * H, I + H + 2) ||
        !multiply(&table, tokens ? I : 0, G * (size_t)call->Hp) ||
        !multiply(&bytes, weights + table, real_bytes(layer)))
        return SIZE_MAX / 2;
    return (bytes + FR_ALIGN - 1) / FR_ALIGN * FR_ALIGN;
}

/* Pieces of a thread's share of the products over a chunk: blocks of its weight gradients, and panels of its
 * rows of dx. */
static int64_t most_pieces(const fr_call *call)
{
    const fr_layer *layer = &call->layer;
    const int64_t nr = typed(layer)->nr, units = call->plan.units;
    const int64_t blocks = ((layer->hidden_size + units - 1) / units + FR_MC - 1) / FR_MC,
                  panels = (layer->input_size + nr - 1) / nr;
    return fr_cells[layer->cell].dslots * blocks + panels;
}

fr_pass fr_pass_of_call(int backward, int tokens)
{
    return backward                     ? FR_PASS_BACKWARD
           : tokens || fr_blas_serial() ? FR_PASS_STEPS
                                        : FR_PASS_FORWARD;
}

static fr_plan plan_of(const fr_layer *layer, const fr_seq *seq, int backward, int tokens)
{
    return fr_make_plan(layer, fr_longest(seq), seq->B, fr_threads_of_call(seq), typed(layer)->nr,
                        fr_pass_of_call(backward, tokens));
}

/* Lays a call's scratch out from `base` (NULL: only count). Returns the bytes, 0 if too many. */
static size_t lay_out(fr_call *call, const fr_seq *seq, int backward, int training, int tokens,
                      char *base)
{
    const fr_layer *layer = &call->layer;
    const fr_cell_traits *cell = &fr_cells[layer->cell];
    const size_t real = real_bytes(layer), B = (size_t)seq->B, Hp = (size_t)panel_units(layer);
    const size_t I = (size_t)layer->input_size, G = (size_t)cell->gates, D = (size_t)cell->dslots;
    const size_t nr = (size_t)typed(layer)->nr;
    arena a = {base, 0, 1};

    call->Hp = (int64_t)Hp;
    call->xw_row = (int64_t)row_elements(layer, cell->gates);
    call->reserve_row = (int64_t)row_elements(layer, cell->slots);
    call->dg_row = (int64_t)row_elements(layer, cell->dslots);
    call->rows.T = fr_longest(seq);
    call->rows.B = seq->B;
    call->rows.reverse = seq->reverse != 0;
    call->rows.reset = seq->reset;
    call->blas = fr_blas_serial() != 0;
    call->plan = plan_of(layer, seq, backward, tokens);
    const size_t threads = (size_t)call->plan.threads;
    size_t chunk_rows; /* and those of a thread's part */
    if (!multiply(&chunk_rows, (size_t)call->plan.chunk, B))
        return 0;
    const size_t parts = (size_t)call->plan.rows,
                 part_rows = (B + parts - 1) / parts * (size_t)call->plan.chunk;

    call->everybody = (fr_place *)place(&a, 2 * threads + 3, sizeof(fr_place), 1, 1);
    call->sharers = call->everybody + (base ? threads : 0);
    call->ahead = call->sharers + (base ? threads : 0);
    if (call->plan.takes_over)
        call->claims =
            (fr_place *)place(&a, (size_t)call->plan.rows * (Hp / nr), sizeof(fr_place), 1, 1);
    if (seq->lengths) {
        call->rows.order = (int64_t *)place(&a, B, 8, 1, 1);
        call->rows.len = (int64_t *)place(&a, B, 8, 1, 1);
        call->rows.first = (int64_t *)place(&a, (size_t)call->rows.T + 1, 8, 1, 1);
    }
    call->zeros = place(&a, D > G ? D : G, Hp, real, 1);
    call->pointers_stride = (size_t)FR_ROW_ARRAYS * B * sizeof(void *);
    if (backward || !tokens)
        call->pointers_stride += (backward ? 6 * chunk_rows : part_rows) * sizeof(void *);
    call->pointers = place(&a, threads, call->pointers_stride, 1, 1);
    if (B == 1 && call->plan.units > 1 && !call->plan.takes_over && cell->phases == 1) {
        call->early_stride = (G * Hp * real + FR_ALIGN - 1) / FR_ALIGN * FR_ALIGN;
        call->early = place(&a, threads, call->early_stride, 1, 1);
    }
    if (!backward) {
        if (cell->has_c && !training)
            call->c_start = place(&a, B, Hp, real, 1);
        if (cell->phases > 1 && !training) /* a later phase reads what an earlier one kept */
            call->gates = place(&a, B, (size_t)call->reserve_row, real, 1);
        if (!tokens) {
            call->xw = place(&a, chunk_rows, (size_t)call->xw_row, real, 1);
            if (call->blas && !multiply(&call->work_stride, part_rows, I * real))
                return 0;
        }
    } else {
        call->carry_h = place(&a, B, Hp, real, 1);
        call->carry_c = place(&a, B, Hp, real, 1);
        call->step_scale = (double *)(void *)place(&a, B, sizeof(double), 1, 1);
        call->dG[0] = place(&a, chunk_rows, (size_t)call->dg_row, real, 1);
        call->dG[1] = place(&a, chunk_rows, (size_t)call->dg_row, real, 1);
        if (tokens && total_rows(seq) >= seq->B + layer->input_size / 2)
            call->dtable = place(&a, I, G, Hp, real);
        if (call->plan.takes_over) {
            call->pieces = most_pieces(call);
            call->taken = (fr_place *)place(&a, threads, (size_t)call->pieces, sizeof(fr_place), 1);
            call->made = (fr_place *)place(&a, threads, (size_t)call->pieces, sizeof(fr_place), 1);
        }
        call->own_stride = own_bytes(call, G, tokens);
        if (call->own_stride)
            call->own = place(&a, (size_t)call->plan.rows - 1, call->own_stride, 1, 1);
        /* Either the blocks of our own product, or rows gathered for a foreign one. */
        const size_t wide = (I + nr - 1) / nr * nr + 2 * Hp;
        size_t work = FR_MC * (FR_KC + 16) + FR_KC * wide, gathered;
        if (!multiply(&gathered, FR_KC + chunk_rows, (I + Hp) * real))
            return 0;
        call->work_stride = work * real;
        if (call->blas && call->work_stride < gathered)
            call->work_stride = gathered;
    }
    call->work_stride = (call->work_stride + FR_ALIGN - 1) / FR_ALIGN * FR_ALIGN;
    call->work = place(&a, threads, call->work_stride, 1, 1);
    return a.ok ? a.used + FR_ALIGN : 0;
}

static size_t scratch_bytes(const fr_layer *layer, const fr_seq *seq, int backward, int training,
                            int tokens)
{
    fr_call call = {.layer = {.input_size = 0}};
    if (check_layer(layer) != FR_OK || check_seq(seq) != FR_OK)
        return 0;
    call.layer = *layer;
    return lay_out(&call, seq, backward, training, tokens, NULL);
}

size_t fr_reserve_bytes(const fr_layer *layer, const fr_seq *seq)
{
    if (check_layer(layer) != FR_OK || check_seq(seq) != FR_OK)
        return 0;
    const fr_cell_traits *cell = &fr_cells[layer->cell];
    const size_t Hp = (size_t)panel_units(layer), real = real_bytes(layer);
    arena a = {NULL, FR_ALIGN, 1}; /* never 0 bytes, even for a cell that keeps nothing */
    reserve_bytes(&a, (size_t)total_rows(seq), row_elements(layer, cell->slots), real, 1);
    if (cell->has_c)
        reserve_bytes(&a, (size_t)seq->B, Hp, real, 1);
    return a.ok ? a.used : 0;
}

static int is_few(const fr_layer *layer, const fr_seq *seq)
{
    return fr_is_few(layer, fr_longest(seq), total_rows(seq));
}

/* Few rows go back by the weights that forward has read; dx by those of x, also where tokens came in
 * (it is then the gradient of the one-hot rows that they stand for). */
static int backward_use(int few, int by_token, int dx)
{
    if (few)
        return (by_token ? FR_USE_TOKENS : FR_USE_DENSE) | (dx ? FR_USE_DENSE : 0);
    return FR_USE_BACKWARD | (dx ? FR_USE_DX : 0);
}

int fr_training_use(const fr_layer *layer, const fr_seq *seq, int tokens, int dx)
{
    if (check_layer(layer) != FR_OK || check_seq(seq) != FR_OK)
        return 0;
    int use = tokens ? FR_USE_TOKENS : FR_USE_DENSE;
    use |= backward_use(is_few(layer, seq), tokens, dx);
    if (plan_of(layer, seq, 0, tokens).threads == 1 && plan_of(layer, seq, 1, tokens).threads == 1)
        use |= FR_USE_ALONE;
    return use;
}

size_t fr_forward_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int training)
{
    const size_t dense = scratch_bytes(layer, seq, 0, training, 0);
    const size_t tokens = scratch_bytes(layer, seq, 0, training, 1);
    return dense && tokens ? (dense > tokens ? dense : tokens) : 0;
}

size_t fr_backward_scratch_bytes(const fr_layer *layer, const fr_seq *seq, int tokens)
{
    return scratch_bytes(layer, seq, 1, 1, tokens);
}

fr_status fr_plan_of_call(fr_plan *plan, const fr_layer *layer, const fr_seq *seq, int backward,
                          int tokens)
{
    fr_status status = plan ? check_layer(layer) : FR_EARG;
    if (status == FR_OK)
        status = check_seq(seq);
    if (status == FR_OK)
        *plan = plan_of(layer, seq, backward, tokens);
    return status;
}

fr_status fr_plan_describe(fr_plan *plan, const fr_layer *layer, const fr_seq *seq, int backward)
{
    return fr_plan_of_call(plan, layer, seq, backward, 0);
}

static fr_status check_tokens(const fr_layer *layer, const fr_seq *seq, const fr_tokens *tokens)
{
    for (int64_t b = 0; b < seq->B; b++) {
        const int64_t n = seq->lengths ? seq->lengths[b] : seq->T;
        for (int64_t t = 0; t < n; t++) {
            const int64_t token = tokens->p[t * tokens->st + b * tokens->sb];
            if (token < 0 || token >= layer->input_size)
                return FR_ETOKEN;
        }
    }
    return FR_OK;
}

/* What forward and backward share: checks, then scratch laid out and cleared where it must be. */
static fr_status begin(fr_call *call, const fr_layer *layer, const fr_seq *seq, const void *packed,
                       int use, const fr_array *x, const fr_tokens *tokens, void *scratch,
                       int backward, int training)
{
    fr_status status = check_layer(layer);
    if (status == FR_OK)
        status = check_seq(seq);
    if (status == FR_OK)
        status = check_packed(layer, packed, use, &call->at);
    if (status != FR_OK)
        return status;
    const int empty = seq->T == 0 || seq->B == 0;
    if (!scratch || (!empty && !x->p && !tokens->p))
        return FR_EARG;
    const int by_token = !x->p && tokens->p;
    if (by_token && !empty && (status = check_tokens(layer, seq, tokens)) != FR_OK)
        return status;
    call->layer = *layer;
    call->packed = packed;
    call->x = *x;
    if (by_token)
        call->tokens = *tokens;
    char *base = scratch;
    if (!lay_out(call, seq, backward, training, by_token, base))
        return FR_EDIM;
    memset(call->everybody, 0, sizeof(fr_place) * (2 * (size_t)call->plan.threads + 3));
    if (call->claims)
        memset(call->claims, 0,
               sizeof(fr_place) * (size_t)call->plan.rows * (size_t)(call->Hp / typed(layer)->nr));
    if (call->taken) {
        const size_t pieces = (size_t)call->plan.threads * (size_t)call->pieces;
        memset(call->taken, 0, sizeof(fr_place) * pieces);
        memset(call->made, 0, sizeof(fr_place) * pieces);
    }
    memset(call->zeros, 0,
           (size_t)(fr_cells[layer->cell].dslots > fr_cells[layer->cell].gates
                        ? fr_cells[layer->cell].dslots
                        : fr_cells[layer->cell].gates) *
               (size_t)call->Hp * real_bytes(layer));
    if (seq->lengths)
        sort_rows(seq, call->rows.T, (int64_t *)call->rows.order, (int64_t *)call->rows.len,
                  (int64_t *)call->rows.first);
    return FR_OK;
}

/* c before the first step is kept behind the reserve's rows, for backward. */
static char *c_behind(const fr_call *call, const fr_seq *seq, const void *reserve)
{
    const size_t elements = (size_t)total_rows(seq) * (size_t)call->reserve_row;
    return (char *)(uintptr_t)reserve + elements * real_bytes(&call->layer);
}

/* A call that one thread can make alone, if that turns out to be faster or the others sleep and may go on. One
 * of five is timed: the clock takes 20 to 30 ns, a call 3 us and more, and layers that take turns are often two
 * or four. Of long calls of short steps it is a step that is timed, whatever their length, in
 * 64ths of a nanosecond. */
static fr_status run_offered(fr_call *call, fr_job *job)
{
    fr_status status = FR_OK;
    fr_pace *const pace = fr_pace_of(call, job);
    call->alone = fr_pace_next(pace);
    const int timed = pace->tries > 0 || pace->calls % 5 == 0;
    const int64_t start = timed ? fr_nanoseconds() : 0;
    if (call->alone)
        fr_team_leave(job, call);
    else if (call->plan.offered == 1)
        fr_team_offer(call->plan.threads, job, call, sizeof *call, &call->alone);
    else
        status = fr_team_run(call->plan.threads, job, call, sizeof *call);
    if (timed && status == FR_OK) {
        const int64_t ns = fr_nanoseconds() - start;
        fr_pace_note(pace, call->alone,
                     call->plan.offered == 2 && call->rows.T ? 64 * ns / call->rows.T : ns);
    }
    return status;
}

static fr_status run(fr_call *call, fr_job *job)
{
    if (call->rows.B == 0)
        return FR_OK;
    if (call->blas)
        fr_blas_enter();
    fr_status status = FR_OK;
    if (call->plan.offered)
        status = run_offered(call, job);
    else
        status = fr_team_run(call->plan.threads, job, call, sizeof *call);
    if (call->blas)
        fr_blas_leave();
    return status;
}

fr_status fr_forward(const fr_layer *layer, const fr_seq *seq, const fr_forward_args *args)
{
    return fr_forward_linked(layer, seq, args, NULL);
}

fr_status fr_forward_linked(const fr_layer *layer, const fr_seq *seq, const fr_forward_args *args,
                            const fr_links *links)
{
    fr_call call;
    memset(&call, 0, sizeof call);
    if (!args)
        return FR_EARG;
    const int use = args->x.p || !args->tokens.p ? FR_USE_DENSE : FR_USE_TOKENS;
    const fr_status status = begin(&call, layer, seq, args->packed, use, &args->x, &args->tokens,
                                   args->scratch, 0, args->reserve != NULL);
    if (status != FR_OK)
        return status;
    if (!args->y.p && seq->T && seq->B)
        return FR_EARG;
    call.y = args->y;
    call.hT = args->hT;
    call.cT = args->cT;
    call.h0 = args->h0;
    call.c0 = args->c0;
    call.reserve = args->reserve;
    call.clear_to = args->clear_past && seq->lengths ? seq->T : 0;
    if (links)
        call.links = *links;
    if (call.links.takes && call.plan.chunk > call.links.takes)
        call.plan.chunk = call.links.takes;
    if (call.links.leads)
        fr_tell(call.links.leads, 1);
    if (call.reserve && call.plan.offered == 1 && !call.plan.ahead) {
        /* Who sleeps now may be woken by backward in any case. */
        const fr_plan back = plan_of(layer, seq, 1, use == FR_USE_TOKENS);
        if (back.threads > 1)
            call.plan.offered = back.offered;
    }
    if (call.reserve && fr_cells[layer->cell].has_c)
        call.c_start = c_behind(&call, seq, args->reserve);
    return run(&call, typed(layer)->forward[layer->cell]);
}

/* Those of no rows, for which nobody is called. */
static void clear_grads(const fr_layer *layer, const fr_weight_grads *grads)
{
    const size_t H = (size_t)layer->hidden_size, I = (size_t)layer->input_size;
    const size_t gate_bytes = (size_t)fr_cells[layer->cell].gates * H * real_bytes(layer);
    if (grads->w_ih) {
        memset(grads->w_ih, 0, gate_bytes * I);
        memset(grads->w_hh, 0, gate_bytes * H);
    }
    if (grads->b_ih)
        memset(grads->b_ih, 0, gate_bytes);
    if (grads->b_hh)
        memset(grads->b_hh, 0, gate_bytes);
}

fr_status fr_backward(const fr_layer *layer, const fr_seq *seq, const fr_backward_args *args)
{
    return fr_backward_linked(layer, seq, args, NULL);
}

fr_status fr_backward_linked(const fr_layer *layer, const fr_seq *seq, const fr_backward_args *args,
                             const fr_links *links)
{
    fr_call call;
    memset(&call, 0, sizeof call);
    if (!args)
        return FR_EARG;
    /* Which order of the weights is read is settled by the shape, not by what there is: other sums
     * round otherwise. */
    const int few = check_layer(layer) == FR_OK && check_seq(seq) == FR_OK && is_few(layer, seq);
    const int by_token = !args->x.p && args->tokens.p;
    const int use = backward_use(few, by_token, args->dx.p != NULL);
    const fr_status status =
        begin(&call, layer, seq, args->packed, use, &args->x, &args->tokens, args->scratch, 1, 1);
    if (status != FR_OK)
        return status;
    if ((!args->y.p && seq->T && seq->B) || !args->reserve ||
        (args->grads.w_ih && !args->grads.w_hh) || (unsigned)args->clip_step > FR_CLIP_NORM ||
        (args->clip_step != FR_CLIP_NONE && !(args->clip_limit > 0)))
        return FR_EARG;
    call.few = few;
    call.dx = args->dx;
    call.dx_add = args->dx_add;
    call.clear_to = args->clear_past && seq->lengths && args->dx.p && !args->dx_add ? seq->T : 0;
    call.dh0 = args->dh0;
    call.dc0 = args->dc0;
    call.grads = args->grads;
    call.set = args->set;
    call.dy = args->dy;
    if (links)
        call.links = *links;
    call.dhT = args->dhT;
    call.dcT = args->dcT;
    call.step_dh = args->step_dh;
    call.step_dc = args->step_dc;
    call.clip_step = args->clip_step;
    call.clip_limit = args->clip_limit;
    call.looks = args->step_dh.p || args->step_dc.p || args->clip_step != FR_CLIP_NONE;
    if (call.clip_step == FR_CLIP_NORM && call.plan.units > 1) /* they meet amid a step: steps.h */
        call.plan.offered = 0;
    call.y = args->y;
    call.h0 = args->h0;
    call.c0 = args->c0;
    call.reserve = (char *)(uintptr_t)args->reserve;
    call.c_start = c_behind(&call, seq, args->reserve);
    if (!args->grads.w_ih)
        call.dtable = call.own = NULL;
    if (args->set && seq->B == 0)
        clear_grads(layer, &args->grads);
    fr_job *const job = typed(layer)->backward[layer->cell];
    fr_help *const help = call.links.help;
    if (help) {
        help->call = &call;
        help->job = job;
        fr_tell(&help->begun, 1);
    }
    const fr_status ran = run(&call, job);
    if (help)
        fr_wait(&help->copied, 1);
    return ran;
}

size_t fr_help_bytes(const fr_layer *layer, const fr_seq *seq)
{
    fr_call call = {.layer = *layer};
    if (!lay_out(&call, seq, 1, 1, 0, NULL))
        return 0;
    return (call.pointers_stride + FR_ALIGN - 1) / FR_ALIGN * FR_ALIGN + call.work_stride;
}

int fr_help_backward(fr_help *help, void *scratch)
{
    fr_wait(&help->begun, 1);
    if (!help->call)
        return 0;
    fr_call call = *help->call;
    fr_tell(&help->copied, 1);
    call.helps = 1;
    call.pointers = scratch;
    call.work = call.pointers + (call.pointers_stride + FR_ALIGN - 1) / FR_ALIGN * FR_ALIGN;
    help->job(&call, 0);
    return 1;
}

/* Rows lie in the reserve longest first, those of a step behind those of the step before it (see
 * fr_rows). Nothing is sorted here: a row's place is how many rows come before it. */
fr_status fr_read_reserve(const fr_layer *layer, const fr_seq *seq, int slot, const fr_array *out,
                          const void *reserve)
{
    fr_status status = check_layer(layer);
    if (status == FR_OK)
        status = check_seq(seq);
    if (status != FR_OK)
        return status;
    const fr_cell_traits *cell = &fr_cells[layer->cell];
    if (slot < 0 || slot >= cell->slots || !reserve || !out || (!out->p && seq->T && seq->B))
        return FR_EARG;
    const int64_t Hp = panel_units(layer), B = seq->B;
    const int64_t stride = (int64_t)row_elements(layer, cell->slots);
    const size_t real = real_bytes(layer), bytes = (size_t)layer->hidden_size * real;
    for (int64_t b = 0; b < B; b++) {
        const int64_t n = seq->lengths ? seq->lengths[b] : seq->T;
        int64_t row = seq->lengths ? 0 : b;
        for (int64_t k = 0; k < B && seq->lengths; k++)
            row += seq->lengths[k] > n || (seq->lengths[k] == n && k < b);
        for (int64_t s = 0; s < n; s++) {
            const int64_t t = seq->reverse ? n - 1 - s : s;
            memcpy((char *)out->p + (t * out->st + b * out->sb) * (ptrdiff_t)real,
                   (const char *)reserve + (size_t)(row * stride + slot * Hp) * real, bytes);
            row += seq->lengths ? 0 : B;
            for (int64_t k = 0; k < B && seq->lengths; k++) /* as many as were active at s */
                row += seq->lengths[k] > s;
        }
    }
    return FR_OK;
}

fr_status fr_activation(fr_dtype dtype, int kind, void *out, const void *in, int64_t n)
{
    if ((unsigned)dtype >= FR_DTYPES || kind < 0 || kind > 2 || n < 0 || (n && (!out || !in)))
        return FR_EARG;
    fr_current_kernels()->typed[dtype].activation(kind, out, in, n);
    return FR_OK;
}
