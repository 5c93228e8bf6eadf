/* The encoder itself: matrices by OpenBLAS, the rest here.  See minilm.h. */

#include "minilm.h"
#include "embeddings.h"
#include "ngx_commerce_pack.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>


#define TRAIN_PACKED  2048              /* tokens computed at once; a text has fewer */


struct train_encoder_s {
    const train_minilm_t  *model;
    uint32_t               room;        /* tokens */
    uint32_t              *token;
    uint32_t              *first;       /* of a text, TRAIN_PACKED + 1 */
    float                 *x;           /* room × width */
    float                 *y;
    float                 *qkv;         /* room × 3 width */
    float                 *inner;
    float                 *score;       /* tokens × tokens of one text */
};


static const char *train_minilm_config(const train_minilm_config_t *config);
static uint64_t train_minilm_layout(train_minilm_t *model, const float *base);
static void train_embed(train_encoder_t *encoder, uint32_t texts);
static void train_layer(train_encoder_t *encoder,
    const train_minilm_layer_t *layer, uint32_t texts);
static void train_attention(train_encoder_t *encoder, uint32_t first,
    uint32_t n);
static void train_softmax(float *row, uint32_t n);
static void train_pool(const train_encoder_t *encoder, uint32_t first,
    uint32_t n, float *vector);
static void train_linear(const float *in, uint32_t rows, uint32_t width,
    const float *weights, const float *bias, uint32_t wide, float *out);
static void train_add_norm(float *x, const float *add, uint32_t rows,
    uint32_t width, const float *scale, const float *bias, float epsilon);
static void train_gelu(float *x, uint64_t n);


void
train_minilm_open(train_minilm_t *model, const char *name)
{
    uint64_t              n, floats, bytes;
    const char           *why, *vocabulary;
    const float          *tensors;
    ngx_commerce_pack_t   pack;

    memset(model, 0, sizeof(train_minilm_t));
    train_file_open(&model->file, name);

    if (ngx_commerce_pack_open(&pack, model->file.data, model->file.size,
                               TRAIN_MINILM_KIND, TRAIN_MINILM_VERSION, true,
                               &why)
        != NGX_COMMERCE_OK)
    {
        train_fail(TRAIN_INPUT, "%s: %s: scripts/minilm makes a model", name,
                   why);
    }

    model->config = ngx_commerce_pack_array(&pack, TRAIN_MINILM_CONFIG,
                                            sizeof(train_minilm_config_t), &n);
    vocabulary = ngx_commerce_pack_array(&pack, TRAIN_MINILM_VOCABULARY, 1,
                                         &bytes);
    tensors = ngx_commerce_pack_array(&pack, TRAIN_MINILM_TENSORS,
                                      sizeof(float), &floats);

    why = (model->config == NULL || n != 1 || vocabulary == NULL
           || tensors == NULL)
          ? "a part is missing" : train_minilm_config(model->config);

    if (why == NULL) {
        model->layers = train_zalloc(model->config->layers
                                     * sizeof(train_minilm_layer_t));

        if (train_minilm_layout(model, tensors) != floats) {
            why = "the weights are not as many as its sizes need";
        }
    }

    if (why != NULL) {
        train_fail(TRAIN_INPUT, "%s: %s: make it again with scripts/minilm",
                   name, why);
    }

    model->pieces = train_wordpiece(model->config, vocabulary, bytes);

    /* the header holds the sum of the directory, which holds those of the parts */

    model->sum = ngx_commerce_crc32c(0, model->file.data,
                                     NGX_COMMERCE_PACK_ALIGN);
}


void
train_minilm_close(train_minilm_t *model)
{
    train_wordpiece_free(model->pieces);
    free(model->layers);
    train_file_close(&model->file);
}


/* What is wrong with the sizes; NULL: nothing. */

static const char *
train_minilm_config(const train_minilm_config_t *c)
{
    if (c->vocabulary == 0 || c->vocabulary > 10000000 || c->layers == 0
        || c->layers > 100 || c->heads == 0
        || c->width < TRAIN_EMBEDDINGS_NARROW || c->width > 8192 || c->inner == 0 || c->inner > 65536)
    {
        return "its sizes are no model's";
    }

    if (c->width % c->heads != 0) {
        return "its width is not divided by its heads";
    }

    if (c->tokens < 3 || c->tokens > c->positions || c->positions > 65536
        || c->tokens > TRAIN_PACKED)
    {
        return "a text may have more tokens than there are positions";
    }

    if (c->unknown >= c->vocabulary || c->begin >= c->vocabulary
        || c->end >= c->vocabulary)
    {
        return "a special token is not in its vocabulary";
    }

    if (!(c->epsilon >= 0 && c->epsilon < 1)
        || memchr(c->name, '\0', sizeof(c->name)) == NULL)
    {
        return "its description is broken";
    }

    return NULL;
}


/* The tensors in the order of the file. Returns how many numbers they are. */

