/* Encodes a picture of 96 x 96 with and without loss, and decodes both. */
#include "driver.h"
#include <webp/decode.h>
#include <webp/encode.h>

enum { SIDE = 96, SIZE = SIDE * SIDE * 3 };

static uint32_t
decode(uint8_t *packed, size_t size, uint32_t sum)
{
    int width, height;
    driver_need(size != 0);
    uint8_t *back = WebPDecodeRGB(packed, size, &width, &height);
    driver_need(back && width == SIDE && height == SIDE);
    sum = driver_sum(driver_mix(sum, (uint32_t)size), back, SIZE);
    WebPFree(back);
    WebPFree(packed);
    return sum;
}

uint32_t
run(uint32_t times)
{
    uint8_t *picture = malloc(SIZE), *packed;
    uint32_t sum = 0, seed = 7;
    for (int i = 0; i < SIZE; i++) {
        int x = i / 3 % SIDE, y = i / 3 / SIDE, ring = (x - 48) * (x - 48) + (y - 40) * (y - 40);
        picture[i] = (uint8_t)((i % 3 == 0 ? ring / 16 : i % 3 == 1 ? x * 2 : y + x) + (int)(driver_random(&seed) % 6));
    }
    for (uint32_t i = 0; i < times; i++) {
        picture[i % SIZE] ^= 1;
        size_t size = WebPEncodeRGB(picture, SIDE, SIDE, SIDE * 3, 75, &packed);
        sum = decode(packed, size, sum);
        if (i % 4 == 0) {
            size = WebPEncodeLosslessRGB(picture, SIDE, SIDE, SIDE * 3, &packed);
            sum = decode(packed, size, sum);
        }
    }
    free(picture);
    return sum;
}
