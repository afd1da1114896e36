/* WAMR's own structures, for the few things that its public headers do not show; its headers are not written for our warnings. */
#ifndef PW_WAMR_PRIVATE_H
#define PW_WAMR_PRIVATE_H

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#pragma GCC diagnostic ignored "-Wpedantic"
#include "../interpreter/wasm_runtime.h"
#include "aot_runtime.h"
#include "wasm_exec_env.h"
#include "wasm_suspend_flags.h"
#pragma GCC diagnostic pop

#endif
