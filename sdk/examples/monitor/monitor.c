/*
 * monitor: turns a board's own readings (/proc/loadavg, /proc/meminfo, temperatures) into messages, learns what is usual,
 * and says when something is not.
 *
 * Built three times, with -DMONITOR_VERSION=:
 *   1  an alert when a reading is more than half above its mean
 *   2  an alert when a reading is further from its mean than four usual deviations; goes on with version 1's means
 *   3  version 2 with a fault: it traps on the third event, to show a rollback
 */
#include "readings.h"

#ifndef MONITOR_VERSION
#error "-DMONITOR_VERSION=1, 2 or 3"
#endif

typedef struct series {
    int64_t count;
    int64_t mean;      /* thousandths, moving */
    int64_t deviation; /* thousandths, moving; version 2 on */
} series;

/* What one version hands to the next: only ever appended to, so that an older version can read the front of it. */
typedef struct learned {
    uint32_t magic;
    uint32_t version;
    int64_t events;
    series load, memory, temperature;
} learned;

#define MAGIC 0x314e4f4d /* "MON1" */
static learned now = { .magic = MAGIC, .version = MONITOR_VERSION };

#if MONITOR_VERSION == 1
static bool is_unusual(const series *s, int64_t value)
{
    return s->count > 5 && value > s->mean + s->mean / 2 + 100;
}
#else
static bool is_unusual(const series *s, int64_t value)
{
    int64_t distance = value > s->mean ? value - s->mean : s->mean - value;
    return s->count > 5 && distance > 4 * s->deviation + 100;
}
#endif

static void learn(series *s, int64_t value)
{
    int64_t distance = value > s->mean ? value - s->mean : s->mean - value;
    int64_t weight = s->count < 16 ? s->count + 1 : 16;
    s->mean += (value - s->mean) / weight;
    s->deviation += (distance - s->deviation) / weight;
    s->count++;
}

static bool report(const char *name, dm_bytes topic, series *s, int64_t value)
{
    bool unusual = is_unusual(s, value);
    learn(s, value);
    put("{\"reading\":\"");
    put(name);
    put("\",\"value\":");
    put_milli(value);
    put(",\"mean\":");
    put_milli(s->mean);
    put(",\"count\":");
    put_number(s->count);
    put(",\"event\":");
    put_number(now.events);
    put(",\"version\":");
    put_number(MONITOR_VERSION);
    put("}");
    dm_bytes message = put_end();
    if (unusual && dm_publish(DM_TEXT("alerts/unusual"), message) != DM_PUBLISHED)
        dm_log(DM_WARN, DM_TEXT("an alert could not be published"));
    return dm_publish(topic, message) == DM_PUBLISHED;
}

static bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error)
{
    int64_t value, total;
    bool done = true;
    now.events++;
#if MONITOR_VERSION == 3
    static int handled;
    if (++handled == 3)
        __builtin_trap();
#endif
    if (is_text(topic, "sys/loadavg") && read_milli(payload, 0, &value)) {
        done = report("load", DM_TEXT("readings/load"), &now.load, value);
    }
    else if (is_text(topic, "sys/meminfo") && read_milli(payload, find_line(payload, "MemAvailable:"), &value)
             && read_milli(payload, find_line(payload, "MemTotal:"), &total) && total) {
        done = report("memory", DM_TEXT("readings/memory"), &now.memory, 100000 - value / (total / 100000 ? total / 100000 : 1));
    }
    else if (is_text(topic, "sys/thermal") && read_milli(payload, 0, &value)) {
        done = report("temperature", DM_TEXT("readings/temperature"), &now.temperature, value / 1000);
    }
    else {
        *error = DM_TEXT("not a reading that this module knows");
        return false;
    }
    if (!done)
        *error = DM_TEXT("the reading could not be published");
    return done;
}

static bool init(dm_bytes config, dm_bytes *error)
{
    (void)config;
    (void)error;
    put("monitor version ");
    put_number(MONITOR_VERSION);
    put(now.events ? ", going on after event " : ", starting at event ");
    put_number(now.events);
    dm_log(DM_INFO, put_end());
    return true;
}

static bool check(dm_bytes *error)
{
    if (now.magic == MAGIC)
        return true;
    *error = DM_TEXT("the learned values are damaged");
    return false;
}

static dm_bytes save(void)
{
    return (dm_bytes){ (uint8_t *)&now, sizeof now };
}

static bool restore(dm_bytes state, dm_bytes *error)
{
    learned before;
    if (state.size == 0)
        return true; /* a first start */
    if (state.size < sizeof before) {
        *error = DM_TEXT("the state is too short");
        return false;
    }
    memcpy(&before, state.at, sizeof before);
    if (before.magic != MAGIC) {
        *error = DM_TEXT("the state is not monitor's");
        return false;
    }
    now = before;
    now.version = MONITOR_VERSION;
    return true;
}

DM_EVENTS(handle)
DM_STARTUP(init)
DM_HEALTH(check)
DM_STATE(save, restore)
