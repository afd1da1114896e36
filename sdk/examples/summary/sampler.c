/*
 * sampler: reads the board's load from `sys/loadavg` and gives each value to the other modules on the board.
 *
 * What is published below `local/` never leaves the board.
 */
#include "readings.h"

static bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error)
{
    int64_t value;
    if (!is_text(topic, "sys/loadavg") || !read_milli(payload, 0, &value)) {
        *error = DM_TEXT("not a load average");
        return false;
    }
    put_milli(value);
    if (dm_publish(DM_TEXT("local/samples/load"), put_end()) == DM_PUBLISHED)
        return true;
    *error = DM_TEXT("the sample could not be published");
    return false;
}

DM_EVENTS(handle)
