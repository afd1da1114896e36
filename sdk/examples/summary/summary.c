/*
 * summary: hears the samples of sampler on the board, and publishes one message for every SAMPLES of them.
 *
 * The count goes on through an update of either module.
 */
#include "readings.h"

#define SAMPLES 5

static struct {
    int64_t count, sum, highest;
} now;

static bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error)
{
    int64_t value;
    if (!is_text(topic, "local/samples/load") || !read_milli(payload, 0, &value)) {
        *error = DM_TEXT("not a sample that this module knows");
        return false;
    }
    now.sum += value;
    now.highest = value > now.highest || now.count % SAMPLES == 0 ? value : now.highest;
    if (++now.count % SAMPLES)
        return true;
    put("{\"samples\":");
    put_number(now.count);
    put(",\"mean\":");
    put_milli(now.sum / SAMPLES);
    put(",\"highest\":");
    put_milli(now.highest);
    put("}");
    now.sum = 0;
    if (dm_publish(DM_TEXT("summaries/load"), put_end()) == DM_PUBLISHED)
        return true;
    *error = DM_TEXT("the summary could not be published");
    return false;
}

static dm_bytes save(void)
{
    return (dm_bytes){ (uint8_t *)&now, sizeof now };
}

static bool restore(dm_bytes state, dm_bytes *error)
{
    if (state.size != 0 && state.size != sizeof now) {
        *error = DM_TEXT("the state has another size");
        return false;
    }
    memcpy(&now, state.at, state.size);
    return true;
}

DM_EVENTS(handle)
DM_STATE(save, restore)
