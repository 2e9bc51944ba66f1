/* seams.h: where the tests reach into the engine. See plan_for_tests.c and cpu_for_tests.c. */
#ifndef FR_SEAMS_H
#define FR_SEAMS_H

#include "internal.h"

extern fr_plan forced_plan; /* used where it fits the sizes; rows 0: the engine decides */
fr_plan shipped_make_plan(const fr_layer *layer, int64_t T, int64_t B, int threads, int panel,
                          fr_pass pass);
fr_plan fresh_plan(const fr_layer *layer, int64_t T, int64_t B, int threads, int panel,
                   fr_pass pass);                 /* the same, made anew */
extern size_t forced_l1_bytes, forced_near_bytes; /* 0: this machine's */
size_t shipped_l1_bytes(void);
size_t shipped_near_bytes(void);
int cores_differ(void); /* then their caches count as 32 KB */
int shipped_layers_at_once(const fr_layer layers[2], int64_t T, int64_t B, int threads, int panel,
                           const fr_pass passes[2]);

#endif
