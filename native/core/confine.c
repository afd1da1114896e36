/* Confines a process before it runs guest code: privileges, files, sockets, other processes. */
#include "internal.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#elif defined(__arm__)
#define ARCHITECTURE AUDIT_ARCH_ARM
#elif defined(__riscv)
#define ARCHITECTURE AUDIT_ARCH_RISCV64
#else
#error "no audit architecture is known for this processor"
#endif

/* Numbers that every architecture shares (Linux, include/uapi/asm-generic/unistd.h); headers of Debian 12 lack the newer flags. */
#define LANDLOCK_CREATE 444
#define LANDLOCK_ADD 445
#define LANDLOCK_RESTRICT 446
#define LANDLOCK_VERSION_FLAG 1u
#define LANDLOCK_PATH_BENEATH 1

/* Access rights, Linux include/uapi/linux/landlock.h: bits 0 to 12 since ABI 1, 13 in 2, 14 in 3, 15 in 5. */
#define READ_RIGHTS ((1ull << 2) | (1ull << 3))                  /* read files and folders */
#define WRITE_RIGHTS ((1ull << 1) | (1ull << 4) | (1ull << 5) | (1ull << 7) | (1ull << 8) | (1ull << 12))
#define REFER_RIGHT (1ull << 13)    /* since ABI 2: link and rename between folders, where that gives no more rights */
#define TRUNCATE_RIGHT (1ull << 14) /* since ABI 3 */

struct ruleset {
    uint64_t files, net, scoped;
};

struct beneath {
    uint64_t allowed;
    int32_t folder;
} __attribute__((packed));

static const int always[] = {
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_close, SYS_lseek, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_brk,
    SYS_futex, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_clock_gettime, SYS_clock_getres,
    SYS_clock_nanosleep, SYS_nanosleep, SYS_getrandom, SYS_getpid, SYS_gettid, SYS_exit, SYS_exit_group, SYS_setitimer,
    SYS_sched_yield, SYS_sendto, SYS_sendmsg, SYS_recvfrom, SYS_recvmsg, SYS_restart_syscall, SYS_ppoll, SYS_pselect6,
    SYS_set_robust_list, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_dup,
#ifdef SYS_poll
    SYS_poll,
#endif
#ifdef SYS_select
    SYS_select,
#endif
#ifdef SYS__newselect
    SYS__newselect,
#endif
#ifdef SYS__llseek
    SYS__llseek,
#endif
#ifdef SYS_send
    SYS_send, SYS_recv,
#endif
#ifdef SYS_time
    SYS_time,
#endif
#ifdef SYS_gettimeofday
    SYS_gettimeofday,
#endif
#ifdef SYS_rseq
    SYS_rseq,
#endif
#ifdef SYS_membarrier
    SYS_membarrier,
#endif
#ifdef SYS_clock_gettime64
    SYS_clock_gettime64, SYS_clock_nanosleep_time64, SYS_clock_getres_time64, SYS_futex_time64, SYS_ppoll_time64, SYS_pselect6_time64,
#endif
#ifdef SYS_sigreturn
    SYS_sigreturn,
#endif
#ifdef __ARM_NR_cacheflush
    __ARM_NR_cacheflush, /* for code that was compiled ahead of time */
#endif
#ifdef __ARM_NR_set_tls
    __ARM_NR_set_tls,
#endif
#ifdef SYS_riscv_flush_icache
    SYS_riscv_flush_icache,
#endif
};

/* Allowed for private memory only: shared memory is not counted by any limit. */
#ifdef SYS_mmap2
#define MAP_CALL SYS_mmap2
#else
#define MAP_CALL SYS_mmap
#endif

/* For open descriptors of devices and folders. */
static const int descriptors[] = {
    SYS_ioctl, SYS_fcntl, SYS_fstat, SYS_pread64, SYS_pwrite64, SYS_fsync, SYS_fdatasync,
#ifdef SYS_fcntl64
    SYS_fcntl64,
#endif
#ifdef SYS_fstat64
    SYS_fstat64,
#endif
};

