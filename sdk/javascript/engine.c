/*
 * A JavaScript engine (QuickJS-ng) as a module of the contract: what `ota build` puts a script into.
 *
 * The script is an ES module that lies behind the memory of this one; dm_slot says where. It is evaluated at the first call from the
 * host. Its exports `events`, `startup`, `timer`, `health` and `state` are objects with the functions of those interfaces; it
 * imports the capabilities from "device:module/messaging" and so on. One that was not linked in (-DDM_WITH_...) throws.
 * Nothing of WASI is imported: the few functions that the C library would call are at the end.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DM_OWN_MEMORY
void *dm_realloc(void *old, size_t old_size, size_t align, size_t size);
static unsigned dm_arena_used;
#include "device_module.h"
#include "quickjs.h"

/* What `ota build` writes: it finds the place by the global that is exported under this name. */
typedef struct slot {
    const char *script; /* ends with a zero that is not counted */
    uint32_t script_size;
    const char *name;
    uint32_t memory_limit; /* of the engine, in bytes */
    const struct place {
        uint32_t line, column; /* where it begins in the script, as the engine counts */
        const char *file;
        uint32_t file_line;
    } *places; /* in order; what the script was made from */
    uint32_t place_count;
    uint32_t check_only; /* parse, and run nothing */
    uint32_t stack_limit; /* of the engine, in bytes; below that of the linker */
} slot;
volatile slot dm_slot = { "", 0, "", 1, NULL, 0, 0, 0 }; /* not zero: it has bytes of its own in the data */
#define DM_SLOT (&dm_slot)

#define TEXT_LIMIT 2048 /* of an error that the host gets */

static JSRuntime *runtime;
static JSContext *context;
static JSValue exports; /* of the script */
static JSValue unhandled; /* reason of the first rejected promise that nobody waits for */
static JSValue unhandled_promise;
static bool seeding; /* the engine asks for the time to seed Math.random */
static char failure[TEXT_LIMIT];

/* ---- memory: what the host passes in lives until the next call ----------------------------------------------------- */

typedef struct block {
    struct block *next;
    uint64_t aligned;
} block;
static block *blocks;

static void drop_blocks(void)
{
    while (blocks) {
        block *next = blocks->next;
        free(blocks);
        blocks = next;
    }
}

static void log_text(dm_level level, const char *text, size_t size);

__attribute__((export_name("cabi_realloc"))) void *dm_realloc(void *old, size_t old_size, size_t align, size_t size)
{
    (void)old_size;
    if (!dm_arena_used) /* emptied when the last call was over */
        drop_blocks();
    dm_arena_used = 1;
    block *made = old || align > 16 || size > UINT32_MAX - sizeof(block) ? NULL : malloc(sizeof(block) + size);
    if (!made) {
        static const char told[] = "out of memory: what the host passed in does not fit";
        log_text(DM_ERROR, told, sizeof told - 1);
        __builtin_trap();
    }
    made->next = blocks;
    blocks = made;
    return made + 1;
}

/* ---- errors ---------------------------------------------------------------------------------------------------------- */

static void append(char *text, size_t *used, const char *more, size_t size)
{
    size_t room = TEXT_LIMIT - 1 - *used;
    if (size > room)
        size = room;
    memcpy(text + *used, more, size);
    *used += size;
    text[*used] = 0;
}

/* Halves of pairs, which JavaScript allows in strings and UTF-8 does not, become U+FFFD: as long in bytes. */
static void make_valid(char *text, size_t size)
{
    for (size_t i = 0; i + 2 < size; i++)
        if ((uint8_t)text[i] == 0xED && (uint8_t)text[i + 1] >= 0xA0)
            memcpy(text + i, "\xEF\xBF\xBD", 3);
}

/* How much of a text that was cut is whole characters. */
static size_t whole(const char *text, size_t size)
{
    size_t at = size;
    while (at && (text[at - 1] & 0xC0) == 0x80)
        at--;
    if (!at)
        return size;
    uint8_t lead = (uint8_t)text[at - 1];
    size_t needed = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    return size - (at - 1) >= needed ? size : at - 1;
}

/* What the script was made from at a position; NULL where that is not known. */
static const struct place *place_of(unsigned long line, unsigned long column)
{
    const struct place *found = NULL, *end = DM_SLOT->places + DM_SLOT->place_count;
    for (const struct place *at = DM_SLOT->places; at < end; at++) {
        if (at->line > line || (at->line == line && at->column > column))
            break;
        found = at;
    }
    return found;
}

