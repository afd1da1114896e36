/*
 * wamr_core: a narrow, stable C interface over the WebAssembly Micro Runtime (WAMR).
 *
 * Rules that hold for every function:
 *  - Handles are opaque. A handle that is NULL is refused with PW_BAD_ARGUMENT, or ignored by pw_*_close.
 *  - Functions that can fail return a status, PW_OK being 0. Text of a load or instantiation error goes to the caller's
 *    `error` buffer (always terminated, never longer than error_size); text of a trap is kept by the instance.
 *  - A value travels in a 64-bit slot. i32 is sign-extended when returned and truncated when passed; f32 lies in the low
 *    four bytes; a funcref is its function index, UINT64_MAX being null; an externref is a number of 32 bits that the caller
 *    chose, below UINT32_MAX, 0 being null. A v128 takes two slots, the lower half first.
 *  - Nothing is printed. What WAMR would print is kept and handed out by pw_log_take.
 *  - An instance runs on one thread at a time; any thread may ask it to stop with pw_instance_terminate. Threads that use one at once,
 *    or close what another one uses, meet PW_BUSY or PW_CLOSED.
 *  - What is closed gives up nearly all of its memory; its handle stays safe to use until pw_*_free, after which nobody may have it.
 */
#ifndef WAMR_CORE_H
#define WAMR_CORE_H

#include <stddef.h>
#include <stdint.h>

#define PW_ABI_VERSION 8
#define PW_API __attribute__((visibility("default")))

/* Host functions with at most this many parameters, all integers, are called with their values instead of a slot array. */
#define PW_DIRECT_PARAMS 8

typedef struct pw_module pw_module;
typedef struct pw_instance pw_instance;
typedef struct pw_function pw_function;
/* How a call ended that did not return. */
typedef struct pw_ended pw_ended;

typedef enum pw_status {
    PW_OK = 0,
    PW_TRAP = 1,           /* the guest trapped: pw_ended_text */
    PW_HOST_ERROR = 2,     /* a host function failed: pw_ended_failure */
    PW_BAD_MODULE = 3,     /* the bytes are not a module that WAMR accepts */
    PW_MISSING_IMPORT = 4, /* an import was given no host function */
    PW_UNSUPPORTED = 5,    /* a well-formed module asks for what this interface refuses */
    PW_NO_MEMORY = 6,
    PW_BUSY = 7,           /* the instance is running, on this thread or another */
    PW_BAD_ARGUMENT = 8,
    PW_NOT_FOUND = 9,
    PW_TERMINATED = 10,    /* stopped by pw_instance_terminate; the instance can only be closed */
    PW_CLOSED = 11         /* it was closed, perhaps by another thread just now */
} pw_status;

typedef enum pw_kind { PW_FUNCTION = 0, PW_TABLE = 1, PW_MEMORY = 2, PW_GLOBAL = 3 } pw_kind;

/* An import or an export. Strings belong to the module and live as long as it does. */
typedef struct pw_extern {
    const char *module; /* "" for an export */
    const char *name;
    const char *params;  /* functions: one letter a parameter, of "iIfFver" (i32 i64 f32 f64 v128 externref funcref) */
    const char *results; /* functions: likewise; globals: the type, then "m" if mutable */
    uint32_t kind;       /* pw_kind */
    uint32_t minimum;    /* memories: pages of 64 KiB; tables: elements */
    uint32_t maximum;
    uint32_t index;      /* functions among the imports: which one, counted from 0 */
} pw_extern;

/* What of CPython's stable interface is called: each member is the address of the function of its name, as this process has it. */
typedef struct pw_python {
    int (*PyGILState_Ensure)(void);
    void (*PyGILState_Release)(int state);
    void *(*PyObject_Vectorcall)(void *callable, void *const *arguments, size_t count, void *names);
    void *(*PyObject_Type)(void *object);
    void *(*PyLong_FromLongLong)(long long value);
    long long (*PyLong_AsLongLong)(void *object);
    unsigned long long (*PyLong_AsUnsignedLongLong)(void *object);
    void (*Py_DecRef)(void *object);
    void *(*PyErr_Occurred)(void);
    void (*PyErr_Clear)(void);
    void (*PyErr_Fetch)(void **kind, void **exception, void **traceback);
    void (*PyErr_NormalizeException)(void **kind, void **exception, void **traceback);
    int (*PyException_SetTraceback)(void *exception, void *traceback);
    void *(*PyBytes_FromStringAndSize)(const char *content, ptrdiff_t size);
    void *none;     /* the objects None and int */
    void *int_type;
} pw_python;

