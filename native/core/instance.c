/* A running module: calls in, calls out, memory. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

#define ARGUMENT_CELLS 32 /* calls with no more cells than this use the C stack */
#define NESTED_LIMIT 100  /* calls into guest code from host functions that guest code called: Python's own limit ends in odd places */

static const char too_deep[] = "native stack overflow";
static _Thread_local uint32_t nested __attribute__((tls_model("initial-exec")));

#if PW_HARDWARE_BOUNDS
/* WAMR, core/iwasm/common/wasm_runtime_common.h: the environment whose guest code the calling thread is in. */
struct WASMExecEnv *wasm_runtime_get_exec_env_tls(void);
void wasm_runtime_set_exec_env_tls(struct WASMExecEnv *env);
#endif

static uint32_t
cells_of(char letter)
{
    if (letter == 'v')
        return 4;
    if (letter == 'I' || letter == 'F')
        return 2;
    return letter == 'e' ? (uint32_t)(sizeof(uintptr_t) / sizeof(uint32_t)) : 1;
}

static uint32_t
cells_of_all(const char *letters)
{
    uint32_t cells = 0;
    for (; *letters; letters++)
        cells += cells_of(*letters);
    return cells;
}

static uint32_t
slots_of(char letter)
{
    return letter == 'v' ? 2 : 1;
}

static uint32_t
slots_of_all(const char *letters)
{
    uint32_t slots = 0;
    for (; *letters; letters++)
        slots += slots_of(*letters);
    return slots;
}

/* WAMR takes (uintptr_t)-1 for a null externref and gives back 0; a slot has 0 for both. */
static void
slots_to_cells(const char *letters, const uint64_t *slots, uint32_t *cells)
{
    for (; *letters; slots += slots_of(*letters), letters++) {
        uint64_t value[2] = { slots[0], *letters == 'v' ? slots[1] : 0 };
        if (*letters == 'e' && value[0] == 0)
            value[0] = UINT64_MAX;
        uint32_t count = cells_of(*letters);
        memcpy(cells, value, count * sizeof *cells);
        cells += count;
    }
}

static uint64_t
widen(char letter, uint64_t value)
{
    switch (letter) {
        case 'i':
            return (uint64_t)(int64_t)(int32_t)value;
        case 'f':
            return value & UINT32_MAX;
        case 'r':
            return (uint32_t)value == UINT32_MAX ? UINT64_MAX : (value & UINT32_MAX);
        default:
            return value;
    }
}

/* Writes as many slots as the type takes. */
static void
cells_to_slot(char letter, const void *cells, uint64_t *slots)
{
    uint64_t value[2] = { 0, 0 };
    memcpy(value, cells, cells_of(letter) * sizeof(uint32_t));
    slots[0] = widen(letter, value[0]);
    if (letter == 'v')
        slots[1] = value[1];
}

static void
cells_to_slots(const char *letters, const uint32_t *cells, uint64_t *slots)
{
    for (; *letters; slots += slots_of(*letters), letters++) {
        cells_to_slot(*letters, cells, slots);
        cells += cells_of(*letters);
    }
}

static void
call_host(pw_instance *instance, const pw_import *import, uint64_t *slots)
{
    const pw_host_function *host = &instance->hosts[import->index];
    for (uint32_t i = 0; i < import->param_count; i++)
        slots[i] = widen(import->params[i], slots[i]);
    if (host->native)
        host->native(slots);
    else
        pw_python_call(instance, import, host, slots);
    /* For the guest a null externref is -1 again. */
    if (import->results[0] == 'e' && slots[0] == 0)
        slots[0] = UINT64_MAX;
}

/* The trampoline of every import of every module. WAMR has put one 64-bit slot an argument into `slots`, with the upper half of a
 * 32-bit value undefined, and reads the result from slots[0]. */
