/*
 * The route tree: one level per segment, literal children by hash, at most
 * one child for a parameter.
 *
 * A literal segment wins over a parameter; where it leads nowhere the
 * parameter is tried.  The path alone decides, then the method: a path that
 * exists answers 405 to a method that it lacks.  "/" is the root itself.
 */

#include "ngx_commerce_contract_internal.h"

#include <stdio.h>
#include <string.h>


#define NGX_COMMERCE_ROUTE_DEPTH  32


typedef struct {
    ngx_commerce_operation_t     *op;
    ngx_commerce_route_origin_t   origin;
    uint32_t                      params;
    uint8_t                       order[NGX_COMMERCE_PATH_PARAMS_MAX];
} ngx_commerce_route_t;


struct ngx_commerce_route_node_s {
    ngx_commerce_names_t         literals;
    ngx_commerce_route_node_t  **children;      /* by index of literals */
    ngx_commerce_route_node_t   *param;
    ngx_commerce_route_t        *routes[NGX_COMMERCE_METHODS];
    char                        *allow;
};


static const char *const  ngx_commerce_method_names[] = {
    "GET", "POST", "PUT", "PATCH", "DELETE"
};


int32_t
ngx_commerce_route_params(ngx_commerce_str_t path,
    ngx_commerce_str_t names[NGX_COMMERCE_PATH_PARAMS_MAX], const char **why)
{
    int32_t         n, i;
    size_t          len;
    uint32_t        depth;
    const uint8_t  *p, *end, *slash;

    n = 0;
    depth = 0;
    p = path.data;
    end = path.data + path.len;

    if (path.len == 0 || *p != '/') {
        *why = "a path must begin with a slash";
        return -1;
    }

    if (path.len == 1) {
        return 0;
    }

    while (p < end) {
        p++;
        slash = memchr(p, '/', (size_t) (end - p));
        len = (size_t) ((slash ? slash : end) - p);

        if (len == 0) {
            *why = "a path must not have empty segments or end with a slash";
            return -1;
        }

        if (++depth > NGX_COMMERCE_ROUTE_DEPTH) {
            *why = "a path must have at most 32 segments";
            return -1;
        }

        if (p[0] == '{' && p[len - 1] == '}' && len > 2
            && memchr(p + 1, '{', len - 1) == NULL)
        {
            if (n == NGX_COMMERCE_PATH_PARAMS_MAX) {
                *why = "a path must have at most 8 parameters";
                return -1;
            }

            names[n].data = (uint8_t *) p + 1;
            names[n].len = len - 2;

            for (i = 0; i < n; i++) {
                if (names[i].len == names[n].len
                    && memcmp(names[i].data, names[n].data, len - 2) == 0)
                {
                    *why = "a path must not have two parameters of one name";
                    return -1;
                }
            }

            n++;

        } else if (memchr(p, '{', len) != NULL || memchr(p, '}', len) != NULL
                   || memchr(p, '?', len) != NULL)
        {
            *why = "a segment must be a literal or one {parameter} as a whole";
            return -1;
        }

        p += len;
    }

    return n;
}


ngx_commerce_route_node_t *
ngx_commerce_route_root(const ngx_commerce_alloc_t *alloc)
{
    return ngx_commerce_zalloc(alloc, sizeof(ngx_commerce_route_node_t));
}


static ngx_commerce_route_node_t *
ngx_commerce_route_literal(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_route_node_t *node, const uint8_t *p, size_t len)
{
    int32_t                      n;
    uint32_t                     count;
    ngx_commerce_str_t          *names;
    ngx_commerce_route_node_t  **children;

    n = ngx_commerce_names_find(&node->literals, p, len);
    if (n >= 0) {
        return node->children[n];
    }

    count = node->literals.count;

    names = ngx_commerce_zalloc(alloc,
                                (count + 1) * sizeof(ngx_commerce_str_t));
    children = ngx_commerce_zalloc(alloc, (count + 1)
                                       * sizeof(ngx_commerce_route_node_t *));
    if (names == NULL || children == NULL) {
        return NULL;
    }

    if (count != 0) {
        memcpy(names, node->literals.names,
               count * sizeof(ngx_commerce_str_t));
        memcpy(children, node->children,
               count * sizeof(ngx_commerce_route_node_t *));
    }

    names[count].data = (uint8_t *) p;
    names[count].len = len;
    children[count] = ngx_commerce_zalloc(alloc,
                                          sizeof(ngx_commerce_route_node_t));

    if (children[count] == NULL
        || ngx_commerce_names_build(&node->literals, alloc, names, count + 1)
           != NGX_COMMERCE_OK)
    {
        return NULL;
    }

    node->children = children;

    return children[count];
}


