/*
 * What the store trusts its memory by: the checksum that is computed while an
 * entry is copied, and the keyed hash of keys and tags.
 */

#include "ngx_commerce_store_internal.h"


/* The checksum has four lanes: it is as fast as the copy that it accompanies. */

void
ngx_commerce_store_sum_init(ngx_commerce_store_shm_t *shm,
    ngx_commerce_store_sum_t *sum)
{
    memcpy(sum->s, shm->lanes, sizeof(sum->s));
}


#define ngx_commerce_store_sum_pair(shm, sum, lane, a, b)                     \
    (sum)->s[lane] = ngx_commerce_store_fold((a) ^ (shm)->lanes[lane],        \
                                             (b) ^ (sum)->s[lane])


/* Copies words out of the shared memory and adds them to the sum. */

void
ngx_commerce_store_copy_out(ngx_commerce_store_shm_t *shm,
    ngx_commerce_store_sum_t *sum, uint8_t *dst,
    ngx_commerce_store_word_t *src, size_t n)
{
    uint64_t  w[8];
    size_t    i;

    for (; n >= 8; n -= 8, src += 8, dst += 64) {
        /* as a loop, which -O2 leaves it, this takes twice as long */

#pragma GCC unroll 8
        for (i = 0; i < 8; i++) {
            w[i] = ngx_commerce_store_load(&src[i]);
            memcpy(dst + i * 8, &w[i], 8);
        }

        ngx_commerce_store_sum_pair(shm, sum, 0, w[0], w[1]);
        ngx_commerce_store_sum_pair(shm, sum, 1, w[2], w[3]);
        ngx_commerce_store_sum_pair(shm, sum, 2, w[4], w[5]);
        ngx_commerce_store_sum_pair(shm, sum, 3, w[6], w[7]);
    }

    for (i = 0; i < n; i++) {
        w[0] = ngx_commerce_store_load(&src[i]);
        ngx_commerce_store_sum_pair(shm, sum, i & 3, w[0], n);
        memcpy(dst + i * 8, w, 8);
    }
}


/* The way in, same sum; the last word is filled up with zeros. */

void
ngx_commerce_store_copy_in(ngx_commerce_store_shm_t *shm,
    ngx_commerce_store_sum_t *sum, ngx_commerce_store_word_t *dst,
    const uint8_t *src, size_t len)
{
    uint64_t  w[8];
    size_t    i, n;

    for (; len >= 64; len -= 64, src += 64, dst += 8) {
        memcpy(w, src, 64);

        ngx_commerce_store_sum_pair(shm, sum, 0, w[0], w[1]);
        ngx_commerce_store_sum_pair(shm, sum, 1, w[2], w[3]);
        ngx_commerce_store_sum_pair(shm, sum, 2, w[4], w[5]);
        ngx_commerce_store_sum_pair(shm, sum, 3, w[6], w[7]);

#pragma GCC unroll 8
        for (i = 0; i < 8; i++) {
            ngx_commerce_store_set(&dst[i], w[i]);
        }
    }

    if (len == 0) {
        return;
    }

    memset(w, 0, sizeof(w));
    memcpy(w, src, len);

    n = ngx_commerce_store_words(len);

    if (n == 8) {
        ngx_commerce_store_sum_pair(shm, sum, 0, w[0], w[1]);
        ngx_commerce_store_sum_pair(shm, sum, 1, w[2], w[3]);
        ngx_commerce_store_sum_pair(shm, sum, 2, w[4], w[5]);
        ngx_commerce_store_sum_pair(shm, sum, 3, w[6], w[7]);
    }

    for (i = 0; i < n; i++) {
        if (n < 8) {
            ngx_commerce_store_sum_pair(shm, sum, i & 3, w[i], n);
        }

        ngx_commerce_store_set(&dst[i], w[i]);
    }
}


/* The head goes into the sum last, all but the checksum itself. */

uint64_t
ngx_commerce_store_sum_final(ngx_commerce_store_shm_t *shm,
    ngx_commerce_store_sum_t *sum,
    const uint64_t head[NGX_COMMERCE_STORE_WORDS])
{
    size_t  i;

    for (i = 1; i < NGX_COMMERCE_STORE_WORDS; i++) {
        ngx_commerce_store_sum_pair(shm, sum, i & 3, head[i], i);
    }

    return ngx_commerce_store_fold(sum->s[0] ^ shm->secret[0], sum->s[1])
           ^ ngx_commerce_store_fold(sum->s[2] ^ shm->secret[1], sum->s[3]);
}


/*
 * SipHash-1-3 with 128 bits out (Aumasson, Bernstein): keyed, so that requests
 * cannot be made to share a key, and short enough for each request.
 */

#define ngx_commerce_store_rotl(x, b)  ((x) << (b) | (x) >> (64 - (b)))

static inline void
ngx_commerce_store_sipround(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = ngx_commerce_store_rotl(v[1], 13) ^ v[0];
    v[3] = ngx_commerce_store_rotl(v[3], 16) ^ v[2];
    v[0] = ngx_commerce_store_rotl(v[0], 32);
    v[2] += v[1];
    v[0] += v[3];
    v[1] = ngx_commerce_store_rotl(v[1], 17) ^ v[2];
    v[3] = ngx_commerce_store_rotl(v[3], 21) ^ v[0];
    v[2] = ngx_commerce_store_rotl(v[2], 32);
}


void
ngx_commerce_store_siphash(const uint64_t secret[2], const uint8_t *data,
    size_t len, uint64_t out[2])
{
    uint64_t  v[4], m;
    unsigned  i;

    v[0] = secret[0] ^ UINT64_C(0x736f6d6570736575);
    v[1] = secret[1] ^ UINT64_C(0x646f72616e646f6d) ^ 0xee;
    v[2] = secret[0] ^ UINT64_C(0x6c7967656e657261);
    v[3] = secret[1] ^ UINT64_C(0x7465646279746573);

    m = (uint64_t) len << 56;

    for (; len >= 8; len -= 8, data += 8) {
        uint64_t  w;

        memcpy(&w, data, 8);
        v[3] ^= w;
        ngx_commerce_store_sipround(v);
        v[0] ^= w;
    }

    for (i = 0; i < len; i++) {
        m |= (uint64_t) data[i] << (i * 8);
    }

    v[3] ^= m;
    ngx_commerce_store_sipround(v);
    v[0] ^= m;

    v[2] ^= 0xee;
    for (i = 0; i < 3; i++) {
        ngx_commerce_store_sipround(v);
    }
    out[0] = v[0] ^ v[1] ^ v[2] ^ v[3];

    v[1] ^= 0xdd;
    for (i = 0; i < 3; i++) {
        ngx_commerce_store_sipround(v);
    }
    out[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}
