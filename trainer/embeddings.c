/* See embeddings.h. */

#include "embeddings.h"
#include "ngx_commerce_pack.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>


enum {
    TRAIN_EMBEDDINGS_ABOUT = 1,
    TRAIN_EMBEDDINGS_KEYS,
    TRAIN_EMBEDDINGS_SUMS,
    TRAIN_EMBEDDINGS_SCALES,
    TRAIN_EMBEDDINGS_VECTORS
};


void
train_embeddings_open(train_embeddings_t *embeddings, const char *name)
{
    uint64_t                         i, n, keys, sums, scales, numbers;
    const char                      *why;
    ngx_commerce_pack_t              pack;
    const train_embeddings_about_t  *about;

    memset(embeddings, 0, sizeof(train_embeddings_t));
    train_file_open(&embeddings->file, name);

    if (ngx_commerce_pack_open(&pack, embeddings->file.data,
                               embeddings->file.size, TRAIN_EMBEDDINGS_KIND,
                               TRAIN_EMBEDDINGS_VERSION, true, &why)
        != NGX_COMMERCE_OK)
    {
        train_fail(TRAIN_INPUT, "%s: %s: remove it, and commerce-train embed "
                   "makes it anew", name, why);
    }

    about = ngx_commerce_pack_array(&pack, TRAIN_EMBEDDINGS_ABOUT,
                                    sizeof(train_embeddings_about_t), &n);
    embeddings->about = about;
    embeddings->keys = ngx_commerce_pack_array(&pack, TRAIN_EMBEDDINGS_KEYS,
                                               sizeof(uint64_t), &keys);
    embeddings->sums = ngx_commerce_pack_array(&pack, TRAIN_EMBEDDINGS_SUMS,
                                               sizeof(uint64_t), &sums);
    embeddings->scales = ngx_commerce_pack_array(&pack,
                                                 TRAIN_EMBEDDINGS_SCALES,
                                                 sizeof(float), &scales);
    embeddings->vectors = ngx_commerce_pack_array(&pack,
                                                  TRAIN_EMBEDDINGS_VECTORS, 1,
                                                  &numbers);

    why = NULL;

    if (about == NULL || n != 1 || about->width < TRAIN_EMBEDDINGS_NARROW
        || keys != about->n || sums != keys || scales != keys
        || numbers != keys * about->width
        || memchr(about->name, '\0', sizeof(about->name)) == NULL)
    {
        why = "its parts do not fit together";
    }

    for (i = 1; why == NULL && i < keys; i++) {
        if (embeddings->keys[i - 1] >= embeddings->keys[i]) {
            why = "its products are out of order";
        }
    }

    if (why != NULL) {
        train_fail(TRAIN_INPUT, "%s: %s: remove it, and commerce-train embed "
                   "makes it anew", name, why);
    }

    embeddings->identity = ngx_commerce_crc32c(0, embeddings->file.data,
                                               NGX_COMMERCE_PACK_ALIGN);
}


void
train_embeddings_close(train_embeddings_t *embeddings)
{
    train_file_close(&embeddings->file);
}


void
train_embeddings_save(const char *name, const train_embeddings_about_t *about,
    uint32_t n, const uint64_t *keys, const uint64_t *sums,
    const float *scales, const int8_t *vectors, const uint8_t *done)
{
    void                         *file;
    float                        *scale;
    int8_t                       *vector;
    uint32_t                      i, k;
    uint64_t                      size, *key, *sum;
    train_embeddings_about_t      told;
    ngx_commerce_pack_section_t   section[5];

    for (i = 0, k = 0; i < n; i++) {
        k += done[i];
    }

    key = train_alloc(k * sizeof(uint64_t));
    sum = train_alloc(k * sizeof(uint64_t));
    scale = train_alloc(k * sizeof(float));
    vector = train_alloc((uint64_t) k * about->width);

    for (i = 0, k = 0; i < n; i++) {

        if (!done[i]) {
            continue;
        }

        key[k] = keys[i];
        sum[k] = sums[i];
        scale[k] = scales[i];
        memcpy(vector + (uint64_t) k * about->width,
               vectors + (uint64_t) i * about->width, about->width);
        k++;
    }

    told = *about;
    told.n = k;

#define section(number, bytes, size)                                          \
    section[TRAIN_EMBEDDINGS_##number - 1].id = TRAIN_EMBEDDINGS_##number;    \
    section[TRAIN_EMBEDDINGS_##number - 1].data = bytes;                      \
    section[TRAIN_EMBEDDINGS_##number - 1].len = size;

    section(ABOUT, &told, sizeof(told));
    section(KEYS, key, k * sizeof(uint64_t));
    section(SUMS, sum, k * sizeof(uint64_t));
    section(SCALES, scale, k * sizeof(float));
    section(VECTORS, vector, (uint64_t) k * about->width);

#undef section

    size = ngx_commerce_pack_size(section, 5);
    file = train_alloc(size);
    ngx_commerce_pack_write(file, TRAIN_EMBEDDINGS_KIND,
                            TRAIN_EMBEDDINGS_VERSION, section, 5);
    train_file_replace(name, file, size);

    free(file);
    free(key);
    free(sum);
    free(scale);
    free(vector);
}


void
train_embeddings_quantise(const float *vector, uint32_t width, int8_t *out,
    float *scale)
{
    float     top;
    uint32_t  i;

    for (i = 0, top = 0; i < width; i++) {
        top = (fabsf(vector[i]) > top) ? fabsf(vector[i]) : top;
    }

    *scale = top / 127;

    for (i = 0; i < width; i++) {
        out[i] = (top > 0) ? lrintf(vector[i] / top * 127) : 0;
    }
}


char *
train_embeddings_text(const train_text_t *text, size_t *len)
{
    char        *out, *p;
    unsigned     i;
    const char  *part[3] = { text->text, text->category, text->brand };
    uint32_t     size[3] = { text->text_len, text->category_len,
                             text->brand_len };

    if (size[0] == 0 && size[1] == 0 && size[2] == 0) {
        *len = 0;
        return NULL;
    }

    out = train_alloc((size_t) size[0] + size[1] + size[2] + 4);
    p = out;

    for (i = 0; i < 3; i++) {

        if (size[i] == 0) {
            continue;
        }

        if (p != out) {
            *p++ = ' ';
        }

        memcpy(p, part[i], size[i]);
        p += size[i];
    }

    *len = p - out;

    return out;
}


uint64_t
train_embeddings_sum(const char *text, size_t len)
{
    size_t    i;
    uint64_t  hash;

    hash = 0xcbf29ce484222325ULL ^ len;

    for (i = 0; i < len; i++) {
        hash = (hash ^ (uint8_t) text[i]) * 0x100000001b3ULL;
    }

    return train_mix(hash);
}
