/* SHA-256 and SHA-512, AES-128 in GCM, ChaCha20-Poly1305, and a product of a point of P-256. */
#include "driver.h"
#include <mbedtls/chachapoly.h>
#include <mbedtls/ecp.h>
#include <mbedtls/gcm.h>
#include <mbedtls/sha256.h>
#include <mbedtls/sha512.h>

enum { SIZE = 8192 };

static int
numbers(void *state, unsigned char *out, size_t size)
{
    while (size--)
        *out++ = (unsigned char)driver_random((uint32_t *)state);
    return 0;
}

static uint32_t
multiply(uint32_t sum, uint32_t *seed)
{
    mbedtls_ecp_group group;
    mbedtls_ecp_point point;
    mbedtls_mpi scalar;
    unsigned char out[65];
    size_t size;
    mbedtls_ecp_group_init(&group), mbedtls_ecp_point_init(&point), mbedtls_mpi_init(&scalar);
    driver_need(mbedtls_ecp_group_load(&group, MBEDTLS_ECP_DP_SECP256R1) == 0);
    driver_need(mbedtls_ecp_gen_privkey(&group, &scalar, numbers, seed) == 0);
    driver_need(mbedtls_ecp_mul(&group, &point, &scalar, &group.G, numbers, seed) == 0);
    driver_need(mbedtls_ecp_point_write_binary(&group, &point, MBEDTLS_ECP_PF_UNCOMPRESSED, &size, out, sizeof out) == 0);
    mbedtls_ecp_group_free(&group), mbedtls_ecp_point_free(&point), mbedtls_mpi_free(&scalar);
    return driver_sum(sum, out, size);
}

uint32_t
run(uint32_t times)
{
    static unsigned char text[SIZE], cipher[SIZE];
    unsigned char key[32], tag[16], digest[64], nonce[12] = { 0 };
    uint32_t sum = 0, seed = 5;
    driver_text((char *)text, SIZE, 5);
    numbers(&seed, key, sizeof key);
    for (uint32_t i = 0; i < times; i++) {
        mbedtls_gcm_context gcm;
        mbedtls_chachapoly_context chacha;
        nonce[0] = (unsigned char)i;
        mbedtls_gcm_init(&gcm), mbedtls_chachapoly_init(&chacha);
        driver_need(mbedtls_gcm_setkey(&gcm, MBEDTLS_CIPHER_ID_AES, key, 128) == 0);
        driver_need(mbedtls_gcm_crypt_and_tag(&gcm, MBEDTLS_GCM_ENCRYPT, SIZE, nonce, 12, key, 32, text, cipher, 16, tag) == 0);
        sum = driver_sum(sum, tag, 16);
        driver_need(mbedtls_chachapoly_setkey(&chacha, key) == 0);
        driver_need(mbedtls_chachapoly_encrypt_and_tag(&chacha, SIZE, nonce, key, 32, cipher, cipher, tag) == 0);
        sum = driver_sum(sum, tag, 16);
        mbedtls_gcm_free(&gcm), mbedtls_chachapoly_free(&chacha);
        driver_need(mbedtls_sha256_ret(cipher, SIZE, digest, 0) == 0);
        sum = driver_sum(sum, digest, 32);
        driver_need(mbedtls_sha512_ret(cipher, SIZE, digest, 0) == 0);
        sum = multiply(driver_sum(sum, digest, 64), &seed);
    }
    return sum;
}
