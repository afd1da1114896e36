# Puts a checked, writable copy of the pinned WAMR source tree at WAMR_SOURCE_DIR.
#
# -DWAMR_ROOT_DIR=<checkout> takes that tree instead of the pinned crate; it is copied too, because WAMR's own build
# scripts write core/version.h into the tree and because mends are applied to the copy.
#
# -DWAMR_WITHOUT="<mend>;<mend>" leaves mends out, ALL leaves out all: to see what they are for (docs/upstream.md).
# `cmake -DWAMR_TRY=ON -DWAMR_ROOT_DIR=<checkout> -P wamr_source.cmake` builds nothing, and says which mends another WAMR takes.

set(WAMR_SOURCE_DIR "${CMAKE_BINARY_DIR}/wamr")
set(WAMR_PIN_DIR "${CMAKE_CURRENT_LIST_DIR}/../wamr")
set(WAMR_VENDOR_DIR "${CMAKE_BINARY_DIR}/vendor")
set(WAMR_CRATE wamrx-sys)

# The checksum that Cargo.lock records for the crate.
function(wamr_locked_checksum out)
    file(READ "${WAMR_PIN_DIR}/Cargo.lock" lock)
    if(NOT lock MATCHES "name = \"${WAMR_CRATE}\"[^[]*checksum = \"([0-9a-f]+)\"")
        message(FATAL_ERROR "${WAMR_PIN_DIR}/Cargo.lock names no checksum for ${WAMR_CRATE}")
    endif()
    set(${out} "${CMAKE_MATCH_1}" PARENT_SCOPE)
endfunction()

# Every file of the vendored crate has the digest that cargo noted, and the crate the checksum that the lock pins.
function(wamr_check_vendored crate_dir)
    wamr_locked_checksum(expected)
    file(READ "${crate_dir}/.cargo-checksum.json" checksums)
    string(JSON found GET "${checksums}" package)
    if(NOT found STREQUAL expected)
        message(FATAL_ERROR "${crate_dir} has checksum ${found}, Cargo.lock pins ${expected}: delete it and configure again")
    endif()
    file(GLOB_RECURSE files RELATIVE "${crate_dir}" "${crate_dir}/wasm-micro-runtime/*")
    foreach(file IN LISTS files)
        file(SHA256 "${crate_dir}/${file}" digest)
        string(FIND "${checksums}" "\"${file}\":\"${digest}\"" at)
        if(at EQUAL -1)
            message(FATAL_ERROR "${crate_dir}/${file} differs from the pinned crate: delete ${crate_dir} and configure again")
        endif()
    endforeach()
endfunction()

function(wamr_vendor)
    find_program(CARGO cargo)
    if(NOT CARGO)
        message(FATAL_ERROR "cargo is needed to fetch the pinned WAMR source (Debian 12: apt install cargo-web; 13: cargo); "
                            "or give a checkout with -DWAMR_ROOT_DIR=")
    endif()
    file(COPY "${WAMR_PIN_DIR}/Cargo.toml" "${WAMR_PIN_DIR}/Cargo.lock" "${WAMR_PIN_DIR}/lib.rs"
         DESTINATION "${CMAKE_BINARY_DIR}/wamr-pin")
    execute_process(
        COMMAND "${CARGO}" vendor --quiet --locked "${WAMR_VENDOR_DIR}"
        WORKING_DIRECTORY "${CMAKE_BINARY_DIR}/wamr-pin"
        OUTPUT_QUIET
        ERROR_VARIABLE error
        RESULT_VARIABLE failed)
    if(failed)
        message(FATAL_ERROR "cargo vendor --locked failed:\n${error}")
    endif()
endfunction()

# Replaces a passage of one file of the copy; stops the build when neither the passage nor its replacement is there, or notes it (WAMR_TRY).
function(wamr_mend file wrong right)
    set(file "${WAMR_SOURCE_DIR}/${file}")
    file(READ "${file}" text)
    string(FIND "${text}" "${right}" at)
    if(NOT at EQUAL -1)
        string(FIND "${text}" "${wrong}" left)
        string(FIND "${right}" "${wrong}" kept)
        if(NOT left EQUAL -1 AND kept EQUAL -1)
            message(FATAL_ERROR "${file} has both \"${wrong}\" and what is to take its place: name more of its lines")
        endif()
        set_property(GLOBAL PROPERTY WAMR_THERE TRUE)
        return()
    endif()
    string(FIND "${text}" "${wrong}" at)
    if(at EQUAL -1 AND WAMR_TRY)
        set_property(GLOBAL PROPERTY WAMR_GONE "${file}")
        return()
    endif()
    if(at EQUAL -1)
        message(FATAL_ERROR "${file} no longer has the lines that ${CMAKE_CURRENT_LIST_FILE} mends: read both again")
    endif()
    string(REPLACE "${wrong}" "${right}" text "${text}")
    file(WRITE "${file}" "${text}")
endfunction()

# WAMR 978ce3f: wasm_runtime_invoke_native_raw looks an externref parameter up and then copies the *following argument's* bytes
# instead of the object. Without this line a host function cannot take an externref.
function(wamr_fix_raw_externref)
    set(end "                            sizeof(uintptr_t));\n                break;\n            }\n#endif\n#if WASM_ENABLE_GC != 0\n            case REF_TYPE_FUNCREF:")
    wamr_mend(core/iwasm/common/wasm_runtime_common.c
              "bh_memcpy_s(argv_dst, sizeof(uintptr_t), argv_src,\n${end}"
              "bh_memcpy_s(argv_dst, sizeof(uintptr_t), &externref_obj,\n${end}")
endfunction()

# WAMR 978ce3f with hardware bounds checks: LLVM removes a load whose value is not needed, and with it the trap that core 2.0 wants (a
# loop that ends by a trap would never end); it moves, merges and removes stores, which whoever reads the memory after a trap sees. All that
# may trap and all that may be seen is volatile, and stays as it is; native/aotc/vectors.h says when not. What cannot trap is loaded as LLVM likes.
function(wamr_hold_accesses)
    set(hold ", !comp_ctx->enable_bound_check);")
    set(file core/iwasm/compilation/aot_emit_memory.c)
    set(load "        LLVMSetAlignment(value, known_align);                             \\\n    } while (0)\n\n#define BUILD_STORE()")
    string(REPLACE "LLVMSetAlignment(value, known_align); " "pw_load(comp_ctx, value, maddr, align, known_align); " mended "${load}")
    wamr_mend(${file} "${load}" "${mended}")
    set(store "        if (!(res = LLVMBuildStore(comp_ctx->builder, value, maddr))) { \\\n            aot_set_last_error(\"llvm build store failed.\");             \\\n            goto fail;                                                  \\\n        }                                                               \\\n        LLVMSetAlignment(res, known_align);                             \\\n")
    string(REPLACE "LLVMBuildStore(comp_ctx->builder, value, maddr)" "pw_store(comp_ctx, value, maddr, align, known_align)" mended "${store}")
    string(REPLACE "        LLVMSetAlignment(res, known_align);                             \\\n" "" mended "${mended}")
    wamr_mend(${file} "${store}" "${mended}")
    set(first "#define BUILD_IS_NOT_NULL(value, res, name) ")
    wamr_mend(${file} "${first}" "#include \"stores.h\"\n\n${first}")
    set(fill "    param_types[0] = INT8_PTR_TYPE;\n    param_types[1] = I32_TYPE;\n    param_types[2] = SIZE_T_TYPE;\n    ret_type = INT8_PTR_TYPE;\n")
    wamr_mend(${file} "${fill}" "    if (!comp_ctx->enable_bound_check)\n        return pw_fill(comp_ctx, dst_addr, val, len);\n\n${fill}")
    set(copy "                                     1, len))) {\n            aot_set_last_error(\"llvm build memmove failed.\");\n            return false;\n        }\n")
    wamr_mend(${file} "${copy}" "${copy}        LLVMSetOperand(res, 3, LLVMConstInt(LLVMInt1TypeInContext(comp_ctx->context), !comp_ctx->enable_bound_check, false));\n")
    set(file core/iwasm/compilation/simd/simd_load_store.c)
    foreach(access data result)
        set(end "true")
        if(access STREQUAL data)
            set(end "data")
        endif()
        set(aligned "    LLVMSetAlignment(${access}, 1);\n\n    return ${end};\n")
        string(REPLACE "1);\n" "1);\n    LLVMSetVolatile(${access}${hold}\n" mended "${aligned}")
        wamr_mend(${file} "${aligned}" "${mended}")
    endforeach()
    set(global "        LLVMSetAlignment(res, 4);\n")
    wamr_mend(core/iwasm/compilation/aot_emit_variable.c "${global}" "${global}        LLVMSetVolatile(res${hold}\n")
    set(element "    if (!(LLVMBuildStore(comp_ctx->builder, val, table_elem_addr))) {\n        HANDLE_FAILURE(\"LLVMBuildStore\");\n        goto fail;\n    }\n")
    string(REPLACE "(LLVMBuildStore" "(val = LLVMBuildStore" mended "${element}")
    wamr_mend(core/iwasm/compilation/aot_emit_table.c "${element}" "${mended}    LLVMSetVolatile(val${hold}\n")
endfunction()

