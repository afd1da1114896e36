/*
 * The module contract (sdk/wit/module.wit) for C and C++, with a library or without: one header, included by one file.
 *
 *     #include "device_module.h"
 *     static bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error) { ... return true; }
 *     DM_EVENTS(handle)
 *
 * Each DM_... macro below exports one interface; a module uses those it has. What the host passes in, and what a module
 * returns, lives in an arena of DM_ARENA_BYTES that is emptied after each call from the host: copy what must outlive it.
 */
#ifndef DEVICE_MODULE_H
#define DEVICE_MODULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __wasi__ /* there is a C library */
#include <string.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

#ifndef DM_ARENA_BYTES
#define DM_ARENA_BYTES 32768
#endif

/* Bytes or UTF-8 text, not terminated. */
typedef struct dm_bytes {
    uint8_t *at;
    uint32_t size;
} dm_bytes;

#define DM_TEXT(literal) ((dm_bytes){ (uint8_t *)(literal), sizeof(literal) - 1 })

/* Bytes that are only read: those of a std::string, say. */
static inline dm_bytes dm_view(const void *at, size_t size)
{
    dm_bytes view = { (uint8_t *)at, (uint32_t)size };
    return view;
}

#define DM_IMPORT(interface, field) \
    __attribute__((import_module("device:module/" interface "@0.1.0"), import_name(field)))
#define DM_EXPORT(interface, field) __attribute__((export_name("device:module/" interface "@0.1.0#" field)))
#define DM_POST(interface, field) __attribute__((export_name("cabi_post_device:module/" interface "@0.1.0#" field)))

#ifndef DM_OWN_MEMORY
/* ---- memory ---------------------------------------------------------------------------------------------------- */

static uint8_t dm_arena[DM_ARENA_BYTES] __attribute__((aligned(16)));
static uint32_t dm_arena_used;

#ifndef __wasi__
void *memcpy(void *to, const void *from, size_t size)
{
    uint8_t *target = (uint8_t *)to;
    const uint8_t *source = (const uint8_t *)from;
    for (size_t i = 0; i < size; i++)
        target[i] = source[i];
    return to;
}

void *memset(void *at, int value, size_t size)
{
    uint8_t *target = (uint8_t *)at;
    for (size_t i = 0; i < size; i++)
        target[i] = (uint8_t)value;
    return at;
}
#endif

/* The canonical ABI's allocator. Traps when the arena is full: the host reports it, the module is restarted. */
__attribute__((export_name("cabi_realloc"))) void *dm_realloc(void *old, size_t old_size, size_t align, size_t size)
{
    uint32_t start = (dm_arena_used + (uint32_t)align - 1) & ~((uint32_t)align - 1);
    if (size > DM_ARENA_BYTES || start > DM_ARENA_BYTES - size)
        __builtin_trap();
    dm_arena_used = start + (uint32_t)size;
    if (old)
        memcpy(dm_arena + start, old, old_size < size ? old_size : size);
    return dm_arena + start;
}

#endif /* DM_OWN_MEMORY: who defines it has memcpy, memset, dm_realloc and dm_arena_used already */

/* What the host reads a result<_, string> from. */
typedef struct dm_result {
    uint8_t failed;
    dm_bytes error;
} dm_result;

static dm_result dm_return_area;
static dm_bytes dm_return_list;

static inline dm_result *dm_return(bool done, dm_bytes error)
{
    dm_return_area.failed = !done;
    dm_return_area.error = error;
    return &dm_return_area;
}

/* ---- what a module exports --------------------------------------------------------------------------------------- */

/* bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error): false refuses the event, with a text for the log. */
#define DM_EVENTS(function)                                                                                            \
    DM_EXPORT("events", "handle")                                                                                      \
    dm_result *dm_events_handle(uint8_t *topic, uint32_t topic_size, uint8_t *payload, uint32_t payload_size)          \
    {                                                                                                                  \
        dm_bytes error = { 0, 0 };                                                                                     \
        bool done = function((dm_bytes){ topic, topic_size }, (dm_bytes){ payload, payload_size }, &error);            \
        return dm_return(done, error);                                                                                 \
    }                                                                                                                  \
    DM_POST("events", "handle") void dm_events_handle_post(dm_result *result) { (void)result; dm_arena_used = 0; }

