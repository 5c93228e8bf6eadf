/*
 * The loader: in worker 0, every interval, a thread looks into the folder and
 * brings files that have changed into the zone.
 *
 * A file is named ID.sim by its tenant and replaced by rename().  It is read
 * into free memory of the zone, checked there, and shown; so whatever happens
 * to the file afterwards, or while it is read, harms nobody.  One that is no
 * good is told about once; the table before it stays.  One for which there was
 * no room is tried again when there is, and one for which there was no
 * descriptor in the next round.
 */

#include "ngx_commerce_recs_internal.h"
#include "ngx_commerce_cache.h"
#include "ngx_commerce_rounds.h"
#include "ngx_commerce_tenant.h"

#include <dirent.h>


#define NGX_COMMERCE_RECS_SUFFIX  ".sim"
#define NGX_COMMERCE_RECS_ROUND   64        /* tables loaded, and found without a file, in a round */


typedef struct {
    ngx_commerce_tables_t     tables;
    ngx_commerce_refusals_t   refusals;
    ngx_commerce_recs_sh_t   *sh;
    const char               *path;             /* terminated */
    ngx_log_t                *log;
    ngx_uint_t                complained;       /* the folder cannot be read, and that was said */
    ngx_uint_t                crowded;          /* more is refused than is remembered, and that was said */
    ngx_uint_t                waiting;          /* files wait for descriptors, and that was said */
    uint64_t                  gone_from;        /* where the next round looks for tables without a file */

    /* in this round */
    uint64_t                  room;             /* for one table, bytes */
    uint64_t                  places;           /* for tables of other shops */
    uint64_t                  untold;           /* refused, and not remembered */
    ngx_err_t                 scarce;           /* why a file was left to the next round; 0: none was */

    /* what a round found, for the event loop */
    uint64_t                  gone[NGX_COMMERCE_RECS_ROUND];
    ngx_uint_t                ngone;
    uint64_t                  loaded[NGX_COMMERCE_RECS_ROUND];
    ngx_uint_t                nloaded;

    /* what the event loop wants done */
    uint64_t                  withdraw[NGX_COMMERCE_RECS_ROUND];
    ngx_uint_t                nwithdraw;
} ngx_commerce_recs_round_t;


static ngx_msec_t ngx_commerce_recs_loader_done(void *data);
static void ngx_commerce_recs_loader_withdraw(
    ngx_commerce_recs_round_t *round);
static void ngx_commerce_recs_loader_thread(void *data, ngx_log_t *log);
static void ngx_commerce_recs_round_scan(ngx_commerce_recs_round_t *round);
static void ngx_commerce_recs_round_crowd(ngx_commerce_recs_round_t *round);
static void ngx_commerce_recs_round_wait(ngx_commerce_recs_round_t *round);
static void ngx_commerce_recs_round_file(ngx_commerce_recs_round_t *round,
    int dir, const char *name, uint64_t tenant);
static ngx_uint_t ngx_commerce_recs_round_due(
    ngx_commerce_recs_round_t *round, uint64_t tenant,
    const ngx_commerce_file_t *file);
static void ngx_commerce_recs_round_load(ngx_commerce_recs_round_t *round,
    int fd, const char *name, uint64_t tenant,
    const ngx_commerce_file_t *file);
static void ngx_commerce_recs_round_small(ngx_commerce_recs_round_t *round,
    const char *name, uint64_t tenant, const ngx_commerce_file_t *file);
static void ngx_commerce_recs_round_many(ngx_commerce_recs_round_t *round,
    const char *name, uint64_t tenant, const ngx_commerce_file_t *file);
static ngx_uint_t ngx_commerce_recs_round_refuse(
    ngx_commerce_recs_round_t *round, uint64_t tenant,
    const ngx_commerce_file_t *file, bool room);
static void ngx_commerce_recs_round_gone(ngx_commerce_recs_round_t *round,
    int dir);
static ngx_uint_t ngx_commerce_recs_missing(int dir, uint64_t tenant);
static void ngx_commerce_recs_round_count(ngx_commerce_recs_round_t *round);
static uint64_t ngx_commerce_recs_tenant(const char *name);