/* One line of a stack, "at handle (blink.js:12:5)": with the file and line that the script was made from, where that is known. */
static void append_line(size_t *used, const char *line, size_t length)
{
    const char *name = DM_SLOT->name;
    size_t size = strlen(name);
    for (size_t i = length; i-- > 0;) /* from the end: a function's name may hold anything */
        if (i + size + 1 < length && memcmp(line + i, name, size) == 0 && line[i + size] == ':') {
            char *end, digits[16];
            unsigned long number = strtoul(line + i + size + 1, &end, 10);
            const struct place *place = place_of(number, *end == ':' ? strtoul(end + 1, NULL, 10) : 1);
            if (!place)
                break;
            append(failure, used, line, i);
            append(failure, used, place->file, strlen(place->file));
            append(failure, used, digits, (size_t)snprintf(digits, sizeof digits, ":%u", (unsigned)place->file_line));
            append(failure, used, ")", line[length - 1] == ')');
            return;
        }
    append(failure, used, line, length);
}

/* "TypeError: x is not a function, at handle (blink.js:12:5), at ..." from a value that was thrown; on one line. */
static dm_bytes describe(JSValueConst thrown)
{
    size_t used = 0, size = 0;
    const char *text = JS_ToCStringLen(context, &size, thrown);
    if (text)
        append(failure, &used, text, size);
    else {
        JS_FreeValue(context, JS_GetException(context));
        append(failure, &used, "an error without a text", 23);
    }
    JS_FreeCString(context, text);
    if (JS_IsError(thrown)) {
        JSValue stack = JS_GetPropertyStr(context, thrown, "stack");
        const char *lines = JS_IsString(stack) ? JS_ToCString(context, stack) : NULL;
        for (const char *line = lines; line && *line;) {
            line += strspn(line, " \n");
            size_t length = strcspn(line, "\n");
            if (length && memcmp(line + length - (length < 8 ? length : 8), "(native)", length < 8 ? length : 8) != 0) {
                append(failure, &used, ", ", 2);
                append_line(&used, line, length);
            }
            line += length;
        }
        JS_FreeCString(context, lines);
        JS_FreeValue(context, stack);
    }
    for (char *at = failure; *at; at++)
        if (*at == '\n')
            *at = ' ';
    make_valid(failure, used);
    used = whole(failure, used);
    return (dm_bytes){ (uint8_t *)failure, (uint32_t)used };
}

/* The exception in hand; also as a line of the log. */
static dm_bytes caught(void)
{
    JSValue thrown = JS_GetException(context);
    dm_bytes text = describe(thrown);
    JS_FreeValue(context, thrown);
    log_text(DM_ERROR, (const char *)text.at, text.size);
    return text;
}

/* Throws an Error with the property `code`, as "denied". */
static JSValue throw_code(JSContext *js, const char *what, const char *code)
{
    JSValue error = JS_NewError(js);
    if (JS_IsException(error))
        return error;
    char text[96];
    size_t used = strlen(what);
    memcpy(text, what, used);
    memcpy(text + used, ": ", 2);
    memcpy(text + used + 2, code, strlen(code) + 1);
    JS_DefinePropertyValueStr(js, error, "message", JS_NewString(js, text), JS_PROP_WRITABLE | JS_PROP_CONFIGURABLE);
    JS_DefinePropertyValueStr(js, error, "code", JS_NewString(js, code), JS_PROP_C_W_E);
    return JS_Throw(js, error);
}

/* ---- values ----------------------------------------------------------------------------------------------------------- */

/* Text or bytes of an argument. `text` is to be freed, where it is one. */
typedef struct content {
    const char *text;
    dm_bytes bytes;
} content;

static bool take(JSContext *js, JSValueConst value, bool bytes_allowed, content *out)
{
    size_t size = 0;
    out->text = NULL;
    if (bytes_allowed && JS_IsObject(value)) {
        uint8_t *at = JS_IsArrayBuffer(value) ? JS_GetArrayBuffer(js, &size, value) : NULL;
        if (!at && JS_GetTypedArrayType(value) == JS_TYPED_ARRAY_UINT8)
            at = JS_GetUint8Array(js, &size, value);
        if (JS_HasException(js))
            return false;
        if (at || JS_IsArrayBuffer(value) || JS_GetTypedArrayType(value) == JS_TYPED_ARRAY_UINT8) {
            out->bytes = (dm_bytes){ at, (uint32_t)size };
            return true;
        }
    }
    if (!JS_IsString(value)) {
        JS_ThrowTypeError(js, bytes_allowed ? "a string, a Uint8Array or an ArrayBuffer is expected" : "a string is expected");
        return false;
    }
    out->text = JS_ToCStringLen(js, &size, value);
    out->bytes = (dm_bytes){ (uint8_t *)out->text, (uint32_t)size };
    if (out->text)
        make_valid((char *)out->text, size); /* a copy, where it is not all ASCII */
    return out->text != NULL;
}

