/* Checks of a module's bytes before WAMR loads them: refuses by rule what the pinned version of WAMR mishandles. */
#include "internal.h"

#include <stdio.h>
#include <string.h>

#include "../aotc/aot_stamp.h"

void
pw_error_set(char *error, uint32_t error_size, const char *format, ...)
{
    if (!error || error_size == 0)
        return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error, error_size, format, arguments);
    va_end(arguments);
}

#if defined(__x86_64__)
#define TARGET "x86_64"
#elif defined(__aarch64__)
#define TARGET "aarch64"
#elif defined(__arm__)
#define TARGET "armv7"
#elif defined(__riscv) && __riscv_xlen == 64
#define TARGET "riscv64"
#else
#error "no target is known for this processor"
#endif

#if PW_HARDWARE_BOUNDS
#define PW_BOUNDS "hardware"
#else
#define PW_BOUNDS "software"
#endif

/* CVE-2026-54912: behind this many cells of constants the fast interpreter's two passes over a function disagree on its size. WAMR
 * keeps equal constants once; here all are counted, so that nothing depends on how it compares them. */
#define CONSTANT_CELLS_LIMIT 32765

enum { SECTION_IMPORT = 2, SECTION_MEMORY = 5, SECTION_START = 8, SECTION_ELEMENT = 9, SECTION_CODE = 10, SECTION_DATA = 11 };

/* The limit of other engines: a few bytes can declare billions of items. */
#define LOCALS_LIMIT 50000

#define OPCODE_END 0x0b

typedef struct reader {
    const uint8_t *at, *end;
    bool bad;
} reader;

static uint8_t
read_byte(reader *r)
{
    if (r->at >= r->end) {
        r->bad = true;
        return 0;
    }
    return *r->at++;
}

/* Reads a LEB128 of at most ten bytes, as an unsigned number; WAMR checks signs and widths. */
static uint64_t
read_number(reader *r)
{
    uint64_t value = 0;
    for (uint32_t shift = 0; shift < 70; shift += 7) {
        uint8_t byte = read_byte(r);
        if (shift < 64)
            value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return value;
    }
    r->bad = true;
    return 0;
}

static void
skip(reader *r, uint64_t count)
{
    if (count > (uint64_t)(r->end - r->at)) {
        r->bad = true;
        r->at = r->end;
        return;
    }
    r->at += count;
}

static void
skip_numbers(reader *r, uint64_t count)
{
    while (count-- && !r->bad)
        read_number(r);
}

/* The immediates of an instruction behind the prefix 0xfc (core 2.0, section 5.4). */
static void
skip_prefixed(reader *r)
{
    uint64_t code = read_number(r);
    if (code == 8 || code == 10 || code == 12 || code == 14)
        skip_numbers(r, 2);
    else if (code == 9 || code == 11 || code == 13 || (code >= 15 && code <= 17))
        skip_numbers(r, 1);
    else if (code > 17)
        r->bad = true;
}

/* The immediates of an instruction behind the prefix 0xfd (core 2.0, section 5.4.8). WAMR leaves constants of vectors in the code. */
static void
skip_vector(reader *r)
{
    uint64_t code = read_number(r);
    bool lane = (code >= 21 && code <= 34) || (code >= 84 && code <= 91); /* a lane index of one byte */
    if (code <= 11 || (code >= 84 && code <= 93)) /* memory access */
        skip_numbers(r, 2);
    if (lane)
        skip(r, 1);
    if (code == 12 || code == 13) /* v128.const, i8x16.shuffle */
        skip(r, 16);
    r->bad |= code > 255;
}

