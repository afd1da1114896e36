/* Part of WAMR's aot_emit_memory.c, aot_emit_variable.c and aot_emit_exception.c (native/cmake/wamr_source.cmake, wamr_tell_apart): what LLVM is told
 * of code that software checks. What never lies in the same place:
 *
 * Where software checks bounds, each access loads the memory's address and its bound from the instance, as a store before may have changed them, for
 * all that LLVM knows. But a store that was checked goes to the memory; only a call or memory.grow changes the instance. */
#ifndef PW_TAGS_H
#define PW_TAGS_H

/* kind: "memory", "global" or "instance". Metadata for type-based alias analysis, as LLVM's language reference has it. */
static LLVMValueRef
pw_tag(const AOTCompContext *comp_ctx, LLVMValueRef access, const char *kind)
{
    if (!comp_ctx->enable_bound_check || !access)
        return access;
    LLVMContextRef context = comp_ctx->context;
    LLVMMetadataRef name = LLVMMDStringInContext2(context, "wamr-ota", 8), zero = LLVMValueAsMetadata(I64_CONST(0));
    LLVMMetadataRef parts[] = { LLVMMDStringInContext2(context, kind, strlen(kind)), LLVMMDNodeInContext2(context, &name, 1), zero };
    LLVMMetadataRef type = LLVMMDNodeInContext2(context, parts, 3), tag[] = { type, type, zero };
    LLVMValueRef node = LLVMMetadataAsValue(context, LLVMMDNodeInContext2(context, tag, 3));
    LLVMSetMetadata(access, LLVMGetMDKindIDInContext(context, "tbaa", 4), node);
    return access;
}

/* A branch that traps if its condition holds: hardly ever. What only the trap needs, as its place, is reckoned behind the branch then. */
static void
pw_expect_none(const AOTCompContext *comp_ctx, LLVMValueRef branch)
{
    LLVMContextRef context = comp_ctx->context;
    LLVMMetadataRef parts[] = { LLVMMDStringInContext2(context, "branch_weights", 14), LLVMValueAsMetadata(I32_CONST(1)),
                                LLVMValueAsMetadata(I32_CONST(1 << 20)) };
    LLVMValueRef node = LLVMMetadataAsValue(context, LLVMMDNodeInContext2(context, parts, 3));
    if (comp_ctx->enable_bound_check)
        LLVMSetMetadata(branch, LLVMGetMDKindIDInContext(context, "prof", 4), node);
}

#endif
