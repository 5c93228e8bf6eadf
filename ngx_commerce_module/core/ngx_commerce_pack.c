/* Files of sections, see ngx_commerce_pack.h. */

#include "ngx_commerce_pack.h"

#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif


#define NGX_COMMERCE_PACK_MAGIC  "NGXCPACK"
#define NGX_COMMERCE_PACK_ORDER  0x01020304


typedef struct {
    char        magic[8];
    uint32_t    order;                  /* as the writer's machine keeps numbers */
    uint32_t    kind;
    uint32_t    version;
    uint32_t    sections;
    uint64_t    size;
    uint8_t     unused[28];             /* zero */
    uint32_t    crc;                    /* of header and directory, with 0 here */
} ngx_commerce_pack_header_t;

typedef struct {
    uint32_t    id;
    uint32_t    crc;
    uint64_t    offset;
    uint64_t    len;
} ngx_commerce_pack_entry_t;

_Static_assert(sizeof(ngx_commerce_pack_header_t) == NGX_COMMERCE_PACK_ALIGN,
               "the header is a cache line");
_Static_assert(sizeof(ngx_commerce_pack_entry_t) == 24, "no padding");


static const char *ngx_commerce_pack_header(const void *data, size_t size,
    uint32_t kind, uint32_t version);
static const char *ngx_commerce_pack_directory(ngx_commerce_pack_t *pack,
    const ngx_commerce_pack_header_t *header, bool check);
static uint32_t ngx_commerce_pack_sum(const ngx_commerce_pack_header_t *header);
static uint64_t ngx_commerce_pack_round(uint64_t n);
static uint32_t ngx_commerce_crc32c_bits(uint32_t crc, const uint8_t *p,
    size_t len);


ngx_commerce_rc_t
ngx_commerce_pack_open(ngx_commerce_pack_t *pack, const void *data, size_t size,
    uint32_t kind, uint32_t version, bool check, const char **why)
{
    const ngx_commerce_pack_header_t  *header = data;

    memset(pack, 0, sizeof(ngx_commerce_pack_t));

    *why = ngx_commerce_pack_header(data, size, kind, version);

    if (*why != NULL) {
        return NGX_COMMERCE_INVALID;
    }

    pack->data = data;
    pack->size = size;
    pack->kind = header->kind;
    pack->version = header->version;

    *why = ngx_commerce_pack_directory(pack, header, check);

    return (*why == NULL) ? NGX_COMMERCE_OK : NGX_COMMERCE_INVALID;
}


static const char *
ngx_commerce_pack_header(const void *data, size_t size, uint32_t kind,
    uint32_t version)
{
    const ngx_commerce_pack_header_t  *header = data;

    if (size < sizeof(ngx_commerce_pack_header_t)) {
        return "the file is shorter than its header";
    }

    if ((uintptr_t) data % NGX_COMMERCE_PACK_ALIGN != 0) {
        return "the memory is not aligned to 64 bytes";
    }

    if (memcmp(header->magic, NGX_COMMERCE_PACK_MAGIC, 8) != 0) {
        return "this is not a file of commerce-train";
    }

    if (header->order != NGX_COMMERCE_PACK_ORDER) {
        return "the file was made on a machine with another byte order";
    }

    if (header->kind != kind) {
        return "the file is of another kind";
    }

    if (header->version != version) {
        return "the file is of another version: train again";
    }

    if (header->size != size) {
        return "the file is cut or has something after its end";
    }

    if (header->sections >= NGX_COMMERCE_PACK_SECTIONS
        || size - sizeof(ngx_commerce_pack_header_t)
           < header->sections * sizeof(ngx_commerce_pack_entry_t))
    {
        return "the directory does not fit";
    }

    if (ngx_commerce_pack_sum(header) != header->crc) {
        return "the header's checksum is wrong";
    }

    return NULL;
}


/* Sections lie behind the directory, in order, each at a cache line, none over another. */

static const char *
ngx_commerce_pack_directory(ngx_commerce_pack_t *pack,
    const ngx_commerce_pack_header_t *header, bool check)
{
    uint32_t                          i, id;
    uint64_t                          end;
    const ngx_commerce_pack_entry_t  *entry;

    entry = (const ngx_commerce_pack_entry_t *) (header + 1);
    end = sizeof(ngx_commerce_pack_header_t)
          + header->sections * sizeof(ngx_commerce_pack_entry_t);
    id = 0;

    for (i = 0; i < header->sections; i++, entry++) {

        if (entry->id <= id || entry->id >= NGX_COMMERCE_PACK_SECTIONS) {
            return "the directory is out of order";
        }

        if (entry->offset != ngx_commerce_pack_round(end)
            || entry->offset > pack->size
            || entry->len > pack->size - entry->offset)
        {
            return "a section lies outside the file";
        }

        if (check && ngx_commerce_crc32c(0, pack->data + entry->offset,
                                         entry->len)
                     != entry->crc)
        {
            return "a section's checksum is wrong";
        }

        id = entry->id;
        end = entry->offset + entry->len;

        pack->section[id].id = id;
        pack->section[id].align = NGX_COMMERCE_PACK_ALIGN;
        pack->section[id].len = entry->len;
        pack->section[id].data = pack->data + entry->offset;
    }

    if (ngx_commerce_pack_round(end) != pack->size) {
        return "the file is cut or has something after its end";
    }

    return NULL;
}


