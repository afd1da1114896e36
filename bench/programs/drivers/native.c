/* The native side: a process that reads how often, and answers with the checksum and the nanoseconds that it took. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

uint32_t run(uint32_t times);

static int64_t
now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int
main(void)
{
    uint32_t times;
    puts("ready");
    fflush(stdout);
    while (scanf("%" SCNu32, &times) == 1) {
        int64_t started = now_ns();
        uint32_t sum = run(times);
        printf("%" PRIu32 " %" PRId64 "\n", sum, now_ns() - started);
        fflush(stdout);
    }
    return 0;
}
