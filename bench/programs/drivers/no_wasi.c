/* A program that sees nothing of the world: each function of WASI that its C library would import says that there is none (ENOSYS). */
#define NONE(name, ...)                                             \
    int __imported_wasi_snapshot_preview1_##name(__VA_ARGS__);      \
    int __imported_wasi_snapshot_preview1_##name(__VA_ARGS__)       \
    {                                                               \
        return 52;                                                  \
    }

NONE(args_get, int a, int b)
NONE(args_sizes_get, int a, int b)
NONE(environ_get, int a, int b)
NONE(environ_sizes_get, int a, int b)
NONE(fd_close, int a)
NONE(fd_fdstat_get, int a, int b)
NONE(fd_fdstat_set_flags, int a, int b)
NONE(fd_prestat_dir_name, int a, int b, int c)
NONE(fd_renumber, int a, int b)
NONE(fd_read, int a, int b, int c, int d)
NONE(fd_seek, int a, long long b, int c, int d)
NONE(fd_write, int a, int b, int c, int d)
NONE(path_open, int a, int b, int c, int d, int e, long long f, long long g, int h, int i)
NONE(random_get, int a, int b)

/* It is always the same time. */
int __imported_wasi_snapshot_preview1_clock_time_get(int, long long, int);
int
__imported_wasi_snapshot_preview1_clock_time_get(int clock, long long precision, int out)
{
    (void)clock, (void)precision;
    *(unsigned long long *)(unsigned long)out = 0;
    return 0;
}

/* Opened folders end with a number that is none (EBADF). */
int __imported_wasi_snapshot_preview1_fd_prestat_get(int, int);
int
__imported_wasi_snapshot_preview1_fd_prestat_get(int number, int out)
{
    (void)number, (void)out;
    return 8;
}

void __imported_wasi_snapshot_preview1_proc_exit(int);
void
__imported_wasi_snapshot_preview1_proc_exit(int status)
{
    (void)status;
    __builtin_trap();
}
