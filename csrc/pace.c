/* pace.c: whether several threads are faster than one, as it turns out.
 *
 * What crosses from core to core costs little between neighbours. Between cores that share no cache, or that are
 * one core's two halves, a short call of several threads can take longer than one of one; a virtual machine
 * changes from one to the other while it runs, and no plan can know. So work that one thread can do alone, with
 * the same numbers, is timed both ways, the slower one now and then: for so many calls that a thread with
 * nothing to do falls asleep, and everything lies in the right cache. */
#include "internal.h"

enum { BETWEEN_TRIES = 2048, BEFORE_THE_FIRST = 64, TRIES = 16, COLD = 8 };

int fr_pace_next(fr_pace *pace)
{
    const int unknown = pace->ns[!pace->alone] == 0;
    if (pace->tries == 0 && ++pace->calls >= (unknown ? BEFORE_THE_FIRST : BETWEEN_TRIES)) {
        pace->calls = 0;
        pace->tries = TRIES;
    }
    return pace->tries ? !pace->alone : pace->alone;
}

/* A way becomes faster at once, and slower by and by: now and then somebody else has the core, and the first
 * calls after a pause find nothing in a cache. */
void fr_pace_note(fr_pace *pace, int alone, int64_t ns)
{
    double *const known = &pace->ns[alone], now = (double)ns;
    if (pace->tries ? alone != pace->alone && --pace->tries >= TRIES - COLD : pace->calls < COLD)
        return;
    if (*known == 0 || now < *known)
        *known = now;
    else
        *known += (now < 1.5 * *known ? now - *known : 0.5 * *known) / 32;
    if (pace->tries == 0 && pace->ns[0] != 0 && pace->ns[1] != 0)
        pace->alone = pace->ns[1] < pace->ns[0];
}

/* Calls of the same kind have one pace; those that are timed by the step, whatever their length. Each thread
 * keeps the newest. */
typedef struct known_pace {
    fr_job *job; /* NULL: nothing is known here */
    int64_t I, H, T, B;
    int threads, asked; /* for what, a bit each */
    fr_pace pace;
} known_pace;

enum { KNOWN_PACES = 16 };

fr_pace *fr_pace_of(const fr_call *call, fr_job *job)
{
    static FR_THREAD_LOCAL known_pace known[KNOWN_PACES];
    const known_pace wanted = {.job = job,
                               .I = call->layer.input_size,
                               .H = call->layer.hidden_size,
                               .T = call->plan.offered == 2 ? 0 : call->rows.T,
                               .B = call->rows.B,
                               .threads = call->plan.threads,
                               .asked = (call->tokens.p != NULL) | (call->reserve != NULL) << 1 |
                                        (call->dx.p != NULL) << 2 |
                                        (call->grads.w_ih != NULL) << 3 |
                                        (call->rows.len != NULL) << 4 | call->looks << 5};
    const uint64_t sum = (uint64_t)wanted.I + 3 * (uint64_t)wanted.H + 5 * (uint64_t)wanted.T +
                         7 * (uint64_t)wanted.B + 11 * (uint64_t)wanted.asked +
                         13 * (uint64_t)wanted.threads + ((uint64_t)(uintptr_t)job >> 6);
    /* Calls that take turns must not push each other out: two layers, one of which needs no dx. */
    known_pace *const k = &known[sum * 0x9e3779b97f4a7c15u >> 32 & (KNOWN_PACES - 1)];
    if (k->job != job || k->I != wanted.I || k->H != wanted.H || k->T != wanted.T ||
        k->B != wanted.B || k->threads != wanted.threads || k->asked != wanted.asked)
        *k = wanted;
    return &k->pace;
}
