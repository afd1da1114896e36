/* What the drivers share. A driver defines run(): a fixed work, done `times` times, and a checksum of what came out. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

uint32_t run(uint32_t times);

/* Marsaglia's xorshift: the same numbers everywhere. */
static inline uint32_t
driver_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    return *state ^= *state << 5;
}

static inline uint32_t
driver_mix(uint32_t sum, uint32_t value)
{
    return (sum ^ value) * 16777619u;
}

static inline uint32_t
driver_sum(uint32_t sum, const void *bytes, size_t size)
{
    const unsigned char *at = (const unsigned char *)bytes;
    for (size_t i = 0; i < size; i++)
        sum = driver_mix(sum, at[i]);
    return sum;
}

/* Words as a log has them, some often, with numbers between. */
static inline void
driver_text(char *out, size_t size, uint32_t seed)
{
    static const char *const words[] = { "sensor ", "pump ",   "valve ",   "ok ",      "temperature ", "pressure ", "restart ", "error: ",
                                         "the ",    "of ",     "board-",   "reading=", "warning, ",    "link ",     "lost.\n",  "state " };
    size_t at = 0;
    while (at < size) {
        uint32_t roll = driver_random(&seed);
        char number[12];
        snprintf(number, sizeof number, "%u ", (unsigned)(roll >> 20));
        const char *word = roll % 5 == 0 ? number : words[(roll >> 8) % 16 & (roll >> 12) % 16];
        while (*word && at < size)
            out[at++] = *word++;
    }
}

static inline void
driver_need(int good)
{
    if (!good)
        abort();
}

#ifdef __cplusplus
}
#endif
