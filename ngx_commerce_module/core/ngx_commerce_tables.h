/*
 * Tables of many shops in shared memory: one process puts them there, all
 * processes read them.
 *
 * A table is a block of bytes that never changes while anybody may see it.
 * Publishing is one store; what was there before is used again when no reader
 * is left that could hold it.  Readers take no lock and copy nothing.  A
 * process killed at any instruction leaves the memory usable, and loses none of
 * it for longer than until the next reserve().
 *
 * A shop has a place as long as it has a table, and not longer.  Places are
 * not moved, and a shop's is one of a number that follow each other: who looks
 * for a shop looks at all of these, so one can be given up without a mark that
 * would have to stay, and taken by another shop at once.  A reader may be
 * between a place's shop and its block when that happens.  So the place only
 * says where to look: the block itself says whose it is, in bytes that were
 * written before it was shown and stay until that reader has left.  A block of
 * another shop is passed over, and then the shop asked for had no table at some
 * moment of the search.
 *
 * Knows no nginx, and nothing of what a table holds.
 */

#ifndef NGX_COMMERCE_TABLES_H
#define NGX_COMMERCE_TABLES_H


#include "ngx_commerce_file.h"


#define NGX_COMMERCE_TABLES_READERS  1024       /* processes at a time */
#define NGX_COMMERCE_TABLES_ALIGN    4096       /* of a block; a table begins 64 bytes later */
#define NGX_COMMERCE_TABLES_MIN      (1024 * 1024)


typedef struct ngx_commerce_tables_shm_s  ngx_commerce_tables_shm_t;

/* A process's view. */

typedef struct {
    ngx_commerce_tables_shm_t  *shm;
    uint32_t                    reader;     /* below NGX_COMMERCE_TABLES_READERS, nobody else's */
} ngx_commerce_tables_t;


typedef struct {
    const void                 *data;       /* aligned to 64 */
    size_t                      size;
    uint64_t                    serial;     /* of the publication; never used twice */
    int64_t                     loaded;     /* ms since 1970 */
    const ngx_commerce_file_t  *file;       /* that it was read from */
} ngx_commerce_tables_found_t;


typedef struct {
    uint64_t  memory;                   /* that tables can use */
    uint64_t  used;                     /* by those that are shown */
    uint64_t  waiting;                  /* for readers to leave */
    uint64_t  largest;                  /* table that fits now */
    uint64_t  tables;
    uint64_t  tables_max;               /* that there are places for */
} ngx_commerce_tables_stats_t;


/*
 * create() lays the memory out: "size" zeroed bytes at "memory", aligned to
 * 4096; open() takes over what create() made, also in another process.  There
 * is a place for a table for every 32 KB.
 */

ngx_commerce_rc_t ngx_commerce_tables_create(ngx_commerce_tables_t *tables,
    void *memory, size_t size);
ngx_commerce_rc_t ngx_commerce_tables_open(ngx_commerce_tables_t *tables,
    void *memory, size_t size);

/* Before the first enter() of a process: takes "reader" over from one that is dead. */

void ngx_commerce_tables_join(ngx_commerce_tables_t *tables, uint32_t reader);

/*
 * Between enter() and leave() what find() returned stays as it is.  To be
 * left before the process waits for anything: memory is not used again while
 * somebody is inside.  They do not nest.
 */

void ngx_commerce_tables_enter(ngx_commerce_tables_t *tables);
void ngx_commerce_tables_leave(ngx_commerce_tables_t *tables);

bool ngx_commerce_tables_find(const ngx_commerce_tables_t *tables,
    uint64_t shop, ngx_commerce_tables_found_t *found);


/*
 * The rest is for the loader: between lock() and unlock(), which is one process
 * at a time; the lock of a dead one is taken over.  It may take long, nobody
 * waits: lock() is false when another one has it.  Shops are numbered from 1.
 */

bool ngx_commerce_tables_lock(ngx_commerce_tables_t *tables);
void ngx_commerce_tables_unlock(ngx_commerce_tables_t *tables);

typedef enum {
    NGX_COMMERCE_TABLES_OK = 0,
    NGX_COMMERCE_TABLES_BUSY,           /* fits when readers have left: again in a moment */
    NGX_COMMERCE_TABLES_FULL
} ngx_commerce_tables_rc_t;

/* Memory for a table of "size" bytes; until publish() nobody sees it, and the next reserve() may give it away again. */

ngx_commerce_tables_rc_t ngx_commerce_tables_reserve(
    ngx_commerce_tables_t *tables, size_t size, void **data);

/* Shows what reserve() gave.  FULL: there are too many tables. */

ngx_commerce_tables_rc_t ngx_commerce_tables_publish(
    ngx_commerce_tables_t *tables, uint64_t shop, const void *data,
    size_t size, const ngx_commerce_file_t *file, int64_t now);

/* The shop has no table any more. */

void ngx_commerce_tables_withdraw(ngx_commerce_tables_t *tables,
    uint64_t shop);

/* The shops that have a table, "from" 0 on: returns where to go on, 0 at the end. */

uint64_t ngx_commerce_tables_next(const ngx_commerce_tables_t *tables,
    uint64_t from, uint64_t *shop);

void ngx_commerce_tables_stats(ngx_commerce_tables_t *tables,
    ngx_commerce_tables_stats_t *stats);


#endif /* NGX_COMMERCE_TABLES_H */
