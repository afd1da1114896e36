/* Part of WAMR's aot_emit_function.c (native/cmake/wamr_source.cmake, wamr_push_frames_inline): the frame that a caller makes for each call, which
 * stacks and traps are told from. That there is room for it was checked at the beginning of the function (stack.h), so that making it is three
 * stores, for calls through a table too. */
#ifndef PW_FRAMES_H
#define PW_FRAMES_H

static LLVMValueRef
pw_behind(const AOTCompContext *comp_ctx, LLVMValueRef address, uint32 bytes)
{
    LLVMValueRef offset = I32_CONST(bytes);
    return LLVMBuildInBoundsGEP2(comp_ctx->builder, INT8_TYPE, address, &offset, 1, "behind");
}

/* index: of the function that is called, 32 bits. */
static bool
pw_push_frame(const AOTCompContext *comp_ctx, const AOTFuncContext *func_ctx, LLVMValueRef index)
{
    LLVMBuilderRef builder = comp_ctx->builder;
    LLVMValueRef frame = pw_behind(comp_ctx, func_ctx->cur_frame, offsetof(AOTFrame, lp) / sizeof(uintptr_t) * comp_ctx->pointer_size);
    LLVMValueRef number = LLVMBuildIntCast2(builder, index, INTPTR_T_TYPE, false, "number");
    LLVMValueRef before = LLVMBuildStore(builder, func_ctx->cur_frame, frame);
    LLVMValueRef which = LLVMBuildStore(builder, number, pw_behind(comp_ctx, frame, comp_ctx->pointer_size));
    if (!before || !which || !LLVMBuildStore(builder, frame, func_ctx->cur_frame_ptr)) {
        aot_set_last_error("llvm build store failed");
        return false;
    }
    /* LLVM would make one vector of the two, and keep each function's number in 16 bytes of constants, with a relocation. A volatile store stays alone. */
    LLVMSetVolatile(before, strcmp(comp_ctx->target_arch, "x86_64") == 0);
    return true;
}

#endif
