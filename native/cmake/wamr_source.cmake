# Puts a checked, writable copy of the pinned WAMR source tree at WAMR_SOURCE_DIR.
#
# -DWAMR_ROOT_DIR=<checkout> takes that tree instead of the pinned crate; it is copied too, because WAMR's own build
# scripts write core/version.h into the tree and because one fix is applied to the copy.

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

# WAMR 978ce3f, core/iwasm/common/wasm_runtime_common.c: wasm_runtime_invoke_native_raw looks an externref parameter up and
# then copies the *following argument's* bytes instead of the object. Without this line a host function cannot take an externref.
function(wamr_fix_raw_externref)
    set(file "${WAMR_SOURCE_DIR}/core/iwasm/common/wasm_runtime_common.c")
    set(wrong "bh_memcpy_s(argv_dst, sizeof(uintptr_t), argv_src,\n                            sizeof(uintptr_t));\n                break;\n            }\n#endif\n#if WASM_ENABLE_GC != 0\n            case REF_TYPE_FUNCREF:")
    string(REPLACE "argv_src,\n" "&externref_obj,\n" right "${wrong}")
    file(READ "${file}" text)
    string(FIND "${text}" "${wrong}" at)
    if(at EQUAL -1)
        string(FIND "${text}" "${right}" at)
        if(at EQUAL -1)
            message(FATAL_ERROR "${file} no longer has the lines that wamr_fix_raw_externref mends: read it and this function again")
        endif()
        return()
    endif()
    string(REPLACE "${wrong}" "${right}" text "${text}")
    file(WRITE "${file}" "${text}")
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
wamr_fix_raw_externref()
set(WAMR_ROOT_DIR "${WAMR_SOURCE_DIR}")
