/* SHA-256 for the hot path. */

#ifndef NGX_COMMERCE_SHA256_H
#define NGX_COMMERCE_SHA256_H


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * libcrypto's one-shot looks its implementation up in each call, which takes
 * longer than a short text; here it is looked up once.  Event loop only: the
 * context is the process's.
 */

void ngx_commerce_sha256(const void *data, size_t len, u_char digest[32]);


#endif /* NGX_COMMERCE_SHA256_H */
