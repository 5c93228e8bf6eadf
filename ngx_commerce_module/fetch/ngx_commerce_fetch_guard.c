/*
 * Addresses that belong to the public internet, by IANA's registries of
 * special-purpose addresses.  Asked when curl is about to connect, with the
 * address itself: a name that resolves anew between a check and a use has
 * nothing to gain.
 */

#include "ngx_commerce_fetch_internal.h"


typedef struct {
    uint32_t  address;
    uint32_t  mask;
} ngx_commerce_fetch_net_t;


static ngx_uint_t ngx_commerce_fetch_public4(uint32_t address);
static ngx_uint_t ngx_commerce_fetch_public6(const u_char *a);


static const ngx_commerce_fetch_net_t  ngx_commerce_fetch_special[] = {
    { 0x00000000, 0xff000000 },         /* this network */
    { 0x0a000000, 0xff000000 },         /* private */
    { 0x64400000, 0xffc00000 },         /* carriers' */
    { 0x7f000000, 0xff000000 },         /* loopback */
    { 0xa9fe0000, 0xffff0000 },         /* link-local, clouds' metadata */
    { 0xac100000, 0xfff00000 },         /* private */
    { 0xc0000000, 0xffffff00 },         /* protocol assignments */
    { 0xc0000200, 0xffffff00 },         /* documentation */
    { 0xc0586300, 0xffffff00 },         /* 6to4 relays */
    { 0xc0a80000, 0xffff0000 },         /* private */
    { 0xc6120000, 0xfffe0000 },         /* benchmarks */
    { 0xc6336400, 0xffffff00 },         /* documentation */
    { 0xcb007100, 0xffffff00 },         /* documentation */
    { 0xe0000000, 0xe0000000 }          /* multicast, reserved, broadcast */
};


ngx_uint_t
ngx_commerce_fetch_public(const ngx_commerce_fetch_conf_t *conf,
    struct sockaddr *sa)
{
    struct sockaddr_in6  *sin6;

    if (conf->allow && ngx_cidr_match(sa, conf->allow) == NGX_OK) {
        return 1;
    }

    switch (sa->sa_family) {

    case AF_INET:
        return ngx_commerce_fetch_public4(
                   ntohl(((struct sockaddr_in *) sa)->sin_addr.s_addr));

    case AF_INET6:
        sin6 = (struct sockaddr_in6 *) sa;
        return ngx_commerce_fetch_public6(sin6->sin6_addr.s6_addr);
    }

    return 0;
}


static ngx_uint_t
ngx_commerce_fetch_public4(uint32_t address)
{
    ngx_uint_t  i, n;

    n = sizeof(ngx_commerce_fetch_special) / sizeof(ngx_commerce_fetch_net_t);

    for (i = 0; i < n; i++) {
        if ((address & ngx_commerce_fetch_special[i].mask)
            == ngx_commerce_fetch_special[i].address)
        {
            return 0;
        }
    }

    return 1;
}


/*
 * Global unicast is 2000::/3: loopback, mapped and translated IPv4, unique
 * local, link-local and multicast addresses lie outside of it.
 */

static ngx_uint_t
ngx_commerce_fetch_public6(const u_char *a)
{
    if ((a[0] & 0xe0) != 0x20) {
        return 0;
    }

    /* 2001::/23 protocol assignments, Teredo among them; 2001:db8::/32 documentation */

    if (a[0] == 0x20 && a[1] == 0x01
        && (a[2] < 0x02 || (a[2] == 0x0d && a[3] == 0xb8)))
    {
        return 0;
    }

    /* 3fff::/20 documentation */

    if (a[0] == 0x3f && a[1] == 0xff && a[2] < 0x10) {
        return 0;
    }

    /* 6to4 carries an IPv4 address */

    if (a[0] == 0x20 && a[1] == 0x02) {
        return 0;
    }

    return 1;
}
