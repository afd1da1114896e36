/* Ending a call that is in progress, from another thread or from a signal's handler.
 *
 * wasm_runtime_terminate walks the frames of the call that it ends, on the caller's thread, while they change: it has crashed here. What
 * follows only writes a text and a flag, which the interpreter looks at with each branch and each call; the stack is written down by the
 * thread that runs. That needs two fields of WAMR's own structures, which its public headers do not show. */
#include "internal.h"
#include "wamr_private.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#if !WASM_SUSPEND_FLAGS_IS_ATOMIC
#error "the flag that ends a call must be one that a signal's handler may set"
#endif

static _Atomic(pw_instance *) signalled; /* the instance that the signal ends */
static atomic_int handling;
static int signal_number;
static struct sigaction handled_before[NSIG];
static _Thread_local bool inside __attribute__((tls_model("initial-exec"))); /* nothing is to be allocated in a handler */

/* Only stores to memory that exists as long as the instance is open. */
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
    if (inside) /* somebody put us below a handler of theirs that raises the signal for what was there before: for us */
        return;
    inside = true;
    int kept = errno;
    atomic_fetch_add(&handling, 1);
    pw_instance *instance = atomic_load(&signalled);
    if (instance)
        pw_stop(instance);
    atomic_fetch_sub(&handling, 1);
    const struct sigaction *before = &handled_before[number];
    if (before->sa_flags & SA_SIGINFO)
        before->sa_sigaction(number, about, context);
    else if (before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN)
        before->sa_handler(number);
    errno = kept;
    inside = false;
}

static bool
is_ours(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == handle;
}

/* Installs the handler; the previous action is kept, and called by it. */
static bool
install(int number)
{
    struct sigaction action = { 0 }, before;
    sigset_t only;
    sigemptyset(&only);
    if (number <= 0 || number >= NSIG || sigaddset(&only, number) || sigaction(number, NULL, &before))
        return false;
    if (!is_ours(&before))
        handled_before[number] = before;
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | (before.sa_flags & SA_RESTART);
    sigemptyset(&action.sa_mask);
    if (sigaction(number, &action, NULL))
        return false;
    (void)pthread_sigmask(SIG_UNBLOCK, &only, NULL); /* WAMR blocks SIGUSR1 for itself */
    return true;
}

int32_t
pw_instance_terminate_on(pw_instance *instance, int32_t number)
{
    if (!instance)
        return PW_BAD_ARGUMENT;
    pthread_mutex_lock(&instance->lock); /* it is not closed meanwhile */
    pw_instance *nobody = NULL;
    int32_t status = PW_OK;
    if (!instance->wamr)
        status = PW_CLOSED;
    else if (!atomic_compare_exchange_strong(&signalled, &nobody, instance))
        status = PW_BUSY;
    else if (!install(number)) {
        atomic_store(&signalled, NULL);
        status = PW_BAD_ARGUMENT;
    }
    else
        signal_number = number;
    pthread_mutex_unlock(&instance->lock);
    return status;
}

/* When an instance is closed: restores the previous action of its signal, and waits until no handler uses the instance. */
void
pw_stop_listening(pw_instance *instance)
{
    if (atomic_load(&signalled) != instance)
        return;
    struct sigaction now;
    if (sigaction(signal_number, NULL, &now) == 0 && is_ours(&now))
        (void)sigaction(signal_number, &handled_before[signal_number], NULL);
    atomic_store(&signalled, NULL);
    while (atomic_load(&handling))
        sched_yield();
}