/* A host function. Exactly one member is set, or none where the import is not provided. The objects must live as long as the
 * instance.
 * values: a Python callable that takes the parameters and returns the result as int; only where all are integers, at most
 *     PW_DIRECT_PARAMS. slots: a Python callable that takes the address of an array of slots, reads its arguments from there, writes
 *     its result there, and returns None. native: the same as a C function, which can't fail. */
typedef struct pw_host_function {
    void *values;
    void *slots;
    void (*native)(uint64_t *slots);
} pw_host_function;

/* What a confined process has; which of them depends on the kernel. */
enum { PW_NO_NEW_PRIVILEGES = 1, PW_SECCOMP = 2, PW_LANDLOCK = 4 };
/* What a process needs that is else refused: calls on open device descriptors; calls on files in granted folders. */
enum { PW_NEEDS_DEVICES = 1, PW_NEEDS_FOLDERS = 2 };

PW_API uint32_t pw_abi_version(void);
/* WAMR's version, such as "2.4.3". Static. */
PW_API const char *pw_runtime_version(void);
/* What an ahead-of-time image must have been compiled for to run here, such as "2 x86_64 bounds=hardware". Static. */
PW_API const char *pw_aot_target(void);
/* Starts WAMR in this process; calls are counted, each needs one pw_runtime_close. */
PW_API int32_t pw_runtime_open(void);
PW_API void pw_runtime_close(void);
/* Moves captured log text into `buffer`, terminated; returns its length without the terminator. */
PW_API uint32_t pw_log_take(char *buffer, uint32_t size);

/* Gives up, for good, what guest code never needs: privileges, old and new, opening files (but below `folders`, open descriptors, and writing only
 * where `writable` is not 0), sockets, other processes. For a process with one thread. `needs`: a set of PW_NEEDS_*.
 * Returns the set of measures that are now in force; what the kernel lacks is missing from it. */
PW_API uint32_t pw_confine(const int32_t *folders, const uint8_t *writable, uint32_t folder_count, uint32_t needs);

/* Loads .wasm or AOT bytes. The bytes are copied. *module is NULL on failure and is owned by the caller otherwise.
 * places: 1 keeps where each instruction of a .wasm is, 12 bytes for each, for pw_module_place.
 * AOT bytes are native code: only those that somebody vouches for may come here. PW_UNSUPPORTED for another target's. */
PW_API int32_t pw_module_load(const uint8_t *bytes, uint32_t size, uint32_t places, pw_module **module, char *error,
                              uint32_t error_size);
/* Ends a module: PW_BUSY while an instance of it is open, PW_CLOSED when it has ended. */
PW_API int32_t pw_module_close(pw_module *module);
/* Closes and frees it; says the same. PW_BUSY, and no effect, while an instance of it is not freed. */
PW_API int32_t pw_module_free(pw_module *module);
/* Where in the file the instruction is that a frame of a stack names by `function` and `offset`; 0 when it is not known. */
PW_API uint32_t pw_module_place(pw_module *module, uint32_t function, uint32_t offset);
PW_API uint32_t pw_module_import_count(const pw_module *module);
PW_API int32_t pw_module_import_get(const pw_module *module, uint32_t index, pw_extern *out);
PW_API uint32_t pw_module_export_count(const pw_module *module);
PW_API int32_t pw_module_export_get(const pw_module *module, uint32_t index, pw_extern *out);
/* The index-th custom section, in the order of the file. name is not terminated; both are there until pw_module_free. */
PW_API int32_t pw_module_custom_section_get(const pw_module *module, uint32_t index, const char **name, uint32_t *name_size,
                                            const uint8_t **bytes, uint32_t *size);

/* Before host functions are Python callables. */
PW_API void pw_python_set(const pw_python *python);
/* Instantiates and runs the start function. `hosts` has one entry for each function import and is copied.
 * stack_bytes: operand stack; max_pages: 0 keeps the module's own limit, else lowers it; fuel: see pw_instance_fuel_set; *ended: see
 * pw_function_call. */
