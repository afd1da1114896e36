/* The process-wide part: WAMR's start and end, and its output, which is captured and never printed. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t runtime_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t runtime_users;

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static pw_text log_text;

_Thread_local pw_text *pw_capture;
_Thread_local pw_note pw_last;
_Thread_local uintptr_t pw_host_floor __attribute__((tls_model("initial-exec")));

/* WAMR, core/shared/platform/include/platform_api_vmcore.h: the lowest address of the calling thread's stack, asked for once. */
uint8_t *os_thread_get_stack_boundary(void);

void
pw_text_clear(pw_text *text)
{
    text->used = 0;
    text->bytes[0] = '\0';
}

void
pw_text_append(pw_text *text, const char *format, va_list arguments)
{
    uint32_t room = PW_TEXT_SIZE - text->used;
    int written = vsnprintf(text->bytes + text->used, room, format, arguments);
    if (written < 0)
        return;
    text->used += (uint32_t)written < room ? (uint32_t)written : room - 1;
}

static void
log_append(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    pthread_mutex_lock(&log_lock);
    pw_text_append(&log_text, format, arguments);
    pthread_mutex_unlock(&log_lock);
    va_end(arguments);
}

int
pw_capture_vprintf(const char *format, va_list arguments)
{
    if (pw_capture) {
        pw_text_append(pw_capture, format, arguments);
        return 0;
    }
    char line[512];
    vsnprintf(line, sizeof line, format, arguments);
    log_append("%s", line);
    return 0;
}

void
pw_capture_log(uint32_t level, const char *file, int line, const char *format, ...)
{
    (void)file;
    (void)line;
    if (level > WASM_LOG_LEVEL_WARNING)
        return;
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    log_append("%s\n", text);
}

uint32_t
pw_log_take(char *buffer, uint32_t size)
{
    if (!buffer || size == 0)
        return 0;
    pthread_mutex_lock(&log_lock);
    uint32_t taken = log_text.used < size ? log_text.used : size - 1;
    memcpy(buffer, log_text.bytes, taken);
    buffer[taken] = '\0';
    memmove(log_text.bytes, log_text.bytes + taken, log_text.used - taken);
    log_text.used -= taken;
    pthread_mutex_unlock(&log_lock);
    return taken;
}

uint32_t
pw_abi_version(void)
{
    return PW_ABI_VERSION;
}

const char *
pw_runtime_version(void)
{
    static char text[32];
    uint32_t major = 0, minor = 0, patch = 0;
    wasm_runtime_get_version(&major, &minor, &patch);
    pthread_mutex_lock(&runtime_lock);
    snprintf(text, sizeof text, "%u.%u.%u", major, minor, patch);
    pthread_mutex_unlock(&runtime_lock);
    return text;
}

static void
find_host_floor(void)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0), lowest = (uintptr_t)os_thread_get_stack_boundary();
    pw_host_floor = here > lowest ? lowest + (here - lowest) / 2 : 0;
}

static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;

static void
thread_ended(void *unused)
{
    (void)unused;
    free(pw_last.stack);
    pw_last.stack = NULL;
#if PW_HARDWARE_BOUNDS
    wasm_runtime_destroy_thread_env();
#endif
}

static void
make_thread_key(void)
{
    pthread_key_create(&thread_key, thread_ended);
}

static bool
wamr_ready(void)
{
#if PW_HARDWARE_BOUNDS
    return wasm_runtime_thread_env_inited() || wasm_runtime_init_thread_env();
#else
    return true;
#endif
}

bool
pw_thread_ready(void)
{
    if (!pw_last.stack) {
        find_host_floor();
        pthread_once(&thread_once, make_thread_key);
        pw_text *stack = calloc(1, sizeof *stack);
        if (!stack || pthread_setspecific(thread_key, &thread_key) != 0) {
            free(stack);
            return false;
        }
        pw_last.stack = stack;
    }
    return wamr_ready();
}

int32_t
pw_runtime_open(void)
{
    RuntimeInitArgs args;
    memset(&args, 0, sizeof args);
    args.mem_alloc_type = Alloc_With_System_Allocator;
    args.max_thread_num = 1;
    pthread_mutex_lock(&runtime_lock);
    bool ready = runtime_users > 0 || wasm_runtime_full_init(&args);
    if (ready) {
        wasm_runtime_set_enlarge_mem_error_callback(pw_growth_refused, NULL);
        runtime_users++;
    }
    pthread_mutex_unlock(&runtime_lock);
    return ready ? PW_OK : PW_NO_MEMORY;
}

void
pw_runtime_close(void)
{
    pthread_mutex_lock(&runtime_lock);
    if (runtime_users > 0 && --runtime_users == 0)
        wasm_runtime_destroy();
    pthread_mutex_unlock(&runtime_lock);
}
