/*
 * Level-triggered watch on a descriptor that a foreign library owns (libpq,
 * hiredis, an eventfd) inside nginx's event loop.
 *
 * nginx's own connections are edge-triggered; libpq and hiredis read once per
 * wake-up and would starve (docs/internals.md).  The watch never closes the
 * descriptor.
 */

#ifndef NGX_COMMERCE_WATCH_H
#define NGX_COMMERCE_WATCH_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


typedef struct ngx_commerce_watch_s  ngx_commerce_watch_t;

typedef void (*ngx_commerce_watch_pt)(ngx_commerce_watch_t *w);

struct ngx_commerce_watch_s {
    ngx_connection_t       *connection;     /* NULL: closed */
    ngx_commerce_watch_pt   readable;
    ngx_commerce_watch_pt   writable;
    ngx_commerce_watch_pt   closing;        /* the worker leaves (QUIT) or worker_shutdown_timeout came */
    void                   *data;
    unsigned                reading:1;
    unsigned                writing:1;
};


/* handlers and data are set by the caller before. */
ngx_int_t ngx_commerce_watch_open(ngx_commerce_watch_t *w, int fd,
    ngx_log_t *log);
ngx_int_t ngx_commerce_watch_set(ngx_commerce_watch_t *w, ngx_uint_t read,
    ngx_uint_t write);
void ngx_commerce_watch_close(ngx_commerce_watch_t *w);


#endif /* NGX_COMMERCE_WATCH_H */
