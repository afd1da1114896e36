/* Parts of WAMR's fast interpreter that every program passes all the time, with fewer instructions; the mended wasm_interp_fast.c
 * includes this before its loop (wamr_source.cmake, wamr_shorten_loop). Not a header of its own: it uses what stands before it there. */
#pragma once

/* What is left is 64 bits wide: no limit is a number that nobody counts down. */
#undef CHECK_INSTRUCTION_LIMIT
#define CHECK_INSTRUCTION_LIMIT()                                                                                                      \
    do {                                                                                                                               \
        if (__builtin_expect(--exec_env->instructions_to_execute < 0, 0))                                                              \
            goto limit_exceeded;                                                                                                       \
    } while (0)

/* pw_stop (native/core/stop.c) writes a text and then this flag. */
#undef CHECK_SUSPEND_FLAGS
#define CHECK_SUSPEND_FLAGS()                                                                                                          \
    do {                                                                                                                               \
        if (__builtin_expect(                                                                                                          \
                __atomic_load_n(&exec_env->suspend_flags.flags, __ATOMIC_RELAXED) & WASM_SUSPEND_FLAG_TERMINATE, 0)) {                 \
            __atomic_thread_fence(__ATOMIC_ACQUIRE);                                                                                   \
            goto got_exception;                                                                                                        \
        }                                                                                                                              \
        CHECK_INSTRUCTION_LIMIT();                                                                                                     \
    } while (0)

#if defined(OS_ENABLE_HW_BOUND_CHECK) && WASM_CPU_SUPPORTS_UNALIGNED_ADDR_ACCESS != 0
/* A memory that the processor bounds never moves. Where the access stands is written down before it: it may fault. */
#undef CHECK_MEMORY_OVERFLOW
#define CHECK_MEMORY_OVERFLOW(bytes)                                                                                                   \
    do {                                                                                                                               \
        exec_env->access_ip = frame_ip;                                                                                                \
        __asm__ volatile("" : : : "memory");                                                                                           \
        maddr = memory_base + ((uint64)offset + (uint64)addr);                                                                         \
    } while (0)
#endif

/* Copies cells to a place that does not overlap. What is left out of the compiler's sight is no call of memcpy. */
static inline void
pw_copy_cells(uint32 *to, const uint32 *from, uint32 count)
{
    for (; count >= 4; count -= 4, to += 4, from += 4) {
        memcpy(to, from, 4 * sizeof *to);
        __asm__ volatile("" : "+r"(to));
    }
    for (; count > 0; count--) {
        *to++ = *from++;
        __asm__ volatile("" : "+r"(to));
    }
}

static inline void
pw_clear_cells(uint32 *to, uint32 count)
{
    for (; count >= 4; count -= 4, to += 4) {
        memset(to, 0, 4 * sizeof *to);
        __asm__ volatile("" : "+r"(to));
    }
    for (; count > 0; count--) {
        *to++ = 0;
        __asm__ volatile("" : "+r"(to));
    }
}

/* Copies a call's arguments, whose places stand in the code, the last one first, to where the called function has its parameters. */
static inline void
pw_pass_arguments(uint32 *to, const WASMFunctionInstance *function, uint8 *frame_ip, uint32 *frame_lp)
{
    uint32 count = function->param_count;
    const int16 *place = (const int16 *)frame_ip + count;
    if (__builtin_expect(function->param_cell_num == count, 1)) {
        for (; count > 0; count--)
            *to++ = frame_lp[*--place];
        return;
    }
    for (const uint8 *type = function->param_types; count > 0; count--, type++) {
        uint32 *from = frame_lp + *--place, cells = wasm_value_type_cell_num(*type);
        if (cells == 1)
            *to = *from;
        else if (cells == 2)
            PUT_I64_TO_ADDR(to, GET_I64_FROM_ADDR(from));
        else
            PUT_V128_TO_ADDR(to, GET_V128_FROM_ADDR(from));
        to += cells;
    }
}
