/* cpu.c: which instruction sets this machine runs, the one in use, and what its caches hold.
 *
 * A processor may know AVX-512 while the operating system does not save its registers; so
 * CPUID is believed only together with XGETBV. The choice is one pointer to a const table. */
#include <string.h>
#ifndef _WIN32
#include <unistd.h>
#endif

#include "internal.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

/* Bits of XCR0: what the system saves. 0x6: SSE and AVX; 0xe0: AVX-512's masks and registers. */
static uint64_t saved_registers(void)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27))) /* OSXSAVE */
        return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return ((uint64_t)d << 32) | a;
}

static int has_avx2(void)
{
    uint32_t a, b, c, d;
    if ((saved_registers() & 0x6) != 0x6)
        return 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 12))) /* FMA */
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 5));
}

static int has_avx512(void)
{
    const uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    uint32_t a, b, c, d;
    if (!has_avx2() || (saved_registers() & 0xe6) != 0xe6)
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           (b & (f | dq | bw | vl)) == (f | dq | bw | vl);
}

/* Bytes of the cache of a level that holds data, as a leaf of CPUID describes it; 0: it does not. */
static size_t cache_bytes(uint32_t leaf, uint32_t level)
{
    enum { INSTRUCTIONS = 2, MOST = 16 };
    uint32_t a, b, c, d;
    for (uint32_t i = 0; i < MOST && __get_cpuid_count(leaf, i, &a, &b, &c, &d) && (a & 31); i++)
        if ((a & 31) != INSTRUCTIONS && (a >> 5 & 7) == level)
            return ((size_t)(b >> 22) + 1) * ((b >> 12 & 1023) + 1) * ((b & 4095) + 1) *
                   ((size_t)c + 1);
    return 0;
}

/* Of cores of two kinds, whichever asks would find its own. */
static int is_hybrid(void)
{
    uint32_t a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & (1u << 15));
}

static size_t find_l1_bytes(void)
{
    if (is_hybrid())
        return 0;
    const size_t bytes = cache_bytes(4, 1);
    return bytes ? bytes : cache_bytes(0x8000001d, 1); /* AMD */
}

/* The third level of Intel's servers, which have a megabyte or two of the second, is spread over a mesh: a core
 * of an Emerald Rapids reads 24 GB/s from it, one of a Zen 5 four times as many. */
static size_t find_near_bytes(void)
{
    enum { GENU = 0x756e6547, SERVERS = 1 << 20 };
    uint32_t a, b, c, d;
    if (is_hybrid() || !__get_cpuid(0, &a, &b, &c, &d) || b != GENU)
        return 0;
    const size_t second = cache_bytes(4, 2);
    return second >= SERVERS ? second / 2 : 0;
}
#else
static size_t find_near_bytes(void)
{
    return 0;
}

static size_t find_l1_bytes(void)
{
#ifdef _SC_LEVEL1_DCACHE_SIZE
    const long bytes = sysconf(_SC_LEVEL1_DCACHE_SIZE);
    return bytes > 0 ? (size_t)bytes : 0;
#else
    return 0;
#endif
}
#endif

/* What is found once: a virtual machine takes 20 us to answer CPUID. Where it is not at least `least` and at most
 * `most`, it is taken to be `otherwise`. Two threads may both come here, and must go on with the same. */
static size_t found_once(_Atomic size_t *known, size_t (*find)(void), size_t least, size_t most,
                         size_t otherwise)
{
    size_t before = atomic_load_explicit(known, memory_order_relaxed);
    if (before)
        return before;
    size_t bytes = find();
    if (bytes < least || bytes > most)
        bytes = otherwise;
    return atomic_compare_exchange_strong(known, &before, bytes) ? bytes : before;
}

size_t fr_l1_bytes(void)
{
    static _Atomic size_t known;
    return found_once(&known, find_l1_bytes, 16 << 10, 1 << 20, 32 << 10);
}

size_t fr_near_bytes(void)
{
    static _Atomic size_t known;
    return found_once(&known, find_near_bytes, 512 << 10, FR_NEAR_BYTES, FR_NEAR_BYTES);
}

static int always(void)
{
    return 1;
}

/* Best first. An instruction set is one line here and one file in kernels/. */
static const struct {
    const fr_kernels *kernels;
    int (*available)(void);
} sets[] = {
#if defined(__x86_64__) && defined(__GNUC__)
    {&fr_kernels_avx512, has_avx512},
    {&fr_kernels_avx2, has_avx2},
#endif
#if defined(__aarch64__) && defined(__GNUC__)
    {&fr_kernels_neon, always},
#endif
    {&fr_kernels_portable, always},
};
enum { SETS = sizeof sets / sizeof sets[0] };

static const fr_kernels *_Atomic current;

const char *fr_isa_name(int index)
{
    return index >= 0 && index < SETS ? sets[index].kernels->isa : NULL;
}

static int find(const char *name)
{
    for (int i = 0; i < SETS; i++)
        if (name ? !strcmp(name, sets[i].kernels->isa) : sets[i].available())
            return i;
    return -1;
}

int fr_isa_available(const char *name)
{
    const int i = name ? find(name) : -1;
    return i >= 0 && sets[i].available();
}

fr_status fr_isa_select(const char *name)
{
    const int i = find(name);
    if (i < 0 || !sets[i].available())
        return FR_EISA;
    atomic_store_explicit(&current, sets[i].kernels, memory_order_relaxed); /* all of it is const */
    return FR_OK;
}

const fr_kernels *fr_current_kernels(void)
{
    const fr_kernels *kernels = atomic_load_explicit(&current, memory_order_relaxed);
    if (!kernels) { /* two threads may both come here; both write the same pointer */
        fr_isa_select(NULL);
        kernels = atomic_load_explicit(&current, memory_order_relaxed);
    }
    return kernels;
}

const char *fr_isa(void)
{
    return fr_current_kernels()->isa;
}

/* ---- subnormals --------------------------------------------------------------------------- */

#if defined(__x86_64__) && defined(__GNUC__)
#include <xmmintrin.h>

unsigned long fr_flush_on(void)
{
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | 0x8040); /* flush to zero, denormals are zero */
    return saved;
}

void fr_flush_restore(unsigned long saved)
{
    _mm_setcsr((unsigned)saved);
}
#elif defined(__aarch64__) && defined(__GNUC__)
unsigned long fr_flush_on(void)
{
    unsigned long saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"(saved | (1ul << 24)));
    return saved;
}

void fr_flush_restore(unsigned long saved)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(saved));
}
#else
unsigned long fr_flush_on(void)
{
    return 0;
}

void fr_flush_restore(unsigned long saved)
{
    (void)saved;
}
#endif