static void done(JSContext *js, content *taken)
{
    JS_FreeCString(js, taken->text);
}

/* ---- capabilities: one that is not linked in says so ------------------------------------------------------------------ */

#define ARGUMENTS JSContext *js, JSValueConst self, int count, JSValueConst *values
#define UNUSED (void)self, (void)count, (void)values
#define LACKS(name)                                                                                                                \
    UNUSED;                                                                                                                        \
    return JS_ThrowTypeError(js, "the description (.toml) does not ask for the capability " name)

static void log_text(dm_level level, const char *text, size_t size)
{
#ifdef DM_WITH_LOGGING
    dm_log(level, (dm_bytes){ (uint8_t *)text, (uint32_t)size });
#else
    (void)level, (void)text, (void)size;
#endif
}

static JSValue logging_log(ARGUMENTS)
{
    UNUSED;
    static const char *const levels[] = { "trace", "debug", "info", "warn", "error" };
    const char *level = JS_ToCString(js, values[0]);
    if (!level)
        return JS_EXCEPTION;
    unsigned found = 0;
    while (found < 5 && strcmp(level, levels[found]) != 0)
        found++;
    JS_FreeCString(js, level);
    if (found == 5)
        return JS_ThrowTypeError(js, "a level is trace, debug, info, warn or error");
    content message;
    if (!take(js, values[1], false, &message))
        return JS_EXCEPTION;
    log_text((dm_level)found, (const char *)message.bytes.at, message.bytes.size);
    done(js, &message);
    return JS_UNDEFINED;
}

static JSValue messaging_publish(ARGUMENTS)
{
#ifdef DM_WITH_MESSAGING
    UNUSED;
    static const char *const codes[] = { "", "denied", "too-large", "queue-full" };
    content topic, payload;
    if (!take(js, values[0], false, &topic))
        return JS_EXCEPTION;
    if (!take(js, values[1], true, &payload)) {
        done(js, &topic);
        return JS_EXCEPTION;
    }
    dm_publish_status status = dm_publish(topic.bytes, payload.bytes);
    done(js, &topic);
    done(js, &payload);
    return status == DM_PUBLISHED ? JS_UNDEFINED : throw_code(js, "publish", codes[status & 3]);
#else
    LACKS("messaging");
#endif
}

#ifdef DM_WITH_KEYVALUE
static JSValue written(JSContext *js, const dm_result *out)
{
    return out->failed ? JS_ThrowPlainError(js, "%.*s", (int)out->error.size, (const char *)out->error.at) : JS_UNDEFINED;
}
#endif

static JSValue keyvalue_get(ARGUMENTS)
{
#ifdef DM_WITH_KEYVALUE
    UNUSED;
    content key;
    dm_bytes value;
    if (!take(js, values[0], false, &key))
        return JS_EXCEPTION;
    bool there = dm_keyvalue_get(key.bytes, &value);
    done(js, &key);
    return there ? JS_NewUint8ArrayCopy(js, value.at, value.size) : JS_UNDEFINED;
#else
    LACKS("keyvalue");
#endif
}

static JSValue keyvalue_set(ARGUMENTS)
{
#ifdef DM_WITH_KEYVALUE
    UNUSED;
    content key, value;
    dm_result out;
    if (!take(js, values[0], false, &key))
        return JS_EXCEPTION;
    if (!take(js, values[1], true, &value)) {
        done(js, &key);
        return JS_EXCEPTION;
    }
    dm_import_keyvalue_set(key.bytes.at, key.bytes.size, value.bytes.at, value.bytes.size, &out);
    done(js, &key);
    done(js, &value);
    return written(js, &out);
#else
    LACKS("keyvalue");
#endif
}

static JSValue keyvalue_delete(ARGUMENTS)
{
#ifdef DM_WITH_KEYVALUE
    UNUSED;
    content key;
    dm_result out;
    if (!take(js, values[0], false, &key))
        return JS_EXCEPTION;
    dm_import_keyvalue_delete(key.bytes.at, key.bytes.size, &out);
    done(js, &key);
    return written(js, &out);
#else
    LACKS("keyvalue");
#endif
}

static JSValue clock_now(ARGUMENTS)
{
#ifdef DM_WITH_CLOCK
    UNUSED;
    return JS_NewBigUint64(js, dm_clock_now());
#else
    LACKS("clock");
#endif
}

static JSValue clock_monotonic(ARGUMENTS)
{
#ifdef DM_WITH_CLOCK
    UNUSED;
    return JS_NewBigUint64(js, dm_clock_monotonic());
#else
    LACKS("clock");
#endif
}

