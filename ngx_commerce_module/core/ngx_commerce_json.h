/*
 * Strict JSON reader: I-JSON (RFC 7493) and nothing else.
 *
 * Refused, with the place: duplicate keys, invalid or overlong UTF-8, lone
 * surrogates, \u0000, control characters, a byte order mark, trailing bytes,
 * too deep nesting, too many members, numbers out of grammar or beyond a
 * double, Unicode noncharacters.
 *
 * With limits->nfc text becomes NFC: what a client spells in two ways is one
 * text from here on.  Without it text is what the source says.
 *
 * Memory: a node (80 bytes) per member or element, which max_members bounds,
 * and the text of strings that hold escapes, at most the source's length.
 */

#ifndef NGX_COMMERCE_JSON_H
#define NGX_COMMERCE_JSON_H


#include "ngx_commerce_core.h"


typedef enum {
    NGX_COMMERCE_JSON_NULL = 0,
    NGX_COMMERCE_JSON_FALSE,
    NGX_COMMERCE_JSON_TRUE,
    NGX_COMMERCE_JSON_NUMBER,
    NGX_COMMERCE_JSON_STRING,
    NGX_COMMERCE_JSON_ARRAY,
    NGX_COMMERCE_JSON_OBJECT
} ngx_commerce_json_type_t;


typedef struct ngx_commerce_json_s  ngx_commerce_json_t;

struct ngx_commerce_json_s {
    uint8_t               type;         /* ngx_commerce_json_type_t */
    uint8_t               integer;      /* NUMBER without fraction and exponent, |n| <= 2^53 - 1: "number" is set */
    uint32_t              count;        /* members or elements */
    ngx_commerce_str_t    key;          /* member name, unescaped */
    ngx_commerce_str_t    raw;          /* the value's bytes in the source */
    ngx_commerce_str_t    text;         /* STRING, unescaped; points into the source when nothing was escaped */
    int64_t               number;
    ngx_commerce_json_t  *child;        /* first member or element, in source order */
    ngx_commerce_json_t  *next;
};


typedef struct {
    uint32_t  max_depth;                /* 0: 32 */
    uint32_t  max_members;              /* of the whole document; 0: 1000 */
    bool      nfc;                      /* strings and names become NFC, raw bytes of what holds them too */
} ngx_commerce_json_limits_t;


typedef struct {
    size_t       offset;
    const char  *code;                  /* stable slug: "duplicate-key", "invalid-utf8", "control-character",
                                           "nul-character", "noncharacter", "lone-surrogate", "byte-order-mark", "trailing-bytes",
                                           "too-deep", "too-many-members", "number-range", "too-many-marks",
                                           "syntax", "empty" */
    const char  *message;               /* a sentence, static */
    char         pointer[256];          /* JSON Pointer of the value it was found in, cut when too long */
} ngx_commerce_json_error_t;


/*
 * Reads "len" bytes at "data", which must outlive the tree.  Returns OK and
 * *root, or INVALID and *error, or NOMEM.  limits may be NULL.
 */

ngx_commerce_rc_t ngx_commerce_json_parse(const ngx_commerce_alloc_t *alloc,
    const uint8_t *data, size_t len, const ngx_commerce_json_limits_t *limits,
    ngx_commerce_json_t **root, ngx_commerce_json_error_t *error);

/* The member, or NULL; also NULL when "object" is NULL or no object. */

ngx_commerce_json_t *ngx_commerce_json_get(const ngx_commerce_json_t *object,
    const char *key);
ngx_commerce_json_t *ngx_commerce_json_get_n(const ngx_commerce_json_t *object,
    const uint8_t *key, size_t len);

/*
 * Leaves in a reply the members whose names are in *names, a JSON array of
 * strings: of the elements of its member "data" or of "data" itself, else of the reply.
 * What stands beside "data" stays.  Order and bytes are the reply's.  INVALID:
 * one of the two is no JSON.
 */

ngx_commerce_rc_t ngx_commerce_json_select(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_str_t *body, const ngx_commerce_str_t *names);

/*
 * Writes the JSON string for "text", quotes included, and returns the end;
 * with dst == NULL returns (uint8_t *) of the length only.  "text" is valid UTF-8.
 */

uint8_t *ngx_commerce_json_quote(uint8_t *dst, const uint8_t *text, size_t len);

/*
 * Canonical form (RFC 8785 order of members, no white space, numbers as written) for fingerprints.
 * Returns the end, or NULL when there is no memory to sort an object of more than 64 members; with dst == NULL
 * returns (uint8_t *) of the length only.
 */

uint8_t *ngx_commerce_json_canonical(uint8_t *dst,
    const ngx_commerce_json_t *value);


#endif /* NGX_COMMERCE_JSON_H */
