/* Part of WAMR's aot_emit_memory.c (native/cmake/wamr_source.cmake, wamr_hold_accesses): accesses that are held where hardware checks bounds. */
#ifndef PW_STORES_H
#define PW_STORES_H

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

/* A store that is seen after a trap: in its place, whole or not at all. RISC-V stores what is not aligned in parts, the last one first here: it is in
 * bounds when all are. */
static LLVMValueRef
pw_store(const AOTCompContext *comp_ctx, LLVMValueRef value, LLVMValueRef address, unsigned int align)
{
    LLVMBuilderRef builder = comp_ctx->builder;
    LLVMTypeRef type = LLVMTypeOf(value);
    LLVMTypeKind kind = LLVMGetTypeKind(type);
    unsigned int bits = kind == LLVMFloatTypeKind ? 32 : kind == LLVMDoubleTypeKind ? 64 : LLVMGetIntTypeWidth(type);
    bool held = !comp_ctx->enable_bound_check;
    if (held && 8 * align < bits && strncmp(comp_ctx->target_arch, "riscv", 5) == 0) {
        LLVMTypeRef whole = LLVMIntTypeInContext(comp_ctx->context, bits), part = LLVMIntTypeInContext(comp_ctx->context, 8 * align);
        LLVMValueRef parts = LLVMBuildBitCast(builder, value, whole, "parts"), store = NULL;
        address = LLVMBuildBitCast(builder, address, INT8_PTR_TYPE, "bytes");
        for (unsigned int at = bits / 8; at > 0;) {
            at -= align;
            LLVMValueRef offset = I64_CONST(at), number = LLVMConstInt(whole, 8 * at, false);
            LLVMValueRef one = LLVMBuildTrunc(builder, LLVMBuildLShr(builder, parts, number, "moved"), part, "part");
            LLVMValueRef place = LLVMBuildInBoundsGEP2(builder, INT8_TYPE, address, &offset, 1, "place");
            store = LLVMBuildStore(builder, one, LLVMBuildBitCast(builder, place, LLVMPointerType(part, 0), "place_ptr"));
            LLVMSetAlignment(store, align);
            LLVMSetVolatile(store, true);
        }
        return store;
    }
    LLVMValueRef store = LLVMBuildStore(builder, value, address);
    if (store) {
        LLVMSetAlignment(store, align);
        LLVMSetVolatile(store, held);
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
