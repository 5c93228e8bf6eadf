/*
 * Level-triggered watch on a foreign descriptor, see ngx_commerce_watch.h.
 */

#include "ngx_commerce_watch.h"


static void ngx_commerce_watch_read_handler(ngx_event_t *ev);
static void ngx_commerce_watch_write_handler(ngx_event_t *ev);


ngx_int_t
ngx_commerce_watch_open(ngx_commerce_watch_t *w, int fd, ngx_log_t *log)
{
    ngx_connection_t  *c;

    w->reading = 0;
    w->writing = 0;
    w->connection = NULL;

    c = ngx_get_connection(fd, log);
    if (c == NULL) {
        return NGX_ERROR;
    }

    c->data = w;
    c->number = ngx_atomic_fetch_add(ngx_connection_counter, 1);

    /* ngx_close_connection() then leaves the descriptor to its owner */
    c->shared = 1;

    /* the one way to hear of QUIT: nginx calls the read handlers of idle
       connections; never "reusable", or nginx would close it when short */
    c->idle = 1;

    c->read->log = log;
    c->write->log = log;
    c->read->handler = ngx_commerce_watch_read_handler;
    c->write->handler = ngx_commerce_watch_write_handler;

    w->connection = c;

    return NGX_OK;
}


ngx_int_t
ngx_commerce_watch_set(ngx_commerce_watch_t *w, ngx_uint_t read,
    ngx_uint_t write)
{
    ngx_int_t          rc;
    ngx_connection_t  *c;

    c = w->connection;
    if (c == NULL) {
        return NGX_ERROR;
    }

    rc = NGX_OK;

    if (read && !w->reading) {
        rc = ngx_add_event(c->read, NGX_READ_EVENT, NGX_LEVEL_EVENT);

    } else if (!read && w->reading) {
        rc = ngx_del_event(c->read, NGX_READ_EVENT, 0);
    }

    if (rc != NGX_OK) {
        return NGX_ERROR;
    }

    w->reading = (read != 0);

    if (write && !w->writing) {
        rc = ngx_add_event(c->write, NGX_WRITE_EVENT, NGX_LEVEL_EVENT);

    } else if (!write && w->writing) {
        rc = ngx_del_event(c->write, NGX_WRITE_EVENT, 0);
    }

    if (rc != NGX_OK) {
        return NGX_ERROR;
    }

    w->writing = (write != 0);

    return NGX_OK;
}


void
ngx_commerce_watch_close(ngx_commerce_watch_t *w)
{
    ngx_connection_t  *c;

    c = w->connection;
    if (c == NULL) {
        return;
    }

    /* a shared connection's events are not deleted by ngx_close_connection() */

    (void) ngx_commerce_watch_set(w, 0, 0);

    w->reading = 0;
    w->writing = 0;
    w->connection = NULL;

    ngx_close_connection(c);
}


void
ngx_commerce_watch_forget(ngx_commerce_watch_t *w)
{
    ngx_connection_t  *c;

    c = w->connection;
    if (c == NULL) {
        return;
    }

    if (w->reading) {
        (void) ngx_del_event(c->read, NGX_READ_EVENT, NGX_CLOSE_EVENT);
    }

    if (w->writing) {
        (void) ngx_del_event(c->write, NGX_WRITE_EVENT, NGX_CLOSE_EVENT);
    }

    w->reading = 0;
    w->writing = 0;

    ngx_commerce_watch_close(w);
}


static void
ngx_commerce_watch_read_handler(ngx_event_t *ev)
{
    ngx_connection_t      *c;
    ngx_commerce_watch_t  *w;

    c = ev->data;
    w = c->data;

    if (c->close) {
        /* later calls are of the descriptor again: the owner may be draining */
        c->close = 0;

        if (w->closing) {
            w->closing(w);
        }

        return;
    }

    /* posted by accept_mutex, then unwatched by an earlier handler */
    if (w->reading && w->readable) {
        w->readable(w);
    }
}


static void
ngx_commerce_watch_write_handler(ngx_event_t *ev)
{
    ngx_connection_t      *c;
    ngx_commerce_watch_t  *w;

    c = ev->data;
    w = c->data;

    if (w->writing && w->writable) {
        w->writable(w);
    }
}
