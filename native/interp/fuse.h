/* Makes one instruction of two while the loader writes the fast interpreter's code: a branch that takes no values along and the
 * comparison before it, or a sum and what it goes into. Included by the mended wasm_loader.c (wamr_source.cmake, wamr_fuse_instructions).
 *
 * The loader goes through a function twice: first for the size of its code, where nothing is fused, so that the size is an upper bound;
 * then it writes. Two are fused only as they were just written: their labels and their sizes are looked at. Branches go to where a block
 * or an else ends and a loop begins, so nothing is fused across one of these; and a result that is left out is a value of the operand
 * stack, which is there for that use alone: no local variable. */
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

static uint32
pw_pair(uint8 first, uint8 second)
{
    if (first == WASM_OP_I32_SHL)
        return second == WASM_OP_I32_ADD ? PW_OP_I32_SHL_ADD : 0;
    if (first != WASM_OP_I32_ADD)
        return 0;
    switch (second) {
        case WASM_OP_I32_ADD:
            return PW_OP_I32_ADD_ADD;
        case WASM_OP_I32_LOAD:
            return PW_OP_I32_ADD_LOAD;
        case WASM_OP_I32_LOAD8_U:
            return PW_OP_I32_ADD_LOAD8_U;
        case WASM_OP_I32_LOAD16_U:
            return PW_OP_I32_ADD_LOAD16_U;
        default:
            return 0;
    }
}

/* Two that have been written: places of the first one's operands and result, then what the second one has besides, and its result. */
static bool
pw_fuse_pair(WASMLoaderContext *ctx)
{
    uint8 *first = ctx->pw_last, *second = ctx->pw_begin, *operands = second + sizeof(pw_label);
    uint32 fused = pw_pair(ctx->pw_last_opcode, ctx->pw_opcode), offset;
    bool loads = ctx->pw_opcode != WASM_OP_I32_ADD;
    int16 result, places[3];

    if (!fused || !pw_stands(first, second, ctx->pw_last_opcode, sizeof places)
        || !pw_stands(second, ctx->p_code_compiled, ctx->pw_opcode, loads ? sizeof offset + 2 * sizeof result : sizeof places))
        return false;
    memcpy(&result, second - sizeof result, sizeof result);
    if (loads) {
        memcpy(&offset, operands, sizeof offset);
        memcpy(places, operands + sizeof offset, 2 * sizeof result);
        if (places[0] != result)
            return false;
        memcpy(second, &offset, sizeof offset);
        memcpy(second + sizeof offset, places + 1, sizeof result);
        ctx->p_code_compiled = second + sizeof offset + sizeof result;
    }
    else {
        memcpy(places, operands, sizeof places);
        if (places[0] == result)
            places[0] = places[1];
        else if (places[1] != result)
            return false;
        memcpy(second, places, sizeof result);
        memcpy(second + sizeof result, places + 2, sizeof result);
        ctx->p_code_compiled = second + 2 * sizeof result;
    }
    pw_write_label(first, fused);
    return true;
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
                bool fused = ctx->pw_last && pw_fuse_pair(ctx);
                ctx->pw_last = fused ? NULL : ctx->pw_begin;
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
    if (ctx->pw_last_opcode == WASM_OP_I32_ADD && pw_stands(last, begin, WASM_OP_I32_ADD, 3 * sizeof result)
        && memcmp(end - sizeof condition, begin - sizeof result, sizeof result) == 0) {
        pw_write_label(last, PW_OP_BR_IF_I32_ADD);
        ctx->p_code_compiled = begin;
        ctx->pw_begin = last;
        return true;
    }
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
