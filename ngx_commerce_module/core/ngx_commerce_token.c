/*
 * Access tokens, see ngx_commerce_token.h.
 *
 * The order matters: size, shape, base64url, header, (signature), claims.  No
 * byte of the payload is parsed before the signature over it was verified.
 */

#include "ngx_commerce_token.h"
#include "ngx_commerce_codec.h"
#include "ngx_commerce_json.h"

#include <string.h>


static const char *ngx_commerce_token_split(ngx_commerce_str_t text,
    ngx_commerce_str_t part[3]);
static ngx_commerce_rc_t ngx_commerce_token_decode(
    const ngx_commerce_alloc_t *alloc, ngx_commerce_str_t part,
    ngx_commerce_str_t *decoded, const char **why);
static ngx_commerce_rc_t ngx_commerce_token_object(
    const ngx_commerce_alloc_t *alloc, ngx_commerce_str_t text,
    ngx_commerce_json_t **object, const char **why);
static const char *ngx_commerce_token_header(
    const ngx_commerce_json_t *header, ngx_commerce_token_t *token);
static bool ngx_commerce_token_typ(ngx_commerce_str_t typ);
static const char *ngx_commerce_token_times(const ngx_commerce_json_t *object,
    const ngx_commerce_token_policy_t *policy,
    ngx_commerce_token_claims_t *claims);
static const char *ngx_commerce_token_parties(
    const ngx_commerce_json_t *object,
    const ngx_commerce_token_policy_t *policy);
static const char *ngx_commerce_token_ids(const ngx_commerce_json_t *object,
    ngx_commerce_token_claims_t *claims);
static ngx_commerce_rc_t ngx_commerce_token_roles(
    const ngx_commerce_alloc_t *alloc, const ngx_commerce_json_t *object,
    ngx_commerce_token_claims_t *claims, const char **why);
static bool ngx_commerce_token_role_add(ngx_commerce_str_t *roles,
    const uint8_t *name, size_t len);


static const ngx_commerce_str_t  ngx_commerce_token_algs[] = {
    { 5, (uint8_t *) "HS256" },
    { 5, (uint8_t *) "RS256" },
    { 5, (uint8_t *) "ES256" }
};

/* a token of ours has 12 claims; the room is for other issuers' */
static const ngx_commerce_json_limits_t  ngx_commerce_token_limits = { 6, 128, false };


bool
ngx_commerce_token_alg(ngx_commerce_str_t name, ngx_commerce_token_alg_t *alg)
{
    unsigned  i;

    for (i = 0; i < NGX_COMMERCE_TOKEN_ALGS; i++) {
        if (name.len == ngx_commerce_token_algs[i].len
            && memcmp(name.data, ngx_commerce_token_algs[i].data, name.len)
               == 0)
        {
            *alg = i;
            return true;
        }
    }

    return false;
}


const char *
ngx_commerce_token_alg_name(ngx_commerce_token_alg_t alg)
{
    return (const char *) ngx_commerce_token_algs[alg].data;
}


ngx_commerce_rc_t
ngx_commerce_token_open(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_str_t text, ngx_commerce_token_t *token, const char **why)
{
    ngx_commerce_rc_t     rc;
    ngx_commerce_str_t    part[3], header;
    ngx_commerce_json_t  *object;

    *why = ngx_commerce_token_split(text, part);
    if (*why != NULL) {
        return NGX_COMMERCE_INVALID;
    }

    token->input.data = text.data;
    token->input.len = part[0].len + 1 + part[1].len;

    rc = ngx_commerce_token_decode(alloc, part[0], &header, why);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    rc = ngx_commerce_token_object(alloc, header, &object, why);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    *why = ngx_commerce_token_header(object, token);
    if (*why != NULL) {
        return NGX_COMMERCE_INVALID;
    }

    rc = ngx_commerce_token_decode(alloc, part[1], &token->payload, why);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    return ngx_commerce_token_decode(alloc, part[2], &token->signature, why);
}