static ngx_commerce_rounds_t      ngx_commerce_recs_rounds;
static ngx_commerce_recs_round_t  ngx_commerce_recs_round;


void
ngx_commerce_recs_loader_init(ngx_cycle_t *cycle,
    const ngx_commerce_recs_main_conf_t *rmcf)
{
    ngx_commerce_recs_round_t  *round;

    round = &ngx_commerce_recs_round;

    ngx_memzero(round, sizeof(ngx_commerce_recs_round_t));

    round->tables = rmcf->tables;
    round->refusals = rmcf->refusals;
    round->sh = rmcf->sh;
    round->path = (const char *) rmcf->path.data;
    round->log = cycle->log;

    if (ngx_commerce_rounds_start(&ngx_commerce_recs_rounds, cycle, rmcf->pool,
                                  1, rmcf->interval,
                                  ngx_commerce_recs_loader_thread,
                                  ngx_commerce_recs_loader_done, round)
        != NGX_OK)
    {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "recommendations are not loaded: out of memory");
    }
}


static ngx_msec_t
ngx_commerce_recs_loader_done(void *data)
{
    ngx_commerce_recs_round_t *round = data;

    u_char      text[NGX_INT64_LEN + sizeof(":recommendations")];
    ngx_str_t   id;
    ngx_uint_t  i;

    ngx_commerce_recs_loader_withdraw(round);

    /* what was answered from the table before */

    for (i = 0; i < round->nloaded; i++) {
        id.data = text;
        id.len = ngx_sprintf(text, "%uL:recommendations", round->loaded[i])
                 - text;

        ngx_commerce_cache_invalidate(&id);
    }

    /* a full round: there may be more */

    return (round->nloaded == NGX_COMMERCE_RECS_ROUND) ? 1 : 0;
}


/*
 * A table whose file is gone goes on, for a folder may be away for a moment;
 * unless its tenant is gone too.
 */

static void
ngx_commerce_recs_loader_withdraw(ngx_commerce_recs_round_t *round)
{
    u_char                  text[NGX_INT64_LEN];
    ngx_str_t               id;
    ngx_uint_t              i;
    ngx_pool_t             *pool;
    ngx_commerce_tenant_t   tenant;

    round->nwithdraw = 0;

    if (round->ngone == 0) {
        return;
    }

    pool = ngx_create_pool(NGX_MIN_POOL_SIZE, round->log);
    if (pool == NULL) {
        return;
    }

    for (i = 0; i < round->ngone; i++) {
        id.data = text;
        id.len = ngx_sprintf(text, "%uL", round->gone[i]) - text;

        if (ngx_commerce_tenant_by_id(pool, &id, &tenant) == NGX_DECLINED) {
            round->withdraw[round->nwithdraw++] = round->gone[i];
        }
    }

    ngx_destroy_pool(pool);
}


/* One round.  Of two configurations during a reload one waits for the next. */

static void
ngx_commerce_recs_loader_thread(void *data, ngx_log_t *log)
{
    ngx_commerce_recs_round_t *round = data;

    ngx_uint_t                   i;
    ngx_commerce_tables_stats_t  stats;

    round->ngone = 0;
    round->nloaded = 0;
    round->untold = 0;
    round->scarce = 0;

    if (!ngx_commerce_tables_lock(&round->tables)) {
        return;
    }

    for (i = 0; i < round->nwithdraw; i++) {
        ngx_commerce_tables_withdraw(&round->tables, round->withdraw[i]);
    }

    ngx_commerce_tables_stats(&round->tables, &stats);

    round->room = stats.largest;
    round->places = stats.tables_max - stats.tables;

    ngx_commerce_recs_round_scan(round);
    ngx_commerce_recs_round_count(round);

    ngx_commerce_tables_unlock(&round->tables);
}


