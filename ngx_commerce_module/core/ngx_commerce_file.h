/*
 * Files that are looked at again and again and read when they are others:
 * which file it is, whether somebody still writes to it, and all of its bytes.
 *
 * Knows no nginx.
 */

#ifndef NGX_COMMERCE_FILE_H
#define NGX_COMMERCE_FILE_H


#include "ngx_commerce_core.h"

#include <sys/stat.h>


/* What tells one file from the next. */

typedef struct {
    uint64_t  inode;                    /* 0: no file */
    uint64_t  modified;                 /* ns since 1970 */
    uint64_t  size;
    uint64_t  changed;                  /* as modified; by a rename or chmod, too */
} ngx_commerce_file_t;


void ngx_commerce_file_identify(ngx_commerce_file_t *file,
    const struct stat *st);

/* Nothing happened to it in between: what came back by a rename, or may be read since a chmod, is another one. */

bool ngx_commerce_file_same(const ngx_commerce_file_t *a,
    const ngx_commerce_file_t *b);

/* Nobody has written to it for half a second; a time that is still to come tells nothing. */

bool ngx_commerce_file_settled(const ngx_commerce_file_t *file);

/* "error" of opening it tells of want of descriptors or memory, nothing of the file: it is to be tried again. */

bool ngx_commerce_file_scarce(int error);

/* All its bytes into "data", and it is still the same one; NULL, or what is wrong.  May block. */

const char *ngx_commerce_file_read(int fd, void *data,
    const ngx_commerce_file_t *file);


#endif /* NGX_COMMERCE_FILE_H */