# WAMR 978ce3f loads the address of a memory that may grow before each access: after a store it may be another one. With hardware bounds checks a
# memory never moves, so it is loaded once a function, and known never to change.
function(wamr_keep_base)
    set(file core/iwasm/compilation/aot_llvm.c)
    set(cast "    if (mem_space_unchanged) {\n        if (!(func_ctx->mem_info[0].mem_base_addr = LLVMBuildLoad2(")
    set(load "    if (!comp_ctx->enable_bound_check) {\n        if (!(func_ctx->mem_info[0].mem_base_addr = LLVMBuildLoad2(comp_ctx->builder, OPQ_PTR_TYPE, func_ctx->mem_info[0].mem_base_addr, \"mem_base_addr\"))) {\n            aot_set_last_error(\"llvm build load failed\");\n            return false;\n        }\n        LLVMSetMetadata(func_ctx->mem_info[0].mem_base_addr, LLVMGetMDKindIDInContext(comp_ctx->context, \"invariant.load\", 14), LLVMMDNodeInContext(comp_ctx->context, NULL, 0));\n    }\n")
    wamr_mend(${file} "${cast}" "${load}    if (mem_space_unchanged) {\n        if (comp_ctx->enable_bound_check && !(func_ctx->mem_info[0].mem_base_addr = LLVMBuildLoad2(")
    set(file core/iwasm/compilation/aot_emit_memory.c)
    set(use "    if (func_ctx->mem_space_unchanged")
    set(base "        mem_base_addr = func_ctx->mem_info[0].mem_base_addr;\n")
    set(or " || !comp_ctx->enable_bound_check")
    set(shared "\n#if WASM_ENABLE_SHARED_MEMORY != 0\n        || is_shared_memory\n#endif\n    ) {\n")
    wamr_mend(${file} "${use}${shared}${base}" "${use}${or}${shared}${base}")
    wamr_mend(${file} "${use}) {\n#endif\n${base}" "${use}${or}) {\n#endif\n${base}")
endfunction()

# Vectors of loops, by native/aotc/vectors.h.
function(wamr_make_vectors)
    set(file core/iwasm/compilation/aot_llvm_extra.cpp)
    set(apply "void\naot_apply_llvm_new_pass_manager(AOTCompContext *comp_ctx, LLVMModuleRef module)\n{\n")
    wamr_mend(${file} "${apply}" "#include \"vectors.h\"\n\n${apply}")
    set(pipeline "MPM.addPass(PB.buildLTODefaultPipeline(OL, NULL))")
    wamr_mend(${file} "${pipeline}" "{\n                    if (!comp_ctx->enable_bound_check)\n                        ExitOnErr(pw_make_vectors(PB, MPM));\n                    ${pipeline};\n                }")
endfunction()

# WAMR 978ce3f, ahead of time where software checks bounds: loads the memory's address and bound anew after each store. native/aotc/tags.h.
function(wamr_tell_apart)
    set(file core/iwasm/compilation/aot_emit_memory.c)
    set(first "#define BUILD_IS_NOT_NULL(value, res, name) ")
    wamr_mend(${file} "${first}" "#include \"tags.h\"\n\n${first}")
    set(bound "        aot_set_last_error(\"llvm build load failed.\");\n        return NULL;\n    }\n    return mem_check_bound;\n")
    string(REPLACE "return mem_check_bound" "return pw_tag(comp_ctx, mem_check_bound, \"instance\")" mended "${bound}")
    wamr_mend(${file} "${bound}" "${mended}")
    set(base "                  func_ctx->mem_info[0].mem_base_addr, \"mem_base\"))) {\n            aot_set_last_error(\"llvm build load failed.\");\n            goto fail;\n        }\n")
    wamr_mend(${file} "${base}" "${base}        pw_tag(comp_ctx, mem_base_addr, \"instance\");\n")
    set(file core/iwasm/compilation/aot_emit_variable.c)
    set(first "bool\naot_compile_op_get_local(")
    wamr_mend(${file} "${first}" "#include \"tags.h\"\n\n${first}")
    set(get "        LLVMSetAlignment(global, 4);\n")
    wamr_mend(${file} "${get}" "${get}        pw_tag(comp_ctx, global, \"global\");\n")
    set(set "        LLVMSetAlignment(res, 4);\n")
    wamr_mend(${file} "${set}" "${set}        pw_tag(comp_ctx, res, \"global\");\n")
    set(file core/iwasm/compilation/aot_emit_exception.c)
    set(first "bool\naot_emit_exception(")
    wamr_mend(${file} "${first}" "#include \"tags.h\"\n\n${first}")
    set(branch "        if (!LLVMBuildCondBr(comp_ctx->builder, cond_br_if,\n                             func_ctx->got_exception_block,\n                             cond_br_else_block)) {\n            aot_set_last_error(\"llvm build cond br failed.\");\n            return false;\n        }\n")
    string(REPLACE "if (!LLVMBuildCondBr" "LLVMValueRef branch;\n        if (!(branch = LLVMBuildCondBr" mended "${branch}")
    string(REPLACE "cond_br_else_block)) {" "cond_br_else_block))) {" mended "${mended}")
    wamr_mend(${file} "${branch}" "${mended}        pw_expect_none(comp_ctx, branch);\n")
endfunction()

# WAMR 978ce3f: the smaller or larger of two vectors is a signalling NaN where an operand was one; core 2.0 wants a quiet one, which any
# sum with it is.
function(wamr_fix_vector_nan)
    set(file core/iwasm/compilation/simd/simd_floating_point.c)
    foreach(side lhs rhs)
        wamr_mend(${file} "${side}_nan, ${side}, ret" "${side}_nan, LLVMBuildFAdd(comp_ctx->builder, ${side}, ${side}, \"quiet\"), ret")
    endforeach()
endfunction()

# WAMR 978ce3f: a second thread, or a second start, takes its own handler for the one that was there before, and hands a fault that is
# not its own to itself for ever. What was there first is kept, for all threads: Python's faulthandler, or another runtime.
function(wamr_fix_previous_handler)
    set(file core/shared/platform/common/posix/posix_thread.c)
    set(clear "    memset(&prev_sig_act_SIGSEGV, 0, sizeof(struct sigaction));\n    memset(&prev_sig_act_SIGBUS, 0, sizeof(struct sigaction));\n")
    set(install "    if (sigaction(SIGSEGV, &sig_act, &prev_sig_act_SIGSEGV) != 0\n        || sigaction(SIGBUS, &sig_act, &prev_sig_act_SIGBUS) != 0) {\n")
    wamr_mend(${file} "${clear}" "    struct sigaction old_segv, old_bus;\n")
    wamr_mend(${file} "${install}"
              "    int bad = sigaction(SIGSEGV, &sig_act, &old_segv) != 0 || sigaction(SIGBUS, &sig_act, &old_bus) != 0;\n    if (!bad && old_segv.sa_sigaction != signal_callback)\n        prev_sig_act_SIGSEGV = old_segv;\n    if (!bad && old_bus.sa_sigaction != signal_callback)\n        prev_sig_act_SIGBUS = old_bus;\n    if (bad) {\n")
endfunction()

# WAMR 978ce3f, aot_create_call_stack: copies the locals behind each frame, which images without them (call_stack_features.values) do not
# have: it reads behind the end of the stack, as far as a function has locals.
function(wamr_fix_frame_values)
    set(tail "            if (!(frame.lp = wasm_runtime_malloc(lp_size))) {\n                destroy_c_api_frames(module_inst->frames);\n")
    wamr_mend(core/iwasm/aot/aot_runtime.c
              "        if (lp_size > 0 && !is_tiny_frame(exec_env)) {\n${tail}"
              "        if (false) {\n${tail}")
endfunction()

# WAMR 978ce3f, aot_call_function: an import that a module exports again is called as if it took C arguments, though it is a raw native
# that takes an array: the module's numbers would be used as pointers.
function(wamr_fix_exported_import)
    set(head "    argc = func_type->param_cell_num;\n\n")
    set(tail "#if defined(os_writegsbase)\n    {\n        AOTMemoryInstance *memory_inst = aot_get_default_memory(module_inst);\n")
    wamr_mend(core/iwasm/aot/aot_runtime.c
              "${head}${tail}"
              "${head}    if (function->is_import_func && function->u.func_import->call_conv_raw)\n        return wasm_runtime_invoke_native_raw(exec_env, func_ptr, func_type, NULL, function->u.func_import->attachment, argv, argc, argv);\n${tail}")
endfunction()

# WAMR 978ce3f counts every instruction that it interprets, at a quarter of its speed. Counting branches and calls, where it looks for
# the order to stop anyway, bounds a module as well and costs nothing that can be measured.
function(wamr_count_branches_only)
    set(file core/iwasm/interpreter/wasm_interp_fast.c)
    set(dispatch "        frame_ip += sizeof(void *);                    \\\n")
    set(jump "        goto *p_label_addr;                            \\\n")
    wamr_mend(${file} "${dispatch}        CHECK_INSTRUCTION_LIMIT();                     \\\n${jump}" "${dispatch}${jump}")
    foreach(wide "" " ") # 32 bits, and 64 without unaligned access
        set(narrow "        frame_ip += sizeof(int32);                                      ${wide} \\\n")
        set(count "        CHECK_INSTRUCTION_LIMIT();                                      ${wide} \\\n")
        wamr_mend(${file} "${narrow}${count}" "        frame_ip += sizeof(int32); /* not counted */ ${wide} \\\n")
    endforeach()
    set(unlock "        WASM_SUSPEND_FLAGS_UNLOCK(exec_env->wait_lock);     \\\n")
    wamr_mend(${file} "        /* TODO: support suspend and breakpoint */          \\\n${unlock}" "${unlock}        CHECK_INSTRUCTION_LIMIT();                          \\\n")
endfunction()

# WAMR 978ce3f looks for room below 2 GB for RISC-V code, and when ten tries fail (a Python that stands there itself, as Debian's does) takes
# the address of its last try, which it has given back. Our images for RISC-V reach everything relative to themselves (native/aotc), so
# they may lie anywhere.
function(wamr_fix_low_addresses)
    set(x86 "#if defined(BUILD_TARGET_X86_64) || defined(BUILD_TARGET_AMD_64)")
    set(rest "#if !defined(__APPLE__) && !defined(BH_PLATFORM_LINUX_SGX) \\\n    && !defined(BH_PLATFORM_NUTTX)\n    /* The mmapped AOT data and code")
    wamr_mend(core/iwasm/aot/aot_loader.c
              "${x86} \\\n    || defined(BUILD_TARGET_RISCV64_LP64D)                       \\\n    || defined(BUILD_TARGET_RISCV64_LP64)\n${rest}"
              "${x86}\n${rest}")
endfunction()

# WAMR 978ce3f asks for access to the first 0 bytes of a memory that has none. Linux grants that; qemu-user does not.
function(wamr_fix_empty_memory)
    set(commit "os_mprotect(new_mem, commit_size, MMAP_PROT_READ | MMAP_PROT_WRITE)\n        != 0) {\n        wasm_munmap")
    wamr_mend(core/iwasm/common/wasm_memory.c "    if (${commit}" "    if (commit_size > 0 && ${commit}")
