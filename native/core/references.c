/* Which externrefs guest code can still reach while it does not run: those in its globals and tables.
 *
 * WAMR's own table of externrefs is not used (native/cmake/wamr_source.cmake, wamr_pass_externrefs): an externref is the number that the
 * caller gave. So the caller alone knows what a number stands for, and needs to know which numbers are still in use. */
#include "internal.h"
#include "wamr_private.h"

typedef struct reach {
    uint32_t *found;
    uint32_t room, count, looked_at;
} reach;

static void
look_at(reach *into, uint32_t reference)
{
    into->looked_at++;
    if (reference == NULL_REF)
        return;
    if (into->count < into->room)
        into->found[into->count] = reference;
    into->count++;
}

static void
look_at_globals(const WASMModuleInstance *wamr, reach *into)
{
    if (wamr->module_type == Wasm_Module_Bytecode) {
        for (uint32_t i = 0; i < wamr->e->global_count; i++) {
            const WASMGlobalInstance *global = &wamr->e->globals[i];
            if (global->type == VALUE_TYPE_EXTERNREF)
                look_at(into, *(const uint32_t *)(const void *)(wamr->global_data + global->data_offset));
        }
        return;
    }
    const AOTModule *module = (const AOTModule *)wamr->module; /* ahead-of-time instances begin likewise */
    for (uint32_t i = 0; i < module->global_count; i++) {
        const AOTGlobal *global = &module->globals[i];
        if (global->type.val_type == VALUE_TYPE_EXTERNREF)
            look_at(into, *(const uint32_t *)(const void *)(wamr->global_data + global->data_offset));
    }
}

static void
look_at_tables(const WASMModuleInstance *wamr, reach *into)
{
    for (uint32_t i = 0; i < wamr->table_count; i++) {
        uint8_t kind = 0;
        uint32_t minimum, maximum;
        (void)wasm_runtime_get_table_inst_elem_type((const WASMModuleInstanceCommon *)wamr, i, &kind, &minimum, &maximum);
        if (kind != VALUE_TYPE_EXTERNREF)
            continue;
        const WASMTableInstance *table = wamr->tables[i];
        for (uint32_t j = 0; j < table->cur_size; j++)
            look_at(into, (uint32_t)table->elems[j]);
    }
}

int32_t
pw_instance_references(pw_instance *instance, uint32_t *found, uint32_t room, uint32_t *count, uint32_t *looked_at)
{
    if (!instance || (room && !found) || !count || !looked_at)
        return PW_BAD_ARGUMENT;
    int32_t status = pw_enter(instance);
    if (status != PW_OK)
        return status;
    if (instance->depth > 1) {
        status = PW_BUSY; /* the stack may hold more */
    }
    else {
        reach all = { found, room, 0, 0 };
        look_at_globals((const WASMModuleInstance *)instance->wamr, &all);
        look_at_tables((const WASMModuleInstance *)instance->wamr, &all);
        *count = all.count;
        *looked_at = all.looked_at;
    }
    pw_leave(instance);
    return status;
}
