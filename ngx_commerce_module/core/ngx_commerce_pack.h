/*
 * The container of the files that the trainer makes and the edge maps: a
 * header, a directory, sections at cache lines, a CRC-32C for each.
 *
 * What a section holds is checked by its reader (similarity, sentiment); here
 * it is made sure that every section lies inside the file and is what was
 * written.  Reading allocates nothing.
 */

#ifndef NGX_COMMERCE_PACK_H
#define NGX_COMMERCE_PACK_H


#include "ngx_commerce_core.h"


#define NGX_COMMERCE_PACK_SECTIONS  16
#define NGX_COMMERCE_PACK_ALIGN     64


typedef struct {
    uint32_t     id;                    /* 1 to NGX_COMMERCE_PACK_SECTIONS - 1 */
    uint32_t     align;                 /* of the reader's type; 0: not there */
    uint64_t     len;
    const void  *data;
} ngx_commerce_pack_section_t;


typedef struct {
    const uint8_t                *data;
    uint64_t                      size;
    uint32_t                      kind;
    uint32_t                      version;
    ngx_commerce_pack_section_t   section[NGX_COMMERCE_PACK_SECTIONS];  /* by id */
} ngx_commerce_pack_t;


/*
 * Reads header and directory of "size" bytes at "data" (aligned to 64).  With
 * "check" the sections' sums are computed too, which reads the whole file: not
 * needed for memory that was checked before.  What is wrong is told in "why".
 */

ngx_commerce_rc_t ngx_commerce_pack_open(ngx_commerce_pack_t *pack,
    const void *data, size_t size, uint32_t kind, uint32_t version, bool check,
    const char **why);

/* The section's bytes as "count" things of "size" bytes; NULL: absent or not a multiple. */

const void *ngx_commerce_pack_array(const ngx_commerce_pack_t *pack,
    uint32_t id, size_t size, uint64_t *count);

/* Bytes that pack_write() needs.  Ids ascend. */

uint64_t ngx_commerce_pack_size(const ngx_commerce_pack_section_t *sections,
    unsigned n);

/* Writes the file to "out", every byte of it.  The same sections give the same bytes. */

void ngx_commerce_pack_write(void *out, uint32_t kind, uint32_t version,
    const ngx_commerce_pack_section_t *sections, unsigned n);


/* CRC-32C (Castagnoli), to be continued: begin with 0. */

uint32_t ngx_commerce_crc32c(uint32_t crc, const void *data, size_t len);


#endif /* NGX_COMMERCE_PACK_H */
