/*
 * Cost of a hit in ngx_commerce_store, by size of the body and number of
 * processes, with 400 keys, alone and beside a writer of 1,000
 * entries a second.
 *
 *   gcc -std=gnu11 -O2 -Ingx_commerce_module/core t/bench/store.c ngx_commerce_module/core/ngx_commerce_store*.c -o /tmp/store && /tmp/store
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "ngx_commerce_store.h"


#define SIZE     (64 * 1024 * 1024)
#define KEYS     400
#define ROUNDS   1000000


static uint64_t
now_ns(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);

    return (uint64_t) ts.tv_sec * 1000000000 + ts.tv_nsec;
}


static void
ticket_of(ngx_commerce_store_t *store, unsigned key,
    ngx_commerce_store_ticket_t *ticket)
{
    char                name[128], tag[32];
    ngx_commerce_str_t  k, tags[2];

    /* as long as a real key: tenant, operation, arguments */
    k.len = sprintf(name, "1|product_list|category=smartphones&limit=20&"
                          "sort_by=price&sort_dir=asc&cursor=%u", key);
    k.data = (uint8_t *) name;
    tags[0] = ngx_commerce_str("1:catalog");
    tags[1].len = sprintf(tag, "1:product:%u", key);
    tags[1].data = (uint8_t *) tag;

    ngx_commerce_store_key(store, k, ticket);
    ngx_commerce_store_tags(store, tags, 2, ticket);
}


static void
put(ngx_commerce_store_t *store, unsigned key, size_t len)
{
    static uint8_t               body[NGX_COMMERCE_STORE_MAX];
    ngx_commerce_str_t           parts[3];
    ngx_commerce_store_ticket_t  t;

    memset(body, 'a' + key % 26, len);
    ticket_of(store, key, &t);
    parts[0] = ngx_commerce_str("{\"ETag\":\"\\\"12\\\"\"}");
    parts[1].data = body;
    parts[1].len = len;
    parts[2] = ngx_commerce_str("");
    (void) ngx_commerce_store_put(store, &t, 200, parts, 0, 1000000);
}


static void
reader(ngx_commerce_store_t *store, unsigned seed, int fd)
{
    double                        ns;
    uint64_t                      start, hits;
    unsigned                      i;
    static uint64_t               dst[NGX_COMMERCE_STORE_MAX / 8];
    ngx_commerce_store_found_t    found;
    ngx_commerce_store_ticket_t   t;

    store->stripe = seed;
    hits = 0;
    start = now_ns();

    for (i = 0; i < ROUNDS; i++) {
        seed = seed * 1664525 + 1013904223;
        ticket_of(store, (seed >> 8) % KEYS, &t);

        if (ngx_commerce_store_find(store, &t, 1, &found)
            && ngx_commerce_store_read(store, &found, (uint8_t *) dst))
        {
            hits++;
        }
    }

    ns = (double) (now_ns() - start) / ROUNDS;
    if (hits < ROUNDS * 0.9) {
        fprintf(stderr, "only %lu hits\n", (unsigned long) hits);
        _exit(1);
    }

    if (write(fd, &ns, sizeof(ns)) != sizeof(ns)) {
        _exit(1);
    }
}


static void
run(size_t len, int readers, int writing)
{
    int                   i, fd[2];
    void                 *memory;
    pid_t                 writer;
    double                ns, sum;
    ngx_commerce_store_t  store;

    memory = mmap(NULL, SIZE, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS,
                  -1, 0);
    if (memory == MAP_FAILED || pipe(fd) != 0
        || ngx_commerce_store_create(&store, memory, SIZE,
                                     (const uint8_t *) "0123456789abcdef")
           != NGX_COMMERCE_OK)
    {
        exit(1);
    }

    for (i = 0; i < KEYS; i++) {
        put(&store, i, len);
    }

    writer = 0;
    if (writing && (writer = fork()) == 0) {
        for (i = 0; ; i++) {
            put(&store, i % KEYS, len);
            usleep(1000);
        }
    }

    for (i = 0; i < readers; i++) {
        if (fork() == 0) {
            reader(&store, i + 1, fd[1]);
            _exit(0);
        }
    }

    sum = 0;
    for (i = 0; i < readers; i++) {
        if (read(fd[0], &ns, sizeof(ns)) != sizeof(ns)) {
            exit(1);
        }
        sum += ns;
    }

    if (writer) {
        kill(writer, SIGKILL);
    }

    while (wait(NULL) > 0) { /* void */ }

    printf("%6zu bytes, %d readers, %s writer: %6.0f ns a hit\n", len, readers,
           writing ? "a " : "no", sum / readers);
    fflush(stdout);
    munmap(memory, SIZE);
}


int
main(void)
{
    size_t    sizes[] = { 0, 300, 2048, 16384, 65536 };
    unsigned  i;

    for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        run(sizes[i], 1, 0);
        run(sizes[i], 2, 0);
        run(sizes[i], 2, 1);
    }

    return 0;
}