void
pw_trampoline(wasm_exec_env_t env, uint64_t *slots)
{
    const pw_import *import = wasm_runtime_get_function_attachment(env);
    wasm_module_inst_t wamr = wasm_runtime_get_module_inst(env);
    pw_instance *instance = wasm_runtime_get_custom_data(wamr);
    if ((uintptr_t)__builtin_frame_address(0) < pw_host_floor) {
        wasm_runtime_set_exception(wamr, too_deep);
        return;
    }
#if PW_HARDWARE_BOUNDS
    /* Host code is not guest code: its faults are its own, and it may enter another instance. */
    struct WASMExecEnv *running = wasm_runtime_get_exec_env_tls();
    wasm_runtime_set_exec_env_tls(NULL);
    call_host(instance, import, slots);
    wasm_runtime_set_exec_env_tls(running);
#else
    call_host(instance, import, slots);
#endif
    if (instance->host_failed)
        wasm_runtime_set_exception(wamr, "host function failed");
}

static int32_t
refuse_depth(void)
{
    pw_error_set(pw_last.message, sizeof pw_last.message, "%s", too_deep);
    return PW_TRAP;
}

/* Called before and after guest code runs; its stack is recorded when it ends by a trap. */
static pw_text *
begin_guest(void)
{
    pw_text *outer = pw_capture;
    pw_capture = pw_last.stack;
    nested++;
    return outer;
}

static void
end_guest(pw_text *outer)
{
    nested--;
    pw_capture = outer;
}

static bool
is_ended(int32_t status)
{
    return status == PW_TRAP || status == PW_HOST_ERROR || status == PW_TERMINATED;
}

/* WAMR does not call a start function that is an import. */
static int32_t
call_imported_start(pw_instance *instance)
{
    uint64_t start = instance->module->facts.start, slot = 0;
    if (start == PW_NO_START)
        return PW_OK;
    if ((uintptr_t)__builtin_frame_address(0) < pw_host_floor)
        return refuse_depth();
    call_host(instance, &instance->module->functions[start], &slot);
    return instance->host_failed ? PW_HOST_ERROR : PW_OK;
}

int32_t
pw_enter(pw_instance *instance)
{
    uintptr_t owner = 0, me = (uintptr_t)pthread_self();
    if (atomic_load(&instance->owner) != me && !atomic_compare_exchange_strong(&instance->owner, &owner, me))
        return owner == PW_OWNER_CLOSED ? PW_CLOSED : PW_BUSY;
    instance->depth++;
    return PW_OK;
}

void
pw_leave(pw_instance *instance)
{
    if (--instance->depth == 0)
        atomic_store(&instance->owner, 0);
}

/* Takes the text of the exception that ended a call, and clears it so that the instance can be called again. */
static int32_t
take_exception(pw_instance *instance)
{
    const char *text = wasm_runtime_get_exception(instance->wamr);
    static const char prefix[] = "Exception: ";
    if (text && strncmp(text, prefix, sizeof prefix - 1) == 0)
        text += sizeof prefix - 1;
    pw_error_set(pw_last.message, sizeof pw_last.message, "%s", text ? text : "");
    wasm_runtime_clear_exception(instance->wamr);
    if (atomic_load(&instance->terminated)) {
        if (instance->depth > 1)
            pw_stop(instance); /* the calls around this one too */
        return PW_TERMINATED;
    }
    if (instance->host_failed) {
        instance->host_failed = false;
        return PW_HOST_ERROR;
    }
    return PW_TRAP;
}

static int32_t
check_hosts(const pw_module *module, const pw_host_function *hosts, uint32_t host_count, char *error, uint32_t error_size)
{
    if (host_count != module->function_count || (host_count && !hosts))
        return PW_BAD_ARGUMENT;
    for (uint32_t i = 0; i < host_count; i++) {
        const pw_import *import = &module->functions[i];
        if (!hosts[i].values && !hosts[i].slots && !hosts[i].native) {
            pw_error_set(error, error_size, "no host function for import %s.%s", import->module, import->name);
            return PW_MISSING_IMPORT;
        }
        if ((hosts[i].values && !import->direct) || (!hosts[i].native && !pw_python_is_set()))
            return PW_BAD_ARGUMENT;
    }
    return PW_OK;
}

