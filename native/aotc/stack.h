/* Part of WAMR's aot_llvm.c (native/cmake/wamr_source.cmake, wamr_check_stack_inside): each function looks itself whether the stack suffices.
 *
 * WAMR puts a function of its own before each one, which knows the size of the frame from a table and then jumps there. Here a function compares
 * the stack pointer, which its frame has moved by then, with the bound: it may have written into its frame before, which is at most PW_FRAME bytes
 * of the 64 KiB that lie behind the bound. Functions with larger frames, which are known once there is code, get WAMR's check in a second round. */
#ifndef PW_STACK_H
#define PW_STACK_H

#define PW_FRAME 4096
#define PW_SMALL 80

/* checks.h: how many functions may call each other below one that checks, without a check. */
const uint32 pw_unchecked = 3;

static uint8 *outside; /* by number of function, whether others than those that name it in a call may call it */
static uint8 *apart; /* by number of function, whether WAMR's check stands before it; NULL: none */
extern bool pw_again; /* main.c */

bool
pw_some_apart(void)
{
    return apart != NULL;
}

static bool
is_apart(uint32 number)
{
    return apart && apart[number];
}

/* Whether a function may become part of its callers, its frame and its checks with it: by the bytes of its code in the module. */
static bool
is_small(const WASMFunction *function)
{
    return function->code_size <= PW_SMALL;
}

bool
pw_is_outside(uint32 number)
{
    return outside[number];
}

/* A function that is called by more than its name: index counts the imported ones too. */
void
pw_refer(const AOTCompContext *comp_ctx, uint32 index)
{
    uint32 imported = comp_ctx->comp_data->import_func_count;
    if (index >= imported && index - imported < comp_ctx->comp_data->func_count)
        outside[index - imported] = 1;
}

/* What the module says before its code: exports, tables, variables and the function to start with. */
static bool
pw_find_outside(const AOTCompContext *comp_ctx)
{
    const AOTCompData *data = comp_ctx->comp_data;
    const WASMModule *module = data->wasm_module;
    if (!outside && !(outside = calloc(data->func_count, 1))) {
        aot_set_last_error("allocate memory failed.");
        return false;
    }
    pw_refer(comp_ctx, data->start_func_index);
    for (uint32 i = 0; i < module->export_count; i++)
        if (module->exports[i].kind == EXPORT_KIND_FUNC)
            pw_refer(comp_ctx, module->exports[i].index);
    for (uint32 i = 0; i < data->table_init_data_count; i++)
        for (uint32 j = 0; j < data->table_init_data_list[i]->value_count; j++)
            pw_refer(comp_ctx, data->table_init_data_list[i]->init_values[j].u.unary.v.ref_index);
    for (uint32 i = 0; i < data->global_count; i++)
        if (data->globals[i].init_expr.init_expr_type == INIT_EXPR_TYPE_FUNCREF_CONST)
            pw_refer(comp_ctx, data->globals[i].init_expr.u.unary.v.ref_index);
    return true;
}

/* For checks.h to find. */
static void
pw_name_check(const AOTCompContext *comp_ctx, LLVMValueRef check, const char *name)
{
    unsigned int kind = LLVMGetMDKindIDInContext(comp_ctx->context, name, (unsigned int)strlen(name));
    LLVMSetMetadata(check, kind, LLVMMDNodeInContext(comp_ctx->context, NULL, 0));
}

/* Goes on in a new block if a condition does not hold. */
static bool
pw_refuse(AOTCompContext *comp_ctx, AOTFuncContext *func_ctx, LLVMValueRef condition, int32 exception)
{
    LLVMBasicBlockRef rest = LLVMAppendBasicBlockInContext(comp_ctx->context, func_ctx->func, "rest");
    if (!aot_emit_exception(comp_ctx, func_ctx, exception, true, condition, rest))
        return false;
    LLVMPositionBuilderAtEnd(comp_ctx->builder, rest);
    func_ctx->block_stack.block_list_head->llvm_entry_block = rest;
    return true;
}

