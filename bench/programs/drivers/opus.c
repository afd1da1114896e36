/* Encodes and decodes 0.4 s of sound at 16 kHz, in fixed point. */
#include "driver.h"
#include <opus.h>

enum { RATE = 16000, FRAME = 320, FRAMES = 20 };

uint32_t
run(uint32_t times)
{
    int16_t *sound = malloc(FRAME * FRAMES * sizeof *sound), back[FRAME];
    unsigned char packet[400];
    uint32_t sum = 0, seed = 8;
    for (int i = 0, phase = 0; i < FRAME * FRAMES; i++) {
        phase += 300 + i / 16; /* a triangle that rises, with noise */
        int saw = phase % 16384;
        sound[i] = (int16_t)((saw < 8192 ? saw : 16384 - saw) - 4096 + (int)(driver_random(&seed) % 512));
    }
    for (uint32_t i = 0; i < times; i++) {
        int error;
        OpusEncoder *encoder = opus_encoder_create(RATE, 1, OPUS_APPLICATION_VOIP, &error);
        OpusDecoder *decoder = opus_decoder_create(RATE, 1, &error);
        driver_need(encoder && decoder);
        opus_encoder_ctl(encoder, OPUS_SET_BITRATE(24000));
        opus_encoder_ctl(encoder, OPUS_SET_COMPLEXITY(5));
        for (int frame = 0; frame < FRAMES; frame++) {
            int size = opus_encode(encoder, sound + frame * FRAME, FRAME, packet, sizeof packet);
            driver_need(size > 0 && opus_decode(decoder, packet, size, back, FRAME, 0) == FRAME);
            sum = driver_sum(driver_mix(sum, (uint32_t)size), back, sizeof back);
        }
        opus_encoder_destroy(encoder), opus_decoder_destroy(decoder);
    }
    free(sound);
    return sum;
}