static uint64_t
train_minilm_layout(train_minilm_t *model, const float *base)
{
    uint32_t                      i;
    uint64_t                      w, at;
    train_minilm_layer_t         *l;
    const train_minilm_config_t  *c = model->config;

    w = c->width;
    at = 0;

#define tensor(pointer, count)                                                \
    pointer = base + at;                                                      \
    at += (count);

    tensor(model->words, c->vocabulary * w);
    tensor(model->positions, c->positions * w);
    tensor(model->kind, w);
    tensor(model->norm, w);
    tensor(model->norm_bias, w);

    for (i = 0; i < c->layers; i++) {
        l = &model->layers[i];

        tensor(l->qkv, 3 * w * w);
        tensor(l->qkv_bias, 3 * w);
        tensor(l->out, w * w);
        tensor(l->out_bias, w);
        tensor(l->norm1, w);
        tensor(l->norm1_bias, w);
        tensor(l->up, c->inner * w);
        tensor(l->up_bias, c->inner);
        tensor(l->down, c->inner * w);
        tensor(l->down_bias, w);
        tensor(l->norm2, w);
        tensor(l->norm2_bias, w);
    }

#undef tensor

    return at;
}


train_encoder_t *
train_encoder(const train_minilm_t *model)
{
    uint64_t                      room, wide;
    train_encoder_t              *encoder;
    const train_minilm_config_t  *c = model->config;

    encoder = train_zalloc(sizeof(train_encoder_t));
    encoder->model = model;

    /* the last text may reach over the limit by what it is long */

    room = TRAIN_PACKED + c->tokens;
    encoder->room = room;
    encoder->token = train_alloc(room * sizeof(uint32_t));
    encoder->first = train_alloc((TRAIN_PACKED + 1) * sizeof(uint32_t));
    encoder->x = train_alloc(room * c->width * sizeof(float));
    encoder->y = train_alloc(room * c->width * sizeof(float));
    encoder->qkv = train_alloc(room * 3 * c->width * sizeof(float));
    wide = (c->inner > c->width) ? c->inner : c->width;
    encoder->inner = train_alloc(room * wide * sizeof(float));
    encoder->score = train_alloc((uint64_t) c->tokens * c->tokens
                                 * sizeof(float));

    return encoder;
}


void
train_encoder_free(train_encoder_t *encoder)
{
    free(encoder->token);
    free(encoder->first);
    free(encoder->x);
    free(encoder->y);
    free(encoder->qkv);
    free(encoder->inner);
    free(encoder->score);
    free(encoder);
}


uint64_t
train_encode(train_encoder_t *encoder, const train_str_t *texts, uint32_t n,
    float *vectors)
{
    uint32_t                      i, k, done, used;
    uint64_t                      tokens;
    const train_minilm_config_t  *c = encoder->model->config;

    tokens = 0;

    for (done = 0; done < n; done += k) {

        for (k = 0, used = 0; done + k < n && used < TRAIN_PACKED; k++) {
            encoder->first[k] = used;
            used += train_tokenize(encoder->model->pieces,
                                   texts[done + k].data, texts[done + k].len,
                                   encoder->token + used);
        }

        encoder->first[k] = used;
        tokens += used;
        train_embed(encoder, k);

        for (i = 0; i < c->layers; i++) {
            train_layer(encoder, &encoder->model->layers[i], k);
        }

        for (i = 0; i < k; i++) {
            train_pool(encoder, encoder->first[i],
                       encoder->first[i + 1] - encoder->first[i],
                       vectors + (uint64_t) (done + i) * c->width);
        }
    }

    return tokens;
}


static void
train_embed(train_encoder_t *encoder, uint32_t texts)
{
    float                        *x;
    uint32_t                      i, k, t, w;
    const float                  *word, *position;
    const train_minilm_t         *model = encoder->model;

    w = model->config->width;

    for (i = 0; i < texts; i++) {
        for (t = encoder->first[i]; t < encoder->first[i + 1]; t++) {
            x = encoder->x + (uint64_t) t * w;
            word = model->words + (uint64_t) encoder->token[t] * w;
            position = model->positions
                       + (uint64_t) (t - encoder->first[i]) * w;

            for (k = 0; k < w; k++) {
                x[k] = word[k] + position[k] + model->kind[k];
            }
        }
    }

    train_add_norm(encoder->x, NULL, encoder->first[texts], w, model->norm,
                   model->norm_bias, model->config->epsilon);
}