static void
discard(pw_instance *instance)
{
    while (instance->functions) {
        pw_function *function = instance->functions;
        instance->functions = function->next;
        free(function->name);
        free(function->params);
        free(function->results);
        free(function);
    }
    pthread_mutex_destroy(&instance->lock);
    free(instance->hosts);
    free(instance);
}

/* Ends the WAMR side of an instance. */
static void
shut(pw_instance *instance)
{
    pthread_mutex_lock(&instance->lock);
    wasm_exec_env_t env = instance->env;
    wasm_module_inst_t wamr = instance->wamr;
    instance->env = NULL;
    instance->wamr = NULL;
    pthread_mutex_unlock(&instance->lock);
    pw_stop_listening(instance);
    if (env)
        wasm_runtime_destroy_exec_env(env);
    if (wamr)
        wasm_runtime_deinstantiate(wamr);
}

static wasm_memory_inst_t
default_memory(const pw_instance *instance)
{
    return instance->wamr ? wasm_runtime_get_default_memory(instance->wamr) : NULL;
}

static uint64_t
memory_size(const pw_instance *instance)
{
    wasm_memory_inst_t memory = default_memory(instance);
    return memory ? wasm_memory_get_cur_page_count(memory) * wasm_memory_get_bytes_per_page(memory) : 0;
}

static int32_t
instantiate(pw_instance *instance, uint32_t stack_bytes, uint32_t max_pages, int32_t fuel)
{
    struct InstantiationArgs2 *args = NULL;
    if (nested == NESTED_LIMIT)
        return refuse_depth();
    if (!wasm_runtime_instantiation_args_create(&args))
        return PW_NO_MEMORY;
    char *error = pw_last.message;
    uint32_t error_size = sizeof pw_last.message;
    wasm_runtime_instantiation_args_set_default_stack_size(args, stack_bytes);
    wasm_runtime_instantiation_args_set_max_memory_pages(args, max_pages);
    wasm_runtime_instantiation_args_set_custom_data(args, instance);
    pw_text_clear(pw_last.stack);
    instance->wamr = wasm_runtime_instantiate_ex2(instance->module->wamr, args, error, error_size);
    wasm_runtime_instantiation_args_destroy(args);
    if (!instance->wamr)
        return PW_TRAP;
    instance->env = wasm_runtime_create_exec_env(instance->wamr, stack_bytes);
    if (!instance->env)
        return PW_NO_MEMORY;
    wasm_runtime_set_instruction_count_limit(instance->env, fuel);
    (void)pw_enter(instance); /* no other thread has it yet */
    pw_text *outer = begin_guest();
    int32_t status = pw_start(instance) ? call_imported_start(instance) : take_exception(instance);
    end_guest(outer);
    pw_leave(instance);
    return status;
}

/* WAMR only keeps a memory from growing beyond the limit. For an image the limit can be set only after it is loaded. */
static int32_t
check_pages(uint64_t pages, uint32_t max_pages, char *error, uint32_t error_size)
{
    if (!max_pages || pages <= max_pages)
        return PW_OK;
    pw_error_set(error, error_size, "the module begins with %llu pages of memory, the limit is %u", (unsigned long long)pages,
                 max_pages);
    return PW_BAD_MODULE;
}

