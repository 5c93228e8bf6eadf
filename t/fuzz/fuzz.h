/* What the targets share: an arena, and a main() to replay a corpus without clang. */

#ifndef FUZZ_H
#define FUZZ_H


#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ngx_commerce_contract.h"
#include "ngx_commerce_codec.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);


typedef struct fuzz_block_s {
    struct fuzz_block_s  *next;
    max_align_t           data[];
} fuzz_block_t;


/* Each allocation is a block of its own, so that the sanitizer sees its ends. */

static inline void *
fuzz_alloc(void *ctx, size_t size)
{
    fuzz_block_t  *b, **list = ctx;

    b = malloc(sizeof(fuzz_block_t) + size);
    assert(b != NULL);

    b->next = *list;
    *list = b;

    return b->data;
}


static inline void
fuzz_free(fuzz_block_t *list)
{
    fuzz_block_t  *next;

    for ( /* void */ ; list != NULL; list = next) {
        next = list->next;
        free(list);
    }
}


#ifdef FUZZ_REPLAY

int
main(int argc, char **argv)
{
    int             i;
    size_t          len;
    FILE           *f;
    static uint8_t  buf[1 << 20];

    for (i = 1; i < argc; i++) {
        f = fopen(argv[i], "rb");
        assert(f != NULL);
        len = fread(buf, 1, sizeof(buf), f);
        fclose(f);

        uint8_t  *copy = malloc(len + 1);

        memcpy(copy, buf, len);
        LLVMFuzzerTestOneInput(copy, len);
        free(copy);
    }

    printf("%d inputs\n", argc - 1);

    return 0;
}

#endif


#endif /* FUZZ_H */