endfunction()

# WAMR 978ce3f leaves vectors out on RISC-V, for which its compiler has none; the interpreter computes them everywhere. Calls into
# compiled code then keep floats as far apart as vectors are, which its assembler for RISC-V does not know.
function(wamr_vectors_on_riscv)
    set(tail "    message (\"     SIMD disabled due to not supported on target RISCV64\")")
    wamr_mend(build-scripts/config_common.cmake "set(SIMD_ENABLED 0)\n${tail}" "set(SIMD_ENABLED 1)\n${tail}")
    set(none "#if WASM_ENABLE_SIMD == 0")
    foreach(line "    uint64 *fps;\n" "    argc1 = 1 + MAX_REG_FLOATS + (uint32)func_type->param_count + ext_ret_count;\n" "    fps = argv1;\n    ints = fps + MAX_REG_FLOATS;\n")
        wamr_mend(core/iwasm/common/wasm_runtime_common.c "${none}\n${line}" "${none} || defined(BUILD_TARGET_RISCV64_LP64D)\n${line}")
    endforeach()
endfunction()

# WAMR 978ce3f gives modules of ten functions or more LLVM's pipeline of before linking only, which leaves out half; all get the whole here.
function(wamr_optimise_fully)
    set(rest "comp_ctx->enable_llvm_pgo || comp_ctx->use_prof_file)\n                    /* Add the pre-link")
    wamr_mend(core/iwasm/compilation/aot_llvm_extra.cpp
              "if (comp_ctx->comp_data->func_count >= 10\n                    || ${rest}" "if (${rest}")
endfunction()

# WAMR 978ce3f: LLVM 19 gives a signalling NaN back as it is when it is rounded on RISC-V; core 2.0 wants a quiet one, which its sum with -0 is.
function(wamr_fix_riscv_rounding)
    set(file core/iwasm/compilation/aot_emit_numberic.c)
    set(before "static bool\ncompile_op_float_math(AOTCompContext *comp_ctx, AOTFuncContext *func_ctx,\n")
    set(quiet "static LLVMValueRef\nquiet(AOTCompContext *comp_ctx, AOTFuncContext *func_ctx, bool is_f32, LLVMValueRef value)\n{\n    if (strncmp(comp_ctx->target_arch, \"riscv\", 5) != 0)\n        return value;\n    return call_llvm_float_experimental_constrained_intrinsic(\n        comp_ctx, func_ctx, is_f32, is_f32 ? \"llvm.experimental.constrained.fadd.f32\" : \"llvm.experimental.constrained.fadd.f64\",\n        value, LLVMConstReal(is_f32 ? F32_TYPE : F64_TYPE, -0.0), comp_ctx->fp_rounding_mode, comp_ctx->fp_exception_behavior);\n}\n\n")
    wamr_mend(${file} "${before}" "${quiet}${before}")
    foreach(rounding ceil floor trunc rint)
        set(call "is_f32 ? \"llvm.${rounding}.f32\" : \"llvm.${rounding}.f64\",\n                                ")
        wamr_mend(${file} "${call}operand)," "${call}quiet(comp_ctx, func_ctx, is_f32, operand)),")
    endforeach()
endfunction()

# WAMR 978ce3f on RISC-V: a float32 that goes into compiled code has zeros above it, where the processor wants ones and takes anything else
# for a NaN; and floats for which the registers of their own do not suffice go to integer registers before they go to the stack.
function(wamr_fix_riscv_floats)
    set(if "                if (n_fps < MAX_REG_FLOATS) {\n")
    set(else "                else {\n")
    set(riscv "#if defined(BUILD_TARGET_RISCV64_LP64D)\n")
    foreach(bits 32 64)
        set(step "")
        set(behind "")
        set(boxed "")
        if(bits EQUAL 32)
            set(step "++")
            set(boxed "${riscv}                    fps[n_fps] = UINT64_MAX;\n#endif\n")
        else()
            set(behind "                argv_src += 2;\n")
        endif()
        set(register "                    *(float${bits} *)&fps[n_fps++] = *(float${bits} *)argv_src${step};\n                }\n")
        set(stack "                    *(float${bits} *)&stacks[n_stacks++] = *(float${bits} *)argv_src${step};\n                }\n${behind}")
        set(integer "                else if (n_ints < MAX_REG_INTS) {\n                    ints[n_ints++] = *(uint${bits} *)argv_src${step};\n                }\n#endif\n")
        wamr_mend(core/iwasm/common/wasm_runtime_common.c
                  "${if}${register}${else}${stack}" "${if}${boxed}${register}${riscv}${integer}${else}${stack}")
    endforeach()
endfunction()

# WAMR 978ce3f on ARM with hard floats: calls into compiled code do not follow the procedure call standard (AAPCS32, section 6.5, rules C.1 to
# C.5 and C.2.vfp) when numbers of 32 and of 64 bits are mixed. A single goes into the register that was left out before a double; an
# argument that no longer fits goes to the stack, and all of its kind behind it too.
function(wamr_fix_arm_arguments)
    set(file core/iwasm/common/wasm_runtime_common.c)
    set(arm "#if defined(BUILD_TARGET_ARM_VFP) || defined(BUILD_TARGET_THUMB_VFP)\n")
    wamr_mend(${file} "    uint32 *fps;\n    int n_fps = 0;\n" "    uint32 *fps;\n    int n_fps = 0, hole = -1;\n")
    wamr_mend(${file} "    n_fps = 0;\n    n_stacks = 0;\n" "    n_fps = 0;\n${arm}    hole = -1;\n#endif\n    n_stacks = 0;\n")
    set(single "                if (n_fps < MAX_REG_FLOATS)\n                    n_fps++;\n")
    wamr_mend(${file} "${single}" "${arm}                if (hole >= 0)\n                    hole = -1;\n                else\n#endif\n${single}")
    set(single "                if (n_fps < MAX_REG_FLOATS)\n                    *(float32 *)&fps[n_fps++] = *(float32 *)argv_src++;\n")
    wamr_mend(${file} "${single}" "${arm}                if (hole >= 0) {\n                    fps[hole] = *argv_src++;\n                    hole = -1;\n                }\n                else\n#endif\n${single}")
    set(skip "                    if (n_fps & 1)\n                        n_fps++;\n")
    string(REPLACE "n_fps++" "hole = n_fps++" mended "${skip}")
    set(half "                else if (n_fps == MAX_REG_FLOATS - 1) {\n")
    foreach(take "                    n_fps += 2;\n" "                    fps[n_fps++] = *argv_src++;\n                    fps[n_fps++] = *argv_src++;\n")
        wamr_mend(${file} "${skip}${take}                }\n${half}" "${mended}${take}                }\n                else if (false) {\n")
    endforeach()
    set(stack "#if !defined(BUILD_TARGET_ARC)\n                    if (n_stacks & 1)\n")
    set(full "${arm}                    if (func_type->types[i] == VALUE_TYPE_I64) {\n                        n_ints = MAX_REG_INTS;\n                    }\n                    else {\n                        n_fps = MAX_REG_FLOATS;\n                        hole = -1;\n                    }\n#endif\n")
    wamr_mend(${file} "${stack}" "${full}${stack}")
    set(reference "                    uint32 externref_idx =\n                        (uint32)invokeNative_Int32(func_ptr, argv1,") # counted the registers in
    wamr_mend(${file} "${reference} argc1);" "${reference} n_stacks);")
endfunction()

# WAMR 978ce3f, interpreting: where a block takes or gives several values, two of a vector's four cells are copied; and `select` with a type
# finds no handler for vectors, because the place that writes it down stands in the branch of all other types.
function(wamr_fix_vector_blocks)
    set(file core/iwasm/interpreter/wasm_interp_fast.c)
    set(each "            for (uint8 k = 0; k < cell; k++)\n    ")
    set(two "            tmp_buf[buf_index] = frame_lp[src];\n            tmp_buf[buf_index + 1] = frame_lp[src + 1];\n")
    wamr_mend(${file} "${two}" "${each}            tmp_buf[buf_index + k] = frame_lp[src + k];\n")
    set(two "            frame_lp[dst] = tmp_buf[buf_index];\n            frame_lp[dst + 1] = tmp_buf[buf_index + 1];\n")
    wamr_mend(${file} "${two}" "${each}            frame_lp[dst + k] = tmp_buf[buf_index + k];\n")
    set(wide "                        if (type == VALUE_TYPE_F64 || type == VALUE_TYPE_I64)\n                            opcode_tmp = WASM_OP_SELECT_64;\n#if WASM_ENABLE_GC != 0\n                        if (wasm_is_type_reftype(type))")
    wamr_mend(core/iwasm/interpreter/wasm_loader.c "                    else {\n${wide}" "                    {\n${wide}")
endfunction()

# WAMR 978ce3f, interpreting: after the end of a block the next value's place is where the last branch, one that is never taken too, left it, and
# not behind what lies on the stack: it overwrites that, or the frame's end. It is the block's beginning and its results.
function(wamr_fix_block_ends)
    set(after "                apply_label_patch(loader_ctx, 0, PATCH_END);\n")
    set(place "                {\n                    uint8 *result_types = NULL;\n                    uint32 result_count = block_type_get_result_types(&loader_ctx->frame_csp->block_type, &result_types);\n                    uint32 behind = (uint32)loader_ctx->frame_csp->dynamic_offset + wasm_get_cell_num(result_types, result_count);\n\n                    if (behind >= INT16_MAX) {\n                        set_error_buf(error_buf, error_buf_size, \"fast interpreter offset overflow\");\n                        free_label_patch_list(loader_ctx->frame_csp);\n                        goto fail;\n                    }\n                    loader_ctx->dynamic_offset = (int16)behind;\n                    if (loader_ctx->dynamic_offset > loader_ctx->max_dynamic_offset)\n                        loader_ctx->max_dynamic_offset = loader_ctx->dynamic_offset;\n                }\n")
    wamr_mend(core/iwasm/interpreter/wasm_loader.c "${after}" "${place}${after}")
endfunction()

