/* fingerprint.h: 64 bits that say whether a block of memory has changed, without a copy of it.
 *
 * Words of 32 bits go to the lanes of FR_STREAMS vectors in turn. A lane takes a word by an exclusive
 * or, an odd multiplication and a shift onto itself; each is a bijection of the lane, so a single
 * changed word always shows. Many streams, because a lane is a chain of those three and memory is
 * faster. At the end all lanes are folded into one number. Not for security. */
#if !FR_REAL_IS_DOUBLE
#define FR_STREAMS 8

FR_INLINE vu NAME(take_word)(vu lane, vu word)
{
    lane = (lane ^ word) * 0x9e3779b1u; /* prime, 2^32 / golden ratio */
    return lane ^ lane >> 15;
}

static uint64_t NAME(fingerprint)(const void *p, size_t bytes)
{
    const uint64_t odd = 0x9e3779b97f4a7c15; /* 2^64 / golden ratio */
    const unsigned char *from = p;
    enum { LANES = FR_STREAMS * VL };
    vu lane[FR_STREAMS], word[FR_STREAMS];
    uint32_t folded[LANES];
    uint64_t sum = bytes;

    for (uint32_t i = 0; i < LANES; i++)
        folded[i] = 0x85ebca6bu * (2 * i + 1);
    memcpy(lane, folded, sizeof lane);
    for (; bytes >= sizeof word; bytes -= sizeof word, from += sizeof word) {
        FR_UNROLL
        for (int i = 0; i < FR_STREAMS; i++) {
            vu next;
            memcpy(&next, from + (size_t)i * sizeof next, sizeof next);
            lane[i] = NAME(take_word)(lane[i], next);
        }
    }
    memset(word, 0, sizeof word);
    if (bytes)
        memcpy(word, from, bytes);
    for (int i = 0; i < FR_STREAMS; i++)
        lane[i] = NAME(take_word)(lane[i], word[i]);
    memcpy(folded, lane, sizeof lane);
    for (int i = 0; i < LANES; i++) {
        sum = (sum ^ folded[i]) * odd;
        sum = sum << 31 | sum >> 33;
    }
    return sum;
}
#undef FR_STREAMS
#endif