/* bool init(dm_bytes config, dm_bytes *error) */
#define DM_STARTUP(function)                                                                                           \
    DM_EXPORT("startup", "init") dm_result *dm_startup_init(uint8_t *config, uint32_t size)                            \
    {                                                                                                                  \
        dm_bytes error = { 0, 0 };                                                                                     \
        bool done = function((dm_bytes){ config, size }, &error);                                                      \
        return dm_return(done, error);                                                                                 \
    }                                                                                                                  \
    DM_POST("startup", "init") void dm_startup_init_post(dm_result *result) { (void)result; dm_arena_used = 0; }

/* bool tick(uint64_t now_ns, dm_bytes *error) */
#define DM_TIMER(function)                                                                                             \
    DM_EXPORT("timer", "tick") dm_result *dm_timer_tick(uint64_t now_ns)                                               \
    {                                                                                                                  \
        dm_bytes error = { 0, 0 };                                                                                     \
        bool done = function(now_ns, &error);                                                                          \
        return dm_return(done, error);                                                                                 \
    }                                                                                                                  \
    DM_POST("timer", "tick") void dm_timer_tick_post(dm_result *result) { (void)result; dm_arena_used = 0; }

/* bool check(dm_bytes *error) */
#define DM_HEALTH(function)                                                                                            \
    DM_EXPORT("health", "check") dm_result *dm_health_check(void)                                                      \
    {                                                                                                                  \
        dm_bytes error = { 0, 0 };                                                                                     \
        bool done = function(&error);                                                                                  \
        return dm_return(done, error);                                                                                 \
    }                                                                                                                  \
    DM_POST("health", "check") void dm_health_check_post(dm_result *result) { (void)result; dm_arena_used = 0; }

/* dm_bytes save(void); bool restore(dm_bytes state, dm_bytes *error) */
#define DM_STATE(save_function, restore_function)                                                                      \
    DM_EXPORT("state", "save") dm_bytes *dm_state_save(void)                                                           \
    {                                                                                                                  \
        dm_return_list = save_function();                                                                              \
        return &dm_return_list;                                                                                        \
    }                                                                                                                  \
    DM_POST("state", "save") void dm_state_save_post(dm_bytes *result) { (void)result; dm_arena_used = 0; }            \
    DM_EXPORT("state", "restore") dm_result *dm_state_restore(uint8_t *state, uint32_t size)                           \
    {                                                                                                                  \
        dm_bytes error = { 0, 0 };                                                                                     \
        bool done = restore_function((dm_bytes){ state, size }, &error);                                               \
        return dm_return(done, error);                                                                                 \
    }                                                                                                                  \
    DM_POST("state", "restore") void dm_state_restore_post(dm_result *result) { (void)result; dm_arena_used = 0; }

/* ---- what a module imports: a function that is not called is not imported ----------------------------------------- */

typedef enum dm_level { DM_TRACE, DM_DEBUG, DM_INFO, DM_WARN, DM_ERROR } dm_level;

DM_IMPORT("logging", "log") void dm_import_log(uint32_t level, const uint8_t *message, uint32_t size);

static inline void dm_log(dm_level level, dm_bytes message)
{
    dm_import_log(level, message.at, message.size);
}

typedef enum dm_publish_status { DM_PUBLISHED = 0, DM_DENIED, DM_TOO_LARGE, DM_QUEUE_FULL } dm_publish_status;

DM_IMPORT("messaging", "publish")
void dm_import_publish(const uint8_t *topic, uint32_t topic_size, const uint8_t *payload, uint32_t payload_size, uint8_t *out);

static inline dm_publish_status dm_publish(dm_bytes topic, dm_bytes payload)
{
    uint8_t out[2] = { 0, 0 };
    dm_import_publish(topic.at, topic.size, payload.at, payload.size, out);
    return out[0] ? (dm_publish_status)(out[1] + 1) : DM_PUBLISHED;
}

typedef struct dm_option {
    uint8_t some;
    dm_bytes value;
} dm_option;

DM_IMPORT("keyvalue", "get") void dm_import_keyvalue_get(const uint8_t *key, uint32_t size, dm_option *out);
DM_IMPORT("keyvalue", "set")
void dm_import_keyvalue_set(const uint8_t *key, uint32_t size, const uint8_t *value, uint32_t value_size, dm_result *out);
DM_IMPORT("keyvalue", "delete") void dm_import_keyvalue_delete(const uint8_t *key, uint32_t size, dm_result *out);

