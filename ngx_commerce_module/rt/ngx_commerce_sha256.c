/* SHA-256 for the hot path, see ngx_commerce_sha256.h. */

#include "ngx_commerce_sha256.h"

#include <openssl/evp.h>
#include <openssl/sha.h>


static EVP_MD      *ngx_commerce_sha256_md;
static EVP_MD_CTX  *ngx_commerce_sha256_ctx;


void
ngx_commerce_sha256(const void *data, size_t len, u_char digest[32])
{
    if (ngx_commerce_sha256_ctx == NULL) {
        ngx_commerce_sha256_md = EVP_MD_fetch(NULL, "SHA256", NULL);
        ngx_commerce_sha256_ctx = EVP_MD_CTX_new();
    }

    if (ngx_commerce_sha256_md != NULL && ngx_commerce_sha256_ctx != NULL
        && EVP_DigestInit_ex2(ngx_commerce_sha256_ctx, ngx_commerce_sha256_md,
                              NULL)
        && EVP_DigestUpdate(ngx_commerce_sha256_ctx, data, len)
        && EVP_DigestFinal_ex(ngx_commerce_sha256_ctx, digest, NULL))
    {
        return;
    }

    (void) SHA256(data, len, digest);
}
