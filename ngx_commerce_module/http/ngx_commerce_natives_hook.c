/*
 * Native steps for what a shop is called by and calls: secrets that sign
 * webhooks.  SQL gets them sealed; the client sees one once.
 */

#include "ngx_commerce_http.h"

#include <openssl/crypto.h>


#define NGX_COMMERCE_HOOK_BYTES  32


static ngx_int_t ngx_commerce_native_hook_secret_mint(
    ngx_commerce_request_t *c, const ngx_commerce_step_t *step);


const ngx_commerce_native_t  ngx_commerce_natives_hook[] = {

    { ngx_string("hook_secret_mint"), ngx_commerce_native_hook_secret_mint,
      NULL },
    { ngx_null_string, NULL, NULL }
};


/* {"signing_secret":"whsec_…"}: 256 random bits, as Standard Webhooks writes them */

static ngx_int_t
ngx_commerce_native_hook_secret_mint(ngx_commerce_request_t *c,
    const ngx_commerce_step_t *step)
{
    u_char     *p, random[NGX_COMMERCE_HOOK_BYTES];
    ngx_str_t   body, bytes, text;

    p = ngx_pnalloc(c->request->pool,
                    sizeof("{\"signing_secret\":\"whsec_\"}")
                    + ngx_base64_encoded_length(sizeof(random)));
    if (p == NULL) {
        return NGX_ERROR;
    }

    body.data = p;

    ngx_commerce_random(random, sizeof(random));

    p = ngx_cpymem(p, "{\"signing_secret\":\"whsec_",
                   sizeof("{\"signing_secret\":\"whsec_") - 1);

    bytes.data = random;
    bytes.len = sizeof(random);
    text.data = p;

    ngx_encode_base64(&text, &bytes);
    OPENSSL_cleanse(random, sizeof(random));

    p = ngx_cpymem(p + text.len, "\"}", 2);
    body.len = p - body.data;

    ngx_commerce_step_reply(c, NGX_HTTP_OK, &body);

    return NGX_OK;
}
