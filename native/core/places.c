/* Maps interpreted code to the module's bytes: WAMR's fast interpreter rewrites code, and its stack traces hold positions in the rewritten
 * code. While a module is loaded, the loader (native/cmake/wamr_source.cmake, wamr_tell_places) reports the position of each instruction. */
#include "internal.h"

#include <stdlib.h>

typedef struct place {
    uint32_t function; /* counted without imports */
    uint32_t rewritten;
    uint32_t original;
} place;

struct pw_places {
    place *all; /* in the order of functions, and of code within each */
    uint32_t count;
    uint32_t room;
    bool lost; /* out of memory: no positions are better than wrong ones */
};

_Thread_local void (*pw_tell_place)(uint32_t function, uint32_t rewritten, uint32_t original);
static _Thread_local pw_places *collecting;

static void
collect(uint32_t function, uint32_t rewritten, uint32_t original)
{
    pw_places *places = collecting;
    if (places->lost)
        return;
    if (places->count == places->room) {
        uint32_t room = places->room ? 2 * places->room : 1024;
        place *all = room > places->room ? realloc(places->all, (size_t)room * sizeof *all) : NULL;
        if (!all) {
            places->lost = true;
            return;
        }
        places->all = all;
        places->room = room;
    }
    places->all[places->count++] = (place){ function, rewritten, original };
}

pw_places *
pw_places_begin(void)
{
    collecting = calloc(1, sizeof *collecting);
    pw_tell_place = collecting ? collect : NULL;
    return collecting;
}

void
pw_places_end(void)
{
    collecting = NULL;
    pw_tell_place = NULL;
}

void
pw_places_free(pw_places *places)
{
    if (places)
        free(places->all);
    free(places);
}

uint32_t
pw_places_find(const pw_places *places, uint32_t function, uint32_t rewritten)
{
    if (!places || places->lost)
        return 0;
    /* The interpreter's position is behind the instruction that it executes: take the last one that begins before it. */
    uint32_t low = 0, high = places->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const place *at = &places->all[middle];
        if (at->function < function || (at->function == function && at->rewritten < rewritten))
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 && places->all[low - 1].function == function ? places->all[low - 1].original : 0;
}