const void *
ngx_commerce_pack_array(const ngx_commerce_pack_t *pack, uint32_t id,
    size_t size, uint64_t *count)
{
    const ngx_commerce_pack_section_t  *section = &pack->section[id];

    *count = 0;

    if (section->data == NULL || section->len % size != 0) {
        return NULL;
    }

    *count = section->len / size;

    return section->data;
}


uint64_t
ngx_commerce_pack_size(const ngx_commerce_pack_section_t *sections, unsigned n)
{
    unsigned  i;
    uint64_t  size;

    size = ngx_commerce_pack_round(sizeof(ngx_commerce_pack_header_t)
                                   + n * sizeof(ngx_commerce_pack_entry_t));

    for (i = 0; i < n; i++) {
        size += ngx_commerce_pack_round(sections[i].len);
    }

    return size;
}


void
ngx_commerce_pack_write(void *out, uint32_t kind, uint32_t version,
    const ngx_commerce_pack_section_t *sections, unsigned n)
{
    unsigned                     i;
    uint64_t                     offset, end;
    ngx_commerce_pack_entry_t   *entry;
    ngx_commerce_pack_header_t  *header = out;

    offset = ngx_commerce_pack_round(sizeof(ngx_commerce_pack_header_t)
                                     + n * sizeof(ngx_commerce_pack_entry_t));
    memset(out, 0, offset);

    memcpy(header->magic, NGX_COMMERCE_PACK_MAGIC, 8);
    header->order = NGX_COMMERCE_PACK_ORDER;
    header->kind = kind;
    header->version = version;
    header->sections = n;
    header->size = ngx_commerce_pack_size(sections, n);

    entry = (ngx_commerce_pack_entry_t *) (header + 1);

    for (i = 0; i < n; i++, entry++) {
        entry->id = sections[i].id;
        entry->offset = offset;
        entry->len = sections[i].len;

        if (entry->len != 0) {
            memcpy((uint8_t *) out + offset, sections[i].data, entry->len);
        }

        entry->crc = ngx_commerce_crc32c(0, (uint8_t *) out + offset,
                                         entry->len);

        end = offset + entry->len;
        offset = ngx_commerce_pack_round(end);
        memset((uint8_t *) out + end, 0, offset - end);
    }

    header->crc = ngx_commerce_pack_sum(header);
}


static uint32_t
ngx_commerce_pack_sum(const ngx_commerce_pack_header_t *header)
{
    uint32_t                    crc;
    ngx_commerce_pack_header_t  copy = *header;

    copy.crc = 0;
    crc = ngx_commerce_crc32c(0, &copy, sizeof(copy));

    return ngx_commerce_crc32c(crc, header + 1,
                               header->sections
                               * sizeof(ngx_commerce_pack_entry_t));
}


static uint64_t
ngx_commerce_pack_round(uint64_t n)
{
    return (n + NGX_COMMERCE_PACK_ALIGN - 1)
           & ~(uint64_t) (NGX_COMMERCE_PACK_ALIGN - 1);
}


#if defined(__x86_64__)

__attribute__((target("sse4.2")))
static uint32_t
ngx_commerce_crc32c_sse(uint32_t crc, const uint8_t *p, size_t len)
{
    uint64_t  sum, word;

    sum = ~crc;

    for ( /* void */ ; len >= 8; len -= 8, p += 8) {
        memcpy(&word, p, 8);
        sum = _mm_crc32_u64(sum, word);
    }

    for ( /* void */ ; len != 0; len--, p++) {
        sum = _mm_crc32_u8((uint32_t) sum, *p);
    }

    return ~(uint32_t) sum;
}

#endif


uint32_t
ngx_commerce_crc32c(uint32_t crc, const void *data, size_t len)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) {
        return ngx_commerce_crc32c_sse(crc, data, len);
    }
#endif

    return ngx_commerce_crc32c_bits(crc, data, len);
}


static uint32_t
ngx_commerce_crc32c_bits(uint32_t crc, const uint8_t *p, size_t len)
{
    unsigned  bit;

    crc = ~crc;

    for ( /* void */ ; len != 0; len--) {
        crc ^= *p++;

        for (bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ (0x82f63b78 & -(crc & 1));
        }
    }

    return ~crc;
}