# WAMR 978ce3f: an instance's beginning also runs exports of two names, of which core 2.0 knows nothing. Who calls them as other runtimes'
# users have to would run constructors twice.
function(wamr_fix_beginning)
    foreach(file core/iwasm/interpreter/wasm_runtime.c core/iwasm/aot/aot_runtime.c)
        foreach(name __post_instantiate __wasm_call_ctors)
            wamr_mend(${file} "lookup_post_instantiate_func(module_inst, \"${name}\")" "NULL /* not ${name} */")
        endforeach()
    endforeach()
endfunction()

# WAMR 978ce3f takes a module's first mutable number for the stack pointer of its C code, where exports have two names, and traps when it is
# set to what WAMR thinks is outside: goroutines and coroutines, whose stacks lie elsewhere, can't run then, nor may a counter count.
function(wamr_fix_stack_pointer)
    wamr_mend(core/iwasm/interpreter/wasm_loader.c "!strcmp(export->name, \"__heap_base\")" "false /* __heap_base */")
endfunction()

# WAMR 978ce3f, loading: where a block takes parameters in code that is never reached, there may be more of them than lie on the stack, or wider
# ones. The loader wrote behind its own stack, in a valid module.
function(wamr_fix_room_for_parameters)
    set(each "                        if (i >= available_params) {\n")
    set(room "                        if (loader_ctx->p_code_compiled == NULL) { /* and for one cell more, which an if reads */\n                            for (uint32 n = 0; n <= cell_num; n++, loader_ctx->frame_offset++) {\n                                if (!check_offset_push(loader_ctx, error_buf, error_buf_size))\n                                    goto fail;\n                            }\n                            loader_ctx->frame_offset -= cell_num + 1;\n                        }\n")
    wamr_mend(core/iwasm/interpreter/wasm_loader.c "${each}" "${room}${each}")
endfunction()

# WAMR 978ce3f, interpreting: whether a vector lies where a block's result belongs is asked of four places, of which only the first is kept.
function(wamr_fix_vector_results)
    set(file core/iwasm/interpreter/wasm_loader.c)
    wamr_mend(${file} "if (cells == 4) {\n            bool needs_copy" "if (false) { /* cells */\n            bool needs_copy")
    wamr_mend(${file} "if (cell == 4) {\n                bool needs_copy" "if (false) { /* cell */\n                bool needs_copy")
endfunction()

# WAMR 978ce3f: what is to be copied to address 0 of a memory of 4 GiB is not, because its size has 33 bits.
function(wamr_fix_full_memory)
    set(to CLAMP_U64_TO_U32)
    wamr_mend(core/iwasm/interpreter/wasm_interp_fast.c "(uint32)(linear_mem_size - addr)" "${to}(linear_mem_size - addr)")
    wamr_mend(core/iwasm/interpreter/wasm_runtime.c "(uint32)(memory_size - base_offset)" "${to}(memory_size - base_offset)")
    wamr_mend(core/iwasm/aot/aot_runtime.c "(uint32)(memory_inst->memory_data_size - base_offset)" "${to}(memory_inst->memory_data_size - base_offset)")
endfunction()

# SIMDe 0.8.2 on x86-64 without SSE4.1: compares integers as doubles, to which the least one is a zero; and converts no single of 2^31 and more.
function(wamr_fix_simde)
    set(file core/iwasm/interpreter/wasm_interp_fast.c)
    wamr_mend(${file} "bool result = simde_wasm_i64x2_all_true(\n                            SIMD_V128_TO_SIMDE_V128(v1));" "bool result = v1.i64x2[0] != 0 && v1.i64x2[1] != 0;")
    set(lane "                            float lane = v1.f32x4[k];\n")
    set(each "                        for (uint32 k = 0; k < 4; k++) {\n${lane}                            v1.i32x4[k] = (int32)(lane >= 4294967296.0f ? UINT32_MAX : lane > 0 ? (uint32)lane : 0);\n                        }\n")
    wamr_mend(${file} "                        SIMD_SINGLE_OP(simde_wasm_u32x4_trunc_sat_f32x4);\n" "                        V128 v1 = POP_V128();\n                        addr_ret = GET_OFFSET();\n${each}                        PUT_V128_TO_ADDR(frame_lp + addr_ret, v1);\n")
endfunction()

# WAMR 978ce3f: a vector that is passed on the stack begins at a multiple of 16, as both procedure call standards have it.
function(wamr_fix_vector_on_stack)
    set(store "                    *(v128 *)&stacks[n_stacks++] = *(v128 *)argv_src;\n")
    wamr_mend(core/iwasm/common/wasm_runtime_common.c "                else {\n${store}" "                else {\n                    n_stacks += n_stacks & 1;\n${store}")
endfunction()

# WAMR 978ce3f moves a vector from one place of a frame to another that may overlap, in either direction: by one assignment, for which C says
# nothing, or where the processor wants alignment cell by cell, reading one that was just written.
function(wamr_fix_vector_moves)
    set(file core/iwasm/common/wasm_runtime_common.h)
    set(once "        V128 whole = (value); \\\n")
    wamr_mend(${file} "        *(V128 *)(addr) = (value);    \\\n" "${once}        *(V128 *)(addr) = whole; \\\n")
    wamr_mend(${file} "        addr_u32[0] = (value).i32x4[0];      \\\n" "        V128 all = (value); \\\n        addr_u32[0] = all.i32x4[0]; \\\n")
    wamr_mend(core/iwasm/interpreter/wasm_interp_fast.c "*(V128 *)orig_ip" "LOAD_V128(orig_ip)") # which lies anywhere in the code
    foreach(cell 1 2 3)
        wamr_mend(${file} "addr_u32[${cell}] = (value).i32x4[${cell}];      \\" "addr_u32[${cell}] = all.i32x4[${cell}]; \\")
    endforeach()
endfunction()

# WAMR 978ce3f, where the processor is no x86: narrows vectors of any lanes as if they had eight, which is wrong for four and ends the
# compiler in an assertion.
function(wamr_fix_narrowing)
    foreach(which vec1 vec2)
        wamr_mend(core/iwasm/compilation/simd/simd_conversions.c
                  "simd_saturate(comp_ctx, func_ctx, e_sat_i16x8, ${which}" "simd_saturate(comp_ctx, func_ctx, itype, ${which}")
    endforeach()
endfunction()

# WAMR 978ce3f keeps names as C keeps text, and refuses one that holds a zero. Such a name is kept with the two bytes c0 80 in a zero's place,
# which no name may hold otherwise (pywamr._abi turns them back).
function(wamr_take_zeros_in_names)
    set(file core/iwasm/interpreter/wasm_runtime.c)
    wamr_mend(${file} "        if (chr == 0) {\n            LOG_WARNING(\n                \"LIMITATION: a string which contains '\\\\00' is unsupported\");\n            return false;\n        }\n        else if (chr < 0x80)" "        if (chr < 0x80)")
    set(after "    StringNode *node, *node_next;\n\n    if (!wasm_check_utf8_str(str, len)) {\n        set_error_buf(error_buf, error_buf_size, \"invalid UTF-8 encoding\");\n        return NULL;\n    }\n\n")
    set(zeros "    if (len > 0 && memchr(str, 0, len)) {\n        if (!(node = runtime_malloc(sizeof(StringNode) + (uint64)len * 2 + 1, error_buf, error_buf_size)))\n            return NULL;\n        char *to = node->str = (char *)node + sizeof(StringNode);\n        for (uint32 i = 0; i < len; i++) {\n            if (str[i] == 0)\n                *to++ = (char)0xc0;\n            *to++ = (char)(str[i] == 0 ? 0x80 : str[i]);\n        }\n        *to = 0;\n        node->next = module->const_str_list;\n        module->const_str_list = node;\n        return node->str;\n    }\n\n")
    wamr_mend(${file} "${after}" "${after}${zeros}")
endfunction()

# WAMR 978ce3f refuses a module whose section of names has a fault, or comes before the functions. It is for people who read stacks: core 2.0
# has faults of custom sections ignored.
function(wamr_ignore_bad_names)
    set(call "        if (!handle_name_section(p, p_end, module, is_load_from_file_buf,\n                                 error_buf, error_buf_size)) {\n")
    wamr_mend(core/iwasm/interpreter/wasm_loader.c "${call}            return false;\n" "${call}            if (error_buf)\n                error_buf[0] = 0;\n")
endfunction()

# WAMR 978ce3f, on Linux: code that was written is run without the processor being told. ARM's and RISC-V's fetch instructions from a cache of their
# own, which may hold what was there before; emulators have none.
function(wamr_tell_of_new_code)
    set(nothing "    (void)start;\n    (void)len;\n")
    wamr_mend(core/shared/platform/common/posix/posix_memmap.c "${nothing}" "    __builtin___clear_cache((char *)start, (char *)start + len);\n")
endfunction()

