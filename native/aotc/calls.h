/* Part of WAMR's aot_emit_aot_file.c (native/cmake/wamr_source.cmake, wamr_settle_calls): calls of a module's functions by each other, and of the
 * runtime's. All code of an image lies in one piece, so that how far a function is from its caller is known here, and needs no relocation of 24 bytes
 * on the board. A function of the runtime is reached by one jump behind the code, which alone has a relocation. */
#ifndef PW_CALLS_H
#define PW_CALLS_H

/* Types of relocations, as each processor's ELF supplement numbers them. */
enum { PW_X86_PC32 = 2, PW_X86_PLT32 = 4, PW_ARM_CALL = 28, PW_ARM_JUMP24 = 29, PW_RISCV_CALL = 18, PW_RISCV_CALL_PLT = 19 };
enum { PW_AARCH64_JUMP26 = 282, PW_AARCH64_CALL26 = 283 };
enum { PW_JUMP = 8, PW_JUMPS = 64 }; /* bytes of a jump, and how many there are at most: the runtime has fewer functions */

static uint32
pw_word(const uint8 *at)
{
    return (uint32)at[0] | (uint32)at[1] << 8 | (uint32)at[2] << 16 | (uint32)at[3] << 24;
}

static void
pw_put_word(uint8 *at, uint32 word)
{
    for (int i = 0; i < 4; i++)
        at[i] = (uint8)(word >> (8 * i));
}

/* Writes a distance in bytes, with a relocation's addend in it, into one instruction (on RISC-V two); false where it does not go in. */
static bool
pw_write_distance(const char *arch, uint32 type, uint8 *at, int64 distance)
{
    uint32 word = pw_word(at);
    if (strcmp(arch, "x86_64") == 0 && (type == PW_X86_PC32 || type == PW_X86_PLT32)) {
        if (distance != (int32)distance)
            return false;
        pw_put_word(at, (uint32)distance);
        return true;
    }
    if (strncmp(arch, "aarch64", 7) == 0 && (type == PW_AARCH64_JUMP26 || type == PW_AARCH64_CALL26)) {
        if (distance < -(1 << 27) || distance >= 1 << 27 || distance % 4)
            return false;
        pw_put_word(at, (word & 0xfc000000) | ((uint32)(distance >> 2) & 0x03ffffff));
        return true;
    }
    if (strncmp(arch, "arm", 3) == 0 && (type == PW_ARM_CALL || type == PW_ARM_JUMP24)) {
        distance += (int32)(word << 8) >> 6; /* the addend, which is in the instruction */
        if (distance < -(1 << 25) || distance >= 1 << 25 || distance % 4)
            return false;
        pw_put_word(at, (word & 0xff000000) | ((uint32)(distance >> 2) & 0x00ffffff));
        return true;
    }
    if (strncmp(arch, "riscv64", 7) == 0 && (type == PW_RISCV_CALL || type == PW_RISCV_CALL_PLT)) {
        int64 upper = (distance + 0x800) >> 12;
        if (upper < -(1 << 19) || upper >= 1 << 19)
            return false;
        pw_put_word(at, (word & 0xfff) | (uint32)upper << 12);
        pw_put_word(at + 4, (pw_word(at + 4) & 0xfffff) | (uint32)(distance & 0xfff) << 20);
        return true;
    }
    return false;
}

/* Where in the code a relocation's symbol is, of a function of the module; false for another symbol. */
static bool
pw_function_place(const AOTObjectData *object, const char *symbol, uint64 *place)
{
    size_t length = strlen(AOT_FUNC_PREFIX);
    if (strncmp(symbol, AOT_FUNC_PREFIX, length) != 0 || !symbol[length])
        return false;
    unsigned long number = strtoul(symbol + length, NULL, 10);
    if (number >= object->func_count || !object->funcs[number].func_name)
        return false;
    *place = object->funcs[number].text_offset;
    return true;
}

/* A jump to what a relocation will say: its bytes, and the relocation's type, place and addend. */
typedef struct PwJump {
    const char *arch;
    uint8 code[PW_JUMP];
    uint32 type, place;
    int64 addend;
} PwJump;

