// NAME: adds up the bytes of each event, and publishes the sum as text on readings/sum.
#include "device_module.h"

#include <string>

static bool handle(dm_bytes, dm_bytes payload, dm_bytes *error)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < payload.size; i++)
        sum += payload.at[i];

    const std::string text = std::to_string(sum);
    if (dm_publish(DM_TEXT("readings/sum"), dm_view(text.data(), text.size())) == DM_PUBLISHED)
        return true;
    *error = DM_TEXT("the sum could not be published");
    return false;
}

DM_EVENTS(handle)