# WAMR 978ce3f, on RISC-V: takes it that the two instructions which add up to an address follow each other. LLVM keeps the upper half in a register
# (loops with many constants), and the image was refused. The upper half notes what it stands for, and lower halves look for theirs.
function(wamr_fix_riscv_addresses)
    set(file core/iwasm/aot/arch/aot_reloc_riscv.c)
    set(upper "            rv_add_val((uint16 *)addr, (imm_hi << 12));\n")
    wamr_mend(${file} "${upper}" "${upper}            if (reloc_type == R_RISCV_PCREL_HI20)\n                break;\n")
    set(lower "            if ((uintptr_t)addr - (uintptr_t)symbol_addr\n                    - (uintptr_t)reloc_addend\n                != 4) {\n                goto fail_addr_out_of_range;\n            }\n")
    wamr_mend(${file} "${lower}" "            CHECK_RELOC_OFFSET(sizeof(uint32));\n            val = (int32)reloc_addend; /* by do_text_relocation */\n            if (val != reloc_addend) {\n                goto fail_addr_out_of_range;\n            }\n            rv_calc_imm(val, &imm_hi, &imm_lo);\n            rv_add_val((uint16 *)addr, reloc_type == R_RISCV_PCREL_LO12_I ? imm_lo << 20 : ((imm_lo >> 5) << 25) + ((imm_lo & 0x1f) << 7));\n")

    set(file core/iwasm/aot/aot_loader.c)
    set(riscv "#if defined(BUILD_TARGET_RISCV64_LP64D)\n")
    set(each "    for (i = 0; i < group->relocation_count; i++, relocation++) {\n        int32 symbol_index = -1;\n")
    set(twice "    const uint32 upper_half = 23, lower_half = 24, lower_half_store = 25; /* R_RISCV_PCREL_HI20, _LO12_I, _LO12_S */\n    for (i = 0; i < 2 * group->relocation_count; i++, relocation++) {\n        int32 symbol_index = -1;\n        if (i == group->relocation_count)\n            relocation = group->relocations;\n        bool lower = relocation->relocation_type == lower_half || relocation->relocation_type == lower_half_store;\n        if (lower != (i >= group->relocation_count))\n            continue;\n")
    set(symbol "        symbol_len = (uint32)strlen(relocation->symbol_name);\n        if (symbol_len + 1 <= sizeof(symbol_buf))\n            symbol = symbol_buf;\n        else {\n            if (!(symbol = loader_malloc(symbol_len + 1, error_buf,\n                                         error_buf_size))) {\n                return false;\n            }\n        }\n        bh_memcpy_s(symbol, symbol_len, relocation->symbol_name, symbol_len);\n        symbol[symbol_len] = '\\0';\n\n#if WASM_ENABLE_STATIC_PGO")
    wamr_mend(${file} "${each}${symbol}" "${riscv}${twice}#else\n${each}#endif\n${symbol}")
    set(call "        if (!apply_relocation(\n                module, aot_text, aot_text_size, relocation->relocation_offset,\n                ")
    set(notes "        int64 addend = relocation->relocation_addend;\n${riscv}        if (lower) {\n            uint64 where = (uint64)(uintptr_t)symbol_addr + (uint64)addend - (uint64)(uintptr_t)aot_text;\n            AOTRelocation *first = group->relocations, *behind = first + group->relocation_count, *upper = relocation;\n            while (upper > first && !(upper->relocation_type == upper_half && upper->relocation_offset == where))\n                upper--;\n            while (upper < behind && !(upper->relocation_type == upper_half && upper->relocation_offset == where))\n                upper++;\n            if (upper == behind) {\n                set_error_buf(error_buf, error_buf_size, \"half an address\");\n                return false;\n            }\n            addend = upper->relocation_addend;\n        }\n        else if (relocation->relocation_type == upper_half) {\n            relocation->relocation_addend = (int64)((uint64)(uintptr_t)symbol_addr + (uint64)addend - (uint64)(uintptr_t)aot_text - relocation->relocation_offset);\n        }\n#endif\n")
    wamr_mend(${file} "${call}relocation->relocation_addend, relocation->relocation_type," "${notes}${call}addend, relocation->relocation_type,")
endfunction()

# WAMR 978ce3f, interpreting on 64 bits: a function's frame, which holds pointers, begins at any multiple of four. Processors that want more are
# helped out by their firmware, slowly.
function(wamr_align_frames)
    wamr_mend(core/iwasm/interpreter/wasm_interp.h "return align_uint(frame_size, 4);" "return align_uint(frame_size, (unsigned)sizeof(void *));")
endfunction()

# WAMR 978ce3f runs a start function in an environment of its own, where neither fuel nor a signal reaches it; native/core/start.c does instead.
function(wamr_leave_start)
    wamr_mend(core/iwasm/interpreter/wasm_runtime.c "*start_func = module_inst->e->start_function;" "*start_func = NULL; /* pw_start */")
    wamr_mend(core/iwasm/aot/aot_runtime.c "if (!module->start_function && !initialize_func" "if (/* pw_start */ !initialize_func")
endfunction()

# WAMR 978ce3f, interpreting: each call counts anew what it may do, those of host functions too, and what it has done is forgotten.
function(wamr_keep_fuel)
    set(file core/iwasm/interpreter/wasm_interp_fast.c)
    wamr_mend(${file} "    if (instructions_left == 0) {  " "    if (exec_env->instructions_to_execute == 0) {")
    wamr_mend(${file} "    else if (instructions_left > 0)  " "    else if (exec_env->instructions_to_execute > 0)")
    wamr_mend(${file} "        instructions_left--;\n" "        exec_env->instructions_to_execute--;\n")
    wamr_mend(${file} "    int instructions_left = -1;\n    if (exec_env) {\n        instructions_left = exec_env->instructions_to_execute;\n    }\n" "    /* what is left is counted where it is kept */\n")
endfunction()

# WAMR 978ce3f, interpreting: what every program passes all the time, with fewer instructions (native/interp/loop.h). A call looked at the type of
# each argument and of each local variable, and called memset.
function(wamr_shorten_loop)
    set(file core/iwasm/interpreter/wasm_interp_fast.c)
    set(begin "static void **global_handle_table;\n")
    wamr_mend(${file} "${begin}" "${begin}\n#include \"loop.h\"\n")
    wamr_mend(core/iwasm/common/wasm_exec_env.c "    exec_env->instructions_to_execute = -1;\n" "    exec_env->instructions_to_execute = INT64_MAX;\n")
    set(limit "    exec_env->instructions_to_execute = instructions_to_execute")
    wamr_mend(core/iwasm/common/wasm_runtime_common.c "${limit};\n" "${limit} < 0 ? INT64_MAX : instructions_to_execute;\n")
    wamr_mend(core/iwasm/common/wasm_exec_env.h "    int instructions_to_execute;\n" "    int64 instructions_to_execute;\n    uint8 *access_ip; /* where the last access to memory stands */\n")
    set(got "    got_exception:\n        SYNC_ALL_TO_FRAME();\n        return;\n\n#if WASM_ENABLE_LABELS_AS_VALUES == 0\n")
    wamr_mend(${file} "${got}" "        goto got_exception;\n\n    limit_exceeded:\n        exec_env->instructions_to_execute = 0;\n        wasm_set_exception(module, \"instruction limit exceeded\");\n\n${got}")
    set(ended "        /* Exception has been set in signal handler before calling longjmp */\n        ret = false;\n")
    set(at "        WASMInterpFrame *ended = wasm_exec_env_get_cur_frame(exec_env);\n        if (ended && ended->function && !ended->function->is_import_func)\n            ended->ip = exec_env->access_ip;\n")
    wamr_mend(core/iwasm/interpreter/wasm_runtime.c "${ended}" "${ended}${at}")
    set(memory "    WASMMemoryInstance *memory = wasm_get_default_memory(module);\n#if !defined(OS_ENABLE_HW_BOUND_CHECK)              \\\n")
    string(REPLACE "(module);\n" "(module);\n    uint8 *const memory_base = memory ? memory->memory_data : NULL;\n" mended "${memory}")
    wamr_mend(${file} "${memory}" "${mended}")
    set(area "outs_area->lp = outs_area->operand + cur_func->const_cell_num;\n")
    wamr_mend(${file} "${area}        }\n\n        if ((uint8 *)(outs_area->lp + cur_func->param_cell_num)" "arguments = outs_area->operand + cur_func->const_cell_num;\n        }\n\n        if ((uint8 *)(arguments + cur_func->param_cell_num)")
    wamr_mend(${file} "        WASMInterpFrame *outs_area = wasm_exec_env_wasm_stack_top(exec_env);\n        int i;\n" "        WASMInterpFrame *outs_area = wasm_exec_env_wasm_stack_top(exec_env);\n        uint32 *arguments;\n")
    wamr_mend(${file} "        for (i = 0; i < cur_func->param_count; i++) {\n            if (cur_func->param_types[i] == VALUE_TYPE_V128) {\n" "        pw_pass_arguments(arguments, cur_func, frame_ip, frame_lp);\n        for (int i = 0; false /* pw_pass_arguments did it */;) {\n            if (cur_func->param_types[i] == VALUE_TYPE_V128) {\n")
    wamr_mend(${file} "                word_copy(frame->operand, (uint32 *)cur_wasm_func->consts,\n                          cur_wasm_func->const_cell_num);\n" "                pw_copy_cells(frame->operand, (uint32 *)cur_wasm_func->consts,\n                              cur_wasm_func->const_cell_num);\n")
    wamr_mend(${file} "            memset(frame_lp + cur_func->param_cell_num, 0,\n                   (uint32)(cur_func->local_cell_num * 4));\n" "            pw_clear_cells(frame_lp + cur_func->param_cell_num, cur_func->local_cell_num);\n")
    wamr_mend(${file} "            for (i = 0; i < cur_wasm_func->local_count; i++) {\n" "            for (i = 0; cur_wasm_func->has_references && i < cur_wasm_func->local_count; i++) {\n")
    wamr_mend(core/iwasm/interpreter/wasm.h "    /* cell num of local variables */\n    uint16 local_cell_num;\n    /* offset of each local, including function parameters\n       and local variables */\n" "    /* cell num of local variables */\n    uint16 local_cell_num;\n    bool has_references; /* among the local variables */\n    /* offset of each local, including function parameters\n       and local variables */\n")
    set(local "                    func->local_types[local_type_index++] = type;\n")
    wamr_mend(core/iwasm/interpreter/wasm_loader.c "${local}" "${local}                    func->has_references |= type == VALUE_TYPE_FUNCREF || type == VALUE_TYPE_EXTERNREF;\n")
    set(results "                WASMFuncType *func_type;\n                int32 off;\n                uint32 ret_offset;\n                uint8 *ret_types;\n")
    wamr_mend(${file} "${results}" "${results}                if (cur_func->ret_cell_num <= 1) {\n                    if (cur_func->ret_cell_num == 1)\n                        prev_frame->lp[prev_frame->ret_offset] = GET_OPERAND(uint32, I32, 0);\n                    goto return_func;\n                }\n")
endfunction()

