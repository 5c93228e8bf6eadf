/*
 * Vectors of products' texts, in one file for each shop: 8 bits a number with
 * one scale a vector, which costs 4e-5 of a cosine.  Each knows the sum of
 * the text that it was made of, so that only changed texts are computed again.
 */

#ifndef TRAIN_EMBEDDINGS_H
#define TRAIN_EMBEDDINGS_H


#include "data.h"


#define TRAIN_EMBEDDINGS_KIND     0x43455643    /* "CVEC" */
#define TRAIN_EMBEDDINGS_VERSION  1
#define TRAIN_EMBEDDINGS_NARROW   128   /* numbers of a vector, at least: MMR takes 64 of their directions */


typedef struct {
    uint64_t    model;                  /* the sum of the weights */
    uint32_t    width;
    uint32_t    n;
    char        name[48];               /* of the model; terminated */
} train_embeddings_about_t;

struct train_embeddings_s {
    train_file_t                     file;
    const train_embeddings_about_t  *about;
    const uint64_t                  *keys;      /* ascending */
    const uint64_t                  *sums;
    const float                     *scales;
    const int8_t                    *vectors;   /* n × width */
    uint64_t                         identity;  /* of the file */
};


/* Checks all of the file; what is wrong ends the program. */

void train_embeddings_open(train_embeddings_t *embeddings, const char *name);
void train_embeddings_close(train_embeddings_t *embeddings);

/* Writes keys[i], sums[i], scales[i] and vectors[i] of those i that are "done". */

void train_embeddings_save(const char *name,
    const train_embeddings_about_t *about, uint32_t n, const uint64_t *keys,
    const uint64_t *sums, const float *scales, const int8_t *vectors,
    const uint8_t *done);

/* Quantises a vector of length 1. */

void train_embeddings_quantise(const float *vector, uint32_t width,
    int8_t *out, float *scale);


/* What is embedded of a product: name, description and tags, category, brand. NULL: nothing. */

char *train_embeddings_text(const train_text_t *text, size_t *len);
uint64_t train_embeddings_sum(const char *text, size_t len);


#endif /* TRAIN_EMBEDDINGS_H */