static void
ngx_commerce_recs_round_scan(ngx_commerce_recs_round_t *round)
{
    DIR            *dir;
    uint64_t        tenant;
    struct dirent  *entry;

    dir = opendir(round->path);

    if (dir == NULL) {
        if (!round->complained) {
            ngx_log_error(NGX_LOG_ERR, round->log, ngx_errno,
                          "commerce_similarity_zone: the folder \"%s\" "
                          "cannot be read; recommendations stay as they are",
                          round->path);
        }

        round->complained = 1;
        return;
    }

    round->complained = 0;

    for ( ;; ) {
        entry = readdir(dir);

        if (entry == NULL) {
            break;
        }

        tenant = ngx_commerce_recs_tenant(entry->d_name);

        if (tenant != 0 && round->nloaded < NGX_COMMERCE_RECS_ROUND) {
            ngx_commerce_recs_round_file(round, dirfd(dir), entry->d_name,
                                         tenant);
        }
    }

    ngx_commerce_recs_round_gone(round, dirfd(dir));
    ngx_commerce_recs_round_crowd(round);
    ngx_commerce_recs_round_wait(round);

    (void) closedir(dir);
}


/* In place of a line for each file that cannot be remembered. */

static void
ngx_commerce_recs_round_crowd(ngx_commerce_recs_round_t *round)
{
    if (round->untold == 0) {

        /* a full round has not seen all files */

        if (round->nloaded < NGX_COMMERCE_RECS_ROUND) {
            round->crowded = 0;
        }

        return;
    }

    if (!round->crowded) {
        ngx_log_error(NGX_LOG_ERR, round->log, 0,
                      "commerce_similarity_zone: more files of \"%s\" are "
                      "refused than the %uL that it remembers; %uL more are "
                      "not told about one by one, and read again and again: "
                      "clear the folder", round->path,
                      ngx_commerce_refusals_max(&round->refusals),
                      round->untold);
    }

    round->crowded = 1;
}


/* Once, until a round can open whatever it wants to. */

static void
ngx_commerce_recs_round_wait(ngx_commerce_recs_round_t *round)
{
    if (round->scarce && !round->waiting) {
        ngx_log_error(NGX_LOG_ERR, round->log, round->scarce,
                      "commerce_similarity_zone: files of \"%s\" cannot be "
                      "opened now; the tables before them stay, each round "
                      "tries again", round->path);
    }

    round->waiting = (round->scarce != 0);
}


static void
ngx_commerce_recs_round_file(ngx_commerce_recs_round_t *round, int dir,
    const char *name, uint64_t tenant)
{
    int                   fd;
    ngx_err_t             err;
    struct stat           st;
    ngx_commerce_file_t   file;

    if (fstatat(dir, name, &st, 0) == -1 || !S_ISREG(st.st_mode)) {
        return;
    }

    ngx_commerce_file_identify(&file, &st);

    if (!ngx_commerce_recs_round_due(round, tenant, &file)) {
        return;
    }

    fd = openat(dir, name, O_RDONLY|O_CLOEXEC|O_NONBLOCK);

    if (fd == -1) {
        err = ngx_errno;

        if (ngx_commerce_file_scarce(err)) {
            round->scarce = err;
            return;
        }

        if (ngx_commerce_recs_round_refuse(round, tenant, &file, false)) {
            ngx_log_error(NGX_LOG_ERR, round->log, err,
                          "commerce_similarity_zone: \"%s/%s\" cannot be "
                          "opened; the table before it stays", round->path,
                          name);
        }

        return;
    }

    if (fstat(fd, &st) == 0) {
        ngx_commerce_file_identify(&file, &st);
        ngx_commerce_recs_round_load(round, fd, name, tenant, &file);
    }

    (void) close(fd);
}


/* Is it neither shown nor refused, and does nobody write to it any more? */

static ngx_uint_t
ngx_commerce_recs_round_due(ngx_commerce_recs_round_t *round, uint64_t tenant,
    const ngx_commerce_file_t *file)
{
    ngx_uint_t                    shown;
    ngx_commerce_refusal_t        refusal;
    ngx_commerce_tables_found_t   found;

    shown = ngx_commerce_tables_find(&round->tables, tenant, &found);

    if (shown && ngx_commerce_file_same(file, found.file)) {

        /* a folder that was another one for a while */

        if (round->sh->refused) {
            ngx_commerce_refusals_forget(&round->refusals, tenant);
        }

        return 0;
    }

    if (ngx_commerce_refusals_find(&round->refusals, tenant, &refusal)
        && ngx_commerce_file_same(file, &refusal.file)
        && !(refusal.room && file->size <= round->room
             && (shown || round->places)))
    {
        return 0;
    }

    return ngx_commerce_file_settled(file);
}


