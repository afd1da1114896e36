/* wamr_aotc: compiles a module ahead of time, for libwamr_core on one of its targets and for nothing else.
 *
 *     wamr_aotc TARGET CPU FEATURES IN.wasm OUT.aot      CPU "": the target's default; FEATURES, as LLVM has them: more than that
 *     wamr_aotc --version                                LLVM's version, and the flags that images are made with
 *
 * What a sandbox depends on is no option: bounds checks are those that libwamr_core has on the target (native/cmake/wamr_flags.cmake),
 * stack checks are on. The image ends with a custom section that says so, and libwamr_core refuses an image without it. */
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aot_export.h"
#include "wasm_export.h"

#include <llvm-c/Core.h>
#include <llvm/Config/llvm-config.h>

#include "aot_stamp.h"
#include "internal.h"

#define FILE_LIMIT (64u * 1024u * 1024u)
#define FEATURES_LIMIT 512

/* Loads from many places at once can't be held, nor vectors whose length is not fixed, see vectors.h: without these, a processor that has them
 * gets the other vectors. Before LLVM 17, AVX-512's loads can't be switched off. Rotating by shifting a register into itself, which LLVM does for
 * x86-64-v2, suits Sandy Bridge; on AMD's SHA-256 takes 1.6 times as long by it. */
#define X86_FEATURES "-fast-shld-rotate,-fast-gather"
#if LLVM_VERSION_MAJOR >= 17
#define X86_64_FEATURES X86_FEATURES ",+prefer-no-gather"
#else
#define X86_64_FEATURES X86_FEATURES
#endif

bool pw_again; /* stack.h: there are more functions with a check before them than were known */

typedef struct aot_target {
    const char *name; /* as board definitions have it */
    char *arch, *abi, *cpu, *features;
    uint32_t bounds_checks; /* 1: in software, 0: by the memory's guard pages */
} aot_target;

/* The lowest processors that our boards have: ARMv8.0, Cortex-A7/A8/A9 with VFPv3-D16, RV64GC. */
static const aot_target targets[] = {
    { "x86_64", "x86_64", "gnu", "x86-64", X86_64_FEATURES, PW_AOT_BOUNDS_64 },
    { "aarch64", "aarch64", "gnu", "generic", "-sve", PW_AOT_BOUNDS_64 },
    { "armv7", "armv7", "gnueabihf", "generic", "+vfp3d16", PW_AOT_BOUNDS_32 },
    { "riscv64", "riscv64", "lp64d", "generic-rv64", "+m,+a,+f,+d,+c", PW_AOT_BOUNDS_64 },
};

static int
fail(const char *what, const char *why)
{
    fprintf(stderr, "wamr_aotc: %s: %s\n", what, why);
    return 1;
}

/* Where the WAMR in here prints to: what it says while it compiles is for its developers. */
int pw_aotc_vprintf(const char *format, va_list arguments);

int
pw_aotc_vprintf(const char *format, va_list arguments)
{
    return getenv("WAMR_AOTC_VERBOSE") ? vfprintf(stderr, format, arguments) : 0;
}

static uint8_t *
read_file(const char *path, uint32_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    uint8_t *bytes = malloc(FILE_LIMIT + 1u);
    size_t got = bytes ? fread(bytes, 1, FILE_LIMIT + 1u, file) : 0;
    int bad = ferror(file);
    fclose(file);
    if (bad || got == 0 || got > FILE_LIMIT) {
        errno = got > FILE_LIMIT ? EFBIG : (bad ? EIO : EINVAL);
        free(bytes);
        return NULL;
    }
    *size = (uint32_t)got;
    return bytes;
}

static uint8_t *
put_u32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        *at++ = (uint8_t)(value >> (8 * i));
    return at;
}

/* WAMR's AOT format 6: sections begin at a multiple of four; a custom section is its type, its size, a sub-type, a counted terminated name, and content. */
static int
write_image(const char *path, const uint8_t *image, uint32_t size, const aot_target *target)
{
    char stamp[64];
    snprintf(stamp, sizeof stamp, PW_AOT_STAMP_FORMAT, target->name, target->bounds_checks ? "software" : "hardware");
    uint8_t section[256], *at = section;
    uint32_t name = (uint32_t)sizeof PW_AOT_STAMP_NAME, content = (uint32_t)strlen(stamp);
    at = put_u32(at, 100);
    at = put_u32(at, 4 + 2 + name + content);
    at = put_u32(at, 0);
    *at++ = (uint8_t)name;
    *at++ = 0;
    memcpy(at, PW_AOT_STAMP_NAME, name);
    memcpy(at + name, stamp, content);
    size_t length = (size_t)(at + name + content - section), padding = (4 - size % 4) % 4;
    FILE *file = fopen(path, "wb");
    if (!file)
        return fail(path, strerror(errno));
    static const uint8_t zeros[4];
    int bad = fwrite(image, 1, size, file) != size || fwrite(zeros, 1, padding, file) != padding
              || fwrite(section, 1, length, file) != length;
    bad = fclose(file) != 0 || bad;
    return bad ? fail(path, strerror(errno)) : 0;
}

/* Whether a file names its functions; the compiler fails when names are requested and there are none. Asked before WAMR, which writes into
 * the bytes that it loads, has checked anything. */
static bool
has_names(const uint8_t *bytes, uint64_t size)
{
    for (uint64_t at = 8; at < size;) {
        uint64_t kind = bytes[at++], length = 0;
        for (uint32_t shift = 0; shift < 35 && at < size; shift += 7) {
            length |= (uint64_t)(bytes[at] & 0x7f) << shift;
            if (!(bytes[at++] & 0x80))
                break;
        }
        if (kind == 0 && length > 5 && size - at >= length && memcmp(bytes + at, "\4name", 5) == 0)
            return true;
        at += length;
    }
    return false;
}

