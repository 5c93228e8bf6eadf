/*
 * Load: how far a lane is behind, and whom it refuses for that.
 */

#include "ngx_commerce_pg_internal.h"


/* places beyond the queue for the edge's own work, of which there is little */
#define NGX_COMMERCE_PG_RESERVE  64

/* results that the pace is a mean of, and how many tell it: the gap before a first may be this worker's own, that had no core */
#define NGX_COMMERCE_PG_PACES    32
#define NGX_COMMERCE_PG_LEARNED  16


static ngx_uint_t ngx_commerce_pg_lane_load(
    ngx_commerce_pg_lane_state_t *lane, ngx_uint_t rank);


/* Those that the coming flush takes away do not wait. */

ngx_uint_t
ngx_commerce_pg_lane_backlog(ngx_commerce_pg_lane_state_t *lane)
{
    ngx_uint_t  room;

    room = lane->ready * lane->conf->depth;
    room = (room > lane->in_flight) ? room - lane->in_flight : 0;

    return (lane->queued > room) ? lane->queued - room : 0;
}


/*
 * How far behind the lane is for this rank, in percent: of the places in its
 * queue, or of the time that an answer may take, by what is before it, waiting and
 * under way, and the pace at which results come, once it is known.
 */

static ngx_uint_t
ngx_commerce_pg_lane_load(ngx_commerce_pg_lane_state_t *lane,
    ngx_uint_t rank)
{
    ngx_uint_t  i, backlog, ahead, places, time;

    backlog = ngx_commerce_pg_lane_backlog(lane);

    if (backlog == 0) {
        return 0;
    }

    for (i = 0, ahead = 0; i <= rank; i++) {
        ahead += lane->ranked[i];
    }

    ahead = ngx_min(ahead, backlog) + lane->in_flight;

    places = backlog * 100 / ngx_max(lane->conf->queue, 1);

    if (lane->paces < NGX_COMMERCE_PG_LEARNED) {
        return places;
    }

    time = (uint64_t) ahead * lane->pace / (10 * lane->conf->wait);

    return ngx_max(places, time);
}


/*
 * Refused early is refused in time to try elsewhere, or later.  The lane for
 * writes counts for who only reads, too: the server behind them is the same, and
 * what it does for readers it does not do for who buys.
 */

ngx_uint_t
ngx_commerce_pg_lane_sheds(ngx_commerce_pg_lane_state_t *lane,
    ngx_uint_t rank)
{
    ngx_uint_t                     load;
    ngx_commerce_pg_lane_state_t  *write;

    static const ngx_uint_t  bounds[NGX_COMMERCE_PG_RANKS] = {
        0, 100, 75, 50, 25
    };

    if (lane->conf->queue == 0 && lane->in_flight + lane->queued
                                  >= lane->ready * lane->conf->depth)
    {
        return 1;
    }

    if (rank == NGX_COMMERCE_PG_VITAL) {
        return ngx_commerce_pg_lane_backlog(lane)
               >= lane->conf->queue + NGX_COMMERCE_PG_RESERVE;
    }

    load = ngx_commerce_pg_lane_load(lane, rank);

    write = &ngx_commerce_pg_pool.lanes[NGX_COMMERCE_PG_WRITE];

    if (lane != write && rank >= NGX_COMMERCE_PG_BROWSE) {
        load = ngx_max(load, ngx_commerce_pg_lane_load(write, rank));
    }

    return load >= bounds[rank];
}


/* A mean, to which the last results give most; what comes after a rest says nothing. */

void
ngx_commerce_pg_lane_measure(ngx_commerce_pg_lane_state_t *lane)
{
    ngx_int_t  gap;

    if (lane->busy) {
        lane->paces += (lane->paces < NGX_COMMERCE_PG_PACES);

        gap = (ngx_int_t) (ngx_current_msec - lane->settled) * 1000;
        lane->pace += (gap - (ngx_int_t) lane->pace) / (ngx_int_t) lane->paces;
    }

    lane->busy = (lane->queued != 0);
    lane->settled = ngx_current_msec;
}
