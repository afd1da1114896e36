/* Shared by the files of wamr_core; no part of its interface. */
#ifndef PW_INTERNAL_H
#define PW_INTERNAL_H

#include "wamr_core.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "wasm_export.h"

/* A function import of a module: what the trampoline needs to know of it. */
typedef struct pw_import {
    const char *module;
    char *name;
    char *params;
    char *results;
    uint32_t index;
    uint32_t param_count;
    bool direct; /* may be called with values instead of slots */
} pw_import;

/* What the check of the bytes found. */
typedef struct pw_facts {
    uint64_t start; /* the import that is the start function; PW_NO_START: none is */
    uint64_t memory_pages; /* what its memory has from the beginning; 0 for an image, which does not tell */
} pw_facts;
#define PW_NO_START UINT64_MAX

/* Where interpreted code comes from. NULL stands for none. */
typedef struct pw_places pw_places;
/* A module is loaded between these two calls, on one thread; NULL when out of memory. */
pw_places *pw_places_begin(void);
void pw_places_end(void);
void pw_places_free(pw_places *places);
/* Where in the file the instruction is at which the interpreter stands; 0 when it is not known. `function`: counted without imports. */
uint32_t pw_places_find(const pw_places *places, uint32_t function, uint32_t rewritten);

struct pw_module {
    wasm_module_t wamr;
    pw_facts facts;
    uint8_t *bytes;  /* WAMR reads from and writes to this copy; without its code once that is loaded */
    uint8_t *custom; /* the custom sections of a .wasm, one after the other */
    uint32_t custom_size;
    pw_extern *imports;
    uint32_t import_count;
    pw_extern *exports;
    uint32_t export_count;
    pw_import *functions; /* the function imports */
    uint32_t function_count;
    pw_places *places;
    pthread_mutex_t lock;  /* of what follows */
    bool closed;           /* the WAMR side is gone */
    uint32_t open, kept;   /* instances that are not closed yet, not freed yet */
};

#define PW_TEXT_SIZE 8192

typedef struct pw_text {
    char bytes[PW_TEXT_SIZE];
    uint32_t used;
} pw_text;

struct pw_function {
    pw_instance *instance;
    pw_function *next;
    wasm_function_inst_t wamr;
    char *name;
    char *params;
    char *results;
    uint32_t param_cells; /* of 32 bits */
    uint32_t cells;       /* of the larger of parameters and results */
    uint32_t width;       /* slots of the larger of the two, at least 1 */
};

#define PW_OWNER_CLOSED UINTPTR_MAX

struct pw_instance {
    pw_module *module;
    pthread_mutex_t lock;     /* between terminate and close */
    wasm_module_inst_t wamr;
    wasm_exec_env_t env;
    pw_host_function *hosts;
    pw_function *functions;
    atomic_uintptr_t owner; /* the thread whose call is in progress; 0: none; PW_OWNER_CLOSED */
    uint32_t depth;         /* nested calls in progress; the owner's */
    bool host_failed;
    atomic_bool terminated;
    uint32_t refused_pages; /* that the call in progress, or the last one, asked for beyond its limit */
};

/* WAMR calls it where a memory can't grow. */
void pw_growth_refused(uint32_t pages, uint64_t bytes, uint32_t memory, enlarge_memory_error_reason_t why, wasm_module_inst_t wamr,
                       wasm_exec_env_t env, void *data);

/* Why a call ends is recorded for the thread until the call returns; then the caller owns it. */
typedef struct pw_note {
    char message[256];
    pw_text *stack; /* there once the thread is ready */
    void *failure; /* what a host function raised, or returned and should not: a reference; NULL for none */
    uint32_t import_index;
    bool raised;
} pw_note;
extern _Thread_local pw_note pw_last;
/* Returns what was recorded; NULL when out of memory. */
pw_ended *pw_ended_new(void);

/* Below this address of the calling thread's stack no host function is entered: it is owed as much room as guest code had. */
extern _Thread_local uintptr_t pw_host_floor __attribute__((tls_model("initial-exec")));

/* Where the calling thread's WAMR output goes; NULL sends it to the log. */
extern _Thread_local pw_text *pw_capture;

void pw_text_clear(pw_text *text);
void pw_text_append(pw_text *text, const char *format, va_list arguments);
void pw_error_set(char *error, uint32_t error_size, const char *format, ...) __attribute__((format(printf, 3, 4)));
char pw_type_letter(wasm_valkind_t kind);
/* The letters of a function type's parameters or results, malloc'd; NULL when out of memory. */
char *pw_type_letters(wasm_func_type_t type, bool results);
/* Before and after an instance is used: one thread at a time; the same thread may come back in from a host function. PW_OK, PW_BUSY or
 * PW_CLOSED. */
int32_t pw_enter(pw_instance *instance);
void pw_leave(pw_instance *instance);
/* Ends the call that an instance is in; may be called by a signal's handler. */
void pw_stop(pw_instance *instance);
/* Restores the signal's action when an instance is closed, so that no handler finds it. */
void pw_stop_listening(pw_instance *instance);
/* Before and after an instance of the module is there, and is open: PW_OK or PW_CLOSED. */
int32_t pw_module_join(pw_module *module);
void pw_module_leave(pw_module *module, bool open, bool kept);
/* Whether WAMR may be given these bytes: PW_OK, PW_BAD_MODULE or PW_UNSUPPORTED with the reason in `error`. */
int32_t pw_check_bytes(const uint8_t *bytes, uint32_t size, pw_facts *facts, char *error, uint32_t error_size);
/* Runs the start function, unless it is an import; false when it trapped. */
bool pw_start(pw_instance *instance);
/* Makes the calling thread ready to run guest code; done once a thread. */
bool pw_thread_ready(void);
bool pw_python_is_set(void);
/* A new object, or NULL with an exception set. */
void *pw_python_bytes(const void *content, uint64_t size);
void *pw_python_int(int32_t value);
/* Calls a host function that is a Python callable. */
void pw_python_call(pw_instance *instance, const pw_import *import, const pw_host_function *host, uint64_t *slots);
void pw_trampoline(wasm_exec_env_t env, uint64_t *slots);

/* Named in the WAMR build as its only outputs. */
int pw_capture_vprintf(const char *format, va_list arguments);
void pw_capture_log(uint32_t level, const char *file, int line, const char *format, ...);

#endif