# WAMR 978ce3f, interpreting: local.set lets the instruction before it write the variable; local.tee, which clang and rustc write as often as
# an addition, copies. It is local.set and local.get.
function(wamr_tee_at_once)
    set(tee "                if (local_offset < 256\n#if WASM_ENABLE_GC != 0\n                    && !wasm_is_type_reftype(local_type)\n#endif\n                ) {\n                    skip_label();\n                    if (is_32bit_type(local_type)) {\n                        emit_label(EXT_OP_TEE_LOCAL_FAST);\n")
    set(direct "                if (!preserve_local && !cur_block->is_stack_polymorphic && ((LAST_OP_OUTPUT_I32()) || (LAST_OP_OUTPUT_I64()))) {\n                    uint32 cells = wasm_value_type_cell_num(local_type);\n\n                    skip_label();\n                    if (loader_ctx->p_code_compiled)\n                        STORE_U16(loader_ctx->p_code_compiled - 2, local_offset);\n                    loader_ctx->frame_offset -= cells;\n                    loader_ctx->dynamic_offset -= cells;\n                    disable_emit = true;\n                    operand_offset = local_offset;\n                    PUSH_OFFSET_TYPE(local_type);\n                    break;\n                }\n")
    wamr_mend(core/iwasm/interpreter/wasm_loader.c "${tee}" "${direct}${tee}")
endfunction()

# WAMR 978ce3f, interpreting: each branch asks how many values it takes along, which the loader knows, and reads what a comparison just wrote;
# an address is added up by one instruction and read by the next. They become one (native/interp/fuse.h, handlers.h).
function(wamr_fuse_instructions)
    wamr_mend(core/iwasm/interpreter/wasm_opcode.h "#define WASM_INSTRUCTION_NUM 256\n" "#define WASM_INSTRUCTION_NUM (256 + 32) /* pw: opcodes.h */\n")
    set(file core/iwasm/interpreter/wasm_interp_fast.c)
    set(first "static inline uint32\nrotl32(uint32 n, uint32 c)\n")
    wamr_mend(${file} "${first}" "#include \"opcodes.h\"\n\n${first}")
    set(begin "    if (exec_env == NULL) {\n        global_handle_table = (void **)handle_table;\n")
    set(labels "#define PW_BRANCH_LABEL(name, type, operator) handle_table[PW_OP_BR_IF_##name] = &&HANDLE_PW_OP_BR_IF_##name;\n        PW_COMPARISONS(PW_BRANCH_LABEL)\n#define PW_LABEL(name) handle_table[PW_OP_##name] = &&HANDLE_PW_OP_##name;\n        PW_OTHERS(PW_LABEL)\n")
    wamr_mend(${file} "${begin}" "${begin}${labels}")
    set(call "            HANDLE_OP(WASM_OP_CALL)\n")
    wamr_mend(${file} "${call}" "#include \"handlers.h\"\n\n${call}")
    set(file core/iwasm/interpreter/wasm_loader.c)
    wamr_mend(${file} "    uint8 *p_code_compiled;\n    uint8 *p_code_compiled_end;\n" "    uint8 *p_code_compiled;\n    uint8 *pw_begin, *pw_last; /* where this instruction begins, and the one before it: fuse.h */\n    uint8 pw_opcode, pw_last_opcode;\n    uint8 *p_code_compiled_end;\n")
    set(info "static bool\nwasm_loader_emit_br_info(WASMLoaderContext *ctx,")
    wamr_mend(${file} "${info}" "#include \"fuse.h\"\n\n${info}")
    wamr_mend(${file} "    emit_uint32(ctx, arity);\n" "    if (arity != 0 || !pw_shorten_branch(ctx))\n        emit_uint32(ctx, arity);\n")
    set(loop "        p_org = p;\n        disable_emit = false;\n")
    wamr_mend(${file} "        opcode = *p++;\n#if WASM_ENABLE_FAST_INTERP != 0\n${loop}" "        opcode = *p++;\n#if WASM_ENABLE_FAST_INTERP != 0\n${loop}        pw_begin_instruction(loader_ctx, opcode);\n")
endfunction()

# WAMR 978ce3f, the interpreter's instantiation: writes a ref.null of an active segment as 0, which is function 0, or an external
# reference; its null is all ones.
function(wamr_fix_null_in_segments)
    set(case "                case INIT_EXPR_TYPE_REFNULL_CONST:\n                    ref = ")
    wamr_mend(core/iwasm/interpreter/wasm_runtime.c "${case}NULL;\n" "${case}(void *)(uintptr_t)NULL_REF;\n")
endfunction()

# WAMR 978ce3f, loading: makes one large page of a memory that its module never grows, and forgets the maximum: whoever asks for the
# type is told of one page.
function(wamr_keep_pages)
    set(then " {\n#if WASM_ENABLE_SHRUNK_MEMORY != 0\n")
    set(if "    if (!module->possible_memory_grow")
    wamr_mend(core/iwasm/interpreter/wasm_loader.c "${if})${then}" "${if} && WASM_ENABLE_SHRUNK_MEMORY)${then}")
endfunction()

# WAMR 978ce3f, loading: takes for v128.const whatever begins with its first byte and has 16 bytes to spare; takes flags of segments modulo 4 and 8;
# has a word for a shared table, and takes it.
function(wamr_check_flags)
    set(file core/iwasm/interpreter/wasm_loader.c)
    set(byte "                (void)read_uint8(p);\n\n                CHECK_BUF(p, p_end, 16);\n                wasm_runtime_read_v128(p, &high, &low);\n")
    set(number "                uint32 vector_opcode;\n                read_leb_uint32(p, p_end, vector_opcode);\n                if (vector_opcode != 12) {\n                    set_error_buf(error_buf, error_buf_size, \"constant expression required\");\n                    goto fail;\n                }\n                CHECK_BUF(p, p_end, 16);\n                wasm_runtime_read_v128(p, &high, &low);\n")
    wamr_mend(${file} "${byte}" "${number}")
    set(refuse "{\n                set_error_buf(error_buf, error_buf_size, \"invalid flags of a segment\");\n                return false;\n            }\n")
    wamr_mend(${file} "            /* last three bits */\n" "            if (table_segment->mode > 7) ${refuse}")
    wamr_mend(${file} "            mem_flag = mem_index & 0x03;\n" "            if (mem_index > 2) ${refuse}            mem_flag = mem_index;\n")
    set(shared "                                      \"tables cannot be shared\", is_aot);\n")
    wamr_mend(core/iwasm/common/wasm_loader_common.c "${shared}" "${shared}            return false;\n")
endfunction()

# WAMR 978ce3f, whose fast interpreter rewrites code: stacks tell places in what it wrote, and the place of a function's beginning where a fault of
# the processor's ends it. The loader tells native/core/places.c of each instruction, and what may fault or end writes its place down. In the text of
# stacks, in both modes, each frame's function has its index in the place of the frame's own number.
function(wamr_tell_places)
    set(loop "        p_org = p;\n        disable_emit = false;\n")
    set(emit "        emit_label(opcode);\n#endif\n        switch (opcode) {\n            case WASM_OP_UNREACHABLE:\n")
    set(tell "        {\n            extern _Thread_local void (*pw_tell_place)(uint32, uint32, uint32);\n            if (pw_tell_place && loader_ctx->p_code_compiled)\n                pw_tell_place(cur_func_idx, (uint32)(loader_ctx->p_code_compiled - func->code_compiled),\n                              (uint32)(p - 1 - module->load_addr));\n        }\n")
    wamr_mend(core/iwasm/interpreter/wasm_loader.c "${loop}${emit}" "${loop}${tell}${emit}")
    set(check "#define CHECK_MEMORY_OVERFLOW(bytes)                      \\\n    do {                                                  \\\n")
    wamr_mend(core/iwasm/interpreter/wasm_interp_fast.c "${check}" "${check}        frame->ip = frame_ip; /* before the access */     \\\n        __asm__ volatile(\"\" : : : \"memory\");             \\\n")
    wamr_mend(core/iwasm/interpreter/wasm_interp_fast.c "/* terminate current thread */" "frame->ip = frame_ip; /* end */ ")
    wamr_mend(core/iwasm/aot/aot_runtime.c "n, frame.func_offset, frame.func_index" "frame.func_index, frame.func_offset, frame.func_index")
    wamr_mend(core/iwasm/aot/aot_runtime.c "- %s\\n\", n," "- %s\\n\", frame.func_index,")
    wamr_mend(core/iwasm/interpreter/wasm_runtime.c "- %s\\n\", n," "- %s\\n\", frame.func_index,")
    wamr_mend(core/iwasm/interpreter/wasm_runtime.c "- $f%\" PRIu32 \"\\n\", n," "- $f%\" PRIu32 \"\\n\", frame.func_index,")
endfunction()

# WAMR 978ce3f keeps each object that ever was an externref in one table, for as long as the instance is there, and looks an object up by
# walking through all of it: each call with a new object takes longer than the one before. Callers of ours give numbers instead of objects: the
# number itself is the reference. native/core/references.c tells which numbers are still in use.
function(wamr_pass_externrefs)
    set(file core/iwasm/common/wasm_runtime_common.c)
    set(reference "    lookup_user_data.node.extern_obj = extern_obj;\n    lookup_user_data.node.module_inst = module_inst;\n    lookup_user_data.found = false;\n\n    os_mutex_lock(&externref_lock);\n\n    /* Lookup hashmap firstly */\n    bh_hash_map_traverse(externref_map, lookup_extobj_callback,\n                         (void *)&lookup_user_data);\n    if (lookup_user_data.found) {\n        *p_externref_idx = lookup_user_data.externref_idx;\n        os_mutex_unlock(&externref_lock);\n        return true;\n    }\n")
    wamr_mend(${file} "${reference}" "    *p_externref_idx = (uint32)(uintptr_t)extern_obj; /* pw_instance_references */\n    return (uintptr_t)*p_externref_idx == (uintptr_t)extern_obj;\n")
    set(object "    os_mutex_lock(&externref_lock);\n    node = bh_hash_map_find(externref_map, (void *)(uintptr_t)externref_idx);\n    os_mutex_unlock(&externref_lock);\n\n    if (!node)\n        return false;\n\n    *p_extern_obj = node->extern_obj;\n")
    wamr_mend(${file} "${object}" "    (void)node;\n    *p_extern_obj = (void *)(uintptr_t)externref_idx;\n")
endfunction()

