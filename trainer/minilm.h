/*
 * A sentence encoder of the BERT family (all-MiniLM-L6-v2): WordPiece tokens,
 * a few layers of self-attention, the mean over the tokens, length 1.
 *
 * The model is one file made by scripts/minilm, mapped and only read; its
 * sizes are in it, so that a test can have a small one.
 */

#ifndef TRAIN_MINILM_H
#define TRAIN_MINILM_H


#include "train.h"


#define TRAIN_MINILM_KIND     0x4e494d43    /* "CMIN" */
#define TRAIN_MINILM_VERSION  1


/* Written by scripts/minilm, which has the same fields in the same order. */

typedef struct {
    uint32_t    vocabulary;
    uint32_t    width;                  /* of a vector */
    uint32_t    layers;
    uint32_t    heads;
    uint32_t    inner;                  /* of the feed-forward part */
    uint32_t    positions;
    uint32_t    tokens;                 /* of a text, at most, with [CLS] and [SEP] */
    uint32_t    unknown;                /* numbers of tokens */
    uint32_t    begin;
    uint32_t    end;
    float       epsilon;                /* of the layer norm */
    uint32_t    unused;                 /* zero */
    char        name[48];               /* terminated */
} train_minilm_config_t;

enum {
    TRAIN_MINILM_CONFIG = 1,
    TRAIN_MINILM_VOCABULARY,            /* pieces, each with a newline */
    TRAIN_MINILM_TENSORS                /* float32, see train_minilm_layout() */
};


/* Matrices are by rows: output × input. */

typedef struct {
    const float    *qkv;                /* query, key, value: 3 × width rows */
    const float    *qkv_bias;
    const float    *out;
    const float    *out_bias;
    const float    *norm1, *norm1_bias;
    const float    *up;                 /* inner rows */
    const float    *up_bias;
    const float    *down;               /* width rows */
    const float    *down_bias;
    const float    *norm2, *norm2_bias;
} train_minilm_layer_t;

typedef struct train_wordpiece_s  train_wordpiece_t;

typedef struct {
    train_file_t                  file;
    uint64_t                      sum;          /* which weights they are */
    const train_minilm_config_t  *config;
    const float                  *words;
    const float                  *positions;
    const float                  *kind;         /* of a first sentence: there is no other */
    const float                  *norm, *norm_bias;
    train_minilm_layer_t         *layers;
    train_wordpiece_t            *pieces;
} train_minilm_t;

/* Maps the file and checks all of it. */

void train_minilm_open(train_minilm_t *model, const char *name);
void train_minilm_close(train_minilm_t *model);


/* One worker's memory. */

typedef struct train_encoder_s  train_encoder_t;

train_encoder_t *train_encoder(const train_minilm_t *model);
void train_encoder_free(train_encoder_t *encoder);

typedef struct {
    const char   *data;
    size_t        len;
} train_str_t;

/*
 * Vectors of n texts, width floats each; returns how many tokens they had.
 * Texts are computed several at a time, packed and without padding: the last
 * bit of a vector may depend on which texts are asked for together.
 */

uint64_t train_encode(train_encoder_t *encoder, const train_str_t *texts,
    uint32_t n, float *vectors);


/* Pieces of a vocabulary, and a text as their numbers, with [CLS] and [SEP]. */

train_wordpiece_t *train_wordpiece(const train_minilm_config_t *config,
    const char *data, size_t len);
void train_wordpiece_free(train_wordpiece_t *pieces);
uint32_t train_tokenize(const train_wordpiece_t *pieces, const char *text,
    size_t len, uint32_t *tokens);


#endif /* TRAIN_MINILM_H */
