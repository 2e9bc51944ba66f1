/* attention.c: additive attention as fastrnn.h announces it: checks, and threads over the batch.
 *
 * The bodies are in kernels/attention.h. The softmax between the scores and what they weigh is the
 * caller's: B T S numbers, where these have B T S M. */
#include "internal.h"

enum { TANHS_WORTH_A_THREAD = 20000 }; /* about 20 us */

static fr_status check(const fr_attention_args *g)
{
    if (!g || g->threads < 0 || g->threads > FR_MAX_THREADS ||
        (g->dtype != FR_F32 && g->dtype != FR_F64))
        return FR_EARG;
    if (g->B < 0 || g->T < 0 || g->S < 0 || g->M < 1)
        return FR_EDIM;
    const int64_t most = INT64_MAX / 64;
    if ((g->T && g->S > most / g->T) || (g->T && g->M > most / g->T) ||
        (g->S && g->M > most / g->S))
        return FR_EDIM;
    const int64_t row = g->T * g->S > g->T * g->M ? g->T * g->S : g->T * g->M;
    if (g->B && ((row && g->B > most / row) || g->S * g->M > most / g->B))
        return FR_EDIM;
    for (int64_t b = 0; g->len && b < g->B; b++)
        if (g->len[b] < 0 || g->len[b] > g->S)
            return FR_ELENGTH;
    if (g->B && (!g->q || !g->k || !g->v))
        return FR_EARG;
    return FR_OK;
}

static fr_status run(const fr_attention_args *g, fr_job *job)
{
    fr_attention_call call = {.args = *g};
    const double tanhs = (double)g->B * (double)g->T * (double)g->S * (double)g->M;
    call.threads = g->threads ? g->threads : fr_get_num_threads();
    if (tanhs < TANHS_WORTH_A_THREAD * (double)call.threads || g->B < call.threads)
        call.threads = 1;
    return g->B ? fr_team_run(call.threads, job, &call, sizeof call) : FR_OK;
}

fr_status fr_attention_scores(const fr_attention_args *g)
{
    const fr_status status = check(g);
    if (status != FR_OK)
        return status;
    if (g->B && !g->e)
        return FR_EARG;
    return run(g, fr_current_kernels()->typed[g->dtype].attention_scores);
}

fr_status fr_attention_backward(const fr_attention_args *g)
{
    const fr_status status = check(g);
    if (status != FR_OK)
        return status;
    if (g->B && (!g->de || !g->dq || !g->dk || !g->dv))
        return FR_EARG;
    return run(g, fr_current_kernels()->typed[g->dtype].attention_backward);
}
