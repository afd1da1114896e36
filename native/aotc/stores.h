/* Part of WAMR's aot_emit_memory.c (native/cmake/wamr_source.cmake, wamr_hold_accesses): accesses that are held where hardware checks bounds. */
#ifndef PW_STORES_H
#define PW_STORES_H

#include "tags.h"

/* Whether the hardware may find this address out of bounds. Not one that is constant and within the memory's first size: WAMR adds no
 * more than a constant to the memory's address for these, and one of 32 bits and more for all others. */
static bool
pw_may_trap(const AOTCompContext *comp_ctx, LLVMValueRef address)
{
    if (comp_ctx->enable_bound_check)
        return false;
    while (LLVMIsABitCastInst(address))
        address = LLVMGetOperand(address, 0);
    if (!LLVMIsAGetElementPtrInst(address) || !LLVMIsAConstantInt(LLVMGetOperand(address, 1)))
        return true;
    uint64 size = (uint64)comp_ctx->comp_data->memories[0].num_bytes_per_page * comp_ctx->comp_data->memories[0].init_page_count;
    uint64 offset = LLVMConstIntGetZExtValue(LLVMGetOperand(address, 1));
    return offset + 8 > size;
}

/* How an address is aligned: what is known, and on RISC-V also what the module says, as a power of two. It may say what is not so: Linux does such
 * accesses there too, slowly. By bytes, as LLVM accesses what may not be aligned, all accesses of honest modules would take five times as long. */
static unsigned int
pw_alignment(const AOTCompContext *comp_ctx, uint32 said, unsigned int known)
{
    unsigned int aligned = 1u << (said < 4 ? said : 4);
    return strncmp(comp_ctx->target_arch, "riscv", 5) == 0 && aligned > known ? aligned : known;
}

static void
pw_load(const AOTCompContext *comp_ctx, LLVMValueRef load, LLVMValueRef address, uint32 said, unsigned int known)
{
    LLVMSetAlignment(load, pw_alignment(comp_ctx, said, known));
    LLVMSetVolatile(load, pw_may_trap(comp_ctx, address));
    pw_tag(comp_ctx, load, "memory");
}

/* A store that is seen after a trap: in its place, whole or not at all. RISC-V, and who does it there for a processor, stores what is not aligned in
 * parts: its last byte is read before. */
static LLVMValueRef
pw_store(const AOTCompContext *comp_ctx, LLVMValueRef value, LLVMValueRef address, uint32 said, unsigned int known)
{
    LLVMBuilderRef builder = comp_ctx->builder;
    uint64 bytes = LLVMStoreSizeOfType(LLVMGetModuleDataLayout(comp_ctx->module), LLVMTypeOf(value));
    bool held = !comp_ctx->enable_bound_check;
    if (held && known < bytes && strncmp(comp_ctx->target_arch, "riscv", 5) == 0) {
        LLVMValueRef offset = I64_CONST(bytes - 1), last;
        last = LLVMBuildBitCast(builder, address, INT8_PTR_TYPE, "bytes");
        last = LLVMBuildInBoundsGEP2(builder, INT8_TYPE, last, &offset, 1, "last");
        LLVMSetVolatile(LLVMBuildLoad2(builder, INT8_TYPE, last, "last_byte"), true);
    }
    LLVMValueRef store = LLVMBuildStore(builder, value, address);
    if (store) {
        LLVMSetAlignment(store, pw_alignment(comp_ctx, said, known));
        LLVMSetVolatile(store, held);
        pw_tag(comp_ctx, store, "memory");
    }
    return store;
}

/* memory.fill, whose bounds were checked before. */
static bool
pw_fill(const AOTCompContext *comp_ctx, LLVMValueRef address, LLVMValueRef value, LLVMValueRef length)
{
    LLVMValueRef byte = LLVMBuildTrunc(comp_ctx->builder, value, INT8_TYPE, "byte");
    LLVMValueRef fill = LLVMBuildMemSet(comp_ctx->builder, address, byte, length, 1);
    if (!fill) {
        aot_set_last_error("llvm build memset failed.");
        return false;
    }
    LLVMSetOperand(fill, 3, LLVMConstInt(LLVMInt1TypeInContext(comp_ctx->context), true, false));
    return true;
}

#endif