static JSValue config_get(ARGUMENTS)
{
#ifdef DM_WITH_CONFIG
    UNUSED;
    content key;
    dm_bytes value;
    if (!take(js, values[0], false, &key))
        return JS_EXCEPTION;
    bool there = dm_config_get(key.bytes, &value);
    done(js, &key);
    return there ? JS_NewStringLen(js, (const char *)value.at, value.size) : JS_UNDEFINED;
#else
    LACKS("config");
#endif
}

static JSValue random_get(ARGUMENTS)
{
#ifdef DM_WITH_RANDOM
    UNUSED;
    uint32_t size;
    if (JS_ToUint32(js, &size, values[0]) < 0)
        return JS_EXCEPTION;
    dm_bytes got = dm_random(size);
    return JS_NewUint8ArrayCopy(js, got.at, got.size);
#else
    LACKS("random");
#endif
}

#if defined(DM_WITH_GPIO) || defined(DM_WITH_SERIAL)
static JSValue device(JSContext *js, dm_device_status status, const char *what, JSValue value)
{
    if (status == DM_DEVICE_DONE)
        return value;
    JS_FreeValue(js, value);
    return throw_code(js, what, status == DM_DEVICE_DENIED ? "denied" : "failed");
}
#endif

static JSValue gpio_read(ARGUMENTS)
{
#ifdef DM_WITH_GPIO
    UNUSED;
    content line;
    bool value = false;
    if (!take(js, values[0], false, &line))
        return JS_EXCEPTION;
    dm_device_status status = dm_gpio_read(line.bytes, &value);
    done(js, &line);
    return device(js, status, "gpio", JS_NewBool(js, value));
#else
    LACKS("gpio");
#endif
}

static JSValue gpio_write(ARGUMENTS)
{
#ifdef DM_WITH_GPIO
    UNUSED;
    content line;
    if (!take(js, values[0], false, &line))
        return JS_EXCEPTION;
    dm_device_status status = dm_gpio_write(line.bytes, JS_ToBool(js, values[1]) > 0);
    done(js, &line);
    return device(js, status, "gpio", JS_UNDEFINED);
#else
    LACKS("gpio");
#endif
}

static JSValue serial_read(ARGUMENTS)
{
#ifdef DM_WITH_SERIAL
    UNUSED;
    content port;
    uint32_t limit;
    dm_bytes data = { 0, 0 };
    if (JS_ToUint32(js, &limit, values[1]) < 0 || !take(js, values[0], false, &port))
        return JS_EXCEPTION;
    dm_device_status status = dm_serial_read(port.bytes, limit, &data);
    done(js, &port);
    return device(js, status, "serial", status == DM_DEVICE_DONE ? JS_NewUint8ArrayCopy(js, data.at, data.size) : JS_UNDEFINED);
#else
    LACKS("serial");
#endif
}

static JSValue serial_write(ARGUMENTS)
{
#ifdef DM_WITH_SERIAL
    UNUSED;
    content port, data;
    if (!take(js, values[0], false, &port))
        return JS_EXCEPTION;
    if (!take(js, values[1], true, &data)) {
        done(js, &port);
        return JS_EXCEPTION;
    }
    dm_device_status status = dm_serial_write(port.bytes, data.bytes);
    done(js, &port);
    done(js, &data);
    return device(js, status, "serial", JS_UNDEFINED);
#else
    LACKS("serial");
#endif
}

static const struct {
    const char *interface, *name;
    JSCFunction *function;
    int arguments;
} FUNCTIONS[] = {
    { "logging", "log", logging_log, 2 },        { "messaging", "publish", messaging_publish, 2 },
    { "keyvalue", "get", keyvalue_get, 1 },      { "keyvalue", "set", keyvalue_set, 2 },
    { "keyvalue", "delete", keyvalue_delete, 1 }, { "clock", "now", clock_now, 0 },
    { "clock", "monotonic", clock_monotonic, 0 }, { "config", "get", config_get, 1 },
    { "random", "get", random_get, 1 },          { "gpio", "read", gpio_read, 1 },
    { "gpio", "write", gpio_write, 2 },          { "serial", "read", serial_read, 2 },
    { "serial", "write", serial_write, 2 },
};
#define FUNCTION_COUNT (sizeof FUNCTIONS / sizeof *FUNCTIONS)

/* ---- modules that a script imports ------------------------------------------------------------------------------------ */

/* "messaging" of "device:module/messaging" and "device:module/messaging@0.1.0"; NULL for anything else. */
static const char *interface_of(const char *specifier, size_t *size)
{
    static const char prefix[] = "device:module/";
    if (strncmp(specifier, prefix, sizeof prefix - 1) != 0)
        return NULL;
    const char *name = specifier + sizeof prefix - 1;
    *size = strcspn(name, "@");
    return name[*size] && strcmp(name + *size, "@0.1.0") != 0 ? NULL : name;
}

