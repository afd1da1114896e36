/* What an ahead-of-time image must say of itself: made by wamr_aotc, asked for by libwamr_core. Both are built from one
 * native/cmake/wamr_flags.cmake, which defines PW_AOT_BOUNDS_64 and PW_AOT_BOUNDS_32 (1: bounds checks in software, 0: by hardware).
 * Raise the number when anything else that the two must agree on changes: WAMR's version, or a flag that changes its structures; and
 * when images of before let a module out of its sandbox: nobody runs them then. 3: bulk memory on ARMv7, the end of memory on RISC-V. */
#ifndef PW_AOT_STAMP_H
#define PW_AOT_STAMP_H

#define PW_AOT_STAMP_NAME "wamr-ota.target"
#define PW_AOT_STAMP_NUMBER "3"
#define PW_AOT_STAMP_FORMAT PW_AOT_STAMP_NUMBER " %s bounds=%s" /* target, software or hardware */

#endif
