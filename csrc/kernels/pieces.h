/* pieces.h: who makes what of a chunk's gradients.
 *
 * The products over a chunk are shared out by units (dW, dR, db) or rows (dx). A share is made in pieces, and
 * where threads take over each other's, whoever is through with his own goes on with the others', from the
 * end to which they come last. Pieces add to the same sums again and again, in rounds: the next round's waits
 * until this round's is made. Who makes a piece changes no number. */

typedef struct NAME(share) {
    int one, those;         /* this thread's of so many */
    fr_place *taken, *made; /* [those][most]; NULL: everybody keeps to his own */
    ptrdiff_t most;         /* pieces of a share, those of the weights' gradients first */
    int64_t rounds[2];      /* of those, and of the ones of dx */
} NAME(share);

static NAME(share) NAME(share_of_thread)(const fr_call *call, int tid)
{
    const int units = call->plan.units;
    NAME(share)
    share = {.one = call->own ? tid % units : tid,
             .those = call->own ? units : call->plan.threads,
             .most = call->pieces};
    if (call->taken && !call->blas) {
        share.taken = call->taken + (tid - share.one) * share.most;
        share.made = call->made + (tid - share.one) * share.most;
    }
    return share;
}

/* Where a share of n begins and ends. */
FR_INLINE ptrdiff_t NAME(share_of)(ptrdiff_t n, const NAME(share) * share)
{
    return n * share->one / share->those;
}

FR_INLINE ptrdiff_t NAME(end_of_share)(ptrdiff_t n, const NAME(share) * share)
{
    return n * (share->one + 1) / share->those;
}

/* A round over all pieces that this thread makes, `count` of each share. */
typedef struct NAME(piece_walk) {
    NAME(share) of; /* whose piece it is */
    ptrdiff_t count, first, i, piece;
    int64_t before; /* rounds */
    int turn;
} NAME(piece_walk);

FR_INLINE NAME(piece_walk) NAME(begin_pieces)(NAME(share) * share, ptrdiff_t count, int dx)
{
    return (NAME(piece_walk)){.of = *share,
                              .count = count,
                              .first = dx ? share->most - count : 0,
                              .before = share->rounds[dx]++};
}

/* Among the places of all. */
FR_INLINE ptrdiff_t NAME(place_of_piece)(const NAME(piece_walk) * w)
{
    return w->of.one * w->of.most + w->first + w->piece;
}

/* 0: none are left. */
FR_INLINE int NAME(next_piece)(NAME(piece_walk) * w, const NAME(share) * mine)
{
    for (;;) {
        while (w->i < w->count) {
            const ptrdiff_t i = w->i++;
            w->piece = w->turn ? w->count - 1 - i : i;
            if (!mine->taken || fr_take(&mine->taken[NAME(place_of_piece)(w)], w->before))
                return 1;
        }
        if (!mine->taken || ++w->turn == mine->those)
            return 0;
        w->of.one = (mine->one + w->turn) % mine->those;
        w->i = 0;
    }
}

/* Before a piece adds to sums that the round before has added to, and after it has. */
FR_INLINE void NAME(await_sums)(const NAME(piece_walk) * w)
{
    if (w->of.made)
        fr_wait(&w->of.made[NAME(place_of_piece)(w)], w->before);
}

FR_INLINE void NAME(tell_sums)(const NAME(piece_walk) * w)
{
    if (w->of.made)
        fr_tell(&w->of.made[NAME(place_of_piece)(w)], w->before + 1);
}