/* False where there is no such key. The value lies in the arena. */
static inline bool dm_keyvalue_get(dm_bytes key, dm_bytes *value)
{
    dm_option out;
    dm_import_keyvalue_get(key.at, key.size, &out);
    if (out.some)
        *value = out.value;
    return out.some;
}

static inline bool dm_keyvalue_set(dm_bytes key, dm_bytes value)
{
    dm_result out;
    dm_import_keyvalue_set(key.at, key.size, value.at, value.size, &out);
    return !out.failed;
}

static inline bool dm_keyvalue_delete(dm_bytes key)
{
    dm_result out;
    dm_import_keyvalue_delete(key.at, key.size, &out);
    return !out.failed;
}

/* Nanoseconds: since 1970 as far as the board knows; and since an arbitrary moment, never going back. */
DM_IMPORT("clock", "now") uint64_t dm_clock_now(void);
DM_IMPORT("clock", "monotonic") uint64_t dm_clock_monotonic(void);

DM_IMPORT("config", "get") void dm_import_config_get(const uint8_t *key, uint32_t size, dm_option *out);

static inline bool dm_config_get(dm_bytes key, dm_bytes *value)
{
    dm_option out;
    dm_import_config_get(key.at, key.size, &out);
    if (out.some)
        *value = out.value;
    return out.some;
}

/* Random bytes, at most 64 KiB; more gives none. They lie in the arena. */
DM_IMPORT("random", "get") void dm_import_random_get(uint32_t size, dm_bytes *out);

static inline dm_bytes dm_random(uint32_t size)
{
    dm_bytes out;
    dm_import_random_get(size, &out);
    return out;
}

typedef enum dm_device_status { DM_DEVICE_DONE = 0, DM_DEVICE_DENIED, DM_DEVICE_FAILED } dm_device_status;

DM_IMPORT("gpio", "read") void dm_import_gpio_read(const uint8_t *line, uint32_t size, uint8_t *out);
DM_IMPORT("gpio", "write") void dm_import_gpio_write(const uint8_t *line, uint32_t size, uint32_t value, uint8_t *out);

/* Lines are named as in the manifest: DM_TEXT("gpiochip0:17"). */
static inline dm_device_status dm_gpio_read(dm_bytes line, bool *value)
{
    uint8_t out[2] = { 0, 0 };
    dm_import_gpio_read(line.at, line.size, out);
    if (out[0])
        return (dm_device_status)(out[1] + 1);
    *value = out[1];
    return DM_DEVICE_DONE;
}

static inline dm_device_status dm_gpio_write(dm_bytes line, bool value)
{
    uint8_t out[2] = { 0, 0 };
    dm_import_gpio_write(line.at, line.size, value, out);
    return out[0] ? (dm_device_status)(out[1] + 1) : DM_DEVICE_DONE;
}

typedef struct dm_serial_data {
    uint8_t failed;
    union {
        dm_bytes data;
        uint8_t error;
    } as;
} dm_serial_data;

DM_IMPORT("serial", "read") void dm_import_serial_read(const uint8_t *port, uint32_t size, uint32_t limit, dm_serial_data *out);
DM_IMPORT("serial", "write")
void dm_import_serial_write(const uint8_t *port, uint32_t size, const uint8_t *data, uint32_t data_size, uint8_t *out);

/* What has arrived, at most `limit` bytes; never waits. It lies in the arena. Ports are named by their path. */
static inline dm_device_status dm_serial_read(dm_bytes port, uint32_t limit, dm_bytes *data)
{
    dm_serial_data out = { 0, { { 0, 0 } } };
    dm_import_serial_read(port.at, port.size, limit, &out);
    if (out.failed)
        return (dm_device_status)(out.as.error + 1);
    *data = out.as.data;
    return DM_DEVICE_DONE;
}

static inline dm_device_status dm_serial_write(dm_bytes port, dm_bytes data)
{
    uint8_t out[2] = { 0, 0 };
    dm_import_serial_write(port.at, port.size, data.at, data.size, out);
    return out[0] ? (dm_device_status)(out[1] + 1) : DM_DEVICE_DONE;
}

#ifdef __cplusplus
}
#endif

#endif