static bool belongs(unsigned index, const char *name, size_t size)
{
    return strlen(FUNCTIONS[index].interface) == size && memcmp(FUNCTIONS[index].interface, name, size) == 0;
}

static int fill_module(JSContext *js, JSModuleDef *module)
{
    JSAtom atom = JS_GetModuleName(js, module);
    const char *specifier = JS_AtomToCString(js, atom);
    JS_FreeAtom(js, atom);
    size_t size = 0;
    const char *name = specifier ? interface_of(specifier, &size) : NULL;
    int outcome = name ? 0 : -1;
    for (unsigned i = 0; outcome == 0 && i < FUNCTION_COUNT; i++)
        if (belongs(i, name, size)) {
            JSValue made = JS_NewCFunction(js, FUNCTIONS[i].function, FUNCTIONS[i].name, FUNCTIONS[i].arguments);
            outcome = JS_SetModuleExport(js, module, FUNCTIONS[i].name, made);
        }
    JS_FreeCString(js, specifier);
    return outcome;
}

static JSModuleDef *load_module(JSContext *js, const char *specifier, void *opaque)
{
    (void)opaque;
    size_t size = 0;
    const char *name = interface_of(specifier, &size);
    JSModuleDef *module = NULL;
    for (unsigned i = 0; name && i < FUNCTION_COUNT; i++)
        if (belongs(i, name, size)) {
            if (!module)
                module = JS_NewCModule(js, specifier, fill_module);
            if (!module || JS_AddModuleExport(js, module, FUNCTIONS[i].name) < 0)
                return NULL;
        }
    if (!module)
        JS_ThrowReferenceError(js, "there is no module '%s'", specifier);
    return module;
}

/* The names as they are written: there are no folders. */
static char *keep_name(JSContext *js, const char *base, const char *name, void *opaque)
{
    (void)base, (void)opaque;
    return js_strdup(js, name);
}

/* ---- what browsers and Node.js have and the engine lacks ---------------------------------------------------------------- */

static JSValue text_encode(ARGUMENTS)
{
    UNUSED;
    size_t size;
    const char *text = JS_ToCStringLen(js, &size, values[0]);
    if (!text)
        return JS_EXCEPTION;
    make_valid((char *)text, size);
    JSValue made = JS_NewUint8ArrayCopy(js, (const uint8_t *)text, size);
    JS_FreeCString(js, text);
    return made;
}

/* How many of the bytes at `at` are one character of UTF-8 (Unicode, table 3-7). 0 where they are none: then `wrong` of them are one
   U+FFFD, and `cut` says whether only the rest of it is missing. */
static size_t character(const uint8_t *at, size_t size, size_t *wrong, bool *cut)
{
    uint8_t lead = *at, low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    size_t length = lead < 0x80 ? 1 : lead < 0xC2 || lead > 0xF4 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    size_t good = 1;
    while (good < length && good < size && at[good] >= low && at[good] <= high) {
        good++;
        low = 0x80;
        high = 0xBF;
    }
    *wrong = good;
    *cut = good < length && good == size;
    return good == length ? length : 0;
}

/* bytes, fatal: the text, with U+FFFD for what is no UTF-8, or a TypeError. */
static JSValue text_decode(ARGUMENTS)
{
    UNUSED;
    content bytes;
    size_t more = 0, wrong;
    bool cut;
    if (!take(js, values[0], true, &bytes))
        return JS_EXCEPTION;
    const uint8_t *from = bytes.bytes.at;
    size_t size = bytes.bytes.size;
    for (size_t i = 0, good; i < size; i += good ? good : wrong)
        if (!(good = character(from + i, size - i, &wrong, &cut)))
            more += 3;
    if (!more)
        return JS_NewStringLen(js, (const char *)from, size);
    if (JS_ToBool(js, values[1]))
        return JS_ThrowTypeError(js, "the bytes are not UTF-8");
    uint8_t *text = js_malloc(js, size + more);
    if (!text)
        return JS_EXCEPTION;
    size_t used = 0;
    for (size_t i = 0, good; i < size; i += good ? good : wrong) {
        good = character(from + i, size - i, &wrong, &cut);
        memcpy(text + used, good ? from + i : (const uint8_t *)"\xEF\xBF\xBD", good ? good : 3);
        used += good ? good : 3;
    }
    JSValue made = JS_NewStringLen(js, (const char *)text, used);
    js_free(js, text);
    return made;
}

