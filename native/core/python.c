/* Host functions that are Python callables: called through CPython's own interface, which the bindings hand over. That costs half of
 * what a callback of ctypes costs, and needs no memory that is both writable and executable. */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

static pw_python python;

/* PY_VECTORCALL_ARGUMENTS_OFFSET: the callee may use the place before the first argument. */
#define PLACE_BEFORE ((size_t)1 << (8 * sizeof(size_t) - 1))

void
pw_python_set(const pw_python *given)
{
    if (given)
        python = *given;
}

bool
pw_python_is_set(void)
{
    return python.PyObject_Vectorcall != NULL;
}

/* Keeps what ended the call for the bindings, which make an exception of it; takes the reference. */
static void
fail(pw_instance *instance, const pw_import *import, void *object, bool raised)
{
    void *before = pw_last.failure; /* none, or one that was never taken */
    pw_last.failure = object;
    pw_last.import_index = import->index;
    pw_last.raised = raised;
    instance->host_failed = true;
    python.Py_DecRef(before);
}

static void
fail_raised(pw_instance *instance, const pw_import *import)
{
    void *kind = NULL, *exception = NULL, *traceback = NULL;
    python.PyErr_Fetch(&kind, &exception, &traceback);
    python.PyErr_NormalizeException(&kind, &exception, &traceback);
    if (traceback)
        python.PyException_SetTraceback(exception, traceback);
    python.Py_DecRef(kind);
    python.Py_DecRef(traceback);
    fail(instance, import, exception, true);
}

/* A Python int, signed or unsigned, that fits the type; bool and other kinds of int are not meant. */
static bool
take_integer(char letter, void *object, uint64_t *value)
{
    void *kind = python.PyObject_Type(object);
    python.Py_DecRef(kind);
    if (kind != python.int_type)
        return false;
    long long number = python.PyLong_AsLongLong(object);
    if (number == -1 && python.PyErr_Occurred()) {
        python.PyErr_Clear();
        *value = python.PyLong_AsUnsignedLongLong(object);
        bool fits = letter == 'I' && !python.PyErr_Occurred();
        python.PyErr_Clear();
        return fits;
    }
    *value = (uint64_t)number;
    return letter == 'I' || (number >= INT32_MIN && number <= UINT32_MAX);
}

/* Calls with as many integers; the result is NULL when an exception is set. */
static void *
call(void *callable, const uint64_t *values, uint32_t count)
{
    void *places[1 + PW_DIRECT_PARAMS] = { NULL }, **arguments = places + 1, *result = NULL;
    uint32_t made = 0;
    while (made < count && (arguments[made] = python.PyLong_FromLongLong((int64_t)values[made])))
        made++;
    if (made == count)
        result = python.PyObject_Vectorcall(callable, arguments, count | PLACE_BEFORE, NULL);
    while (made)
        python.Py_DecRef(arguments[--made]);
    return result;
}

void *
pw_python_bytes(const void *content, uint64_t size)
{
    return python.PyBytes_FromStringAndSize(content, (ptrdiff_t)size);
}

void *
pw_python_int(int32_t value)
{
    return python.PyLong_FromLongLong(value);
}

struct pw_ended {
    char message[256];
    char *stack;
    void *failure;
    uint32_t import_index;
    bool raised;
};

pw_ended *
pw_ended_new(void)
{
    pw_ended *ended = calloc(1, sizeof *ended);
    char *stack = strdup(pw_last.stack->bytes);
    if (!ended || !stack) {
        free(ended);
        free(stack);
        return NULL;
    }
    memcpy(ended->message, pw_last.message, sizeof ended->message);
    ended->stack = stack;
    ended->failure = pw_last.failure;
    ended->import_index = pw_last.import_index;
    ended->raised = pw_last.raised;
    pw_last.failure = NULL;
    pw_text_clear(pw_last.stack);
    return ended;
}

void
pw_ended_text(const pw_ended *ended, char *message, uint32_t message_size, char *stack, uint32_t stack_size)
{
    pw_error_set(message, message_size, "%s", ended->message);
    pw_error_set(stack, stack_size, "%s", ended->stack);
}

void *
pw_ended_failure(pw_ended *ended, uint32_t *import_index, uint32_t *raised)
{
    void *found = ended->failure;
    ended->failure = NULL;
    *import_index = ended->import_index;
    *raised = ended->raised;
    return found ? found : pw_python_int(PW_NOT_FOUND);
}

void
pw_ended_free(pw_ended *ended)
{
    if (!ended)
        return;
    if (ended->failure)
        python.Py_DecRef(ended->failure);
    free(ended->stack);
    free(ended);
}

void
pw_python_call(pw_instance *instance, const pw_import *import, const pw_host_function *host, uint64_t *slots)
{
    int state = python.PyGILState_Ensure();
    uint64_t address[1] = { (uintptr_t)slots };
    void *result = host->values ? call(host->values, slots, import->param_count) : call(host->slots, address, 1);
    if (!result)
        fail_raised(instance, import);
    else if (host->values && import->results[0] ? !take_integer(import->results[0], result, slots) : result != python.none)
        fail(instance, import, result, false);
    else
        python.Py_DecRef(result);
    python.PyGILState_Release(state);
}
