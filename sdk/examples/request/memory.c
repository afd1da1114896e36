/*
 * memory: answers other modules of the board that ask how much memory is available, in megabytes.
 *
 * A request on `local/memory/ask` has three lines: the response topic, a correlation id, and a question that this module does not
 * look at, as it has one answer only. The answer has two: the correlation id, and the value.
 */
#include "readings.h"

static int64_t available; /* thousandths of a megabyte */

/* One line of a text, which begins behind it afterwards. */
static dm_bytes take_line(dm_bytes *text)
{
    uint32_t size = 0;
    while (size < text->size && text->at[size] != '\n')
        size++;
    dm_bytes found = { text->at, size };
    uint32_t past = size < text->size ? size + 1 : size;
    *text = (dm_bytes){ text->at + past, text->size - past };
    return found;
}

static void put_bytes(dm_bytes bytes)
{
    for (uint32_t i = 0; i < bytes.size && line_size < sizeof line; i++)
        line[line_size++] = bytes.at[i];
}

static bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error)
{
    int64_t kilobytes;
    if (is_text(topic, "sys/meminfo")) {
        if (read_milli(payload, find_line(payload, "MemAvailable:"), &kilobytes))
            available = kilobytes / 1024;
        return true;
    }
    dm_bytes response_topic = take_line(&payload), correlation_id = take_line(&payload);
    if (response_topic.size == 0 || correlation_id.size == 0 || correlation_id.size > 64) {
        *error = DM_TEXT("a request has a response topic and a correlation id of 64 bytes at most");
        return false;
    }
    put_bytes(correlation_id);
    put("\n");
    put_milli(available);
    if (dm_publish(response_topic, put_end()) == DM_PUBLISHED)
        return true;
    *error = DM_TEXT("the answer could not be published on the response topic");
    return false;
}

DM_EVENTS(handle)