int32_t
pw_instance_open(pw_module *module, const pw_host_function *hosts, uint32_t host_count, uint32_t stack_bytes,
                 uint32_t max_pages, int32_t fuel, pw_instance **out, pw_ended **ended, char *error, uint32_t error_size)
{
    pw_error_set(error, error_size, "%s", "");
    if (!module || !out || !ended || stack_bytes == 0)
        return PW_BAD_ARGUMENT;
    *out = NULL;
    *ended = NULL;
    if (!pw_thread_ready())
        return PW_NO_MEMORY;
    int32_t status = check_pages(module->facts.memory_pages, max_pages, error, error_size);
    if (status == PW_OK)
        status = check_hosts(module, hosts, host_count, error, error_size);
    if (status != PW_OK)
        return status;
    status = pw_module_join(module);
    if (status != PW_OK)
        return status;
    pw_instance *instance = calloc(1, sizeof *instance);
    if (!instance) {
        pw_module_leave(module, true, true);
        return PW_NO_MEMORY;
    }
    instance->module = module;
    instance->hosts = calloc(host_count + 1, sizeof *instance->hosts);
    pthread_mutex_init(&instance->lock, NULL);
    if (!instance->hosts) {
        discard(instance);
        pw_module_leave(module, true, true);
        return PW_NO_MEMORY;
    }
    if (host_count)
        memcpy(instance->hosts, hosts, host_count * sizeof *hosts);
    *out = instance; /* already valid for pw_memory_*, should the start function call out */
    status = instantiate(instance, stack_bytes, max_pages, fuel < 0 ? -1 : fuel);
    if (status == PW_OK)
        status = check_pages(memory_size(instance) / 65536, max_pages, error, error_size);
    if (status != PW_OK) {
        *out = NULL;
        if (is_ended(status))
            *ended = pw_ended_new();
        shut(instance);
        discard(instance);
        pw_module_leave(module, true, true);
    }
    return status;
}

int32_t
pw_instance_close(pw_instance *instance)
{
    if (!instance)
        return PW_OK;
    uintptr_t nobody = 0;
    if (!atomic_compare_exchange_strong(&instance->owner, &nobody, PW_OWNER_CLOSED))
        return nobody == PW_OWNER_CLOSED ? PW_CLOSED : PW_BUSY;
    shut(instance);
    pw_module_leave(instance->module, true, false);
    return PW_OK;
}

int32_t
pw_instance_free(pw_instance *instance)
{
    int32_t status = pw_instance_close(instance);
    if (instance && status != PW_BUSY) {
        pw_module *module = instance->module;
        discard(instance);
        pw_module_leave(module, false, true);
    }
    return status;
}

static int32_t
find_function(pw_instance *instance, const char *name, pw_function **out)
{
    for (pw_function *known = instance->functions; known; known = known->next) {
        if (strcmp(known->name, name) == 0) {
            *out = known;
            return PW_OK;
        }
    }
    wasm_function_inst_t wamr = wasm_runtime_lookup_function(instance->wamr, name);
    if (!wamr)
        return PW_NOT_FOUND;
    pw_function *function = calloc(1, sizeof *function);
    if (!function)
        return PW_NO_MEMORY;
    for (uint32_t i = 0; i < instance->module->export_count; i++) {
        const pw_extern *export = &instance->module->exports[i];
        if (export->kind == PW_FUNCTION && strcmp(export->name, name) == 0) {
            function->params = strdup(export->params);
            function->results = strdup(export->results);
        }
    }
    function->name = strdup(name);
    if (!function->name || !function->params || !function->results) {
        free(function->name);
        free(function->params);
        free(function->results);
        free(function);
        return PW_NO_MEMORY;
    }
    uint32_t results = cells_of_all(function->results);
    function->param_cells = cells_of_all(function->params);
    function->cells = function->param_cells > results ? function->param_cells : results;
    uint32_t params = slots_of_all(function->params), width = slots_of_all(function->results);
    width = params > width ? params : width;
    function->width = width ? width : 1;
    function->instance = instance;
    function->wamr = wamr;
    function->next = instance->functions;
    instance->functions = function;
    *out = function;
    return PW_OK;
}

