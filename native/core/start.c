/* The start function: WAMR would run it during instantiation, where neither fuel nor a signal can end it. */
#include "internal.h"
#include "wamr_private.h"

bool
pw_start(pw_instance *instance)
{
    const WASMModuleInstance *wamr = (const WASMModuleInstance *)instance->wamr; /* ahead-of-time instances begin likewise */
    uint32_t cells[1] = { 0 };
    if (wamr->module_type == Wasm_Module_Bytecode) {
        wasm_function_inst_t start = wamr->e->start_function;
        return !start || wasm_runtime_call_wasm(instance->env, start, 0, cells);
    }
    const AOTModule *module = (const AOTModule *)wamr->module;
    uint32_t index = module->start_func_index;
    if (index == UINT32_MAX)
        return true;
    AOTFunctionInstance start = { .func_name = "", .func_index = index };
    if (index < module->import_func_count) {
        start.is_import_func = true;
        start.u.func_import = &module->import_funcs[index];
    }
    else {
        uint32_t type = module->func_type_indexes[index - module->import_func_count];
        start.u.func.func_type = (AOTFuncType *)module->types[type];
        start.u.func.func_ptr = module->start_function;
    }
    return wasm_runtime_call_wasm(instance->env, &start, 0, cells);
}