/* How many bytes at the end are a character of which the rest is missing. */
static JSValue text_tail(ARGUMENTS)
{
    UNUSED;
    content bytes;
    size_t wrong;
    bool cut;
    if (!take(js, values[0], true, &bytes))
        return JS_EXCEPTION;
    for (uint32_t n = 1; n < 4 && n <= bytes.bytes.size; n++)
        if (character(bytes.bytes.at + bytes.bytes.size - n, n, &wrong, &cut) == 0 && cut)
            return JS_NewUint32(js, n);
    return JS_NewUint32(js, 0);
}

static const char PRELUDE[] =
    "(encode, decode, tail, log) => {"
    "globalThis.TextEncoder = class TextEncoder { get encoding() { return 'utf-8' } encode(text = '') { return encode(text) }"
    " encodeInto(text, bytes) { let read = 0, written = 0;"
    "  for (const each of String(text)) { const some = encode(each); if (written + some.length > bytes.length) break;"
    "   bytes.set(some, written); written += some.length; read += each.length }"
    "  return { read, written } } };"
    "const view = bytes => { if (bytes instanceof ArrayBuffer) return new Uint8Array(bytes);"
    " if (ArrayBuffer.isView(bytes)) return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);"
    " throw new TypeError('an ArrayBuffer or a view of one is expected') };"
    "globalThis.TextDecoder = class TextDecoder { #fatal; #ignoreBOM; #rest = new Uint8Array(); #first = true;"
    " constructor(label = 'utf-8', { fatal = false, ignoreBOM = false } = {}) {"
    "  if (!/^[\\t\\n\\f\\r ]*(utf-?8|unicode-1-1-utf-8|(x-)?unicode20utf8|unicode11utf8)[\\t\\n\\f\\r ]*$/i.test(label))"
    "   throw new RangeError('only utf-8');"
    "  this.#fatal = Boolean(fatal); this.#ignoreBOM = Boolean(ignoreBOM) }"
    " get encoding() { return 'utf-8' } get fatal() { return this.#fatal } get ignoreBOM() { return this.#ignoreBOM }"
    " decode(input = new Uint8Array(), { stream = false } = {}) {"
    "  let bytes = view(input); const first = this.#first, rest = this.#rest;"
    "  if (rest.length) { const both = new Uint8Array(rest.length + bytes.length); both.set(rest); both.set(bytes, rest.length);"
    "   bytes = both }"
    "  const kept = stream ? tail(bytes) : 0;"
    "  this.#rest = bytes.slice(bytes.length - kept); this.#first = !stream;"
    "  const text = decode(bytes.subarray(0, bytes.length - kept), this.#fatal);"
    "  if (stream && !text) this.#first = first;"
    "  return first && !this.#ignoreBOM && text[0] === '\\ufeff' ? text.slice(1) : text } };"
    "const written = each => { try { return JSON.stringify(each) ?? String(each) }"
    " catch { return Object.prototype.toString.call(each) } };"
    "const shown = each => typeof each === 'string' ? each : each instanceof Error ? `${each}\\n${each.stack}` :"
    " typeof each === 'object' && each ? written(each) : String(each);"
    "const at = level => (...all) => log(level, all.map(shown).join(' '));"
    "globalThis.console = { log: at('info'), trace: at('trace'), debug: at('debug'), info: at('info'), warn: at('warn'),"
    " error: at('error') } }";

static bool add_globals(void)
{
    JSValue prelude = JS_Eval(context, PRELUDE, sizeof PRELUDE - 1, "<engine>", JS_EVAL_TYPE_GLOBAL);
    JSValue given[] = { JS_NewCFunction(context, text_encode, "encode", 1), JS_NewCFunction(context, text_decode, "decode", 2),
                        JS_NewCFunction(context, text_tail, "tail", 1), JS_NewCFunction(context, logging_log, "log", 2) };
    const int count = sizeof given / sizeof *given;
    JSValue outcome = JS_IsException(prelude) ? JS_EXCEPTION : JS_Call(context, prelude, JS_UNDEFINED, count, (JSValueConst *)given);
    for (int i = 0; i < count; i++)
        JS_FreeValue(context, given[i]);
    JS_FreeValue(context, prelude);
    JS_FreeValue(context, outcome);
    return !JS_IsException(outcome);
}

/* ---- running -------------------------------------------------------------------------------------------------------------- */

static void track(JSContext *js, JSValueConst promise, JSValueConst reason, bool is_handled, void *opaque)
{
    (void)opaque;
    if (is_handled) {
        if (JS_IsStrictEqual(js, promise, unhandled_promise)) {
            JS_FreeValue(js, unhandled);
            JS_FreeValue(js, unhandled_promise);
            unhandled = unhandled_promise = JS_UNDEFINED;
        }
    } else if (JS_IsUndefined(unhandled_promise)) {
        unhandled = JS_DupValue(js, reason);
        unhandled_promise = JS_DupValue(js, promise);
    }
}