/* WAMR's words for a module with vectors, in ours. */
static const char *
why_not(const aot_target *target, const char *error)
{
    if (!strstr(error, "SIMD"))
        return error;
    return strcmp(target->name, "x86_64") == 0
               ? "vectors need a processor that has SSE4.1: name one, such as x86-64-v2"
               : "vectors can't be compiled for this target, only interpreted: leave it out";
}

static int
compile(const aot_target *target, char *cpu, char *features, wasm_module_t module, bool names_there, const char *out)
{
    AOTCompOption option;
    memset(&option, 0, sizeof option);
    option.target_arch = target->arch;
    option.target_abi = target->abi;
    option.target_cpu = cpu[0] ? cpu : target->cpu;
    char wanted[FEATURES_LIMIT];
    snprintf(wanted, sizeof wanted, "%s%s%s", target->features, target->features[0] && features[0] ? "," : "", features);
    option.cpu_features = wanted;
    option.opt_level = 3;
    /* WAMR's names for LLVM's code models: 1 is "medium", everything relative to the program counter, which lets RISC-V code lie anywhere;
     * 3 is "small", which is that on the others. */
    option.size_level = strcmp(target->name, "riscv64") == 0 ? 1 : 3;
    option.output_format = AOT_FORMAT_FILE;
    option.bounds_checks = target->bounds_checks;
    option.stack_bounds_checks = 1;
    option.enable_bulk_memory = true;
    option.enable_bulk_memory_opt = true;
    option.enable_ref_types = true;
    option.enable_simd = true;
    option.enable_call_indirect_overlong = true;
    option.enable_thread_mgr = true;
    option.aux_stack_frame_type = AOT_STACK_FRAME_TYPE_STANDARD; /* traps have a stack with names */
    aot_call_stack_features_init_default(&option.call_stack_features);
    option.call_stack_features.values = false;

    char *names = "name";
    option.custom_sections = &names;
    option.custom_sections_count = names_there ? 1 : 0;
    uint8_t *image = NULL;
    uint32_t size = 0;
    do { /* at most twice: a second time where frames were larger than expected */
        aot_comp_data_t data = aot_create_comp_data(module, target->arch, false);
        aot_comp_context_t context = data ? aot_create_comp_context(data, &option) : NULL;
        pw_again = false;
        if (context && aot_compile_wasm(context))
            image = aot_emit_aot_file_buf(context, data, &size);
        if (context)
            aot_destroy_comp_context(context);
        if (data)
            aot_destroy_comp_data(data);
    } while (pw_again);
    if (!image)
        return fail("compiling", why_not(target, aot_get_last_error()));
    int status = write_image(out, image, size, target);
    wasm_runtime_free(image);
    return status;
}

static bool
imports_functions_only(wasm_module_t module)
{
    for (int32_t i = 0; i < wasm_runtime_get_import_count(module); i++) {
        wasm_import_t import;
        memset(&import, 0, sizeof import);
        wasm_runtime_get_import_type(module, i, &import);
        if (import.kind != WASM_IMPORT_EXPORT_KIND_FUNC)
            return false;
    }
    return true;
}

static int
run(const aot_target *target, char *cpu, char *features, const char *in, const char *out)
{
    uint32_t size = 0;
    char error[256] = "";
    uint8_t *bytes = read_file(in, &size);
    if (!bytes)
        return fail(in, strerror(errno));
    int status = 1;
    bool names_there = has_names(bytes, size);
    pw_facts facts;
    bool good = pw_check_bytes(bytes, size, &facts, error, sizeof error) == PW_OK;
    wasm_module_t module = good ? wasm_runtime_load(bytes, size, error, sizeof error) : NULL;
    if (!module)
        fail(in, error);
    else if (imports_functions_only(module))
        status = compile(target, cpu, features, module, names_there, out);
    else
        fail(in, "it imports a memory, a table or a variable: only functions can be imported");
    if (module)
        wasm_runtime_unload(module);
    free(bytes);
    return status;
}

int
main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0) {
#if LLVM_VERSION_MAJOR >= 16
        unsigned major, minor, patch;
        LLVMGetVersion(&major, &minor, &patch); /* of the library that is there now */
        printf("LLVM %u.%u.%u\n", major, minor, patch);
#else
        printf("LLVM %s\n", LLVM_VERSION_STRING);
#endif
        for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
            printf(PW_AOT_STAMP_FORMAT "\n", targets[i].name, targets[i].bounds_checks ? "software" : "hardware");
        return 0;
    }
    if (argc != 6) {
        fprintf(stderr, "usage: wamr_aotc TARGET CPU FEATURES IN.wasm OUT.aot\n");
        return 2;
    }
    const aot_target *target = NULL;
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        if (strcmp(targets[i].name, argv[1]) == 0)
            target = &targets[i];
    }
    if (!target)
        return fail(argv[1], "not a target: x86_64, aarch64, armv7 or riscv64");
    if (strlen(argv[3]) > FEATURES_LIMIT / 2)
        return fail("features", "too many");
    RuntimeInitArgs args;
    memset(&args, 0, sizeof args);
    args.mem_alloc_type = Alloc_With_System_Allocator;
    if (!wasm_runtime_full_init(&args) || !aot_compiler_init())
        return fail("starting", "not enough memory");
    int status = run(target, argv[2], argv[3], argv[4], argv[5]);
    aot_compiler_destroy();
    wasm_runtime_destroy();
    return status;
}