/* For files in granted folders; Landlock decides which folders those are. */
static const int paths[] = {
    SYS_openat, SYS_statx, SYS_getdents64, SYS_mkdirat, SYS_unlinkat, SYS_renameat2, SYS_readlinkat, SYS_symlinkat, SYS_linkat, SYS_ftruncate, SYS_utimensat,
#ifdef SYS_newfstatat
    SYS_newfstatat,
#endif
#ifdef SYS_fstatat64
    SYS_fstatat64,
#endif
#ifdef SYS_ftruncate64
    SYS_ftruncate64,
#endif
#ifdef SYS_renameat
    SYS_renameat,
#endif
};

#define COUNT(list) (sizeof(list) / sizeof *(list))

static struct sock_filter *
allow(struct sock_filter *at, const int *calls, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        *at++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)calls[i], 0, 1);
        *at++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    }
    return at;
}

/* Every call that is not on the list fails with EPERM; a signal may go to this process alone, and memory is mapped
 * for it alone. */
static bool
filter_calls(uint32_t needs)
{
    struct sock_filter program[20 + 2 * (COUNT(always) + COUNT(descriptors) + COUNT(paths))], *at = program;
    *at++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    *at++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
    *at++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    *at++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    at = allow(at, always, COUNT(always));
    if (needs & (PW_NEEDS_DEVICES | PW_NEEDS_FOLDERS))
        at = allow(at, descriptors, COUNT(descriptors));
    if (needs & PW_NEEDS_FOLDERS)
        at = allow(at, paths, COUNT(paths));
    *at++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_tgkill, 0, 3);
    *at++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0]));
    *at++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)getpid(), 0, 6); /* to the end: the accumulator no longer holds the number of the call */
    *at++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    *at++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MAP_CALL, 0, 4);
    *at++ = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[3]));
    *at++ = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, MAP_TYPE);
    *at++ = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MAP_PRIVATE, 0, 1);
    *at++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    *at++ = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    struct sock_fprog filter = { (unsigned short)(at - program), program };
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

static bool
restrict_files(const int32_t *folders, const uint8_t *writable, uint32_t count)
{
    long version = syscall(LANDLOCK_CREATE, NULL, 0, LANDLOCK_VERSION_FLAG);
    if (version < 1)
        return false;
    struct ruleset rules = { 0, 0, 0 };
    rules.files = (1ull << (version >= 5 ? 16 : version >= 3 ? 15 : version == 2 ? 14 : 13)) - 1;
    if (version >= 4)
        rules.net = 3; /* bind and connect TCP */
    if (version >= 6)
        rules.scoped = 3; /* abstract sockets and signals */
    size_t size = version >= 6 ? 24 : version >= 4 ? 16 : 8;
    long set = syscall(LANDLOCK_CREATE, &rules, size, 0);
    bool good = set >= 0;
    for (uint32_t i = 0; good && i < count; i++) {
        uint64_t rights = READ_RIGHTS;
        if (writable[i])
            rights |= WRITE_RIGHTS | (version >= 2 ? REFER_RIGHT : 0) | (version >= 3 ? TRUNCATE_RIGHT : 0);
        struct beneath rule = { rights, folders[i] };
        good = syscall(LANDLOCK_ADD, (int)set, LANDLOCK_PATH_BENEATH, &rule, 0) == 0;
    }
    good = good && syscall(LANDLOCK_RESTRICT, (int)set, 0) == 0;
    if (set >= 0)
        close((int)set);
    return good;
}

/* WAMR, core/shared/platform/include/platform_api_extension.h: kept for the thread once it is known. */
uint8_t *os_thread_get_stack_boundary(void);

/* Capabilities survive a change of user where the securebits say so, and a process that is not root may have been given some. */
static bool
drop_capabilities(void)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };
    return syscall(SYS_capset, &header, none) == 0; /* what is not inheritable is not ambient any more */
}

uint32_t
pw_confine(const int32_t *folders, const uint8_t *writable, uint32_t folder_count, uint32_t needs)
{
    uint32_t measures = 0;
    if (folder_count && (!folders || !writable))
        return 0;
    /* The C library finds the stack in /proc, which will be out of reach; without it nothing stops a stack from overflowing. */
    if (!os_thread_get_stack_boundary())
        return 0;
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* no other process of this user may look in */
    bool bare = drop_capabilities();
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && bare)
        measures |= PW_NO_NEW_PRIVILEGES;
    if (restrict_files(folders, writable, folder_count))
        measures |= PW_LANDLOCK;
    if (filter_calls(folder_count ? needs | PW_NEEDS_FOLDERS : needs))
        measures |= PW_SECCOMP;
    return measures;
}