# WAMR 978ce3f, loading: knows no arithmetic in constant expressions but behind a flag, with trees that are walked by recursion, in the image too.
# A module here imports no globals, so that operands are constants: what they come to is reckoned at once.
function(wamr_fold_constants)
    set(file core/iwasm/interpreter/wasm_loader.c)
    set(unknown "            default:\n            {\n                set_error_buf(error_buf, error_buf_size,\n                              \"illegal opcode \"\n                              \"or constant expression required \"\n")
    set(cases "            case INIT_EXPR_TYPE_I32_ADD:\n            case INIT_EXPR_TYPE_I32_SUB:\n            case INIT_EXPR_TYPE_I32_MUL:\n            case INIT_EXPR_TYPE_I64_ADD:\n            case INIT_EXPR_TYPE_I64_SUB:\n            case INIT_EXPR_TYPE_I64_MUL:\n")
    set(operands "                bool narrow = flag <= INIT_EXPR_TYPE_I32_MUL;\n                uint8 type1 = narrow ? VALUE_TYPE_I32 : VALUE_TYPE_I64, left_flag, right_flag;\n                uint8 constant = narrow ? INIT_EXPR_TYPE_I32_CONST : INIT_EXPR_TYPE_I64_CONST;\n                WASMValue left, right;\n                if (!pop_const_expr_stack(&const_expr_ctx, &right_flag, type1, &right, error_buf, error_buf_size)\n                    || !pop_const_expr_stack(&const_expr_ctx, &left_flag, type1, &left, error_buf, error_buf_size))\n                    goto fail;\n                if (left_flag != constant || right_flag != constant) {\n                    set_error_buf(error_buf, error_buf_size, \"arithmetic with an imported global\");\n                    goto fail;\n                }\n")
    set(result "                uint64 a = narrow ? (uint32)left.i32 : (uint64)left.i64, b = narrow ? (uint32)right.i32 : (uint64)right.i64;\n                uint8 which = flag - (narrow ? INIT_EXPR_TYPE_I32_ADD : INIT_EXPR_TYPE_I64_ADD);\n                uint64 result = which == 0 ? a + b : which == 1 ? a - b : a * b;\n                if (narrow)\n                    cur_value.i32 = (int32)result;\n                else\n                    cur_value.i64 = (int64)result;\n                if (!push_const_expr_stack(&const_expr_ctx, constant, type1, &cur_value, error_buf, error_buf_size))\n                    goto fail;\n                break;\n            }\n")
    wamr_mend(${file} "${unknown}" "${cases}            {\n${operands}${result}${unknown}")
endfunction()

# WAMR 978ce3f, ahead of time: a relocation of 24 bytes for each call, of one function of the module by another and of the runtime's, a tenth
# of an image, though all code lies in one piece. native/aotc/calls.h applies them.
function(wamr_settle_calls)
    set(file core/iwasm/compilation/aot_emit_aot_file.c)
    set(create "AOTObjectData *\naot_obj_data_create(AOTCompContext *comp_ctx)\n{\n")
    wamr_mend(${file} "${create}" "#include \"calls.h\"\n\n${create}")
    set(resolved "        || !aot_resolve_object_relocation_groups(obj_data))\n        goto fail;\n")
    wamr_mend(${file} "${resolved}" "${resolved}    if (!pw_settle_calls(obj_data))\n        goto fail;\n")
endfunction()

# WAMR 978ce3f, ahead of time: makes the frame of a call through a table by a call of the runtime, 25 instructions; and of each other call with a
# check of its own that there is room, and one vector of two stores, whose number lies in 16 bytes of constants with a relocation of 24: a tenth of
# an image. native/aotc/frames.h makes all of them; native/aotc/stack.h checks. Indexes are extended by zeros, which takes no instruction.
function(wamr_push_frames_inline)
    set(file core/iwasm/compilation/aot_emit_function.c)
    set(compile "bool\naot_compile_op_call(")
    wamr_mend(${file} "${compile}" "#include \"frames.h\"\n\n${compile}")
    wamr_mend(${file} "if (!alloc_frame_for_aot_func(comp_ctx, func_ctx, func_idx))" "if (!pw_push_frame(comp_ctx, func_ctx, I32_CONST(func_idx)))")
    wamr_mend(${file} "if (!call_aot_alloc_frame_func(comp_ctx, func_ctx, func_idx))\n            goto fail;\n#endif\n    }\n\n    /* Add basic blocks */"
              "if (!pw_push_frame(comp_ctx, func_ctx, func_idx))\n            goto fail;\n#endif\n    }\n\n    /* Add basic blocks */")
    set(load "    /* Load function type index */\n    if (!(ftype_idx_ptr = ")
    wamr_mend(${file} "${load}" "    LLVMValueRef place = LLVMBuildZExt(comp_ctx->builder, func_idx, I64_TYPE, \"place\");\n${load}")
    wamr_mend(${file} "comp_ctx->builder, I32_TYPE, func_ctx->func_type_indexes,\n              &func_idx, 1," "comp_ctx->builder, I32_TYPE, func_ctx->func_type_indexes,\n              &place, 1,")
    set(pointer "    /* Load function pointer */\n    if (!(func_ptr = LLVMBuildInBoundsGEP2(comp_ctx->builder, OPQ_PTR_TYPE,\n                                           func_ctx->func_ptrs, &")
    wamr_mend(${file} "${pointer}func_idx, 1," "${pointer}place, 1,")
endfunction()

# WAMR 978ce3f, ahead of time: an image has the size of its literals before its code, 4 bytes, so that all code is 4 bytes off the place for which
# LLVM aligned functions and loops. 60 bytes of literals that nobody reads make it 64.
function(wamr_align_code)
    set(file core/iwasm/compilation/aot_emit_aot_file.c)
    set(end "        LLVMMoveToNextSection(sec_itr);\n    }\n    LLVMDisposeSectionIterator(sec_itr);\n\n    return true;\n}\n")
    set(begin "            obj_data->literal_size = (uint32)LLVMGetSectionSize(sec_itr);\n            break;\n        }\n")
    set(pad "    static char none[64 - sizeof(uint32)];\n    if (obj_data->literal_size == 0) {\n        obj_data->literal = none;\n        obj_data->literal_size = sizeof none;\n    }\n")
    string(REPLACE "    return true;\n" "${pad}    return true;\n" mended "${end}")
    wamr_mend(${file} "${begin}${end}" "${begin}${mended}")
endfunction()

# WAMR 978ce3f, ahead of time: bounds the number of a br_table before a switch that has a default.
function(wamr_switch_at_once)
    set(clamp "    value_cmp = LLVMBuildSelect(comp_ctx->builder, clap_value_cmp_cond,")
    wamr_mend(core/iwasm/compilation/aot_emit_control.c "${clamp}" "    if (LLVMIsEfficientConstInt(value_cmp)) /* what no constant is, LLVM's switch bounds */\n    ${clamp}")
endfunction()

# WAMR 978ce3f reserves 8 GiB, which the first byte of an access can reach but not its last: an access at the highest address ends up to 15 bytes
# behind. RISC-V stores what is not aligned in parts, the last one first, into whatever lies there. And a fault that is reported there is no trap.
function(wamr_reserve_ends)
    set(size "8 * (uint64)BH_GB")
    wamr_mend(core/iwasm/common/wasm_memory.c "map_size = ${size};" "map_size = ${size} + 65536; /* the largest page there is */")
    foreach(start "memory_inst->memory_data" "shared_heap->base_addr")
        wamr_mend(core/iwasm/common/wasm_runtime_common.c "= ${start} + ${size};" "= ${start} + ${size} + 65536;")
    endforeach()
endfunction()

# WAMR 978ce3f, ahead of time: before each function stands another that checks the stack, with two relocations of 24 bytes, and a table of frames'
# sizes. native/aotc/stack.h checks inside; functions whose callers check for them do not (native/aotc/checks.h).
function(wamr_check_stack_inside)
    set(file core/iwasm/compilation/aot_llvm.c)
    set(create "static AOTFuncContext *\naot_create_func_context(")
    wamr_mend(${file} "${create}" "#include \"stack.h\"\n\n${create}")
    wamr_mend(${file} "        comp_ctx->enable_stack_bound_check || comp_ctx->enable_stack_estimation;\n    LLVMValueRef precheck_func" "        is_apart(func_index);\n    LLVMValueRef precheck_func")
    wamr_mend(${file} "\nLLVMTypeRef\nwasm_type_to_llvm_type(" "\nstatic bool\nis_apart(uint32 number), is_small(const WASMFunction *function); /* stack.h */\n\nLLVMTypeRef\nwasm_type_to_llvm_type(")
    set(noinline "LLVMAddAttributeAtIndex(func, LLVMAttributeFunctionIndex, LLVMCreateEnumAttribute(comp_ctx->context, LLVMGetEnumAttributeKindForName(\"noinline\", 8), 0));")
    wamr_mend(${file} "    else {\n        *p_precheck_func = func;\n" "    else {\n        if (!is_small(aot_func)) {\n            ${noinline}\n        }\n        *p_precheck_func = func;\n")
    set(end "#if WASM_ENABLE_BRANCH_HINTS != 0\n    func_ctx->function_hints =\n")
    set(calls "wasm_func->has_op_func_call")
    wamr_mend(${file} "${end}" "    if (!pw_check_stack(comp_ctx, func_ctx, is_apart(func_index), ${calls})) {\n        goto fail;\n    }\n\n${end}")
    wamr_mend(${file} "         || comp_ctx->enable_stack_estimation)\n        && !aot_create_stack_sizes(" "         || comp_ctx->enable_stack_estimation)\n        && pw_some_apart() && !aot_create_stack_sizes(")
    set(file core/iwasm/compilation/aot_emit_aot_file.c)
    set(read "static bool\nread_stack_usage_file(")
    wamr_mend(${file} "${read}" "bool pw_some_apart(void), pw_measure_frames(AOTCompContext *); /* stack.h */\n\n${read}")
    wamr_mend(${file} "    if (precheck_found != count) {" "    if (false) { /* precheck_found */")
    set(resolve "        if ((comp_ctx->enable_stack_bound_check\n             || comp_ctx->enable_stack_estimation)\n            && ")
    wamr_mend(${file} "${resolve}!aot_resolve_stack_sizes(" "        if (!pw_measure_frames(comp_ctx))\n            return false;\n${resolve}pw_some_apart()\n            && !aot_resolve_stack_sizes(")
    set(file core/iwasm/compilation/aot_llvm_extra.cpp)
    set(apply "void\naot_apply_llvm_new_pass_manager(AOTCompContext *comp_ctx, LLVMModuleRef module)\n{\n")
    wamr_mend(${file} "${apply}" "#include \"checks.h\"\n\n${apply}    pw::leave_checks(*reinterpret_cast<Module *>(module));\n")
    set(file core/iwasm/compilation/aot_compiler.c)
    set(compile "                if (!aot_compile_op_ref_func(")
    wamr_mend(${file} "${compile}" "                pw_refer(comp_ctx, func_idx); /* stack.h */\n${compile}")
    set(first "static bool\naot_compile_func(")
    wamr_mend(${file} "${first}" "void\npw_refer(const AOTCompContext *comp_ctx, uint32 index);\n\n${first}")
