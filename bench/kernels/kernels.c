/* Eight kernels of what modules do: checksums, hashing, sorting, integer and floating-point arrays, signals, state machines.
 * Built by gcc into a shared library and by clang into a module; the results must be equal. Each function takes how often, and returns
 * a checksum. */
#include <stdint.h>

#ifdef __wasm__
#define EXPORT(name) __attribute__((export_name(name)))
#else
#define EXPORT(name) __attribute__((visibility("default")))
#endif

static uint32_t seed;

static uint32_t next(void)
{
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}

static uint8_t bytes[16384];

EXPORT("crc32")
uint32_t crc32(uint32_t rounds)
{
    static uint32_t table[256];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
        table[i] = c;
    }
    seed = 1;
    for (uint32_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)next();
    uint32_t crc = ~0u;
    while (rounds--) {
        for (uint32_t i = 0; i < sizeof bytes; i++)
            crc = table[(crc ^ bytes[i]) & 255] ^ (crc >> 8);
    }
    return ~crc;
}

#define ROTATE(x, n) ((x) >> (n) | (x) << (32 - (n)))

/* SHA-256's compression of one block after the other, with constants made by its own generator. */
EXPORT("sha256")
uint32_t sha256(uint32_t rounds)
{
    uint32_t constants[64], words[64], state[8];
    seed = 2;
    for (int i = 0; i < 64; i++)
        constants[i] = next() * 2654435761u;
    for (int i = 0; i < 8; i++)
        state[i] = next();
    for (uint32_t round = 0; round < rounds * 64; round++) {
        for (int i = 0; i < 16; i++)
            words[i] = state[i & 7] + round + (uint32_t)i;
        for (int i = 16; i < 64; i++) {
            uint32_t a = words[i - 15], b = words[i - 2];
            words[i] = words[i - 16] + (ROTATE(a, 7) ^ ROTATE(a, 18) ^ (a >> 3)) + words[i - 7]
                       + (ROTATE(b, 17) ^ ROTATE(b, 19) ^ (b >> 10));
        }
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
        for (int i = 0; i < 64; i++) {
            uint32_t one = h + (ROTATE(e, 6) ^ ROTATE(e, 11) ^ ROTATE(e, 25)) + ((e & f) ^ (~e & g)) + constants[i] + words[i];
            uint32_t two = (ROTATE(a, 2) ^ ROTATE(a, 13) ^ ROTATE(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
            h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
        }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e, state[5] += f, state[6] += g, state[7] += h;
    }
    return state[0] ^ state[7];
}

static int32_t numbers[8192];

EXPORT("sort")
uint32_t sort(uint32_t rounds)
{
    uint32_t sum = 0;
    seed = 3;
    while (rounds--) {
        for (uint32_t i = 0; i < 8192; i++)
            numbers[i] = (int32_t)next();
        for (uint32_t start = 4096, end = 8192; end > 1;) { /* heap sort */
            if (start > 0) {
                start--;
            }
            else {
                int32_t last = numbers[--end];
                numbers[end] = numbers[0];
                numbers[0] = last;
            }
            uint32_t root = start, child;
            while ((child = 2 * root + 1) < end) {
                if (child + 1 < end && numbers[child] < numbers[child + 1])
                    child++;
                if (numbers[root] >= numbers[child])
                    break;
                int32_t other = numbers[root];
                numbers[root] = numbers[child];
                numbers[child] = other;
                root = child;
            }
        }
        sum += (uint32_t)numbers[100] * 31u + (uint32_t)numbers[8000];
    }
    return sum;
}

static double a[64][64], b[64][64], c[64][64];

EXPORT("matrix")
uint32_t matrix(uint32_t rounds)
{
    seed = 4;
    for (int i = 0; i < 64; i++) {
        for (int j = 0; j < 64; j++) {
            a[i][j] = (double)(next() & 1023) / 64.0;
            b[i][j] = (double)(next() & 1023) / 128.0;
        }
    }
    double trace = 0;
    while (rounds--) {
        for (int i = 0; i < 64; i++) {
            for (int j = 0; j < 64; j++) {
                double sum = 0;
                for (int k = 0; k < 64; k++)
                    sum += a[i][k] * b[k][j];
                c[i][j] = sum;
            }
        }
        for (int i = 0; i < 64; i++) {
            trace += c[i][i];
            a[i][63 - i] = c[i][i] / 4096.0;
        }
    }
    return (uint32_t)(int64_t)(trace / 64.0);
}

/* A biquad filter chain over a signal, as a vibration monitor runs it. */
EXPORT("filter")
uint32_t filter(uint32_t rounds)
{
    double state[8][2] = { { 0 } }, energy = 0;
    seed = 5;
    for (uint32_t i = 0; i < rounds * 1024; i++) {
        double x = (double)(int32_t)(next() & 0xffff) / 32768.0 - 1.0;
        for (int k = 0; k < 8; k++) {
            double y = 0.2 * x + state[k][0];
            state[k][0] = 0.3 * x - (-0.4) * y + state[k][1];
            state[k][1] = 0.1 * x - 0.2 * y;
            x = y;
        }
        energy += x * x;
    }
    return (uint32_t)(energy * 1e6);
}

/* 64 taps over 16-bit samples, as a microphone's signal is filtered: compilers make vectors of it. */
EXPORT("fir")
uint32_t fir(uint32_t rounds)
{
    static int16_t samples[1024 + 64], taps[64];
    static uint16_t out[1024];
    uint32_t sum = 0;
    seed = 6;
    for (int i = 0; i < 1024 + 64; i++)
        samples[i] = (int16_t)(next() & 0x3fff);
    for (int i = 0; i < 64; i++)
        taps[i] = (int16_t)((int)(next() & 0xff) - 128);
    for (uint32_t round = 0; round < rounds; round++) {
        for (int i = 0; i < 1024; i++) {
            int32_t total = 0;
            for (int k = 0; k < 64; k++)
                total += samples[i + k] * taps[k];
            out[i] = (uint16_t)(total >> 8);
        }
        samples[round & 1023] = (int16_t)(out[round & 1023] & 0x3fff);
        sum = sum * 31u + out[(round * 7) & 1023];
    }
    return sum;
}

/* Channels of floats mixed with a gain that fades: vectors again, and memory's speed. */
EXPORT("mix")
uint32_t mix(uint32_t rounds)
{
    static float left[1024], right[1024], out[1024];
    seed = 7;
    for (int i = 0; i < 1024; i++) {
        left[i] = (float)(next() & 0xff) / 256.0f;
        right[i] = (float)(next() & 0xff) / 256.0f;
        out[i] = 0;
    }
    for (uint32_t round = 0; round < rounds * 16; round++) {
        float gain = (float)(round & 63) / 64.0f;
        for (int i = 0; i < 1024; i++)
            out[i] = out[i] * 0.5f + left[i] * gain + right[i];
    }
    float sum = 0;
    for (int i = 0; i < 1024; i++)
        sum += out[i];
    return (uint32_t)(sum * 64.0f);
}

/* A parser's state machine over text: numbers, words and separators, as CoreMark's third part does it. */
EXPORT("parse")
uint32_t parse(uint32_t rounds)
{
    static const char text[] = "temp=21.5;rh=0x3f,count:-104;ratio=1.5e-7;name=roof sensor 7;state=ok;err=,,;p=1013.25\n";
    uint32_t counts[8] = { 0 }, hash = 0;
    for (uint32_t round = 0; round < rounds * 64; round++) {
        uint32_t state = 0;
        int32_t value = 0;
        for (uint32_t i = 0; i < sizeof text - 1; i++) {
            char byte = (char)(text[i] ^ ((round >> 5 & 1) & (i == 7)));
            switch (state) {
                case 0:
                    state = byte >= '0' && byte <= '9' ? 1 : byte == '-' || byte == '+' ? 2 : byte >= 'a' && byte <= 'z' ? 3 : 0;
                    value = state == 1 ? byte - '0' : 0;
                    break;
                case 1:
                    if (byte >= '0' && byte <= '9')
                        value = value * 10 + (byte - '0');
                    else
                        state = byte == '.' ? 4 : byte == 'x' ? 6 : byte == 'e' ? 5 : 0;
                    break;
                case 2:
                    state = byte >= '0' && byte <= '9' ? 1 : 7;
                    break;
                case 3:
                    state = byte == '=' || byte == ':' ? 0 : byte >= 'a' && byte <= 'z' ? 3 : byte == ' ' ? 3 : 0;
                    break;
                case 4:
                    state = byte >= '0' && byte <= '9' ? 4 : byte == 'e' ? 5 : 0;
                    break;
                case 5:
                    state = byte == '-' || byte == '+' || (byte >= '0' && byte <= '9') ? 5 : 0;
                    break;
                case 6:
                    state = (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f') ? 6 : 0;
                    break;
                default:
                    state = 0;
            }
            counts[state]++;
            hash = hash * 33u + (uint32_t)value + state;
        }
    }
    for (int i = 0; i < 8; i++)
        hash = hash * 31u + counts[i];
    return hash;
}
