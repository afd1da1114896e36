/* Deflates and inflates 64 kB of text. */
#include "driver.h"
#include <zlib.h>

enum { SIZE = 65536 };

uint32_t
run(uint32_t times)
{
    unsigned char *text = malloc(SIZE), *packed = malloc(compressBound(SIZE)), *back = malloc(SIZE);
    uint32_t sum = 0;
    driver_text((char *)text, SIZE, 1);
    for (uint32_t i = 0; i < times; i++) {
        uLongf size = compressBound(SIZE), again = SIZE;
        text[i % SIZE] ^= 1;
        driver_need(compress2(packed, &size, text, SIZE, 6) == Z_OK);
        driver_need(uncompress(back, &again, packed, size) == Z_OK && again == SIZE);
        sum = driver_mix(sum, (uint32_t)(adler32(adler32(0, packed, (uInt)size), back, SIZE)));
    }
    free(text), free(packed), free(back);
    return sum;
}
