/* Loading a module, and describing what is in it. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CUSTOM_SECTION 0
#define CODE_SECTION 10
#define AOT_TEXT_SECTION 2       /* WAMR, core/iwasm/aot/aot_runtime.h */
#define AOT_RELOCATION_SECTION 5 /* likewise */

static pthread_mutex_t link_lock = PTHREAD_MUTEX_INITIALIZER;

char
pw_type_letter(wasm_valkind_t kind)
{
    switch (kind) {
        case WASM_I32:
            return 'i';
        case WASM_I64:
            return 'I';
        case WASM_F32:
            return 'f';
        case WASM_F64:
            return 'F';
        case WASM_V128:
            return 'v';
        case WASM_EXTERNREF:
            return 'e';
        case WASM_FUNCREF:
            return 'r';
        default:
            return '?';
    }
}

char *
pw_type_letters(wasm_func_type_t type, bool results)
{
    uint32_t count = results ? wasm_func_type_get_result_count(type) : wasm_func_type_get_param_count(type);
    char *letters = malloc((size_t)count + 1);
    if (!letters)
        return NULL;
    for (uint32_t i = 0; i < count; i++) {
        wasm_valkind_t kind =
            results ? wasm_func_type_get_result_valkind(type, i) : wasm_func_type_get_param_valkind(type, i);
        /* WAMR 978ce3f, wasm_func_type_get_result_valkind: says -1 of an externref, and of nothing else. */
        letters[i] = results && kind == (wasm_valkind_t)-1 ? 'e' : pw_type_letter(kind);
    }
    letters[count] = '\0';
    return letters;
}

static bool
is_integers(const char *letters)
{
    return strspn(letters, "iI") == strlen(letters);
}

/* Fills what a memory, table or global import and export have in common; `u` is wasm_import_t's or wasm_export_t's union. */
static bool
describe(pw_extern *out, wasm_import_export_kind_t kind, const void *type)
{
    out->kind = (uint32_t)kind;
    switch (kind) {
        case WASM_IMPORT_EXPORT_KIND_FUNC:
            out->params = pw_type_letters((wasm_func_type_t)type, false);
            out->results = pw_type_letters((wasm_func_type_t)type, true);
            return out->params && out->results;
        case WASM_IMPORT_EXPORT_KIND_TABLE:
            out->minimum = wasm_table_type_get_init_size((wasm_table_type_t)type);
            out->maximum = wasm_table_type_get_max_size((wasm_table_type_t)type);
            break;
        case WASM_IMPORT_EXPORT_KIND_MEMORY:
            out->minimum = wasm_memory_type_get_init_page_count((wasm_memory_type_t)type);
            out->maximum = wasm_memory_type_get_max_page_count((wasm_memory_type_t)type);
            break;
        case WASM_IMPORT_EXPORT_KIND_GLOBAL: {
            char letters[3] = { pw_type_letter(wasm_global_type_get_valkind((wasm_global_type_t)type)),
                                wasm_global_type_get_mutable((wasm_global_type_t)type) ? 'm' : '\0', '\0' };
            out->results = strdup(letters);
            return out->results != NULL;
        }
    }
    return true;
}

/* WAMR frees an import's strings with the module, but the strings of an export too; both are copied for one rule of ownership. */
static bool
describe_all(pw_module *module)
{
    module->import_count = (uint32_t)wasm_runtime_get_import_count(module->wamr);
    module->export_count = (uint32_t)wasm_runtime_get_export_count(module->wamr);
    module->imports = calloc(module->import_count + 1, sizeof *module->imports);
    module->exports = calloc(module->export_count + 1, sizeof *module->exports);
    module->functions = calloc(module->import_count + 1, sizeof *module->functions);
    if (!module->imports || !module->exports || !module->functions)
        return false;
    for (uint32_t i = 0; i < module->import_count; i++) {
        wasm_import_t import;
        memset(&import, 0, sizeof import);
        wasm_runtime_get_import_type(module->wamr, (int32_t)i, &import);
        pw_extern *out = &module->imports[i];
        out->module = strdup(import.module_name ? import.module_name : "");
        out->name = strdup(import.name ? import.name : "");
        if (!out->module || !out->name || !describe(out, import.kind, import.u.func_type))
            return false;
        if (import.kind == WASM_IMPORT_EXPORT_KIND_FUNC)
            out->index = module->function_count++;
    }
    for (uint32_t i = 0; i < module->export_count; i++) {
        wasm_export_t export;
        memset(&export, 0, sizeof export);
        wasm_runtime_get_export_type(module->wamr, (int32_t)i, &export);
        pw_extern *out = &module->exports[i];
        out->module = strdup("");
        out->name = strdup(export.name ? export.name : "");
        if (!out->module || !out->name || !describe(out, export.kind, export.u.func_type))
            return false;
    }
    return true;
}