/* Runs all jobs, then takes a promise's value out of it; frees `value`. An exception where anything was rejected. */
static JSValue settle(JSValue value)
{
    JSContext *where;
    int ran;
    if (JS_IsPromise(value))
        JS_PromiseMarkAsHandled(context, value);
    while ((ran = JS_ExecutePendingJob(runtime, &where)) > 0)
        ;
    if (ran < 0) {
        JS_FreeValue(context, value);
        return JS_EXCEPTION;
    }
    JSValue rejected = JS_IsUndefined(unhandled_promise) ? JS_UNDEFINED : JS_DupValue(context, unhandled);
    bool failed = !JS_IsUndefined(unhandled_promise);
    JS_FreeValue(context, unhandled);
    JS_FreeValue(context, unhandled_promise);
    unhandled = unhandled_promise = JS_UNDEFINED;
    JSPromiseStateEnum state = JS_IsPromise(value) ? JS_PromiseState(context, value) : JS_PROMISE_NOT_A_PROMISE;
    JSValue result = state == JS_PROMISE_NOT_A_PROMISE ? JS_DupValue(context, value) : JS_UNDEFINED;
    if (state == JS_PROMISE_FULFILLED)
        result = JS_PromiseResult(context, value);
    else if (state == JS_PROMISE_REJECTED)
        result = JS_Throw(context, JS_PromiseResult(context, value));
    else if (state == JS_PROMISE_PENDING)
        result = JS_ThrowTypeError(context, "a promise that nothing will settle: no work goes on between events");
    JS_FreeValue(context, value);
    if (failed && !JS_IsException(result)) {
        JS_FreeValue(context, result);
        return JS_Throw(context, rejected);
    }
    JS_FreeValue(context, rejected);
    return result;
}

static bool evaluate(void)
{
    JSValue compiled = JS_Eval(context, DM_SLOT->script, DM_SLOT->script_size, DM_SLOT->name,
                               JS_EVAL_TYPE_MODULE | JS_EVAL_FLAG_COMPILE_ONLY);
    if (JS_IsException(compiled))
        return false;
    if (DM_SLOT->check_only) {
        JS_FreeValue(context, compiled);
        exports = JS_NewObject(context);
        return !JS_IsException(exports);
    }
    JSModuleDef *module = JS_VALUE_GET_PTR(compiled);
    JSValue outcome = settle(JS_EvalFunction(context, compiled));
    if (JS_IsException(outcome))
        return false;
    JS_FreeValue(context, outcome);
    exports = JS_GetModuleNamespace(context, module);
    return !JS_IsException(exports);
}

/* Makes the engine and evaluates the script, once. */
static bool ready(dm_bytes *error)
{
    static enum { NEW, BROKEN, GOOD } stage;
    if (stage == GOOD) {
        JS_UpdateStackTop(runtime);
        return true;
    }
    if (stage == BROKEN) {
        *error = DM_TEXT("the script failed when it was evaluated");
        return false;
    }
    stage = BROKEN;
    unhandled = unhandled_promise = JS_UNDEFINED;
    seeding = true;
    runtime = JS_NewRuntime();
    context = runtime ? JS_NewContext(runtime) : NULL;
    seeding = false;
    if (!context) {
        *error = DM_TEXT("out of memory: the engine does not start");
        return false;
    }
    JS_SetMemoryLimit(runtime, DM_SLOT->memory_limit);
    JS_SetMaxStackSize(runtime, DM_SLOT->stack_limit);
    JS_UpdateStackTop(runtime);
    JS_SetModuleLoaderFunc(runtime, keep_name, load_module, NULL);
    JS_SetHostPromiseRejectionTracker(runtime, track, NULL);
    if (!add_globals() || !evaluate()) {
        *error = caught();
        return false;
    }
    stage = GOOD;
    return true;
}

/* Calls `interface`.`function` of the script, where it is there; frees the values. `out`: what it returned, to be freed. */
static bool call(const char *interface, const char *function, int count, JSValue *values, JSValue *out, dm_bytes *error)
{
    JSValue holder = JS_GetPropertyStr(context, exports, interface);
    JSValue called = JS_IsObject(holder) ? JS_GetPropertyStr(context, holder, function) : JS_UNDEFINED;
    JSValue outcome = JS_EXCEPTION;
    bool valid = true;
    for (int i = 0; i < count; i++)
        valid &= !JS_IsException(values[i]);
    if (JS_IsUndefined(called))
        outcome = strcmp(interface, "events") == 0 ? JS_ThrowTypeError(context, "the script does not export events.handle") : JS_UNDEFINED;
    else if (valid && !JS_IsException(called))
        outcome = settle(JS_Call(context, called, holder, count, (JSValueConst *)values));
    for (int i = 0; i < count; i++)
        JS_FreeValue(context, values[i]);
    JS_FreeValue(context, called);
    JS_FreeValue(context, holder);
    *out = outcome;
    if (!JS_IsException(outcome))
        return true;
    *out = JS_UNDEFINED;
    *error = caught();
    return false;
}