/* Steps over one instruction; returns how many cells of constants it may need. */
static uint32_t
skip_instruction(reader *r)
{
    uint8_t code = read_byte(r);
    switch (code) {
        case 0x02: /* block, loop, if, br, br_if, call */
        case 0x03:
        case 0x04:
        case 0x0c:
        case 0x0d:
        case 0x10:
        case 0x20: /* local, global and table access, ref.null, ref.func */
        case 0x21:
        case 0x22:
        case 0x23:
        case 0x24:
        case 0x25:
        case 0x26:
        case 0xd0:
        case 0xd2:
            skip_numbers(r, 1);
            return 0;
        case 0x3f: /* memory.size, memory.grow: one byte that must be zero, which WAMR reads as a number */
        case 0x40:
            r->bad |= read_byte(r) != 0;
            return 0;
        case 0x0e: /* br_table */
            skip_numbers(r, read_number(r) + 1);
            return 0;
        case 0x11: /* call_indirect */
            skip_numbers(r, 2);
            return 0;
        case 0x1c: /* select with types */
            skip_numbers(r, read_number(r));
            return 0;
        case 0x41:
            skip_numbers(r, 1);
            return 1;
        case 0x42:
            skip_numbers(r, 1);
            return 2;
        case 0x43:
            skip(r, 4);
            return 1;
        case 0x44:
            skip(r, 8);
            return 2;
        case 0xfc:
            skip_prefixed(r);
            return 0;
        case 0xfd:
            skip_vector(r);
            return 0;
        default:
            if (code >= 0x28 && code <= 0x3e)
                skip_numbers(r, 2);
            else if (!(code <= 0x01 || code == 0x05 || code == 0x0b || code == 0x0f || code == 0x1a || code == 0x1b
                       || (code >= 0x45 && code <= 0xc4) || code == 0xd1))
                r->bad = true;
            return 0;
    }
}

static bool
check_code(reader *r, char *error, uint32_t error_size)
{
    uint64_t count = read_number(r);
    for (uint64_t i = 0; i < count && !r->bad; i++) {
        uint64_t size = read_number(r);
        reader body = { r->at, r->at, r->bad };
        skip(r, size);
        body.end = r->at;
        uint64_t locals = 0;
        for (uint64_t groups = read_number(&body); groups && !body.bad && locals <= LOCALS_LIMIT; groups--) {
            locals += read_number(&body) & UINT32_MAX;
            body.bad |= read_byte(&body) >= 0x80; /* types have one byte, and WAMR reads one: a longer one would be read apart from it */
        }
        if (locals > LOCALS_LIMIT) {
            pw_error_set(error, error_size, "function body %u has more than %u locals", (uint32_t)i, LOCALS_LIMIT);
            return false;
        }
        uint64_t cells = 0;
        while (body.at < body.end && !body.bad)
            cells += skip_instruction(&body);
        if (body.bad || r->bad) {
            pw_error_set(error, error_size, "function body %u has an instruction or a local that is not of core 2.0, or ends in one",
                         (uint32_t)i);
            return false;
        }
        if (cells > CONSTANT_CELLS_LIMIT) {
            pw_error_set(error, error_size, "function body %u has constants of %u cells, the limit is %u", (uint32_t)i,
                         (uint32_t)cells, CONSTANT_CELLS_LIMIT);
            return false;
        }
    }
    return true;
}

/* The number of functions in an import section; other kinds are refused elsewhere. */
static uint32_t
count_functions(reader r)
{
    uint32_t functions = 0;
    for (uint64_t count = read_number(&r); count && !r.bad; count--) {
        skip(&r, read_number(&r));
        skip(&r, read_number(&r));
        if (read_byte(&r) != 0)
            break;
        read_number(&r);
        functions++;
    }
    return functions;
}

/* Whether a section can hold as many items as it declares, of at least one byte each: WAMR allocates all of them first. */
static bool
count_fits(uint8_t kind, reader r)
{
    if (kind == 0 || kind == SECTION_START || kind > SECTION_DATA)
        return true;
    return read_number(&r) <= (uint64_t)(r.end - r.at) && !r.bad;
}

/* Steps over a constant expression, its end included. */
static void
skip_expression(reader *r)
{
    while (!r->bad && r->at < r->end && *r->at != OPCODE_END)
        (void)skip_instruction(r);
    (void)read_byte(r);
}

/* Element segments count their own items (core 2.0, section 5.5.12): each count must fit in the bytes that are left. */
static bool
elements_fit(reader r)
{
    for (uint64_t segments = read_number(&r); segments && !r.bad; segments--) {
        uint64_t flags = read_number(&r);
        if ((flags & 3) == 2)
            skip_numbers(&r, 1);
        if (!(flags & 1))
            skip_expression(&r);
        if (flags & 3)
            skip(&r, 1);
        uint64_t count = read_number(&r);
        if (count > (uint64_t)(r.end - r.at))
            return false;
        if (flags & 4) {
            while (count-- && !r.bad)
                skip_expression(&r);
        }
        else {
            skip_numbers(&r, count);
        }
    }
    return !r.bad;
}