endfunction()

# WAMR 978ce3f, ahead of time: where hardware checks bounds, what tells of a trap does not come back, but code behind it returns a zero to the
# caller. There the process ends instead.
function(wamr_end_at_traps)
    set(file core/iwasm/compilation/aot_emit_exception.c)
    set(return "        AOTFuncType *aot_func_type = func_ctx->aot_func->func_type;\n        if (!aot_build_zero_function_ret(")
    set(trap "LLVMGetIntrinsicDeclaration(func_ctx->module, LLVMLookupIntrinsicID(\"llvm.trap\", 9), NULL, 0)")
    set(end "        if (!comp_ctx->enable_bound_check) {\n            func = ${trap};\n            LLVMBuildCall2(comp_ctx->builder, LLVMGlobalGetValueType(func), func, NULL, 0, \"\");\n            LLVMBuildUnreachable(comp_ctx->builder);\n        }\n        else ")
    string(REPLACE "        if (" "${end}if (" mended "${return}")
    wamr_mend(${file} "${return}" "${mended}")
endfunction()

# WAMR 978ce3f, ahead of time: where addresses have 32 bits, a range of memory.fill and memory.copy may end at 0 by overflow. No memory there has 4 GiB.
function(wamr_refuse_overflow)
    wamr_mend(core/iwasm/compilation/aot_emit_memory.c "        BUILD_OP(And, cmp, cmp1, cmp, \"overflow\");\n" "        (void)cmp1; /* no memory ends there */\n")
endfunction()

# WAMR 978ce3f, ahead of time: where software checks bounds nobody asks whether table.init, table.copy or table.fill trapped, so that what comes
# behind them is done.
function(wamr_trap_at_tables)
    set(check "bool\ncheck_exception_thrown(AOTCompContext *comp_ctx, AOTFuncContext *func_ctx)")
    wamr_mend(core/iwasm/compilation/aot_emit_function.c "static ${check}\n{" "extern ${check};\n\n${check}\n{")
    set(file core/iwasm/compilation/aot_emit_table.c)
    set(first "static bool\naot_check_table_access(")
    wamr_mend(${file} "${first}" "extern ${check};\n\n${first}")
    foreach(count 5 6)
        set(call "param_values, ${count},\n                         \"\"))) {\n        HANDLE_FAILURE(\"LLVMBuildCall\");\n        goto fail;\n    }\n\n    return ")
        wamr_mend(${file} "${call}true;" "${call}!comp_ctx->enable_bound_check || check_exception_thrown(comp_ctx, func_ctx);")
    endforeach()
endfunction()

# WAMR 978ce3f, where the processor is no x86: stores a vector in parts, so that of one over the end of memory the first part is written. Its last
# byte is read before.
function(wamr_probe_vector_stores)
    set(check "                        CHECK_MEMORY_OVERFLOW(16);\n")
    set(store "                        STORE_V128(maddr, data);\n")
    wamr_mend(core/iwasm/interpreter/wasm_interp_fast.c "${check}${store}" "${check}                        (void)*(volatile uint8 *)(maddr + 15);\n${store}")
    set(cast "    if (!(maddr = LLVMBuildBitCast(comp_ctx->builder, maddr, value_ptr_type,\n                                   \"data_ptr\"))) {\n")
    set(rest "        HANDLE_FAILURE(\"LLVMBuildBitCast\");\n        return false;\n    }\n\n    if (!(result = LLVMBuildStore(")
    set(at "LLVMConstInt(I64_TYPE, data_length - 1, false)")
    set(probe "    if (!comp_ctx->enable_bound_check && data_length > 8 && strcmp(comp_ctx->target_arch, \"x86_64\") != 0) {\n        LLVMValueRef last = ${at};\n        last = LLVMBuildInBoundsGEP2(comp_ctx->builder, INT8_TYPE, maddr, &last, 1, \"last\");\n        LLVMSetVolatile(LLVMBuildLoad2(comp_ctx->builder, INT8_TYPE, last, \"last_byte\"), true);\n    }\n\n")
    wamr_mend(core/iwasm/compilation/simd/simd_load_store.c "${cast}${rest}" "${probe}${cast}${rest}")
endfunction()

# WAMR 978ce3f makes vectors before it has made values of a module's locals: no loop becomes one, but neighbouring fields of its own are loaded
# and stored as vectors, which takes longer, and a twentieth of the compiler's time.
function(wamr_leave_early_vectors)
    set(file core/iwasm/compilation/aot_llvm_extra.cpp)
    set(early "        FPM.addPass(LoopVectorizePass());\n        FPM.addPass(SLPVectorizerPass());\n        FPM.addPass(LoadStoreVectorizerPass());\n        FPM.addPass(VectorCombinePass());\n")
    wamr_mend(${file} "${early}" "        /* pw_make_vectors, later */\n")
    wamr_mend(${file} "PTO.SLPVectorization = true;" "PTO.SLPVectorization = false; /* what it would join is volatile, or constrained */")
endfunction()

# WAMR 978ce3f, ahead of time: extends addresses where they are used, so that LLVM copies them into another register. native/aotc/extends.h.
function(wamr_extend_early)
    set(file core/iwasm/compilation/aot_llvm_extra.cpp)
    set(apply "void\naot_apply_llvm_new_pass_manager(AOTCompContext *comp_ctx, LLVMModuleRef module)\n{\n")
    wamr_mend(${file} "${apply}" "#include \"extends.h\"\n\n${apply}")
    set(passes "    MPM.run(*M, MAM);\n")
    wamr_mend(${file} "${passes}" "${passes}    pw::extend_early(*M);\n")
endfunction()

if(WAMR_ROOT_DIR)
    set(origin "${WAMR_ROOT_DIR}")
else()
    set(crate_dir "${WAMR_VENDOR_DIR}/${WAMR_CRATE}")
    if(NOT EXISTS "${crate_dir}/.cargo-checksum.json")
        wamr_vendor()
    endif()
    wamr_check_vendored("${crate_dir}")
    set(origin "${crate_dir}/wasm-micro-runtime")
endif()
file(COPY "${origin}/core" "${origin}/build-scripts" "${origin}/LICENSE" DESTINATION "${WAMR_SOURCE_DIR}")
set(WAMR_MENDS
    wamr_fix_raw_externref
    wamr_pass_externrefs
    wamr_hold_accesses
    wamr_tell_apart
    wamr_reserve_ends
    wamr_keep_base
    wamr_fix_previous_handler
    wamr_fix_frame_values
    wamr_fix_exported_import
    wamr_count_branches_only
    wamr_fix_low_addresses
    wamr_fix_empty_memory
    wamr_vectors_on_riscv
    wamr_fix_vector_nan
    wamr_fix_narrowing
    wamr_fix_riscv_rounding
    wamr_fix_riscv_floats
    wamr_fix_arm_arguments
    wamr_optimise_fully
    wamr_fix_vector_moves
    wamr_fix_vector_blocks
    wamr_fix_block_ends
    wamr_fix_simde
    wamr_fix_beginning
    wamr_fix_stack_pointer
    wamr_fix_room_for_parameters
    wamr_fix_vector_results
    wamr_fix_full_memory
    wamr_fix_vector_on_stack
    wamr_tell_of_new_code
    wamr_fix_riscv_addresses
    wamr_align_frames
    wamr_take_zeros_in_names
    wamr_ignore_bad_names
    wamr_tell_places
    wamr_leave_start
    wamr_keep_fuel
    wamr_shorten_loop
    wamr_tee_at_once
    wamr_fuse_instructions
    wamr_check_flags
    wamr_fix_null_in_segments
    wamr_keep_pages
    wamr_fold_constants
    wamr_make_vectors
    wamr_settle_calls
    wamr_push_frames_inline
    wamr_switch_at_once
    wamr_align_code
    wamr_check_stack_inside
    wamr_end_at_traps
    wamr_refuse_overflow
    wamr_trap_at_tables
    wamr_probe_vector_stores
    wamr_leave_early_vectors
    wamr_extend_early)
foreach(mend IN LISTS WAMR_WITHOUT)
    if(NOT mend IN_LIST WAMR_MENDS AND NOT mend STREQUAL ALL)
        message(FATAL_ERROR "WAMR_WITHOUT names ${mend}, which is no mend")
    endif()
endforeach()
foreach(mend IN LISTS WAMR_MENDS)
    if(NOT mend IN_LIST WAMR_WITHOUT AND NOT WAMR_WITHOUT STREQUAL ALL)
        set_property(GLOBAL PROPERTY WAMR_THERE)
        set_property(GLOBAL PROPERTY WAMR_GONE)
        cmake_language(CALL ${mend})
        get_property(there GLOBAL PROPERTY WAMR_THERE)
        get_property(gone GLOBAL PROPERTY WAMR_GONE)
        if(gone)
            message(NOTICE "${mend}: lines are gone of ${gone}")
        elseif(WAMR_TRY AND there)
            message(NOTICE "${mend}: is there already, at least in part")
        elseif(WAMR_TRY)
            message(NOTICE "${mend}: applies")
        endif()
    endif()
endforeach()
set(WAMR_ROOT_DIR "${WAMR_SOURCE_DIR}")
