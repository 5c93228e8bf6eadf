/*
 * Patterns of schemas: PCRE2 with its compiler to machine code.
 */

#define PCRE2_CODE_UNIT_WIDTH 8

#include "ngx_commerce_schema_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <pcre2.h>


/* Steps of backtracking: what a pattern of a contract needs is far below. */

#define NGX_COMMERCE_MATCH_LIMIT  20000


struct ngx_commerce_pattern_s {
    ngx_commerce_pattern_t  *next;
    pcre2_code              *code;
    size_t                   len;
    uint8_t                  text[];
};


static ngx_commerce_pattern_t  *ngx_commerce_patterns;
static pcre2_match_data        *ngx_commerce_match_data;
static pcre2_match_context     *ngx_commerce_match_context;


static bool
ngx_commerce_pattern_ready(void)
{
    if (ngx_commerce_match_data == NULL) {
        ngx_commerce_match_data = pcre2_match_data_create(1, NULL);
    }

    if (ngx_commerce_match_context == NULL) {
        ngx_commerce_match_context = pcre2_match_context_create(NULL);

        if (ngx_commerce_match_context != NULL) {
            pcre2_set_match_limit(ngx_commerce_match_context,
                                  NGX_COMMERCE_MATCH_LIMIT);
        }
    }

    return ngx_commerce_match_data != NULL
           && ngx_commerce_match_context != NULL;
}


ngx_commerce_pattern_t *
ngx_commerce_pattern_get(const uint8_t *text, size_t len, char *error,
    size_t error_len)
{
    int                      code;
    size_t                   offset, n;
    ngx_commerce_pattern_t  *pattern;

    for (pattern = ngx_commerce_patterns; pattern; pattern = pattern->next) {
        if (pattern->len == len && memcmp(pattern->text, text, len) == 0) {
            return pattern;
        }
    }

    snprintf(error, error_len, "there is no memory");

    pattern = malloc(sizeof(ngx_commerce_pattern_t) + len);
    if (pattern == NULL || !ngx_commerce_pattern_ready()) {
        free(pattern);
        return NULL;
    }

    pattern->len = len;
    memcpy(pattern->text, text, len);

    pattern->code = pcre2_compile(text, len,
                                  PCRE2_UTF|PCRE2_DOLLAR_ENDONLY
                                  |PCRE2_NEVER_BACKSLASH_C,
                                  &code, &offset, NULL);
    if (pattern->code == NULL) {
        n = (size_t) snprintf(error, error_len, "at character %zu: ",
                              offset + 1);
        pcre2_get_error_message(code, (PCRE2_UCHAR *) error + n,
                                error_len - n);
        free(pattern);
        return NULL;
    }

    /* without it the interpreter does the work */
    (void) pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);

    pattern->next = ngx_commerce_patterns;
    ngx_commerce_patterns = pattern;

    return pattern;
}


bool
ngx_commerce_pattern_match(const ngx_commerce_pattern_t *pattern,
    const uint8_t *text, size_t len)
{
    return pcre2_match(pattern->code, text, len, 0, PCRE2_NO_UTF_CHECK,
                       ngx_commerce_match_data, ngx_commerce_match_context)
           >= 0;
}