/* Every function import is linked to the one trampoline; each instance decides which host function it calls. */
static int32_t
link_imports(pw_module *module, char *error, uint32_t error_size)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < module->import_count; i++) {
        const pw_extern *import = &module->imports[i];
        if (import->kind != PW_FUNCTION) {
            pw_error_set(error, error_size, "import %s.%s is not a function: only functions can be imported", import->module,
                         import->name);
            return PW_UNSUPPORTED;
        }
        if (strlen(import->results) > 1) {
            pw_error_set(error, error_size, "import %s.%s returns %zu values: a host function returns at most one",
                         import->module, import->name, strlen(import->results));
            return PW_UNSUPPORTED;
        }
        if (strpbrk(import->params, "v?") || strpbrk(import->results, "v?")) {
            pw_error_set(error, error_size, "import %s.%s has a value type that no host function can have", import->module,
                         import->name);
            return PW_UNSUPPORTED;
        }
        pw_import *function = &module->functions[count];
        function->module = import->module;
        function->name = (char *)import->name;
        function->params = (char *)import->params;
        function->results = (char *)import->results;
        function->index = count++;
        function->param_count = (uint32_t)strlen(import->params);
        function->direct = is_integers(import->params) && is_integers(import->results)
                           && function->param_count <= PW_DIRECT_PARAMS;
    }

    /* Registration is process-wide in WAMR, by module name, and keeps the array: it lasts only while this module is resolved. */
    NativeSymbol *symbols = calloc(count + 1, sizeof *symbols);
    if (!symbols)
        return PW_NO_MEMORY;
    for (uint32_t i = 0; i < count; i++) {
        symbols[i].symbol = module->functions[i].name;
        symbols[i].func_ptr = (void *)pw_trampoline;
        symbols[i].attachment = &module->functions[i];
    }
    pthread_mutex_lock(&link_lock);
    uint32_t registered = 0;
    bool ready = true;
    while (ready && registered < count) {
        ready = wasm_runtime_register_natives_raw(module->functions[registered].module, &symbols[registered], 1);
        registered += ready ? 1 : 0;
    }
    if (ready)
        ready = wasm_runtime_resolve_symbols(module->wamr);
    while (registered > 0) {
        registered--;
        wasm_runtime_unregister_natives(module->functions[registered].module, &symbols[registered]);
    }
    pthread_mutex_unlock(&link_lock);
    free(symbols);
    if (!ready) {
        pw_error_set(error, error_size, "the imports of the module could not be linked");
        return PW_BAD_MODULE;
    }
    return PW_OK;
}

static void
externs_free(pw_extern *externs, uint32_t count)
{
    for (uint32_t i = 0; externs && i < count; i++) {
        free((char *)externs[i].module);
        free((char *)externs[i].name);
        free((char *)externs[i].params);
        free((char *)externs[i].results);
    }
    free(externs);
}

/* Frees what belongs to WAMR, and what only instances need. */
static void
shut(pw_module *module)
{
    if (module->wamr)
        wasm_runtime_unload(module->wamr);
    pw_places_free(module->places);
    free(module->bytes);
    module->wamr = NULL;
    module->places = NULL;
    module->bytes = NULL;
    module->closed = true;
}