static ngx_commerce_route_node_t *
ngx_commerce_route_node(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_route_node_t *node, ngx_commerce_str_t path)
{
    size_t          len;
    const uint8_t  *p, *end, *slash;

    if (path.len == 1) {
        return node;
    }

    end = path.data + path.len;

    for (p = path.data; p < end && node != NULL; p += len) {
        p++;
        slash = memchr(p, '/', (size_t) (end - p));
        len = (size_t) ((slash ? slash : end) - p);

        /* the path "/" is one empty segment */

        if (len == 0 || *p != '{') {
            node = ngx_commerce_route_literal(alloc, node, p, len);
            continue;
        }

        if (node->param == NULL) {
            node->param = ngx_commerce_zalloc(alloc,
                                          sizeof(ngx_commerce_route_node_t));
        }

        node = node->param;
    }

    return node;
}


/* Where each parameter of the operation's own template stands in this path. */

static bool
ngx_commerce_route_order(ngx_commerce_route_t *route, ngx_commerce_str_t path)
{
    int32_t             i, k, n, own;
    const char         *why;
    ngx_commerce_str_t  names[NGX_COMMERCE_PATH_PARAMS_MAX];
    ngx_commerce_str_t  mine[NGX_COMMERCE_PATH_PARAMS_MAX];

    own = ngx_commerce_route_params(route->op->path, mine, &why);
    n = ngx_commerce_route_params(path, names, &why);

    if (own != n) {
        return false;
    }

    for (i = 0; i < own; i++) {
        for (k = 0; k < n; k++) {
            if (mine[i].len == names[k].len
                && memcmp(mine[i].data, names[k].data, mine[i].len) == 0)
            {
                break;
            }
        }

        if (k == n) {
            return false;
        }

        route->order[i] = (uint8_t) k;
    }

    route->params = (uint32_t) n;

    return true;
}


static ngx_commerce_rc_t
ngx_commerce_route_allow(const ngx_commerce_alloc_t *alloc,
    ngx_commerce_route_node_t *node)
{
    size_t    n;
    uint32_t  i;
    enum { ROOM = 64 };

    if (node->allow == NULL) {
        node->allow = alloc->alloc(alloc->ctx, ROOM);
        if (node->allow == NULL) {
            return NGX_COMMERCE_NOMEM;
        }
    }

    for (i = 0, n = 0; i < NGX_COMMERCE_METHODS; i++) {
        if (node->routes[i] != NULL) {
            n += (size_t) snprintf(node->allow + n, ROOM - n, "%s%s, ",
                                   ngx_commerce_method_names[i],
                                   i == NGX_COMMERCE_GET ? ", HEAD" : "");
        }
    }

    snprintf(node->allow + n, ROOM - n, "OPTIONS");

    return NGX_COMMERCE_OK;
}


