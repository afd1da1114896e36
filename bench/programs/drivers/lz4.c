/* Compresses 64 kB of text and decompresses it. */
#include "driver.h"
#include <lz4.h>

enum { SIZE = 65536 };

uint32_t
run(uint32_t times)
{
    int room = LZ4_compressBound(SIZE);
    char *text = malloc(SIZE), *packed = malloc((size_t)room), *back = malloc(SIZE);
    uint32_t sum = 0;
    driver_text(text, SIZE, 3);
    for (uint32_t i = 0; i < times * 4; i++) {
        text[i % SIZE] ^= 1;
        int size = LZ4_compress_default(text, packed, SIZE, room);
        driver_need(size > 0 && LZ4_decompress_safe(packed, back, size, SIZE) == SIZE);
        sum = driver_sum(sum, packed, 64);
        sum = driver_mix(driver_sum(sum, back + SIZE - 64, 64), (uint32_t)size);
    }
    free(text), free(packed), free(back);
    return sum;
}