static const PwJump pw_jumps[] = {
    { "x86_64", { 0xe9 }, PW_X86_PLT32, 1, -4 },
    { "aarch64", { 0, 0, 0, 0x14 }, PW_AARCH64_JUMP26, 0, 0 },
    { "arm", { 0xfe, 0xff, 0xff, 0xea }, PW_ARM_JUMP24, 0, 0 },
    { "riscv64", { 0x17, 3, 0, 0, 0x67, 0, 3, 0 }, PW_RISCV_CALL_PLT, 0, 0 }, /* auipc t1, 0; jr t1 */
};

static const PwJump *
pw_jump_of(const char *arch)
{
    for (size_t i = 0; i < sizeof pw_jumps / sizeof *pw_jumps; i++)
        if (strncmp(arch, pw_jumps[i].arch, strlen(pw_jumps[i].arch)) == 0)
            return &pw_jumps[i];
    return NULL;
}

/* Makes a relocation's call go to a place of the code; false for what is no call, or too far. */
static bool
pw_call(const AOTObjectData *object, uint8 *text, const AOTRelocation *relocation, uint64 to)
{
    uint64 at = relocation->relocation_offset;
    return relocation->relocation_type != PW_X86_PC32 && at + PW_JUMP <= object->text_size
           && pw_write_distance(object->comp_ctx->target_arch, relocation->relocation_type, text + at,
                                (int64)to + relocation->relocation_addend - (int64)at);
}

/* Puts a jump behind the code for each function of the runtime that is called twice or more, and sends its callers there. */
static bool
pw_share_jumps(AOTObjectData *object, AOTRelocationGroup *group)
{
    const PwJump *jump = pw_jump_of(object->comp_ctx->target_arch);
    if (!jump || object->text_unlikely_size > 0 || object->text_hot_size > 0)
        return true; /* these lie behind the code */
    uint32 size = align_uint(object->text_size, 4), most = size + PW_JUMPS * PW_JUMP;
    uint8 *text = wasm_runtime_malloc(most); /* until the process ends */
    if (!text) {
        aot_set_last_error("allocate memory failed.");
        return false;
    }
    memset(text + object->text_size, 0, most - object->text_size);
    memcpy(text, object->text, object->text_size);
    for (uint32 i = 0; i < group->relocation_count && size < most; i++) {
        AOTRelocation shared = group->relocations[i];
        uint32 callers = 0, left = i, count = group->relocation_count;
        uint64 place;
        if (!shared.symbol_name || pw_function_place(object, shared.symbol_name, &place))
            continue;
        for (uint32 j = i; j < count; j++)
            callers += strcmp(group->relocations[j].symbol_name, shared.symbol_name) == 0;
        if (callers < 2)
            continue;
        for (uint32 j = i; j < count; j++) {
            AOTRelocation each = group->relocations[j];
            if (strcmp(each.symbol_name, shared.symbol_name) != 0 || !pw_call(object, text, &each, size))
                group->relocations[left++] = each;
        }
        if (left == count) /* no calls */
            continue;
        memcpy(text + size, jump->code, PW_JUMP);
        shared.relocation_offset = size + jump->place;
        shared.relocation_type = jump->type;
        shared.relocation_addend = jump->addend;
        group->relocations[left++] = shared;
        group->relocation_count = left;
        size += PW_JUMP;
        i--; /* another stands there now */
    }
    object->text = (char *)text;
    object->text_size = size;
    return true;
}

/* Applies the relocations of such calls and takes them away. One of them stays: a group is never empty. */
static bool
pw_settle_calls(AOTObjectData *object)
{
    for (uint32 i = 0; i < object->relocation_group_count; i++) {
        AOTRelocationGroup *group = &object->relocation_groups[i];
        if (strcmp(group->section_name, ".rela.text") != 0 && strcmp(group->section_name, ".rel.text") != 0)
            continue;
        uint32 left = 0;
        for (uint32 j = 0; j < group->relocation_count; j++) {
            AOTRelocation each = group->relocations[j];
            uint64 place, at = each.relocation_offset;
            bool last = left == 0 && j + 1 == group->relocation_count;
            if (!last && at + 8 <= object->text_size && pw_function_place(object, each.symbol_name, &place)
                && pw_write_distance(object->comp_ctx->target_arch, each.relocation_type, (uint8 *)object->text + at,
                                     (int64)place + each.relocation_addend - (int64)at))
                continue;
            group->relocations[left++] = each;
        }
        group->relocation_count = left;
        if (!pw_share_jumps(object, group))
            return false;
    }
    return true;
}

#endif
