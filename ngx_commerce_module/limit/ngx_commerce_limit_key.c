/*
 * What a policy counts by: the client's key, and what a request costs.
 *
 * A key of several parts is tenant, NUL, the address behind its length, the
 * account: no client can spell another one's key.
 */

#include "ngx_commerce_limit_internal.h"


#define NGX_COMMERCE_LIMIT_ADDRESS_MAX  16


static void ngx_commerce_limit_address(ngx_http_request_t *r,
    ngx_uint_t prefix, u_char *buffer, ngx_str_t *address);
#if (NGX_HAVE_INET6)
static void ngx_commerce_limit_mask(u_char *bytes, ngx_uint_t prefix);
#endif
static ngx_int_t ngx_commerce_limit_join_key(ngx_http_request_t *r,
    const ngx_str_t *tenant, const ngx_str_t *account,
    const ngx_str_t *address, ngx_str_t *key);


ngx_int_t
ngx_commerce_limit_make_key(ngx_http_request_t *r,
    ngx_commerce_limit_policy_t *policy,
    const ngx_commerce_limit_subject_t *subject, ngx_str_t *key)
{
    u_char     bytes[NGX_COMMERCE_LIMIT_ADDRESS_MAX];
    ngx_str_t  address, account;

    switch (policy->key) {

    case NGX_COMMERCE_LIMIT_VARIABLE:

        if (ngx_http_complex_value(r, &policy->value, key) != NGX_OK) {
            return NGX_ERROR;
        }

        return key->len ? NGX_OK : NGX_DECLINED;

    case NGX_COMMERCE_LIMIT_TENANT:
        *key = subject->tenant;
        return key->len ? NGX_OK : NGX_DECLINED;

    case NGX_COMMERCE_LIMIT_API_KEY:
        *key = subject->api_key;
        return key->len ? NGX_OK : NGX_DECLINED;

    default:
        break;
    }

    ngx_commerce_limit_address(r, policy->ip6_prefix, bytes, &address);

    if (policy->key == NGX_COMMERCE_LIMIT_IP) {

        key->data = ngx_pnalloc(r->pool, address.len);
        if (key->data == NULL) {
            return NGX_ERROR;
        }

        key->len = address.len;
        ngx_memcpy(key->data, address.data, address.len);

        return NGX_OK;
    }

    account = subject->user;

    if (policy->key == NGX_COMMERCE_LIMIT_IP_USER) {

        if (subject->account.len) {
            account = subject->account;
        }

    } else if (account.len) {
        address.len = 0;            /* nobody is known by their address */
    }

    return ngx_commerce_limit_join_key(r, &subject->tenant, &account,
                                       &address, key);
}


/* An account is the same in capitals: e-mail addresses are compared so. */

static ngx_int_t
ngx_commerce_limit_join_key(ngx_http_request_t *r, const ngx_str_t *tenant,
    const ngx_str_t *account, const ngx_str_t *address, ngx_str_t *key)
{
    u_char  *p;

    p = ngx_pnalloc(r->pool, tenant->len + account->len + address->len + 2);
    if (p == NULL) {
        return NGX_ERROR;
    }

    key->data = p;

    p = ngx_cpymem(p, tenant->data, tenant->len);
    *p++ = '\0';
    *p++ = (u_char) address->len;
    p = ngx_cpymem(p, address->data, address->len);
    ngx_strlow(p, account->data, account->len);
    p += account->len;

    key->len = p - key->data;

    return NGX_OK;
}


/*
 * A household has a /64 and more of IPv6 addresses, so the prefix counts as
 * one client.  IPv4 within IPv6 is IPv4.
 */

static void
ngx_commerce_limit_address(ngx_http_request_t *r, ngx_uint_t prefix,
    u_char *buffer, ngx_str_t *address)
{
    struct sockaddr       *sa;
#if (NGX_HAVE_INET6)
    struct sockaddr_in6   *sin6;
#endif

    sa = r->connection->sockaddr;

    address->data = buffer;

    switch (sa->sa_family) {

    case AF_INET:
        address->len = 4;
        ngx_memcpy(buffer, &((struct sockaddr_in *) sa)->sin_addr, 4);
        return;

#if (NGX_HAVE_INET6)
    case AF_INET6:
        sin6 = (struct sockaddr_in6 *) sa;

        if (IN6_IS_ADDR_V4MAPPED(&sin6->sin6_addr)) {
            address->len = 4;
            ngx_memcpy(buffer, sin6->sin6_addr.s6_addr + 12, 4);
            return;
        }

        address->len = 16;
        ngx_memcpy(buffer, sin6->sin6_addr.s6_addr, 16);
        ngx_commerce_limit_mask(buffer, prefix);
        return;
#endif

    default:
        /* a unix socket: who sends is one client, unless realip knows better */
        address->len = sizeof("unix:") - 1;
        ngx_memcpy(buffer, "unix:", sizeof("unix:") - 1);
    }
}


#if (NGX_HAVE_INET6)

static void
ngx_commerce_limit_mask(u_char *bytes, ngx_uint_t prefix)
{
    ngx_uint_t  i;

    for (i = prefix / 8; i < 16; i++) {

        if (i == prefix / 8 && prefix % 8) {
            bytes[i] &= 0xff << (8 - prefix % 8);
            continue;
        }

        bytes[i] = 0;
    }
}

#endif


/* What is not a number costs what a request costs that says nothing; 0 is free. */

ngx_int_t
ngx_commerce_limit_make_cost(ngx_http_request_t *r,
    ngx_commerce_limit_policy_t *policy, ngx_uint_t *cost)
{
    ngx_int_t  n;
    ngx_str_t  value;

    *cost = policy->units;

    if (policy->cost == NULL) {
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, policy->cost, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    n = ngx_atoi(value.data, value.len);

    if (n != NGX_ERROR) {
        *cost = ngx_min(n, NGX_COMMERCE_LIMIT_QUOTA_MAX);
    }

    return NGX_OK;
}
