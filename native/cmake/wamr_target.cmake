# Which of WAMR's targets this is, and the flags. Included by the folder of each thing that is built: WAMR's scripts set
# definitions for the whole folder that includes them.

set(WAMR_BUILD_PLATFORM linux)
if(NOT WAMR_BUILD_TARGET)
    string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" processor)
    if(processor MATCHES "^(x86_64|amd64)$")
        set(WAMR_BUILD_TARGET X86_64)
    elseif(processor MATCHES "^(aarch64|arm64)$")
        set(WAMR_BUILD_TARGET AARCH64)
    elseif(processor MATCHES "^armv7")
        set(WAMR_BUILD_TARGET ARMV7_VFP) # plain ARM silently passes wrong floats on a hard-float system
    elseif(processor STREQUAL "riscv64")
        set(WAMR_BUILD_TARGET RISCV64_LP64D)
    else()
        message(FATAL_ERROR "no WAMR target is known for the processor ${CMAKE_SYSTEM_PROCESSOR}")
    endif()
endif()

include(${CMAKE_CURRENT_LIST_DIR}/wamr_flags.cmake)
