/* For WebAssembly, where there are no long jumps without exceptions: the drivers' programs make no errors. */
#pragma once
typedef int jmp_buf[1];
static inline int setjmp(jmp_buf jump) { (void)jump; return 0; }
_Noreturn static inline void longjmp(jmp_buf jump, int value) { (void)jump, (void)value; __builtin_trap(); }