int32_t
pw_instance_function(pw_instance *instance, const char *name, pw_function **out)
{
    if (!instance || !name || !out)
        return PW_BAD_ARGUMENT;
    int32_t status = pw_enter(instance);
    if (status != PW_OK)
        return status;
    status = find_function(instance, name, out);
    pw_leave(instance);
    return status;
}

static int32_t
call_once(pw_instance *instance, pw_function *function, uint64_t *slots, uint32_t *cells)
{
    slots_to_cells(function->params, slots, cells);
    if (!wasm_runtime_call_wasm(instance->env, function->wamr, function->param_cells, cells))
        return take_exception(instance);
    if (atomic_load(&instance->terminated))
        return PW_TERMINATED;
    cells_to_slots(function->results, cells, slots);
    return PW_OK;
}

static int32_t
call_each(pw_function *function, uint64_t *slots, uint32_t count, uint32_t *done)
{
    pw_instance *instance = function->instance;
    pw_text_clear(pw_last.stack);
    if (atomic_load(&instance->terminated))
        return PW_TERMINATED;
    if (nested == NESTED_LIMIT)
        return refuse_depth();
    int32_t status = pw_enter(instance);
    if (status != PW_OK)
        return status;
    if (instance->depth == 1)
        instance->refused_pages = 0;

    uint32_t local[ARGUMENT_CELLS], *cells = local;
    status = PW_NO_MEMORY;
    if (function->cells > ARGUMENT_CELLS)
        cells = malloc(function->cells * sizeof *cells);
    if (cells) {
        pw_text *outer = begin_guest();
        status = PW_OK;
        for (; status == PW_OK && *done < count; slots += function->width) {
            status = call_once(instance, function, slots, cells);
            *done += status == PW_OK;
        }
        end_guest(outer);
    }
    if (cells != local)
        free(cells);
    pw_leave(instance);
    return status;
}

int32_t
pw_function_call_each(pw_function *function, uint64_t *slots, uint32_t count, uint32_t *done, pw_ended **ended)
{
    if (!function || !slots || !done || !ended)
        return PW_BAD_ARGUMENT;
    *done = 0;
    *ended = NULL;
    if (!pw_thread_ready())
        return PW_NO_MEMORY;
    int32_t status = call_each(function, slots, count, done);
    if (is_ended(status))
        *ended = pw_ended_new();
    return status;
}

int32_t
pw_function_call(pw_function *function, uint64_t *slots)
{
    uint32_t done;
    pw_ended *ended;
    int32_t status = pw_function_call_each(function, slots, 1, &done, &ended);
    if (is_ended(status))
        slots[0] = (uintptr_t)ended;
    return status;
}

int32_t
pw_instance_fuel_set(pw_instance *instance, int32_t fuel)
{
    if (!instance)
        return PW_BAD_ARGUMENT;
    int32_t status = pw_enter(instance);
    if (status != PW_OK)
        return status;
    wasm_runtime_set_instruction_count_limit(instance->env, fuel < 0 ? -1 : fuel);
    pw_leave(instance);
    return PW_OK;
}

void
pw_instance_terminate(pw_instance *instance)
{
    if (!instance)
        return;
    pthread_mutex_lock(&instance->lock);
    pw_stop(instance);
    pthread_mutex_unlock(&instance->lock);
}

int32_t
pw_memory_size(pw_instance *instance, uint64_t *size_bytes)
{
    if (!instance || !size_bytes)
        return PW_BAD_ARGUMENT;
    pthread_mutex_lock(&instance->lock); /* not `enter`: while guest code runs it has a size, too */
    *size_bytes = memory_size(instance);
    pthread_mutex_unlock(&instance->lock);
    return atomic_load(&instance->owner) == PW_OWNER_CLOSED ? PW_CLOSED : PW_OK;
}

int32_t
pw_memory_refused(pw_instance *instance, uint32_t *pages)
{
    if (!instance || !pages)
        return PW_BAD_ARGUMENT;
    *pages = instance->refused_pages;
    return atomic_load(&instance->owner) == PW_OWNER_CLOSED ? PW_CLOSED : PW_OK;
}

