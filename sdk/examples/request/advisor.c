/*
 * advisor: asks the module memory at each reading of the board's load, and publishes both together.
 *
 * The correlation id of a request is its number; the load stays here until its answer comes. Requests and answers come at least
 * once: an answer to a question that has had one, or that nobody remembers, is left alone.
 */
#include "readings.h"

#define OPEN 16 /* questions that wait for an answer; the oldest gives way */

static struct {
    int64_t asked, answered;
    int64_t loads[OPEN];
} now;

static bool ask(dm_bytes payload, dm_bytes *error)
{
    int64_t load;
    if (!read_milli(payload, 0, &load)) {
        *error = DM_TEXT("not a load average");
        return false;
    }
    now.loads[++now.asked % OPEN] = load;
    put("local/advisor/answer\n");
    put_number(now.asked);
    put("\nhow much memory is available?");
    if (dm_publish(DM_TEXT("local/memory/ask"), put_end()) == DM_PUBLISHED)
        return true;
    *error = DM_TEXT("the question could not be published");
    return false;
}

static bool take(dm_bytes payload, dm_bytes *error)
{
    int64_t number, available;
    uint32_t end = 0;
    while (end < payload.size && payload.at[end] != '\n')
        end++;
    if (!read_milli((dm_bytes){ payload.at, end }, 0, &number) || !read_milli(payload, end, &available)) {
        *error = DM_TEXT("not an answer");
        return false;
    }
    number /= 1000;
    if (number <= now.answered || number > now.asked || number + OPEN <= now.asked)
        return true;
    now.answered = number;
    put("{\"question\":");
    put_number(number);
    put(",\"load\":");
    put_milli(now.loads[number % OPEN]);
    put(",\"available_mb\":");
    put_milli(available);
    put("}");
    if (dm_publish(DM_TEXT("advice/load"), put_end()) == DM_PUBLISHED)
        return true;
    *error = DM_TEXT("the advice could not be published");
    return false;
}

static bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error)
{
    return is_text(topic, "sys/loadavg") ? ask(payload, error) : take(payload, error);
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
