/* Ending a call that is in progress, from another thread or from a signal's handler.
 *
 * wasm_runtime_terminate walks the frames of the call that it ends, on the caller's thread, while they change: it has crashed here. What
 * follows only writes a text and a flag, which the interpreter looks at with each branch and each call; the stack is written down by the
 * thread that runs. That needs two fields of WAMR's own structures, which its public headers do not show. */
#include "internal.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#pragma GCC diagnostic ignored "-Wpedantic"
#include "../interpreter/wasm_runtime.h"
#include "wasm_exec_env.h"
#include "wasm_suspend_flags.h"
#pragma GCC diagnostic pop

#if !WASM_SUSPEND_FLAGS_IS_ATOMIC
#error "the flag that ends a call must be one that a signal's handler may set"
#endif

static _Atomic(pw_instance *) signalled; /* what the signal ends */
static atomic_int handling;
static int signal_number;
static struct sigaction handled_before;

/* Nothing but stores to memory that is there as long as the instance is open. */
void
pw_stop(pw_instance *instance)
{
    static const char why[] = "Exception: terminated";
    WASMModuleInstance *wamr = (WASMModuleInstance *)instance->wamr; /* ahead-of-time instances begin likewise */
    WASMExecEnv *env = (WASMExecEnv *)instance->env;
    atomic_store(&instance->terminated, true);
    if (!wamr || !env)
        return;
    if (!wamr->cur_exception[0])
        memcpy(wamr->cur_exception, why, sizeof why);
    WASM_SUSPEND_FLAGS_FETCH_OR(env->suspend_flags, WASM_SUSPEND_FLAG_TERMINATE);
}

static void
handle(int number, siginfo_t *about, void *context)
{
    int kept = errno;
    atomic_fetch_add(&handling, 1);
    pw_instance *instance = atomic_load(&signalled);
    if (instance)
        pw_stop(instance);
    atomic_fetch_sub(&handling, 1);
    if (handled_before.sa_flags & SA_SIGINFO)
        handled_before.sa_sigaction(number, about, context);
    else if (handled_before.sa_handler != SIG_DFL && handled_before.sa_handler != SIG_IGN)
        handled_before.sa_handler(number);
    errno = kept;
}

int32_t
pw_instance_terminate_on(pw_instance *instance, int32_t number)
{
    if (!instance)
        return PW_BAD_ARGUMENT;
    if (!instance->wamr)
        return PW_CLOSED;
    pw_instance *nobody = NULL;
    if (!atomic_compare_exchange_strong(&signalled, &nobody, instance))
        return PW_BUSY;
    struct sigaction action = { 0 };
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigset_t only;
    sigemptyset(&only);
    signal_number = number;
    if (sigaddset(&only, number) || sigaction(number, NULL, &handled_before) || sigaction(number, &action, NULL)) {
        atomic_store(&signalled, NULL);
        return PW_BAD_ARGUMENT;
    }
    (void)pthread_sigmask(SIG_UNBLOCK, &only, NULL); /* WAMR blocks SIGUSR1 for itself */
    return PW_OK;
}

/* Before an instance goes: its signal does what it did before, and no handler still holds it. */
void
pw_stop_listening(pw_instance *instance)
{
    if (atomic_load(&signalled) != instance)
        return;
    struct sigaction now;
    if (sigaction(signal_number, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == handle)
        (void)sigaction(signal_number, &handled_before, NULL);
    atomic_store(&signalled, NULL);
    while (atomic_load(&handling))
        sched_yield();
}