void
pw_growth_refused(uint32_t pages, uint64_t bytes, uint32_t memory, enlarge_memory_error_reason_t why, wasm_module_inst_t wamr,
                  wasm_exec_env_t env, void *data)
{
    (void)bytes, (void)memory, (void)why, (void)env, (void)data;
    pw_instance *instance = wasm_runtime_get_custom_data(wamr);
    if (instance && pages > instance->refused_pages)
        instance->refused_pages = pages;
}

/* Where bytes lie in the default memory, or NULL when they are not all inside. */
static uint8_t *
memory_at(const pw_instance *instance, uint64_t offset, uint64_t size_bytes)
{
    wasm_memory_inst_t memory = default_memory(instance);
    uint64_t size = memory_size(instance);
    if (!memory || offset > size || size_bytes > size - offset)
        return NULL;
    static uint8_t nothing; /* an empty memory has no address on 32 bits */
    uint8_t *base = size ? wasm_memory_get_base_address(memory) : &nothing;
    return base ? base + offset : NULL;
}

void *
pw_memory_read(pw_instance *instance, uint64_t offset, uint64_t size_bytes)
{
    int32_t status = instance ? pw_enter(instance) : PW_BAD_ARGUMENT;
    if (status != PW_OK)
        return pw_python_int(status);
    const uint8_t *from = memory_at(instance, offset, size_bytes);
    void *found = from ? pw_python_bytes(from, size_bytes) : pw_python_int(PW_NOT_FOUND);
    pw_leave(instance);
    return found;
}

int32_t
pw_memory_write(pw_instance *instance, uint64_t offset, const char *content, uint64_t size_bytes)
{
    if (!instance || !content)
        return PW_BAD_ARGUMENT;
    int32_t status = pw_enter(instance);
    if (status != PW_OK)
        return status;
    uint8_t *to = memory_at(instance, offset, size_bytes);
    if (to)
        memcpy(to, content, (size_t)size_bytes);
    pw_leave(instance);
    return to ? PW_OK : PW_NOT_FOUND;
}

static int32_t
get_global(pw_instance *instance, const char *name, uint64_t *slots)
{
    wasm_global_inst_t global;
    if (!wasm_runtime_get_export_global_inst(instance->wamr, name, &global))
        return PW_NOT_FOUND;
    char letter = pw_type_letter(global.kind);
    if (letter == 'e' || letter == '?')
        return PW_UNSUPPORTED; /* WAMR keeps an index there that only its own calls can turn back */
    cells_to_slot(letter, global.global_data, slots);
    return PW_OK;
}

static int32_t
set_global(pw_instance *instance, const char *name, const uint64_t *slots)
{
    wasm_global_inst_t global;
    if (!wasm_runtime_get_export_global_inst(instance->wamr, name, &global))
        return PW_NOT_FOUND;
    char letter = pw_type_letter(global.kind);
    if (!global.is_mutable || letter == 'e' || letter == 'r' || letter == '?')
        return PW_UNSUPPORTED;
    memcpy(global.global_data, slots, cells_of(letter) * sizeof(uint32_t));
    return PW_OK;
}

int32_t
pw_global_get(pw_instance *instance, const char *name, uint64_t *slots)
{
    if (!instance || !name || !slots)
        return PW_BAD_ARGUMENT;
    int32_t status = pw_enter(instance);
    if (status != PW_OK)
        return status;
    status = get_global(instance, name, slots);
    pw_leave(instance);
    return status;
}

int32_t
pw_global_set(pw_instance *instance, const char *name, const uint64_t *slots)
{
    if (!instance || !name || !slots)
        return PW_BAD_ARGUMENT;
    int32_t status = pw_enter(instance);
    if (status != PW_OK)
        return status;
    status = set_global(instance, name, slots);
    pw_leave(instance);
    return status;
}