static bool call_for_nothing(const char *interface, const char *function, int count, JSValue *values, dm_bytes *error)
{
    JSValue out;
    bool good = call(interface, function, count, values, &out, error);
    JS_FreeValue(context, out);
    return good;
}

static JSValue bytes_of(dm_bytes given)
{
    return JS_NewUint8ArrayCopy(context, given.at, given.size);
}

static bool handle(dm_bytes topic, dm_bytes payload, dm_bytes *error)
{
    if (!ready(error))
        return false;
    JSValue values[] = { JS_NewStringLen(context, (const char *)topic.at, topic.size), bytes_of(payload) };
    return call_for_nothing("events", "handle", 2, values, error);
}

static bool init(dm_bytes config, dm_bytes *error)
{
    if (!ready(error))
        return false;
    JSValue values[] = { bytes_of(config) };
    return call_for_nothing("startup", "init", 1, values, error);
}

static bool tick(uint64_t now_ns, dm_bytes *error)
{
    if (!ready(error))
        return false;
    JSValue values[] = { JS_NewBigUint64(context, now_ns) };
    return call_for_nothing("timer", "tick", 1, values, error);
}

static bool check(dm_bytes *error)
{
    return ready(error) && call_for_nothing("health", "check", 0, NULL, error);
}

/* There is no error in the contract: one ends the module, after a line in the log. */
static dm_bytes save(void)
{
    static dm_bytes saved;
    dm_bytes error;
    JSValue out;
    content taken = { NULL, { 0, 0 } };
    free(saved.at);
    saved = (dm_bytes){ 0, 0 };
    if (!ready(&error) || !call("state", "save", 0, NULL, &out, &error))
        __builtin_trap();
    if (!JS_IsUndefined(out) && !take(context, out, true, &taken)) {
        caught();
        __builtin_trap();
    }
    if (taken.bytes.size) {
        saved = (dm_bytes){ malloc(taken.bytes.size), taken.bytes.size };
        if (!saved.at)
            __builtin_trap();
        memcpy(saved.at, taken.bytes.at, saved.size);
    }
    done(context, &taken);
    JS_FreeValue(context, out);
    return saved;
}

static bool restore(dm_bytes state, dm_bytes *error)
{
    if (!ready(error))
        return false;
    JSValue values[] = { bytes_of(state) };
    return call_for_nothing("state", "restore", 1, values, error);
}

DM_EVENTS(handle)
DM_STARTUP(init)
DM_TIMER(tick)
DM_HEALTH(check)
DM_STATE(save, restore)

/* ---- what the C library asks WASI for --------------------------------------------------------------------------------------- */

/* Without the capability it is 1970. Math.random is seeded by `random`, else by `clock`; else each start gives the same numbers. */
int32_t __imported_wasi_snapshot_preview1_clock_time_get(int32_t which, int64_t precision, int32_t out)
{
    (void)which, (void)precision;
#ifdef DM_WITH_RANDOM
    if (seeding) {
        dm_bytes got = dm_random(sizeof(uint64_t));
        if (got.size == sizeof(uint64_t)) {
            memcpy((void *)out, got.at, sizeof(uint64_t));
            return 0;
        }
    }
#endif
#ifdef DM_WITH_CLOCK
    *(uint64_t *)out = which == 0 ? dm_clock_now() : dm_clock_monotonic();
#else
    *(uint64_t *)out = 0;
#endif
    return 0;
}

int32_t __imported_wasi_snapshot_preview1_fd_write(int32_t fd, int32_t vectors, int32_t count, int32_t out)
{
    (void)fd, (void)vectors, (void)count, (void)out;
    return 8; /* EBADF */
}

int32_t __imported_wasi_snapshot_preview1_fd_close(int32_t fd)
{
    (void)fd;
    return 8;
}

int32_t __imported_wasi_snapshot_preview1_fd_seek(int32_t fd, int64_t offset, int32_t whence, int32_t out)
{
    (void)fd, (void)offset, (void)whence, (void)out;
    return 8;
}

int32_t __imported_wasi_snapshot_preview1_fd_fdstat_get(int32_t fd, int32_t out)
{
    (void)fd, (void)out;
    return 8;
}

_Noreturn void __imported_wasi_snapshot_preview1_proc_exit(int32_t code)
{
    (void)code;
    __builtin_trap();
}
