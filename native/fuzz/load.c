/* libFuzzer's target: any bytes are loaded, instantiated with host functions that do nothing, and its exports called for a while. */
#include <stdlib.h>

#include "wamr_core.h"

#define FUEL 20000
#define STACK_BYTES (64 * 1024)
#define PAGES 16

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static void
nothing(uint64_t *slots)
{
    slots[0] = 0;
}

static void
call_exports(pw_module *module, pw_instance *instance)
{
    for (uint32_t i = 0; i < pw_module_export_count(module) && i < 20; i++) {
        pw_extern export;
        pw_function *function = NULL;
        uint64_t slots[64] = { 1, 0xfffffff0, 3 };
        if (pw_module_export_get(module, i, &export) != PW_OK || export.kind != PW_FUNCTION)
            continue;
        uint32_t params = 0, results = 0;
        while (export.params[params])
            params++;
        while (export.results[results])
            results++;
        if (params > 60 || results > 60 || pw_instance_function(instance, export.name, &function) != PW_OK)
            continue;
        for (uint32_t k = 0; k < params; k++) {
            if (export.params[k] == 'e' || export.params[k] == 'r')
                slots[k] = export.params[k] == 'r' ? UINT64_MAX : 0;
        }
        pw_instance_fuel_set(instance, FUEL);
        int32_t status = pw_function_call(function, slots);
        if (status == PW_TRAP || status == PW_HOST_ERROR || status == PW_TERMINATED)
            pw_ended_free((pw_ended *)(uintptr_t)slots[0]);
    }
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return pw_runtime_open() == PW_OK ? 0 : 1;
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    if (size >= 4 && bytes[1] == 'a' && bytes[2] == 'o' && bytes[3] == 't')
        return 0; /* native code: trusted, or never loaded */
    char error[256];
    pw_module *module = NULL;
    pw_instance *instance = NULL;
    pw_ended *ended = NULL;
    if (pw_module_load(bytes, (uint32_t)size, 1, &module, error, sizeof error) != PW_OK)
        return 0;
    uint32_t functions = pw_module_import_count(module);
    pw_host_function *hosts = calloc(functions + 1u, sizeof *hosts);
    for (uint32_t i = 0; hosts && i < functions; i++)
        hosts[i].native = nothing;
    if (hosts && pw_instance_open(module, hosts, functions, STACK_BYTES, PAGES, FUEL, &instance, &ended, error, sizeof error) == PW_OK) {
        call_exports(module, instance);
        pw_instance_free(instance);
    }
    pw_ended_free(ended);
    free(hosts);
    pw_module_free(module);
    return 0;
}
