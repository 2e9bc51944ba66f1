# What the C core is made of, and with which flags: the one list, included by csrc/Makefile and
# read by setup.py. Only `NAME := words` lines, no make syntax in the values.
#
# Not listed, because they are bodies that every kernels/isa_*.c includes and compiles for its own
# instruction set: rnn.c lstm.c gru.c gru_before.c.

SOURCES         := fastrnn.c both.c head.c pace.c plan.c team.c cpu.c gemm.c attention.c fingerprint.c pointwise.c kernels/isa_portable.c
SOURCES_x86_64  := kernels/isa_avx2.c kernels/isa_avx512.c
SOURCES_aarch64 := kernels/isa_neon.c

# No errno or traps from vector maths, and a*b+c may fuse, in every file alike. Never -ffast-math
# (NaN must stay NaN) and never -march=native (one binary for all machines; cpu.c chooses).
# Functions begin with a line, so that a change of one does not move the loops of others: RNN (5, 32, 10, 25)
# had become 8% slower by a longer function before it.
CFLAGS_all        := -std=c11 -O3 -falign-functions=64 -fno-math-errno -fno-trapping-math -ffp-contract=fast -fvisibility=hidden -pthread -Wall -Wextra
CFLAGS_isa_avx2   := -mavx2 -mfma
CFLAGS_isa_avx512 := -mavx512f -mavx512dq -mavx512vl -mavx512bw -mfma
