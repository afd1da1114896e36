/* Native code that has taken over a worker: what it tries, by name. Each returns the errno it met, or 0 when it succeeded. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int
outcome(long result)
{
    return result < 0 ? errno : 0;
}

#ifdef SYS_mmap2
#define MAP_CALL SYS_mmap2
#else
#define MAP_CALL SYS_mmap
#endif

int
attempt(const char *what, const char *path, int victim)
{
    char byte;
    struct iovec here = { &byte, 1 }, there = { &byte, 1 };
    errno = 0;
    if (strcmp(what, "open") == 0)
        return outcome(syscall(SYS_openat, AT_FDCWD, path, O_RDONLY));
    if (strcmp(what, "create") == 0)
        return outcome(syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT, 0600));
    if (strcmp(what, "openat2") == 0) {
        unsigned long long how[3] = { O_RDONLY, 0, 0 };
        return outcome(syscall(437, AT_FDCWD, path, how, sizeof how));
    }
    if (strcmp(what, "handle") == 0)
        return outcome(syscall(SYS_open_by_handle_at, AT_FDCWD, path, O_RDONLY));
    if (strcmp(what, "stat") == 0) {
        char room[256];
        return outcome(syscall(SYS_statx, AT_FDCWD, path, 0, 0x7ff, room));
    }
    if (strcmp(what, "unlink") == 0)
        return outcome(syscall(SYS_unlinkat, AT_FDCWD, path, 0));
    if (strcmp(what, "inet") == 0)
        return outcome(socket(AF_INET, SOCK_STREAM, 0));
    if (strcmp(what, "unix") == 0)
        return outcome(socket(AF_UNIX, SOCK_STREAM, 0));
    if (strcmp(what, "netlink") == 0)
        return outcome(socket(AF_NETLINK, SOCK_RAW, 0));
    if (strcmp(what, "kill") == 0)
        return outcome(kill(victim, 0));
    if (strcmp(what, "tgkill") == 0)
        return outcome(syscall(SYS_tgkill, victim, victim, 0));
    if (strcmp(what, "tgkill-like-mmap") == 0) /* a process with the number that the call has which maps memory */
        return outcome(syscall(SYS_tgkill, MAP_CALL, MAP_CALL, 0, MAP_PRIVATE));
    if (strcmp(what, "ptrace") == 0)
        return outcome(ptrace(PTRACE_ATTACH, victim, NULL, NULL));
    if (strcmp(what, "read-memory") == 0)
        return outcome(process_vm_readv(victim, &here, 1, &there, 1, 0));
    if (strcmp(what, "fork") == 0)
        return outcome(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL));
    if (strcmp(what, "execute") == 0) {
        char *arguments[] = { "/bin/true", NULL };
        return outcome(execve(arguments[0], arguments, arguments + 1));
    }
    if (strcmp(what, "unshare") == 0)
        return outcome(unshare(CLONE_NEWUSER));
    if (strcmp(what, "bpf") == 0)
        return outcome(syscall(SYS_bpf, BPF_MAP_CREATE, NULL, 0));
    if (strcmp(what, "io_uring") == 0)
        return outcome(syscall(425, 1, NULL));
    if (strcmp(what, "become-root") == 0)
        return outcome(setresuid(0, 0, 0));
    if (strcmp(what, "limits") == 0)
        return outcome(syscall(SYS_prlimit64, 0, 0, NULL, NULL));
    if (strcmp(what, "memfd") == 0)
        return outcome(syscall(SYS_memfd_create, "x", 0));
    if (strcmp(what, "share-memory") == 0)
        return outcome(mmap(NULL, 1 << 30, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
    if (strcmp(what, "write-to-the-agents-log") == 0)
        return outcome(write(2, "forged line\n", 12));
    return -1;
}

/* How many descriptors are open, counting those that dup takes. */
int
descriptors(void)
{
    int count = 0;
    for (int i = 0; i < 1024; i++) {
        int copy = dup(i);
        if (copy >= 0) {
            count++;
            close(copy);
        }
    }
    return count;
}