/* What is busy is tried again in the next round. */

static void
ngx_commerce_recs_round_load(ngx_commerce_recs_round_t *round, int fd,
    const char *name, uint64_t tenant, const ngx_commerce_file_t *file)
{
    void                       *data;
    const char                 *why;
    struct timespec             now;
    ngx_commerce_similarity_t   table;
    ngx_commerce_tables_rc_t    rc;

    rc = ngx_commerce_tables_reserve(&round->tables, file->size, &data);

    if (rc == NGX_COMMERCE_TABLES_FULL) {
        ngx_commerce_recs_round_small(round, name, tenant, file);
    }

    if (rc != NGX_COMMERCE_TABLES_OK) {
        return;
    }

    why = ngx_commerce_file_read(fd, data, file);

    if (why == NULL
        && ngx_commerce_similarity_open(&table, data, file->size, &why)
           == NGX_COMMERCE_OK)
    {
        why = (table.about->tenant_id != tenant) ? "it is another tenant's"
              : (table.ids[table.items - 1] > INT64_MAX)
              ? "its products have names instead of ids" : NULL;
    }

    if (why) {
        if (ngx_commerce_recs_round_refuse(round, tenant, file, false)) {
            ngx_log_error(NGX_LOG_ERR, round->log, 0,
                          "commerce_similarity_zone: \"%s/%s\" is no table: "
                          "%s; the one before it stays", round->path, name,
                          why);
        }

        return;
    }

    (void) clock_gettime(CLOCK_REALTIME, &now);

    rc = ngx_commerce_tables_publish(&round->tables, tenant, data, file->size,
                                     file, (int64_t) now.tv_sec * 1000
                                           + now.tv_nsec / 1000000);

    if (rc == NGX_COMMERCE_TABLES_FULL) {
        ngx_commerce_recs_round_many(round, name, tenant, file);
    }

    if (rc != NGX_COMMERCE_TABLES_OK) {
        return;
    }

    ngx_commerce_refusals_forget(&round->refusals, tenant);
    round->loaded[round->nloaded++] = tenant;

    ngx_log_error(NGX_LOG_NOTICE, round->log, 0,
                  "recommendations of tenant %uL: generation %uL, %uD "
                  "products, %uL bytes", tenant, table.about->generation,
                  table.items, file->size);
}


static void
ngx_commerce_recs_round_small(ngx_commerce_recs_round_t *round,
    const char *name, uint64_t tenant, const ngx_commerce_file_t *file)
{
    ngx_commerce_tables_stats_t  stats;

    ngx_commerce_tables_stats(&round->tables, &stats);
    round->room = stats.largest;

    if (!ngx_commerce_recs_round_refuse(round, tenant, file, true)) {
        return;
    }

    ngx_log_error(NGX_LOG_ERR, round->log, 0,
                  "commerce_similarity_zone is too small for \"%s/%s\": it "
                  "needs %uLk in one piece, %uLk are left of %uzm, the old "
                  "table stays; a new table must fit beside the one it "
                  "replaces: raise the size to %uLm and reload", round->path,
                  name, file->size >> 10, stats.largest >> 10,
                  round->sh->area.size >> 20,
                  ((stats.used + 2 * file->size) >> 20) + 8);
}


static void
ngx_commerce_recs_round_many(ngx_commerce_recs_round_t *round,
    const char *name, uint64_t tenant, const ngx_commerce_file_t *file)
{
    ngx_commerce_tables_stats_t  stats;

    ngx_commerce_tables_stats(&round->tables, &stats);
    round->places = 0;

    if (!ngx_commerce_recs_round_refuse(round, tenant, file, true)) {
        return;
    }

    ngx_log_error(NGX_LOG_ERR, round->log, 0,
                  "commerce_similarity_zone is too small for \"%s/%s\": it "
                  "has room for %uL shops; raise its size of %uzm and reload",
                  round->path, name, stats.tables_max,
                  round->sh->area.size >> 20);
}


