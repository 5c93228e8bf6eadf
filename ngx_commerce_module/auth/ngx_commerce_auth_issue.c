/*
 * Issuing access tokens (RFC 9068).
 */

#include "ngx_commerce_auth_internal.h"
#include "ngx_commerce_codec.h"
#include "ngx_commerce_json.h"

#include <openssl/rand.h>


#define NGX_COMMERCE_AUTH_ISSUE_MAX  4096       /* bytes of a payload */


static time_t ngx_commerce_auth_ttl(ngx_commerce_auth_main_conf_t *amcf,
    ngx_commerce_claims_t *claims);
static ngx_int_t ngx_commerce_auth_payload(ngx_commerce_auth_main_conf_t *amcf,
    ngx_commerce_claims_t *claims, u_char *dst, size_t *len);
static u_char *ngx_commerce_auth_roles(ngx_str_t *roles, u_char *p,
    u_char *last);
static u_char *ngx_commerce_auth_string(u_char *p, u_char *last,
    const char *name, ngx_str_t *value);


ngx_int_t
ngx_commerce_auth_issue(ngx_http_request_t *r, ngx_commerce_claims_t *claims,
    ngx_str_t *token, ngx_uint_t *expires_in)
{
    u_char                         *p, header[160], sig[1024],
                                    payload[NGX_COMMERCE_AUTH_ISSUE_MAX];
    size_t                          header_len, payload_len, sig_len;
    ngx_str_t                       input;
    ngx_commerce_auth_key_t        *key;
    ngx_commerce_auth_main_conf_t  *amcf;

    amcf = ngx_http_get_module_main_conf(r, ngx_commerce_auth_module);

    if (amcf->sign == -1) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "no token issued: give one commerce_jwt_key the "
                      "parameter \"sign\"");
        return NGX_DECLINED;
    }

    key = (ngx_commerce_auth_key_t *) amcf->keys.elts + amcf->sign;

    if (ngx_commerce_auth_payload(amcf, claims, payload, &payload_len)
        != NGX_OK)
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "no token issued: claims of \"%V\" are malformed",
                      &claims->subject);
        return NGX_ERROR;
    }

    p = ngx_snprintf(header, sizeof(header),
                     "{\"alg\":\"%s\",\"kid\":\"%V\",\"typ\":\"at+jwt\"}",
                     ngx_commerce_token_alg_name(key->alg), &key->kid);
    header_len = p - header;

    p = ngx_pnalloc(r->pool,
                    ngx_commerce_base64url_encoded_len(header_len)
                    + ngx_commerce_base64url_encoded_len(payload_len)
                    + ngx_commerce_base64url_encoded_len(sizeof(sig)) + 2);
    if (p == NULL) {
        return NGX_ERROR;
    }

    token->data = p;

    p += ngx_commerce_base64url_encode(p, header, header_len);
    *p++ = '.';
    p += ngx_commerce_base64url_encode(p, payload, payload_len);

    input.data = token->data;
    input.len = p - token->data;
    sig_len = sizeof(sig);

    if (ngx_commerce_auth_key_sign(key, &input, sig, &sig_len) != NGX_OK) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "no token issued: key \"%V\" could not sign", &key->kid);
        return NGX_ERROR;
    }

    *p++ = '.';
    p += ngx_commerce_base64url_encode(p, sig, sig_len);

    token->len = p - token->data;
    *expires_in = ngx_commerce_auth_ttl(amcf, claims);

    return NGX_OK;
}


static time_t
ngx_commerce_auth_ttl(ngx_commerce_auth_main_conf_t *amcf,
    ngx_commerce_claims_t *claims)
{
    return (claims->ttl && claims->ttl < amcf->ttl) ? claims->ttl : amcf->ttl;
}


/* What comes from outside is a uuid, a number or a role's name, or it is refused: only the directives' strings are quoted. */