ngx_commerce_rc_t
ngx_commerce_route_add(ngx_commerce_loader_t *l, ngx_commerce_operation_t *op,
    const ngx_commerce_json_t *at, ngx_commerce_str_t path,
    ngx_commerce_route_origin_t origin, const ngx_commerce_place_t *place)
{
    const char                 *why;
    ngx_commerce_str_t          names[NGX_COMMERCE_PATH_PARAMS_MAX];
    ngx_commerce_route_t       *route, *old;
    ngx_commerce_route_node_t  *node;

    if (ngx_commerce_route_params(path, names, &why) < 0) {
        return ngx_commerce_loader_fault(l, at, place, "%s", why);
    }

    route = ngx_commerce_zalloc(l->alloc, sizeof(ngx_commerce_route_t));
    node = ngx_commerce_route_node(l->alloc, l->contract->routes, path);

    if (route == NULL || node == NULL) {
        return NGX_COMMERCE_NOMEM;
    }

    route->op = op;
    route->origin = origin;

    if (!ngx_commerce_route_order(route, path)) {
        return ngx_commerce_loader_fault(l, at, place,
                   "an alias must have the path parameters of %.*s",
                   (int) op->path.len, (char *) op->path.data);
    }

    old = node->routes[op->method];

    if (old != NULL && old->op != op
        && old->origin != NGX_COMMERCE_ROUTE_DERIVED
        && origin != NGX_COMMERCE_ROUTE_DERIVED)
    {
        return ngx_commerce_loader_fault(l, at, place,
                   "%s %.*s is taken by operation %.*s of %s",
                   ngx_commerce_method_names[op->method], (int) path.len,
                   (char *) path.data, (int) old->op->id.len,
                   (char *) old->op->id.data, old->op->file);
    }

    if (old != NULL && old->origin <= origin) {
        return NGX_COMMERCE_OK;
    }

    node->routes[op->method] = route;

    return ngx_commerce_route_allow(l->alloc, node);
}


static const ngx_commerce_route_node_t *
ngx_commerce_route_find(const ngx_commerce_route_node_t *node,
    const uint8_t *p, const uint8_t *end, ngx_commerce_str_t *params,
    uint32_t n)
{
    size_t                            len;
    int32_t                           child;
    const uint8_t                    *slash;
    const ngx_commerce_route_node_t  *found;

    if (p == end) {
        return node->allow != NULL ? node : NULL;
    }

    p++;                                /* the slash */
    slash = memchr(p, '/', (size_t) (end - p));
    len = (size_t) ((slash ? slash : end) - p);

    child = ngx_commerce_names_find(&node->literals, p, len);

    if (child >= 0) {
        found = ngx_commerce_route_find(node->children[child], p + len, end,
                                        params, n);
        if (found != NULL) {
            return found;
        }
    }

    if (node->param == NULL || len == 0 || n == NGX_COMMERCE_PATH_PARAMS_MAX
        || (p[0] == '.' && (len == 1 || (len == 2 && p[1] == '.'))))
    {
        return NULL;
    }

    params[n].data = (uint8_t *) p;
    params[n].len = len;

    return ngx_commerce_route_find(node->param, p + len, end, params, n + 1);
}


bool
ngx_commerce_contract_match(const ngx_commerce_contract_t *contract,
    ngx_commerce_method_t method, const uint8_t *path, size_t len,
    ngx_commerce_match_t *match)
{
    uint32_t                          i;
    ngx_commerce_str_t                params[NGX_COMMERCE_PATH_PARAMS_MAX];
    const ngx_commerce_route_t       *route;
    const ngx_commerce_route_node_t  *node;

    memset(match, 0, sizeof(ngx_commerce_match_t));

    if (len == 0 || path[0] != '/') {
        return false;
    }

    /* nothing follows the slash of "/": it is the end of the path */

    node = ngx_commerce_route_find(contract->routes,
                                   len == 1 ? path + 1 : path, path + len,
                                   params, 0);
    if (node == NULL) {
        return false;
    }

    match->allow = node->allow;

    route = method < NGX_COMMERCE_METHODS ? node->routes[method] : NULL;
    if (route == NULL) {
        return true;
    }

    match->op = route->op;
    match->alias = route->origin != NGX_COMMERCE_ROUTE_DECLARED;
    match->deprecated_path = route->origin == NGX_COMMERCE_ROUTE_DERIVED
                             || (match->alias && route->op->deprecated);

    match->params_count = route->params;

    for (i = 0; i < route->params; i++) {
        match->params[i] = params[route->order[i]];
    }

    return true;
}
