/* Compresses 64 kB of text at levels 1 and 5, and decompresses it. */
#include "driver.h"
#include <zstd.h>

enum { SIZE = 65536 };

uint32_t
run(uint32_t times)
{
    size_t room = ZSTD_compressBound(SIZE);
    char *text = malloc(SIZE), *packed = malloc(room), *back = malloc(SIZE);
    ZSTD_CCtx *compressor = ZSTD_createCCtx();
    ZSTD_DCtx *decompressor = ZSTD_createDCtx();
    uint32_t sum = 0;
    driver_text(text, SIZE, 2);
    for (uint32_t i = 0; i < times; i++) {
        text[i % SIZE] ^= 1;
        for (int level = 1; level <= 5; level += 4) {
            size_t size = ZSTD_compressCCtx(compressor, packed, room, text, SIZE, level);
            driver_need(!ZSTD_isError(size));
            driver_need(ZSTD_decompressDCtx(decompressor, back, SIZE, packed, size) == SIZE);
            sum = driver_sum(sum, packed, 64);
            sum = driver_mix(driver_sum(sum, back + SIZE - 64, 64), (uint32_t)size);
        }
    }
    ZSTD_freeCCtx(compressor), ZSTD_freeDCtx(decompressor);
    free(text), free(packed), free(back);
    return sum;
}
