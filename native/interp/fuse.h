/* Makes one instruction of two while the loader writes the fast interpreter's code: a branch that takes no values along, and the
 * comparison before it. Included by the mended wasm_loader.c (wamr_source.cmake, wamr_fuse_branches).
 *
 * The loader goes through a function twice: first for the size of its code, where nothing is fused, so that the size is an upper bound;
 * then it writes. A comparison is fused only as it was just written: its label and its size are looked at. Branches go to where a block
 * or an else ends and a loop begins, so nothing is fused across one of these; and what goes from one instruction to the other is a value
 * of the operand stack, which is there for that use alone: no local variable. */
#pragma once

#include "opcodes.h"

#if WASM_CPU_SUPPORTS_UNALIGNED_ADDR_ACCESS != 0
typedef void *pw_label;
#else
typedef uint32 pw_label;
#endif

static pw_label
pw_label_of(uint32 opcode)
{
#if WASM_CPU_SUPPORTS_UNALIGNED_ADDR_ACCESS != 0
    return handle_table[opcode];
#elif UINTPTR_MAX == UINT64_MAX
    return (uint32)(int32)((uint8 *)handle_table[opcode] - (uint8 *)handle_table[0]);
#else
    return (uint32)(uintptr_t)handle_table[opcode];
#endif
}

static void
pw_write_label(uint8 *at, uint32 opcode)
{
    pw_label label = pw_label_of(opcode);
    memcpy(at, &label, sizeof label);
}

/* Whether nothing but this instruction stands from `at` to `end`, with operands of so many bytes. */
static bool
pw_stands(const uint8 *at, const uint8 *end, uint32 opcode, uint32 size)
{
    pw_label label = pw_label_of(opcode);
    return at && (uint32)(end - at) == sizeof label + size && memcmp(at, &label, sizeof label) == 0;
}

/* Before the loader takes an instruction of the module. */
static void
pw_begin_instruction(WASMLoaderContext *ctx, uint8 opcode)
{
    if (!ctx->p_code_compiled)
        return;
    switch (ctx->pw_opcode) { /* the one before */
        case WASM_OP_BLOCK:
        case WASM_OP_LOOP:
        case WASM_OP_IF:
        case WASM_OP_ELSE:
        case WASM_OP_END:
            ctx->pw_last = NULL;
            break;
        default:
            if (ctx->p_code_compiled != ctx->pw_begin) {
                ctx->pw_last = ctx->pw_begin;
                ctx->pw_last_opcode = ctx->pw_opcode;
            }
    }
    ctx->pw_begin = ctx->p_code_compiled;
    ctx->pw_opcode = opcode;
}

#define PW_BRANCH_CASE(name, type, operator)                                                                                           \
    case WASM_OP_##name:                                                                                                               \
        return PW_OP_BR_IF_##name;

static uint32
pw_branch_after(uint8 opcode)
{
    switch (opcode) {
        PW_COMPARISONS(PW_BRANCH_CASE)
        case WASM_OP_I32_EQZ:
            return PW_OP_BR_IF_I32_EQZ;
        default:
            return 0;
    }
}

/* Where a branch that takes no values along has been written but for where it goes: makes it one of opcodes.h, if it can be. */
static bool
pw_shorten_branch(WASMLoaderContext *ctx)
{
    uint8 *begin = ctx->pw_begin, *end = ctx->p_code_compiled, *last = ctx->pw_last;
    int16 condition, result;

    if (!end)
        return false;
    if (ctx->pw_opcode == WASM_OP_BR && pw_stands(begin, end, WASM_OP_BR, 0)) {
        pw_write_label(begin, PW_OP_BR);
        return true;
    }
    if (ctx->pw_opcode != WASM_OP_BR_IF || !pw_stands(begin, end, WASM_OP_BR_IF, sizeof condition))
        return false;
    if (pw_branch_after(ctx->pw_last_opcode)
        && pw_stands(last, begin, ctx->pw_last_opcode, (ctx->pw_last_opcode == WASM_OP_I32_EQZ ? 2 : 3) * sizeof result)) {
        memcpy(&condition, end - sizeof condition, sizeof condition);
        memcpy(&result, begin - sizeof result, sizeof result);
        if (condition == result && result >= ctx->start_dynamic_offset) {
            pw_write_label(last, pw_branch_after(ctx->pw_last_opcode));
            ctx->p_code_compiled = begin - sizeof result;
            ctx->pw_begin = last;
            return true;
        }
    }
    pw_write_label(begin, PW_OP_BR_IF);
    return true;
}