static void
discard(pw_module *module)
{
    shut(module);
    pthread_mutex_destroy(&module->lock);
    externs_free(module->imports, module->import_count);
    externs_free(module->exports, module->export_count);
    free(module->functions);
    free(module->custom);
    free(module);
}

/* Reads an unsigned LEB128 of at most 32 bits at *at; false when it does not fit. */
static bool
read_u32(const uint8_t *bytes, uint64_t end, uint64_t *at, uint32_t *value)
{
    uint64_t result = 0;
    for (uint32_t shift = 0; shift < 35; shift += 7) {
        if (*at >= end)
            return false;
        uint8_t byte = bytes[(*at)++];
        result |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *value = (uint32_t)result;
            return result <= UINT32_MAX;
        }
    }
    return false;
}

typedef struct section {
    uint32_t kind;
    uint64_t head, body, end; /* offsets: where it begins, where its content does, where it ends */
} section;

/* The section of a .wasm (or of an ahead-of-time image) at *at, which then is behind it; false at the end, and for what is cut off. */
static bool
next_section(const uint8_t *file, uint64_t size, bool is_image, uint64_t *at, section *found)
{
    uint32_t length;
    found->head = *at = is_image ? (*at + 3) & ~(uint64_t)3 : *at;
    if (is_image) {
        if (*at + 8 > size)
            return false;
        memcpy(&found->kind, file + *at, 4);
        memcpy(&length, file + *at + 4, 4);
        *at += 8;
    }
    else {
        if (*at >= size)
            return false;
        found->kind = file[(*at)++];
        if (!read_u32(file, size, at, &length))
            return false;
    }
    if (length > size - *at)
        return false;
    found->body = *at;
    found->end = *at += length;
    return true;
}

/* Keeps what a .wasm has in custom sections; false when out of memory. */
static bool
keep_custom_sections(pw_module *module, const uint8_t *file, uint32_t size)
{
    section each;
    uint32_t kept = 0;
    for (uint64_t at = 8; next_section(file, size, false, &at, &each);)
        kept += each.kind == CUSTOM_SECTION ? (uint32_t)(each.end - each.head) : 0;
    module->custom = malloc(kept ? kept : 1);
    if (!module->custom)
        return false;
    for (uint64_t at = 8; next_section(file, size, false, &at, &each);) {
        if (each.kind == CUSTOM_SECTION) {
            uint32_t length = (uint32_t)(each.end - each.head);
            memcpy(module->custom + module->custom_size, file + each.head, length);
            module->custom_size += length;
        }
    }
    return true;
}

/* The whole pages of a loaded module's code go back to the kernel: WAMR has made its own of it, and reads the file's no more. */
static void
drop_code(uint8_t *file, uint32_t size, bool is_image)
{
    section each;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (uint64_t at = 8; next_section(file, size, is_image, &at, &each);) {
        if (is_image ? each.kind != AOT_TEXT_SECTION && each.kind != AOT_RELOCATION_SECTION : each.kind != CODE_SECTION)
            continue;
        uintptr_t from = ((uintptr_t)file + (uintptr_t)each.body + page - 1) & ~(page - 1);
        uintptr_t to = ((uintptr_t)file + (uintptr_t)each.end) & ~(page - 1);
        if (from < to)
            (void)madvise((void *)from, to - from, MADV_DONTNEED);
    }
}

int32_t
pw_module_load(const uint8_t *bytes, uint32_t size, uint32_t places, pw_module **out, char *error, uint32_t error_size)
{
    pw_error_set(error, error_size, "%s", "");
    if (!bytes || !out)
        return PW_BAD_ARGUMENT;
    *out = NULL;
    pw_facts facts;
    int32_t status = pw_check_bytes(bytes, size, &facts, error, error_size);
    if (status != PW_OK)
        return status;
    pw_module *module = calloc(1, sizeof *module);
    if (!module)
        return PW_NO_MEMORY;
    module->facts = facts;
    pthread_mutex_init(&module->lock, NULL);
    bool is_image = size < 4 || memcmp(bytes, "\0asm", 4) != 0;
    module->bytes = malloc(size ? size : 1);
    if (!module->bytes || (!is_image && !keep_custom_sections(module, bytes, size))) {
        discard(module);
        return PW_NO_MEMORY;
    }
    memcpy(module->bytes, bytes, size);

    LoadArgs args;
    memset(&args, 0, sizeof args);
    args.name = "";
    args.no_resolve = true;
    if (places)
        module->places = pw_places_begin();
    module->wamr = wasm_runtime_load_ex(module->bytes, size, &args, error, error_size);
    pw_places_end();
    status = PW_BAD_MODULE;
    if (module->wamr)
        status = describe_all(module) ? link_imports(module, error, error_size) : PW_NO_MEMORY;
    if (status != PW_OK) {
        discard(module);
        return status;
    }
    drop_code(module->bytes, size, is_image);
    *out = module;
    return PW_OK;
}

