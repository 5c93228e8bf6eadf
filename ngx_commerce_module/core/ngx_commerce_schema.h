/*
 * JSON Schema 2020-12 as OpenAPI 3.1 uses it, compiled once, run per request.
 */

#ifndef NGX_COMMERCE_SCHEMA_H
#define NGX_COMMERCE_SCHEMA_H


#include "ngx_commerce_json.h"


typedef struct ngx_commerce_schema_s  ngx_commerce_schema_t;


typedef struct {
    ngx_commerce_str_t   pointer;       /* JSON Pointer ("/items/0/quantity"), or the parameter's name */
    const char          *code;          /* "required", "unknown-member", "type", "minimum", "pattern", … */
    ngx_commerce_str_t   message;       /* "must be at least 1" */
} ngx_commerce_violation_t;

#define NGX_COMMERCE_VIOLATIONS_MAX  16

typedef struct {
    const ngx_commerce_alloc_t  *alloc;
    uint32_t                     count;
    ngx_commerce_violation_t     list[NGX_COMMERCE_VIOLATIONS_MAX];
} ngx_commerce_violations_t;


/*
 * Compiles "schema"; "root" is the document in which "#/…" references are
 * looked up.  Members not named in "properties" are refused unless the schema
 * has additionalProperties.  An unsupported keyword is INVALID with *fault.
 * The result is immutable and lives in "alloc".
 */

ngx_commerce_rc_t ngx_commerce_schema_compile(const ngx_commerce_alloc_t *alloc,
    const ngx_commerce_json_t *schema, const ngx_commerce_json_t *root,
    const char *place, ngx_commerce_schema_t **compiled,
    ngx_commerce_fault_t *fault);

/* Returns OK, INVALID with the violations appended, or NOMEM. */

ngx_commerce_rc_t ngx_commerce_schema_check(const ngx_commerce_schema_t *schema,
    const ngx_commerce_json_t *value, ngx_commerce_violations_t *violations);

/*
 * Checks a path, query or header parameter and makes the JSON value of it:
 * "7" becomes a NUMBER under an integer schema, "a,b" an ARRAY under an array
 * schema.  "text" is percent-decoded, valid or not: it is checked for UTF-8 here.
 */

ngx_commerce_rc_t ngx_commerce_schema_check_text(
    const ngx_commerce_schema_t *schema, ngx_commerce_str_t name,
    ngx_commerce_str_t text, ngx_commerce_json_t **value,
    ngx_commerce_violations_t *violations);

/*
 * Completes a value that the schema allows: members that are absent get their
 * "default", hosts' names and the domains of mail addresses become ASCII, spaces in passwords
 * U+0020.  Raw bytes are written anew where something changed.  OK or NOMEM.
 */

ngx_commerce_rc_t ngx_commerce_schema_complete(
    const ngx_commerce_schema_t *schema, ngx_commerce_json_t *value,
    const ngx_commerce_alloc_t *alloc);

/* The schema's "default", or NULL. */

const ngx_commerce_json_t *ngx_commerce_schema_default(
    const ngx_commerce_schema_t *schema);

/* True for format: cursor. */

bool ngx_commerce_schema_is_cursor(const ngx_commerce_schema_t *schema);


#endif /* NGX_COMMERCE_SCHEMA_H */