static ngx_int_t
ngx_commerce_auth_payload(ngx_commerce_auth_main_conf_t *amcf,
    ngx_commerce_claims_t *claims, u_char *dst, size_t *len)
{
    u_char      *p, *last, jti[36], random[10];
    time_t       issued;
    ngx_str_t    id;
    ngx_time_t  *tp;

    if (!ngx_commerce_uuid_valid(claims->subject.data, claims->subject.len)
        || (claims->session.len != 0
            && !ngx_commerce_uuid_valid(claims->session.data,
                                        claims->session.len))
        || (claims->actor.len != 0
            && !ngx_commerce_uuid_valid(claims->actor.data,
                                        claims->actor.len))
        || (claims->tenant_id.len != 0
            && !ngx_commerce_token_tenant_valid(claims->tenant_id.data,
                                                claims->tenant_id.len))
        || RAND_bytes(random, sizeof(random)) != 1)
    {
        return NGX_ERROR;
    }

    tp = ngx_timeofday();
    ngx_commerce_uuid7(jti, (uint64_t) tp->sec * 1000 + tp->msec, random);
    id.data = jti;
    id.len = sizeof(jti);

    issued = ngx_commerce_auth_revoke_issue(amcf, claims);

    p = dst;
    last = dst + NGX_COMMERCE_AUTH_ISSUE_MAX;

    p = ngx_slprintf(p, last, "{\"iat\":%T,\"nbf\":%T,\"exp\":%T,\"ver\":1",
                     issued, issued,
                     issued + ngx_commerce_auth_ttl(amcf, claims));

    p = ngx_commerce_auth_string(p, last, "iss", &amcf->issuer);
    p = ngx_commerce_auth_string(p, last, "aud", &amcf->audience);
    p = ngx_commerce_auth_string(p, last, "sub", &claims->subject);
    p = ngx_commerce_auth_string(p, last, "tid", &claims->tenant_id);
    p = ngx_commerce_auth_string(p, last, "sid", &claims->session);
    p = ngx_commerce_auth_string(p, last, "jti", &id);
    p = ngx_commerce_auth_roles(&claims->roles, p, last);

    if (p != NULL && claims->actor.len) {
        p = ngx_slprintf(p, last, ",\"act\":{\"sub\":\"%V\"}", &claims->actor);
    }

    if (p == NULL || last - p < 1) {
        return NGX_ERROR;
    }

    *p++ = '}';
    *len = p - dst;

    return NGX_OK;
}


/* "staff catalog.write" → ,"roles":["staff"],"scope":"catalog.write" */

static u_char *
ngx_commerce_auth_roles(ngx_str_t *roles, u_char *p, u_char *last)
{
    u_char      *name, *end, *space, *s, scope[NGX_COMMERCE_TOKEN_ROLES];
    ngx_str_t    value;
    const char  *comma;

    /* below the reader's limit, joined as it joins them */

    if (p == NULL || roles->len >= NGX_COMMERCE_TOKEN_ROLES) {
        return NULL;
    }

    comma = "";
    s = scope;
    name = roles->data;
    end = name + roles->len;

    p = ngx_slprintf(p, last, ",\"roles\":[");

    while (name < end) {
        space = ngx_strlchr(name, end, ' ');

        if (space == NULL) {
            space = end;
        }

        if (!ngx_commerce_token_role_valid(name, space - name)) {
            return NULL;
        }

        if (ngx_strlchr(name, space, '.') != NULL) {
            if (s != scope) {
                *s++ = ' ';
            }

            s = ngx_cpymem(s, name, space - name);

        } else {
            p = ngx_slprintf(p, last, "%s\"%*s\"", comma,
                             (size_t) (space - name), name);
            comma = ",";
        }

        name = space + 1;
    }

    p = ngx_slprintf(p, last, "]");

    value.data = scope;
    value.len = s - scope;

    return ngx_commerce_auth_string(p, last, "scope", &value);
}


/* An empty value makes no claim.  NULL: no room. */

static u_char *
ngx_commerce_auth_string(u_char *p, u_char *last, const char *name,
    ngx_str_t *value)
{
    size_t  len;

    if (p == NULL || value->len == 0) {
        return p;
    }

    len = (size_t) (uintptr_t) ngx_commerce_json_quote(NULL, value->data,
                                                       value->len);

    if ((size_t) (last - p) < len + ngx_strlen(name) + sizeof(",\"\":")) {
        return NULL;
    }

    p = ngx_sprintf(p, ",\"%s\":", name);

    return ngx_commerce_json_quote(p, value->data, value->len);
}