/* Whether the native stack suffices. */
static LLVMValueRef
pw_exhausted(AOTCompContext *comp_ctx, AOTFuncContext *func_ctx)
{
    LLVMBuilderRef builder = comp_ctx->builder;
    LLVMContextRef context = comp_ctx->context;
    const char *name = strcmp(comp_ctx->target_arch, "x86_64") == 0 ? "rsp" : "sp", *intrinsic = "llvm.read_register";
    LLVMTypeRef number = comp_ctx->pointer_size == sizeof(uint64) ? I64_TYPE : I32_TYPE;
    LLVMMetadataRef text = LLVMMDStringInContext2(context, name, strlen(name));
    LLVMValueRef which = LLVMMetadataAsValue(context, LLVMMDNodeInContext2(context, &text, 1));
    LLVMValueRef read = LLVMGetIntrinsicDeclaration(comp_ctx->module, LLVMLookupIntrinsicID(intrinsic, strlen(intrinsic)), &number, 1);
    LLVMValueRef pointer = LLVMBuildCall2(builder, LLVMGlobalGetValueType(read), read, &which, 1, "sp");
    if (!create_native_stack_bound(comp_ctx, func_ctx))
        return NULL;
    LLVMValueRef bound = LLVMBuildPtrToInt(builder, func_ctx->native_stack_bound, number, "bound");
    return LLVMBuildICmp(builder, LLVMIntULT, pointer, bound, "exhausted");
}

/* At the end of a function's first block; the rest goes into another. Where it calls, also whether there is room for the frame of what it calls, which
 * frames.h makes, and of those that check nothing below: a check at each call takes longer, and two more values that have to be kept all the while. */
static bool
pw_check_stack(AOTCompContext *comp_ctx, AOTFuncContext *func_ctx, bool is_apart, bool calls)
{
    LLVMBuilderRef builder = comp_ctx->builder;
    AOTFuncContext alone = *func_ctx; /* what traps later has another place */
    LLVMValueRef bad = is_apart ? NULL : pw_exhausted(comp_ctx, &alone);
    if (!outside && !pw_find_outside(comp_ctx))
        return false;
    if (bad)
        pw_name_check(comp_ctx, bad, "pw.stack");
    if (!is_apart && (!bad || !pw_refuse(comp_ctx, &alone, bad, EXCE_NATIVE_STACK_OVERFLOW)))
        return false;
    if (calls) {
        LLVMValueRef frames = I32_CONST((uint32)((2 + pw_unchecked) * offsetof(AOTFrame, lp) / sizeof(uintptr_t) * comp_ctx->pointer_size));
        LLVMValueRef end = LLVMBuildInBoundsGEP2(builder, INT8_TYPE, func_ctx->cur_frame, &frames, 1, "end");
        bad = LLVMBuildICmp(builder, LLVMIntUGT, end, func_ctx->wasm_stack_top_bound, "full");
        pw_name_check(comp_ctx, bad, "pw.room");
        if (!pw_refuse(comp_ctx, &alone, bad, EXCE_OPERAND_STACK_OVERFLOW))
            return false;
    }
    if (!alone.got_exception_block)
        return true;
    LLVMBasicBlockRef rest = LLVMGetInsertBlock(builder);
    uint64 place = (uint64)(func_ctx->aot_func->code - comp_ctx->comp_data->wasm_module->load_addr);
    bool is_64 = comp_ctx->pointer_size == sizeof(uint64);
    LLVMPositionBuilderBefore(builder, LLVMGetNextInstruction(alone.exception_id_phi));
    bool good = aot_gen_commit_ip(comp_ctx, func_ctx, is_64 ? I64_CONST(place) : I32_CONST((uint32)place), is_64);
    LLVMPositionBuilderAtEnd(builder, rest);
    return good;
}

/* Reads what LLVM says of frames, lines as "WASM Module:aot_func#9  72  static". False when there is no saying, or another round is wanted. */
bool
pw_measure_frames(AOTCompContext *comp_ctx)
{
    uint32 seen = 0, count = comp_ctx->comp_data->func_count;
    bool more = false;
    char line[128], kind[16];
    FILE *file = fopen(comp_ctx->stack_usage_file, "r");
    while (file && fgets(line, sizeof line, file)) {
        const char *found = strstr(line, ":" AOT_FUNC_PREFIX);
        uint32 number, size;
        if (!found)
            continue;
        if (sscanf(found + 1 + strlen(AOT_FUNC_PREFIX), "%" SCNu32 " %" SCNu32 " %15s", &number, &size, kind) != 3 || number >= count)
            break;
        seen++;
        size += comp_ctx->func_ctxes[number]->stack_consumption_for_func_call;
        if (!is_apart(number) && (strcmp(kind, "static") != 0 || size > PW_FRAME)) {
            if (!apart && !(apart = calloc(count, 1)))
                break;
            apart[number] = 1;
            more = true;
        }
    }
    bool bad = !file || ferror(file) || seen != count;
    if (file)
        fclose(file);
    pw_again = !bad && more;
    if (bad)
        aot_set_last_error("failed to read stack usage file.");
    return !bad && !more;
}

#endif
