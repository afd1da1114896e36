/* NAME: adds up the bytes of each event, and publishes the sum as text on readings/sum. */
#include "device_module.h"

static bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error)
{
    (void)topic;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < payload.size; i++)
        sum += payload.at[i];

    uint8_t text[10];
    uint32_t at = sizeof text;
    do {
        text[--at] = (uint8_t)('0' + sum % 10);
        sum /= 10;
    } while (sum);

    if (dm_publish(DM_TEXT("readings/sum"), (dm_bytes){ text + at, sizeof text - at }) == DM_PUBLISHED)
        return true;
    *error = DM_TEXT("the sum could not be published");
    return false;
}

DM_EVENTS(handle)