static void
train_layer(train_encoder_t *encoder, const train_minilm_layer_t *layer,
    uint32_t texts)
{
    uint32_t                      i, rows, w;
    const train_minilm_config_t  *c = encoder->model->config;

    w = c->width;
    rows = encoder->first[texts];

    train_linear(encoder->x, rows, w, layer->qkv, layer->qkv_bias, 3 * w,
                 encoder->qkv);

    /* what the attention gives goes where the inner part is not needed yet */

    for (i = 0; i < texts; i++) {
        train_attention(encoder, encoder->first[i],
                        encoder->first[i + 1] - encoder->first[i]);
    }

    train_linear(encoder->inner, rows, w, layer->out, layer->out_bias, w,
                 encoder->y);
    train_add_norm(encoder->x, encoder->y, rows, w, layer->norm1,
                   layer->norm1_bias, c->epsilon);

    train_linear(encoder->x, rows, w, layer->up, layer->up_bias, c->inner,
                 encoder->inner);
    train_gelu(encoder->inner, (uint64_t) rows * c->inner);
    train_linear(encoder->inner, rows, c->inner, layer->down,
                 layer->down_bias, w, encoder->y);
    train_add_norm(encoder->x, encoder->y, rows, w, layer->norm2,
                   layer->norm2_bias, c->epsilon);
}


/* Each head by itself, over the tokens of one text. */

static void
train_attention(train_encoder_t *encoder, uint32_t first, uint32_t n)
{
    float                        *out;
    uint32_t                      h, i, w, size;
    const float                  *q, *k, *v;
    const train_minilm_config_t  *c = encoder->model->config;

    w = c->width;
    size = w / c->heads;

    for (h = 0; h < c->heads; h++) {
        q = encoder->qkv + (uint64_t) first * 3 * w + h * size;
        k = q + w;
        v = k + w;
        out = encoder->inner + (uint64_t) first * w + h * size;

        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, size,
                    1 / sqrtf(size), q, 3 * w, k, 3 * w, 0, encoder->score,
                    n);

        for (i = 0; i < n; i++) {
            train_softmax(encoder->score + (uint64_t) i * n, n);
        }

        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, size, n, 1,
                    encoder->score, n, v, 3 * w, 0, out, w);
    }
}


static void
train_softmax(float *row, uint32_t n)
{
    float     top, sum;
    uint32_t  i;

    top = row[0];

    for (i = 1; i < n; i++) {
        top = (row[i] > top) ? row[i] : top;
    }

    for (i = 0, sum = 0; i < n; i++) {
        row[i] = expf(row[i] - top);
        sum += row[i];
    }

    for (i = 0; i < n; i++) {
        row[i] /= sum;
    }
}


/* The mean over all tokens, [CLS] and [SEP] too, to length 1. */

static void
train_pool(const train_encoder_t *encoder, uint32_t first, uint32_t n,
    float *vector)
{
    double        length;
    uint32_t      i, k, w;
    const float  *x;

    w = encoder->model->config->width;
    memset(vector, 0, w * sizeof(float));

    for (i = first; i < first + n; i++) {
        x = encoder->x + (uint64_t) i * w;

        for (k = 0; k < w; k++) {
            vector[k] += x[k];
        }
    }

    for (k = 0, length = 0; k < w; k++) {
        length += (double) vector[k] * vector[k];
    }

    length = (length > 0) ? 1 / sqrt(length) : 0;

    for (k = 0; k < w; k++) {
        vector[k] *= length;
    }
}


/* out = in × weightsᵀ + bias */

static void
train_linear(const float *in, uint32_t rows, uint32_t width,
    const float *weights, const float *bias, uint32_t wide, float *out)
{
    uint32_t  i;

    for (i = 0; i < rows; i++) {
        memcpy(out + (uint64_t) i * wide, bias, wide * sizeof(float));
    }

    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, wide, width, 1,
                in, width, weights, width, 1, out, wide);
}


static void
train_add_norm(float *x, const float *add, uint32_t rows, uint32_t width,
    const float *scale, const float *bias, float epsilon)
{
    float     *row, mean, factor;
    double     sum, squares;
    uint32_t   i, k;

    for (i = 0; i < rows; i++) {
        row = x + (uint64_t) i * width;

        for (k = 0; add != NULL && k < width; k++) {
            row[k] += add[(uint64_t) i * width + k];
        }

        for (k = 0, sum = 0; k < width; k++) {
            sum += row[k];
        }

        mean = sum / width;

        for (k = 0, squares = 0; k < width; k++) {
            squares += (double) (row[k] - mean) * (row[k] - mean);
        }

        factor = 1 / sqrt(squares / width + epsilon);

        for (k = 0; k < width; k++) {
            row[k] = (row[k] - mean) * factor * scale[k] + bias[k];
        }
    }
}


/*
 * x/2 (1 + erf(x/√2)).  The error function by Abramowitz and Stegun 7.1.28,
 * off by 3e-7 at most: without a branch, it is computed four or eight at a time.
 */

static void
train_gelu(float *x, uint64_t n)
{
    float     a, p;
    uint64_t  i;

    for (i = 0; i < n; i++) {
        a = fabsf(x[i]) * 0.70710678f;
        p = 1 + a * (0.0705230784f + a * (0.0422820123f
            + a * (0.0092705272f + a * (0.0001520143f
            + a * (0.0002765672f + a * 0.0000430638f)))));
        p *= p;
        p *= p;
        p *= p;
        p *= p;
        p = copysignf(1 - 1 / p, x[i]);
        x[i] = 0.5f * x[i] * (1 + p);
    }
}