static int32_t
check_wasm(const uint8_t *bytes, uint32_t size, pw_facts *facts, char *error, uint32_t error_size)
{
    reader file = { bytes + 8, bytes + size, false };
    uint32_t imported = 0;
    while (file.at < file.end && !file.bad) {
        uint8_t kind = read_byte(&file);
        uint64_t length = read_number(&file);
        reader section = { file.at, file.at, false };
        skip(&file, length);
        section.end = file.at;
        if (!file.bad && (!count_fits(kind, section) || (kind == SECTION_ELEMENT && !elements_fit(section)))) {
            pw_error_set(error, error_size, "section %u counts more items than it has bytes", kind);
            return PW_BAD_MODULE;
        }
        if (kind == SECTION_IMPORT)
            imported = count_functions(section);
        else if (kind == SECTION_START)
            facts->start = read_number(&section);
        else if (kind == SECTION_MEMORY && read_number(&section) > 0) {
            read_number(&section); /* flags */
            facts->memory_pages = read_number(&section);
        }
        else if (kind == SECTION_CODE && !file.bad && !check_code(&section, error, error_size))
            return PW_BAD_MODULE;
    }
    if (file.bad) {
        pw_error_set(error, error_size, "a section ends behind the file");
        return PW_BAD_MODULE;
    }
    if (facts->start >= imported)
        facts->start = PW_NO_START;
    return PW_OK;
}

static uint32_t
u32_at(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* The content of the stamp of an image; NULL when there is none. Layout: native/aotc/main.c, write_image. */
static const uint8_t *
find_stamp(const uint8_t *bytes, uint32_t size, uint32_t *length)
{
    const uint32_t name = (uint32_t)sizeof PW_AOT_STAMP_NAME, head = 4 + 2 + name;
    for (uint64_t at = 8; at + 8 <= size;) {
        uint32_t kind = u32_at(bytes + at), body = u32_at(bytes + at + 4);
        at += 8;
        if (body > size - at)
            return NULL;
        if (kind == 100 && body >= head && u32_at(bytes + at) == 0 && memcmp(bytes + at + 6, PW_AOT_STAMP_NAME, name) == 0) {
            *length = body - head;
            return bytes + at + head;
        }
        at = (at + body + 3) & ~(uint64_t)3;
    }
    return NULL;
}

static int32_t
check_image(const uint8_t *bytes, uint32_t size, char *error, uint32_t error_size)
{
    char wanted[64];
    snprintf(wanted, sizeof wanted, PW_AOT_STAMP_FORMAT, TARGET, PW_BOUNDS);
    uint32_t length = 0;
    const uint8_t *found = find_stamp(bytes, size, &length);
    if (found && length == strlen(wanted) && memcmp(found, wanted, length) == 0)
        return PW_OK;
    if (found)
        pw_error_set(error, error_size, "the image was compiled for \"%.*s\", this runtime runs \"%s\"", length > 60 ? 60 : (int)length,
                     (const char *)found, wanted);
    else
        pw_error_set(error, error_size, "the image does not say what it was compiled for: wamr_aotc did not make it");
    return PW_UNSUPPORTED;
}

int32_t
pw_check_bytes(const uint8_t *bytes, uint32_t size, pw_facts *facts, char *error, uint32_t error_size)
{
    facts->start = PW_NO_START;
    facts->memory_pages = 0;
    if (size >= 8 && memcmp(bytes, "\0aot", 4) == 0)
        return check_image(bytes, size, error, error_size);
    if (size >= 8 && memcmp(bytes, "\0asm", 4) == 0)
        return check_wasm(bytes, size, facts, error, error_size);
    return PW_OK; /* WAMR reports what is wrong with it */
}

const char *
pw_aot_target(void)
{
    return PW_AOT_STAMP_NUMBER " " TARGET " bounds=" PW_BOUNDS;
}
