/*
 * Compiled schemas: what the compiler, the checker and the reader of
 * parameters share.
 */

#ifndef NGX_COMMERCE_SCHEMA_INTERNAL_H
#define NGX_COMMERCE_SCHEMA_INTERNAL_H


#include "ngx_commerce_schema.h"
#include "ngx_commerce_fault.h"
#include "ngx_commerce_names.h"

#include <stdarg.h>


#define NGX_COMMERCE_T_NULL     0x01
#define NGX_COMMERCE_T_BOOLEAN  0x02
#define NGX_COMMERCE_T_INTEGER  0x04
#define NGX_COMMERCE_T_NUMBER   0x08    /* integers too */
#define NGX_COMMERCE_T_STRING   0x10
#define NGX_COMMERCE_T_ARRAY    0x20
#define NGX_COMMERCE_T_OBJECT   0x40
#define NGX_COMMERCE_T_ANY      0x7F

#define NGX_COMMERCE_UNLIMITED  UINT32_MAX


typedef struct ngx_commerce_pattern_s  ngx_commerce_pattern_t;

/* Returns NULL when the text has the format, else what it must be. */

typedef const char *(*ngx_commerce_format_pt)(const uint8_t *p, size_t len);


typedef struct {
    const ngx_commerce_json_t  *value;  /* NULL: none */
    double                      real;
} ngx_commerce_bound_t;


typedef struct {
    ngx_commerce_schema_t     **list;
    uint32_t                    count;
} ngx_commerce_schemas_t;


typedef struct {
    ngx_commerce_str_t          text;
    ngx_commerce_pattern_t     *pattern;
    ngx_commerce_schema_t      *schema;
} ngx_commerce_pattern_property_t;


/* Formats that have one form of many spellings. */

typedef enum {
    NGX_COMMERCE_CANON_NONE = 0,
    NGX_COMMERCE_CANON_EMAIL,
    NGX_COMMERCE_CANON_HOST,
    NGX_COMMERCE_CANON_PASSWORD
} ngx_commerce_canon_t;


typedef enum {
    NGX_COMMERCE_MEMBERS_OPEN = 0,
    NGX_COMMERCE_MEMBERS_CLOSED,        /* "known" lists what may be there */
    NGX_COMMERCE_MEMBERS_SCHEMA         /* "additional" checks the others */
} ngx_commerce_members_t;


struct ngx_commerce_schema_s {
    uint32_t                          types;
    bool                              never;        /* the schema "false" */
    bool                              cursor;

    const ngx_commerce_json_t        *constant;
    const ngx_commerce_json_t        *enumeration;  /* ARRAY */
    const ngx_commerce_json_t        *fallback;     /* default */

    ngx_commerce_bound_t              minimum;
    ngx_commerce_bound_t              maximum;
    ngx_commerce_bound_t              above;        /* exclusiveMinimum */
    ngx_commerce_bound_t              below;
    int64_t                           multiple;     /* 0: none */
    bool                              int32;

    uint32_t                          min_length;
    uint32_t                          max_length;
    ngx_commerce_pattern_t           *pattern;
    ngx_commerce_str_t                pattern_text;
    ngx_commerce_format_pt            format;
    const char                       *format_name;
    ngx_commerce_canon_t              canon;
    bool                              completes;    /* itself or what it leads to has a default or a canon */

    ngx_commerce_names_t              properties;
    ngx_commerce_schema_t           **property;     /* by index; NULL: any */
    bool                             *property_required;
    uint32_t                          required_count;
    ngx_commerce_pattern_property_t  *patterns;
    uint32_t                          patterns_count;
    ngx_commerce_members_t            members;
    bool                              stated;       /* has additionalProperties */
    bool                              named;        /* has properties */
    ngx_commerce_schema_t            *additional;
    ngx_commerce_names_t              known;
    uint32_t                          min_members;
    uint32_t                          max_members;

    ngx_commerce_schema_t            *items;
    ngx_commerce_schemas_t            prefix;
    uint32_t                          min_items;
    uint32_t                          max_items;
    bool                              unique;

    ngx_commerce_schema_t            *ref;          /* beside other keywords */
    ngx_commerce_schemas_t            all;
    ngx_commerce_schemas_t            any;
    ngx_commerce_schemas_t            one;
    ngx_commerce_schema_t            *not;

    /* the compiler's */
    const ngx_commerce_json_t        *source;
    bool                              in_place;
    ngx_commerce_schema_t            *next;
};


/* What a schema accepts by type, seen through $ref, allOf, anyOf and oneOf. */

uint32_t ngx_commerce_schema_types(const ngx_commerce_schema_t *schema);

/* The schema of the elements, or NULL. */

const ngx_commerce_schema_t *ngx_commerce_schema_items(
    const ngx_commerce_schema_t *schema);

/*
 * The names in "properties" of the schema and of all that apply to the same
 * value.  Writes at most "max" (names may be NULL) and returns their number,
 * duplicates counted.
 */

uint32_t ngx_commerce_schema_names(const ngx_commerce_schema_t *schema,
    ngx_commerce_str_t *names, uint32_t max);

/* Appends one violation, unless the list is full.  "pointer" is kept. */

ngx_commerce_rc_t ngx_commerce_violation(ngx_commerce_violations_t *violations,
    ngx_commerce_str_t pointer, const char *code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

ngx_commerce_rc_t ngx_commerce_violation_add(
    ngx_commerce_violations_t *violations, ngx_commerce_str_t pointer,
    const char *code, const char *format, va_list args);

/* A NUMBER as a double; equality as JSON Schema has it: 1 and 1.0 are equal. */

double ngx_commerce_json_real(const ngx_commerce_json_t *value);
bool ngx_commerce_json_equal(const ngx_commerce_json_t *a,
    const ngx_commerce_json_t *b);


/*
 * Patterns are kept for the life of the process and shared by equal text: a
 * reload compiles none again.  NULL: *error says why.
 */

ngx_commerce_pattern_t *ngx_commerce_pattern_get(const uint8_t *text,
    size_t len, char *error, size_t error_len);

/* False also when the match limit is reached. */

bool ngx_commerce_pattern_match(const ngx_commerce_pattern_t *pattern,
    const uint8_t *text, size_t len);


/* Marks the schemas of a list (by "next") that complete values. */

void ngx_commerce_schema_completing(ngx_commerce_schema_t *schemas);


/* Of a known format; *annotation is set for those that are not checked. */

ngx_commerce_format_pt ngx_commerce_format_find(ngx_commerce_str_t name,
    const char **known, bool *annotation);


#endif /* NGX_COMMERCE_SCHEMA_INTERNAL_H */