int32_t
pw_module_close(pw_module *module)
{
    if (!module)
        return PW_OK;
    pthread_mutex_lock(&module->lock);
    int32_t status = module->open ? PW_BUSY : module->closed ? PW_CLOSED : PW_OK;
    if (status == PW_OK)
        shut(module);
    pthread_mutex_unlock(&module->lock);
    return status;
}

int32_t
pw_module_free(pw_module *module)
{
    if (!module)
        return PW_OK;
    pthread_mutex_lock(&module->lock);
    bool kept = module->kept > 0;
    pthread_mutex_unlock(&module->lock);
    if (kept)
        return PW_BUSY;
    int32_t status = pw_module_close(module);
    discard(module);
    return status;
}

int32_t
pw_module_join(pw_module *module)
{
    pthread_mutex_lock(&module->lock);
    bool closed = module->closed;
    if (!closed) {
        module->open++;
        module->kept++;
    }
    pthread_mutex_unlock(&module->lock);
    return closed ? PW_CLOSED : PW_OK;
}

void
pw_module_leave(pw_module *module, bool open, bool kept)
{
    pthread_mutex_lock(&module->lock);
    module->open -= open;
    module->kept -= kept;
    pthread_mutex_unlock(&module->lock);
}

uint32_t
pw_module_place(pw_module *module, uint32_t function, uint32_t offset)
{
    if (!module)
        return 0;
    uint32_t place = 0;
    pthread_mutex_lock(&module->lock);
    if (!module->closed && wasm_runtime_get_module_package_type(module->wamr) == Wasm_Module_AoT)
        place = offset;
    else if (function >= module->function_count)
        place = pw_places_find(module->places, function - module->function_count, offset);
    pthread_mutex_unlock(&module->lock);
    return place;
}

uint32_t
pw_module_import_count(const pw_module *module)
{
    return module ? module->import_count : 0;
}

int32_t
pw_module_import_get(const pw_module *module, uint32_t index, pw_extern *out)
{
    if (!module || !out || index >= module->import_count)
        return PW_BAD_ARGUMENT;
    *out = module->imports[index];
    return PW_OK;
}

uint32_t
pw_module_export_count(const pw_module *module)
{
    return module ? module->export_count : 0;
}

int32_t
pw_module_export_get(const pw_module *module, uint32_t index, pw_extern *out)
{
    if (!module || !out || index >= module->export_count)
        return PW_BAD_ARGUMENT;
    *out = module->exports[index];
    return PW_OK;
}

int32_t
pw_module_custom_section_get(const pw_module *module, uint32_t index, const char **name, uint32_t *name_size,
                             const uint8_t **bytes, uint32_t *size)
{
    if (!module || !name || !name_size || !bytes || !size)
        return PW_BAD_ARGUMENT;
    const uint8_t *file = module->custom;
    section each;
    for (uint64_t at = 0; next_section(file, module->custom_size, false, &at, &each);) {
        uint64_t start = each.body;
        uint32_t length;
        if (index-- > 0)
            continue;
        if (!read_u32(file, each.end, &start, &length) || length > each.end - start)
            return PW_NOT_FOUND;
        *name = (const char *)file + start;
        *name_size = length;
        *bytes = file + start + length;
        *size = (uint32_t)(each.end - start - length);
        return PW_OK;
    }
    return PW_NOT_FOUND;
}