ngx_commerce_rc_t
ngx_commerce_token_claims(const ngx_commerce_alloc_t *alloc,
    const ngx_commerce_token_t *token,
    const ngx_commerce_token_policy_t *policy,
    ngx_commerce_token_claims_t *claims, const char **why)
{
    ngx_commerce_rc_t     rc;
    ngx_commerce_json_t  *object;

    memset(claims, 0, sizeof(ngx_commerce_token_claims_t));

    rc = ngx_commerce_token_object(alloc, token->payload, &object, why);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    *why = ngx_commerce_token_times(object, policy, claims);

    if (*why == NULL) {
        *why = ngx_commerce_token_parties(object, policy);
    }

    if (*why == NULL) {
        *why = ngx_commerce_token_ids(object, claims);
    }

    if (*why != NULL) {
        return NGX_COMMERCE_INVALID;
    }

    return ngx_commerce_token_roles(alloc, object, claims, why);
}


ngx_commerce_rc_t
ngx_commerce_token_payload(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_str_t text, ngx_commerce_json_t **claims)
{
    const char          *why;
    ngx_commerce_rc_t    rc;
    ngx_commerce_str_t   part[3], payload;

    if (ngx_commerce_token_split(text, part) != NULL) {
        return NGX_COMMERCE_INVALID;
    }

    rc = ngx_commerce_token_decode(alloc, part[1], &payload, &why);
    if (rc != NGX_COMMERCE_OK) {
        return rc;
    }

    return ngx_commerce_token_object(alloc, payload, claims, &why);
}