PW_API int32_t pw_instance_open(pw_module *module, const pw_host_function *hosts, uint32_t host_count, uint32_t stack_bytes,
                                uint32_t max_pages, int32_t fuel, pw_instance **instance, pw_ended **ended, char *error,
                                uint32_t error_size);
/* Ends an instance: PW_BUSY while it is used, PW_CLOSED when it has ended. */
PW_API int32_t pw_instance_close(pw_instance *instance);
/* Closes and frees it, and its functions; says the same. PW_BUSY, and no effect, while it is used. */
PW_API int32_t pw_instance_free(pw_instance *instance);
/* Finds an exported function; the handle belongs to the instance. */
PW_API int32_t pw_instance_function(pw_instance *instance, const char *name, pw_function **function);
/* Calls. `slots` holds the arguments, then the results: room for the larger of the two, and for one at least. After PW_TRAP, PW_HOST_ERROR
 * and PW_TERMINATED the first holds the address of a pw_ended, which is the caller's; NULL without memory for it. */
PW_API int32_t pw_function_call(pw_function *function, uint64_t *slots);
/* Calls `count` times. `slots` has one row a call, each as long as the larger of arguments and results, at least 1: arguments
 * in, results out. Ends at the first call that does not return; *done is how many did, *ended what ended that one. */
PW_API int32_t pw_function_call_each(pw_function *function, uint64_t *slots, uint32_t count, uint32_t *done, pw_ended **ended);
/* How many branches and calls may be interpreted from now on, by however many calls from outside; one more is a trap, until there is new
 * fuel. Negative: no limit. Code that was compiled ahead of time does not count. */
PW_API int32_t pw_instance_fuel_set(pw_instance *instance, int32_t fuel);
/* From any thread: ends the call in progress with PW_TERMINATED. Interpreted code only. */
PW_API void pw_instance_terminate(pw_instance *instance);
/* A signal that does the same, and then what a handler that it had does; until the instance is closed. PW_BUSY: another instance of this
 * process has one already. */
PW_API int32_t pw_instance_terminate_on(pw_instance *instance, int32_t signal_number);
/* Text and wasm call stack of what ended a call, both terminated. */
PW_API void pw_ended_text(const pw_ended *ended, char *message, uint32_t message_size, char *stack, uint32_t stack_size);
/* After PW_HOST_ERROR, called with Python's lock held: a new reference to what a host function raised (*raised: 1), or returned and should
 * not; *import_index: of which import, counted among the functions. */
PW_API void *pw_ended_failure(pw_ended *ended, uint32_t *import_index, uint32_t *raised);
/* With Python's lock held. NULL: no effect. */
PW_API void pw_ended_free(pw_ended *ended);
/* A new Python object, called with Python's lock held: bytes of the default memory, or the status as an int, PW_NOT_FOUND when they are not
 * all inside; NULL with an exception set when there is no room for them. */
PW_API void *pw_memory_read(pw_instance *instance, uint64_t offset, uint64_t size_bytes);
/* PW_NOT_FOUND, with nothing written, when they would not all be inside. */
PW_API int32_t pw_memory_write(pw_instance *instance, uint64_t offset, const char *content, uint64_t size_bytes);
PW_API int32_t pw_memory_size(pw_instance *instance, uint64_t *size_bytes);
/* The pages that the last call from outside asked for and did not get, the most at once; 0 for none. */
PW_API int32_t pw_memory_refused(pw_instance *instance, uint32_t *pages);
/* Reads or writes an exported global through its slot, or a v128's two. PW_UNSUPPORTED when written but immutable. */
PW_API int32_t pw_global_get(pw_instance *instance, const char *name, uint64_t *slots);
PW_API int32_t pw_global_set(pw_instance *instance, const char *name, const uint64_t *slots);
/* The externrefs that globals and tables hold, null ones left out: the first `room` of them to `found`, *count is how many there are,
 * *looked_at how many places could hold one. PW_BUSY while guest code runs, which may hold others. */
PW_API int32_t pw_instance_references(pw_instance *instance, uint32_t *found, uint32_t room, uint32_t *count, uint32_t *looked_at);

#endif