/* 1: it is to be told about.  What cannot be remembered would be told about in each round. */

static ngx_uint_t
ngx_commerce_recs_round_refuse(ngx_commerce_recs_round_t *round,
    uint64_t tenant, const ngx_commerce_file_t *file, bool room)
{
    ngx_commerce_refusal_t      refusal;
    ngx_commerce_refusals_rc_t  rc;

    refusal.file = *file;
    refusal.room = room;

    rc = ngx_commerce_refusals_add(&round->refusals, tenant, &refusal);

    if (rc == NGX_COMMERCE_REFUSALS_FULL) {
        round->untold++;
    }

    return rc == NGX_COMMERCE_REFUSALS_NEW;
}


/* Tables whose file is gone are the event loop's to judge, and it takes so many at a time. */

static void
ngx_commerce_recs_round_gone(ngx_commerce_recs_round_t *round, int dir)
{
    uint64_t  at, tenant;

    at = round->gone_from;

    while (round->ngone < NGX_COMMERCE_RECS_ROUND
           && (at = ngx_commerce_tables_next(&round->tables, at, &tenant))
              != 0)
    {
        if (ngx_commerce_recs_missing(dir, tenant)) {
            round->gone[round->ngone++] = tenant;
        }
    }

    round->gone_from = at;

    at = 0;

    while ((at = ngx_commerce_refusals_next(&round->refusals, at, &tenant))
           != 0)
    {
        if (ngx_commerce_recs_missing(dir, tenant)) {
            ngx_commerce_refusals_forget(&round->refusals, tenant);
        }
    }
}


static ngx_uint_t
ngx_commerce_recs_missing(int dir, uint64_t tenant)
{
    u_char       name[NGX_INT64_LEN + sizeof(NGX_COMMERCE_RECS_SUFFIX)];
    struct stat  st;

    *ngx_sprintf(name, "%uL%s", tenant, NGX_COMMERCE_RECS_SUFFIX) = '\0';

    return fstatat(dir, (char *) name, &st, 0) == -1
           && ngx_errno == NGX_ENOENT;
}


/* For /health: how many, how new, what was refused since. */

static void
ngx_commerce_recs_round_count(ngx_commerce_recs_round_t *round)
{
    const char                   *why;
    uint64_t                      at, tenant, tables, refused, generation;
    int64_t                       created;
    ngx_commerce_similarity_t     table;
    ngx_commerce_tables_found_t   found;

    tables = 0;
    refused = round->untold;
    generation = 0;
    created = 0;
    at = 0;

    while ((at = ngx_commerce_tables_next(&round->tables, at, &tenant)) != 0) {
        tables++;

        if (ngx_commerce_tables_find(&round->tables, tenant, &found)
            && ngx_commerce_similarity_attach(&table, found.data, found.size,
                                              &why)
               == NGX_COMMERCE_OK
            && table.about->created > created)
        {
            created = table.about->created;
            generation = table.about->generation;
        }
    }

    while ((at = ngx_commerce_refusals_next(&round->refusals, at, &tenant))
           != 0)
    {
        refused++;
    }

    round->sh->generation = generation;
    round->sh->created = created / 1000;
    round->sh->refused = refused;
    round->sh->tables = tables;
}


/* "17.sim" → 17; 0: something else */

static uint64_t
ngx_commerce_recs_tenant(const char *name)
{
    off_t   id;
    size_t  len;

    len = ngx_strlen(name);

    if (len < sizeof(NGX_COMMERCE_RECS_SUFFIX)
        || name[0] == '0'
        || ngx_strcmp(name + len + 1 - sizeof(NGX_COMMERCE_RECS_SUFFIX),
                      NGX_COMMERCE_RECS_SUFFIX)
           != 0)
    {
        return 0;
    }

    id = ngx_atoof((u_char *) name, len + 1 - sizeof(NGX_COMMERCE_RECS_SUFFIX));

    return (id == NGX_ERROR) ? 0 : (uint64_t) id;
}
