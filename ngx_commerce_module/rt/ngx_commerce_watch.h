/*
 * Level-triggered watch on a descriptor that a foreign library owns (libpq,
 * hiredis, an eventfd) inside nginx's event loop.
 *
 * nginx's own connections are edge-triggered; libpq and hiredis read once per
 * wake-up and would starve (see README.md).  The watch never closes the
 * descriptor: close the watch first, then let the library close its socket.
 */

#ifndef NGX_COMMERCE_WATCH_H
#define NGX_COMMERCE_WATCH_H


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>


typedef struct ngx_commerce_watch_s  ngx_commerce_watch_t;

/* May close the watch, and free what it lives in. */
typedef void (*ngx_commerce_watch_pt)(ngx_commerce_watch_t *w);

struct ngx_commerce_watch_s {
    ngx_connection_t       *connection;     /* NULL: closed */
    ngx_commerce_watch_pt   readable;
    ngx_commerce_watch_pt   writable;

    /*
     * The worker leaves: QUIT came, or (connection->error is set)
     * worker_shutdown_timeout ran out and there is no time left to drain.
     * May come twice; a watch opened when ngx_exiting is set hears only of
     * the second.  NULL: the watch is left open for exit_process to close.
     */
    ngx_commerce_watch_pt   closing;

    void                   *data;
    unsigned                reading:1;
    unsigned                writing:1;
};


/*
 * The handlers and data are set by the caller before; nothing is watched until
 * ngx_commerce_watch_set().  NGX_ERROR: no free connection, logged.
 */
ngx_int_t ngx_commerce_watch_open(ngx_commerce_watch_t *w, int fd,
    ngx_log_t *log);

/* Says in which directions to watch from now on; costs nothing when they are the same. */
ngx_int_t ngx_commerce_watch_set(ngx_commerce_watch_t *w, ngx_uint_t read,
    ngx_uint_t write);

/* While the descriptor is still open.  Closing a closed watch does nothing. */
void ngx_commerce_watch_close(ngx_commerce_watch_t *w);

/*
 * Closes the watch of a descriptor that its library has closed already: epoll
 * has dropped it, and its number may be somebody else's by now.
 */
void ngx_commerce_watch_forget(ngx_commerce_watch_t *w);


#endif /* NGX_COMMERCE_WATCH_H */