bool
ngx_commerce_token_role_valid(const uint8_t *name, size_t len)
{
    size_t   i;
    uint8_t  ch;

    if (len == 0 || len > 64) {
        return false;
    }

    for (i = 0; i < len; i++) {
        ch = name[i];

        if (!((ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9')
              || ch == '.' || ch == '_' || ch == '-'))
        {
            return false;
        }
    }

    return true;
}


bool
ngx_commerce_token_tenant_valid(const uint8_t *id, size_t len)
{
    size_t  i;

    /* 19 digits may overflow a bigint; 18 never do and no tenant needs more */

    if (len == 0 || len > 18 || id[0] == '0') {
        return false;
    }

    for (i = 0; i < len; i++) {
        if (id[i] < '0' || id[i] > '9') {
            return false;
        }
    }

    return true;
}


/* Exactly three non-empty parts: no JWE, no unsecured "a.b.". */

static const char *
ngx_commerce_token_split(ngx_commerce_str_t text, ngx_commerce_str_t part[3])
{
    uint8_t   *p, *end, *dot;
    unsigned   i;

    if (text.len == 0) {
        return "empty token";
    }

    if (text.len > NGX_COMMERCE_TOKEN_MAX) {
        return "token too long";
    }

    p = text.data;
    end = text.data + text.len;

    for (i = 0; i < 3; i++) {
        dot = memchr(p, '.', end - p);

        if ((dot == NULL) != (i == 2)) {
            return "token has not three parts";
        }

        part[i].data = p;
        part[i].len = (dot != NULL ? dot : end) - p;

        if (part[i].len == 0) {
            return "token has an empty part";
        }

        if (dot != NULL) {
            p = dot + 1;
        }
    }

    return NULL;
}


static ngx_commerce_rc_t
ngx_commerce_token_decode(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_str_t part, ngx_commerce_str_t *decoded, const char **why)
{
    ptrdiff_t  len;

    decoded->data = alloc->alloc(alloc->ctx,
                                 ngx_commerce_base64url_decoded_max(part.len)
                                 + 1);
    if (decoded->data == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    len = ngx_commerce_base64url_decode(decoded->data, part.data, part.len);
    if (len < 0) {
        *why = "token is not canonical base64url";
        return NGX_COMMERCE_INVALID;
    }

    decoded->len = len;

    return NGX_COMMERCE_OK;
}


static ngx_commerce_rc_t
ngx_commerce_token_object(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_str_t text, ngx_commerce_json_t **object, const char **why)
{
    ngx_commerce_rc_t          rc;
    ngx_commerce_json_error_t  error;

    rc = ngx_commerce_json_parse(alloc, text.data, text.len,
                                 &ngx_commerce_token_limits, object, &error);
    if (rc == NGX_COMMERCE_NOMEM) {
        return rc;
    }

    if (rc != NGX_COMMERCE_OK) {
        *why = error.code;
        return rc;
    }

    if ((*object)->type != NGX_COMMERCE_JSON_OBJECT) {
        *why = "token part is not a JSON object";
        return NGX_COMMERCE_INVALID;
    }

    return NGX_COMMERCE_OK;
}


/*
 * jku, x5u, jwk and x5c would let the sender choose the key: they are not
 * even looked at.  crit names extensions that must be understood: there are none.
 */

static const char *
ngx_commerce_token_header(const ngx_commerce_json_t *header,
    ngx_commerce_token_t *token)
{
    const ngx_commerce_json_t  *alg, *kid, *typ;

    if (ngx_commerce_json_get(header, "crit") != NULL) {
        return "header has crit";
    }

    typ = ngx_commerce_json_get(header, "typ");

    if (typ == NULL || typ->type != NGX_COMMERCE_JSON_STRING
        || !ngx_commerce_token_typ(typ->text))
    {
        return "typ is not at+jwt";
    }

    alg = ngx_commerce_json_get(header, "alg");

    if (alg == NULL || alg->type != NGX_COMMERCE_JSON_STRING
        || !ngx_commerce_token_alg(alg->text, &token->alg))
    {
        return "alg is not supported";
    }

    kid = ngx_commerce_json_get(header, "kid");

    if (kid == NULL || kid->type != NGX_COMMERCE_JSON_STRING
        || kid->text.len == 0)
    {
        return "no kid";
    }

    token->kid = kid->text;

    return NULL;
}


/* Media types ignore case (RFC 9068 §4 allows the long form too). */

static bool
ngx_commerce_token_typ(ngx_commerce_str_t typ)
{
    size_t              i;
    uint8_t             ch;
    ngx_commerce_str_t  prefix = ngx_commerce_str("application/at+jwt");

    if (typ.len == sizeof("at+jwt") - 1) {
        prefix = ngx_commerce_str("at+jwt");

    } else if (typ.len != prefix.len) {
        return false;
    }

    for (i = 0; i < typ.len; i++) {
        ch = typ.data[i];

        if (ch >= 'A' && ch <= 'Z') {
            ch |= 0x20;
        }

        if (ch != prefix.data[i]) {
            return false;
        }
    }

    return true;
}


static const char *
ngx_commerce_token_times(const ngx_commerce_json_t *object,
    const ngx_commerce_token_policy_t *policy,
    ngx_commerce_token_claims_t *claims)
{
    const ngx_commerce_json_t  *exp, *nbf, *iat;

    exp = ngx_commerce_json_get(object, "exp");
    nbf = ngx_commerce_json_get(object, "nbf");
    iat = ngx_commerce_json_get(object, "iat");

    /* "integer" is set on numbers only and holds them below 2^53: no overflow */

    if (exp == NULL || !exp->integer || exp->number <= 0) {
        return "exp is missing or no integer";
    }

    if (iat == NULL || !iat->integer || iat->number < 0) {
        return "iat is missing or no integer";
    }

    if (nbf != NULL && (!nbf->integer || nbf->number < 0)) {
        return "nbf is no integer";
    }

    if (exp->number + policy->leeway <= policy->now) {
        return "expired";
    }

    if (iat->number - policy->leeway > policy->now) {
        return "issued in the future";
    }

    if (nbf != NULL && nbf->number - policy->leeway > policy->now) {
        return "not valid yet";
    }

    claims->issued = iat->number;
    claims->expires = exp->number;

    return NULL;
}


static const char *
ngx_commerce_token_parties(const ngx_commerce_json_t *object,
    const ngx_commerce_token_policy_t *policy)
{
    bool                        found;
    const ngx_commerce_json_t  *iss, *aud, *item;

    iss = ngx_commerce_json_get(object, "iss");

    if (iss == NULL || iss->type != NGX_COMMERCE_JSON_STRING
        || iss->text.len != policy->issuer.len
        || memcmp(iss->text.data, policy->issuer.data, iss->text.len) != 0)
    {
        return "iss is another issuer";
    }

    aud = ngx_commerce_json_get(object, "aud");

    if (aud == NULL) {
        return "no aud";
    }

    if (aud->type == NGX_COMMERCE_JSON_STRING) {
        item = aud;

    } else if (aud->type == NGX_COMMERCE_JSON_ARRAY) {
        item = aud->child;

    } else {
        return "aud is neither string nor array";
    }

    found = false;

    for ( /* void */ ; item != NULL; item = (item == aud) ? NULL : item->next) {

        if (item->type != NGX_COMMERCE_JSON_STRING) {
            return "aud has a member that is no string";
        }

        if (item->text.len == policy->audience.len
            && memcmp(item->text.data, policy->audience.data, item->text.len)
               == 0)
        {
            found = true;
        }
    }

    return found ? NULL : "aud is another audience";
}


static const char *
ngx_commerce_token_ids(const ngx_commerce_json_t *object,
    ngx_commerce_token_claims_t *claims)
{
    const ngx_commerce_json_t  *sub, *tid, *sid;

    sub = ngx_commerce_json_get(object, "sub");
    tid = ngx_commerce_json_get(object, "tid");
    sid = ngx_commerce_json_get(object, "sid");

    if (sub == NULL || sub->type != NGX_COMMERCE_JSON_STRING
        || !ngx_commerce_uuid_valid(sub->text.data, sub->text.len))
    {
        return "sub is no uuid";
    }

    claims->subject = sub->text;

    if (tid != NULL) {
        if (tid->type != NGX_COMMERCE_JSON_STRING
            || !ngx_commerce_token_tenant_valid(tid->text.data,
                                                tid->text.len))
        {
            return "tid is no tenant id";
        }

        claims->tenant_id = tid->text;
    }

    if (sid != NULL) {
        if (sid->type != NGX_COMMERCE_JSON_STRING
            || !ngx_commerce_uuid_valid(sid->text.data, sid->text.len))
        {
            return "sid is no uuid";
        }

        claims->session = sid->text;
    }

    return NULL;
}


/*
 * "roles": an array of names, "scope": names in one string (RFC 9068 §2.2.3).
 * A name is checked before it is joined, so none can smuggle in another.
 */

static ngx_commerce_rc_t
ngx_commerce_token_roles(const ngx_commerce_alloc_t *alloc,
    const ngx_commerce_json_t *object, ngx_commerce_token_claims_t *claims,
    const char **why)
{
    uint8_t                    *p, *end, *space;
    const ngx_commerce_json_t  *roles, *scope, *item;

    roles = ngx_commerce_json_get(object, "roles");
    scope = ngx_commerce_json_get(object, "scope");

    claims->roles.data = alloc->alloc(alloc->ctx, NGX_COMMERCE_TOKEN_ROLES);
    if (claims->roles.data == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    if (roles != NULL) {

        if (roles->type != NGX_COMMERCE_JSON_ARRAY) {
            *why = "roles is no array";
            return NGX_COMMERCE_INVALID;
        }

        for (item = roles->child; item != NULL; item = item->next) {

            if (item->type != NGX_COMMERCE_JSON_STRING
                || !ngx_commerce_token_role_add(&claims->roles,
                                                item->text.data,
                                                item->text.len))
            {
                *why = "roles has a bad name";
                return NGX_COMMERCE_INVALID;
            }
        }
    }

    if (scope == NULL) {
        return NGX_COMMERCE_OK;
    }

    if (scope->type != NGX_COMMERCE_JSON_STRING) {
        *why = "scope is no string";
        return NGX_COMMERCE_INVALID;
    }

    if (scope->text.len == 0) {
        return NGX_COMMERCE_OK;
    }

    p = scope->text.data;
    end = p + scope->text.len;

    for ( ;; ) {
        space = memchr(p, ' ', end - p);

        if (!ngx_commerce_token_role_add(&claims->roles, p,
                                         (space != NULL ? space : end) - p))
        {
            *why = "scope has a bad name";
            return NGX_COMMERCE_INVALID;
        }

        if (space == NULL) {
            return NGX_COMMERCE_OK;
        }

        p = space + 1;
    }
}


static bool
ngx_commerce_token_role_add(ngx_commerce_str_t *roles, const uint8_t *name,
    size_t len)
{
    if (!ngx_commerce_token_role_valid(name, len)
        || roles->len + 1 + len > NGX_COMMERCE_TOKEN_ROLES)
    {
        return false;
    }

    if (roles->len != 0) {
        roles->data[roles->len++] = ' ';
    }

    memcpy(roles->data + roles->len, name, len);
    roles->len += len;

    return true;
}
