/*
 * Open-loop load: requests leave on a timetable, whether or not the earlier
 * ones have been answered.  A request that finds no idle connection is charged for
 * the time until it gets one: so a server that stalls pays for all that had to
 * wait (no coordinated omission), which a closed loop hides.  What this program
 * itself is behind its timetable, because others have the core, is not the server's
 * doing: it is reported apart, as "behind", and not counted as latency.  With enough
 * connections none is "starved", and a latency is from send() to answer.
 *
 * usage: openloop ADDRESS PORT REQUESTS RATE SECONDS CONNECTIONS [SERVER_CORE]
 *
 * The timetable is looked at 5,000 times a second, so a little burst leaves each time.
 *
 * With SERVER_CORE this program has a core for itself and the server has that one.  Then it looks all the time, requests
 * are due at random moments as those of many customers who do not know of each other (Poisson), and each is charged from
 * the moment when it was due, however late this program was.  What the machine takes away from either core is
 * told, as "lost": here by gaps between two looks at the clock, there by how late a thread is woken that goes before the
 * server (so the server cannot delay it).
 *
 * RATE 0 is a closed loop instead: whatever connection is idle sends.  (Then a look takes as long as all of them do,
 * and what this core lost is not told.)
 *
 * REQUESTS is a file of whole HTTP/1.1 requests, each preceded by its length
 * in decimal and a line feed; they are sent in turn.  Answers must have a
 * Content-Length (or be 204 or 304).  Prints one JSON object.
 */

#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>


#define BUFFER        (512 * 1024)
#define CONNECTIONS   4096
#define BACKLOG       (1 << 20)

/* the watch of the server's core: how often it looks, how late is a stall (of either core), in ns */
#define WATCH_PERIOD  1000000
#define STALL         200000
#define WATCH_FIRST   30            /* its real-time priority, where that is allowed */

/* log-linear histogram: 64 steps an octave, in microseconds */
#define OCTAVE_STEPS  64
#define BUCKETS       (OCTAVE_STEPS * 32)


typedef struct {
    const char  *data;
    size_t       len;
} request_t;

typedef struct {
    int          fd;
    int          busy;
    uint64_t     since;             /* ns: when it was sent, or could have been */
    size_t       have;
    char        *in;
} conn_t;


/* of all answers, of those below 400, of refusals; what we were behind */
static uint64_t   histogram[4][BUCKETS];
static uint64_t   counted[4];
static uint64_t   statuses[600];
static uint64_t  *by_status[600];           /* a histogram each, made when the first comes */
static uint64_t   backlog[BACKLOG];         /* from when on each is charged, unless it leaves at once */
static size_t     backlog_head, backlog_tail, backlog_max;
static conn_t     conns[CONNECTIONS];
static int        idle[CONNECTIONS], idle_count;        /* a stack */
static int        alone;                                /* on a core of its own */
static request_t *requests;
static size_t     requests_count, request_next;
static uint64_t   sent, unsent, starved, answered, failed, late_ns_max;

/* ns that the generator's core and the server's had to do without */
static uint64_t   lost_here;
static _Atomic uint64_t  lost_there;
static atomic_int        watching = 1;
static sem_t             in_place;          /* the watch has left this core */


static uint64_t
now_ns(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}


static void
die(const char *what)
{
    fprintf(stderr, "openloop: %s: %s\n", what, strerror(errno));
    exit(1);
}


static int
bucket(uint64_t us)
{
    int  octave;

    if (us < OCTAVE_STEPS) {
        return (int) us;
    }

    octave = 63 - __builtin_clzll(us) - 6;      /* us >> octave is 64..127 */

    return (octave + 1) * OCTAVE_STEPS + (int) (us >> octave) - OCTAVE_STEPS;
}


/* The upper edge of a bucket, in microseconds. */

static double
bucket_us(int b)
{
    int  octave;

    if (b < OCTAVE_STEPS) {
        return b + 1;
    }

    octave = b / OCTAVE_STEPS - 1;

    return (double) ((uint64_t) (b % OCTAVE_STEPS + OCTAVE_STEPS + 1)
                     << octave);
}


static void
load(const char *file)
{
    char   *text, *p, *end;
    FILE   *f;
    long    size;
    size_t  len;

    f = fopen(file, "rb");
    if (f == NULL || fseek(f, 0, SEEK_END) != 0) {
        die(file);
    }

    size = ftell(f);
    rewind(f);

    text = malloc((size_t) size + 1);
    if (text == NULL || fread(text, 1, (size_t) size, f) != (size_t) size) {
        die(file);
    }

    fclose(f);
    text[size] = '\0';

    requests = malloc(sizeof(request_t) * (size_t) (size / 16 + 1));
    if (requests == NULL) {
        die("memory");
    }

    for (p = text; p < text + size; p = end + len) {
        len = strtoul(p, &end, 10);

        if (*end++ != '\n' || len == 0 || end + len > text + size) {
            fprintf(stderr, "openloop: %s: bad length at offset %ld\n", file,
                    (long) (p - text));
            exit(1);
        }

        requests[requests_count].data = end;
        requests[requests_count++].len = len;
    }
}


static void
open_conn(conn_t *c, const struct sockaddr_in *address, int ep)
{
    int                 one = 1;
    struct epoll_event  ev;

    c->fd = socket(AF_INET, SOCK_STREAM, 0);

    if (c->fd == -1
        || connect(c->fd, (const struct sockaddr *) address, sizeof(*address))
           != 0)
    {
        die("connect");
    }

    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    fcntl(c->fd, F_SETFL, O_NONBLOCK);

    c->busy = 0;
    c->have = 0;

    if (c->in == NULL) {
        c->in = malloc(BUFFER);
    }

    ev.events = EPOLLIN;
    ev.data.ptr = c;
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev);

    idle[idle_count++] = (int) (c - conns);
}


/* Sleeps on the server's core, and adds up how late it is woken. */

static void *
watch(void *core)
{
    uint64_t            next, late;
    cpu_set_t           cpus;
    struct timespec     ts;
    struct sched_param  first = { .sched_priority = WATCH_FIRST };

    CPU_ZERO(&cpus);
    CPU_SET(atoi(core), &cpus);

    if (pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus) != 0) {
        die("the server's core");
    }

    /* not allowed: then the watch waits like anybody else, and more is told as lost */
    (void) pthread_setschedparam(pthread_self(), SCHED_FIFO, &first);
    sem_post(&in_place);

    for (next = now_ns(); watching; next += WATCH_PERIOD) {

        ts.tv_sec = (time_t) (next / 1000000000u);
        ts.tv_nsec = (long) (next % 1000000000u);

        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);

        late = now_ns() - next;

        if (late > STALL) {
            lost_there += late;
            next += late;
        }
    }

    return NULL;
}


/* When the next request is due, after one that was due at t. */

static double
next_due(double t, double rate, int random)
{
    return t + (random ? -log(1 - drand48()) : 1) * 1e9 / rate;
}


/* Sends what is due; what stood in the backlog before "fresh" had found no idle connection. */

static void
send_due(size_t fresh)
{
    conn_t     *c;
    request_t  *r;

    while (idle_count && backlog_head != backlog_tail) {

        c = &conns[idle[--idle_count]];
        r = &requests[request_next];
        request_next = (request_next + 1) % requests_count;

        c->since = backlog[backlog_head % BACKLOG];
        c->busy = 1;

        if (backlog_head++ < fresh) {
            starved++;

        } else if (!alone) {
            c->since = now_ns();
        }

        /* a request is far smaller than an empty socket's buffer */

        if (send(c->fd, r->data, r->len, MSG_NOSIGNAL) != (ssize_t) r->len) {
            failed++;
        }

        sent++;
    }
}


/* The length of the whole answer in the buffer, or 0: not all here yet. */

static size_t
answer_len(conn_t *c, int *status)
{
    char   *body, *field;
    size_t  head;

    c->in[c->have] = '\0';

    body = strstr(c->in, "\r\n\r\n");
    if (body == NULL || c->have < 12) {
        return 0;
    }

    head = (size_t) (body + 4 - c->in);
    *status = atoi(c->in + 9);

    if (*status == 204 || *status == 304) {
        return head;
    }

    *body = '\0';
    field = strcasestr(c->in, "\r\nContent-Length:");
    *body = '\r';

    if (field == NULL) {
        fprintf(stderr, "openloop: an answer without Content-Length\n");
        exit(1);
    }

    head += strtoul(field + 17, NULL, 10);

    return (c->have >= head) ? head : 0;
}


static void
count(int of, uint64_t us)
{
    histogram[of][bucket(us) < BUCKETS ? bucket(us) : BUCKETS - 1]++;
    counted[of]++;
}


static void
readable(conn_t *c, const struct sockaddr_in *address, int ep)
{
    int       status;
    size_t    len;
    ssize_t   n;
    uint64_t  late;

    n = recv(c->fd, c->in + c->have, BUFFER - 1 - c->have, 0);

    if (n == -1 && errno == EAGAIN) {
        return;
    }

    if (n <= 0) {
        failed += (uint64_t) c->busy;
        close(c->fd);

        if (!c->busy) {
            return;
        }

        open_conn(c, address, ep);
        return;
    }

    c->have += (size_t) n;

    len = answer_len(c, &status);

    if (len == 0) {
        return;
    }

    late = now_ns() - c->since;

    if (late > late_ns_max) {
        late_ns_max = late;
    }

    status = (status > 0 && status < 600) ? status : 0;

    count(0, late / 1000);

    if (status < 400) {
        count(1, late / 1000);

    } else if (status != 401) {
        /* a password that was found wrong has had all the work that a right one has */
        count(2, late / 1000);
    }

    if (by_status[status] == NULL) {
        by_status[status] = calloc(BUCKETS, sizeof(uint64_t));

        if (by_status[status] == NULL) {
            die("memory");
        }
    }

    statuses[status]++;
    by_status[status][bucket(late / 1000) < BUCKETS ? bucket(late / 1000)
                                                    : BUCKETS - 1]++;
    answered++;

    c->have = 0;
    c->busy = 0;
    idle[idle_count++] = (int) (c - conns);
}


static double
percentile_of(const uint64_t *steps, uint64_t total, double q)
{
    int       b;
    uint64_t  sum, want;

    want = (uint64_t) (q * (double) total);

    if (total == 0) {
        return 0;
    }

    for (b = 0, sum = 0; b < BUCKETS; b++) {
        sum += steps[b];

        if (sum > want) {
            return bucket_us(b) / 1000;
        }
    }

    return (double) late_ns_max / 1e6;
}


static double
percentile(int of, double q)
{
    return percentile_of(histogram[of], counted[of], q);
}


static void
report(uint64_t due)
{
    int  i, first;

    printf("{\"due\": %llu, \"sent\": %llu, \"unsent\": %llu, \"answered\": %llu, "
           "\"failed\": %llu, \"starved\": %llu, "
           "\"p50_ms\": %.3f, \"p90_ms\": %.3f, \"p99_ms\": %.3f, "
           "\"p999_ms\": %.3f, \"max_ms\": %.3f, "
           "\"accepted_p50_ms\": %.3f, \"accepted_p99_ms\": %.3f, "
           "\"refused_p50_ms\": %.3f, \"refused_p99_ms\": %.3f, "
           "\"behind_p50_ms\": %.3f, \"behind_p99_ms\": %.3f, "
           "\"backlog_max\": %zu, \"lost_here_ms\": %.3f, "
           "\"lost_there_ms\": %.3f, \"statuses\": {",
           (unsigned long long) due, (unsigned long long) sent,
           (unsigned long long) unsent, (unsigned long long) answered,
           (unsigned long long) failed, (unsigned long long) starved,
           percentile(0, 0.50),
           percentile(0, 0.90), percentile(0, 0.99), percentile(0, 0.999),
           (double) late_ns_max / 1e6, percentile(1, 0.50),
           percentile(1, 0.99), percentile(2, 0.50), percentile(2, 0.99),
           percentile(3, 0.50), percentile(3, 0.99), backlog_max,
           (double) lost_here / 1e6, (double) lost_there / 1e6);

    for (i = 0, first = 1; i < 600; i++) {
        if (statuses[i]) {
            printf("%s\"%d\": %llu", first ? "" : ", ", i,
                   (unsigned long long) statuses[i]);
            first = 0;
        }
    }

    printf("}, \"by_status\": {");

    for (i = 0, first = 1; i < 600; i++) {
        if (statuses[i]) {
            printf("%s\"%d\": {\"p50_ms\": %.3f, \"p99_ms\": %.3f}",
                   first ? "" : ", ", i,
                   percentile_of(by_status[i], statuses[i], 0.50),
                   percentile_of(by_status[i], statuses[i], 0.99));
            first = 0;
        }
    }

    /* whole, so that several runs can be taken together: upper edge in us, answers */

    printf("}, \"histogram\": [");

    for (i = 0, first = 1; i < BUCKETS; i++) {
        if (histogram[0][i]) {
            printf("%s[%.0f, %llu]", first ? "" : ", ", bucket_us(i),
                   (unsigned long long) histogram[0][i]);
            first = 0;
        }
    }

    printf("]}\n");
}


int
main(int argc, char **argv)
{
    int                 ep, tfd, i, n, connections;
    size_t              fresh;
    double              rate, due;
    uint64_t            start, end, k, t, last, ticks;
    pthread_t           watcher;
    struct itimerspec   its;
    struct sockaddr_in  address;
    struct epoll_event  ev, events[256];

    if (argc != 7 && argc != 8) {
        fprintf(stderr, "usage: openloop ADDRESS PORT REQUESTS RATE SECONDS "
                        "CONNECTIONS [SERVER_CORE]\n");
        return 2;
    }

    alone = (argc == 8);

    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t) atoi(argv[2]));
    inet_pton(AF_INET, argv[1], &address.sin_addr);

    if ((ntohl(address.sin_addr.s_addr) >> 24) != 127) {
        fprintf(stderr, "openloop: only loopback addresses\n");
        return 2;
    }

    load(argv[3]);
    rate = atof(argv[4]);
    connections = atoi(argv[6]);

    if (rate < 0 || connections < 1 || connections > CONNECTIONS
        || requests_count == 0)
    {
        fprintf(stderr, "openloop: nothing to do\n");
        return 2;
    }

    ep = epoll_create1(0);

    for (i = 0; i < connections; i++) {
        open_conn(&conns[i], &address, ep);
    }

    tfd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    memset(&its, 0, sizeof(its));
    its.it_interval.tv_nsec = 200000;
    its.it_value.tv_nsec = 200000;
    timerfd_settime(tfd, 0, &its, NULL);

    ev.events = EPOLLIN;
    ev.data.ptr = NULL;
    epoll_ctl(ep, EPOLL_CTL_ADD, tfd, &ev);

    if (alone) {
        sem_init(&in_place, 0, 0);

        if (pthread_create(&watcher, NULL, watch, argv[7]) != 0) {
            die("a thread");
        }

        sem_wait(&in_place);
    }

    start = now_ns();
    end = start + (uint64_t) (atof(argv[5]) * 1e9);
    last = start;
    due = 0;                                    /* ns since the start */
    k = 0;

    for ( ;; ) {

        t = now_ns();
        fresh = backlog_tail;

        if (rate > 0 && t - last > STALL && t < end) {
            lost_here += t - last;
        }

        last = t;

        while (rate == 0 && t < end
               && backlog_tail - backlog_head < (size_t) idle_count)
        {
            backlog[backlog_tail++ % BACKLOG] = t;
            k++;
        }

        while (rate > 0 && start + (uint64_t) due <= t
               && start + (uint64_t) due < end
               && backlog_tail - backlog_head < BACKLOG)
        {
            backlog[backlog_tail++ % BACKLOG] = alone ? start + (uint64_t) due
                                                      : t;
            count(3, (t - start - (uint64_t) due) / 1000);
            due = next_due(due, rate, alone);
            k++;
        }

        if (backlog_tail - backlog_head > backlog_max) {
            backlog_max = backlog_tail - backlog_head;
        }

        send_due(fresh);

        /* a second after the last was due, what could not leave is given up, what has left is waited for */

        if (t > end + 1000000000u && backlog_head != backlog_tail) {
            unsent += backlog_tail - backlog_head;
            backlog_head = backlog_tail;
        }

        if (t > end && backlog_head == backlog_tail
            && (idle_count == connections || t > end + 20000000000u))
        {
            break;
        }

        n = epoll_wait(ep, events, 256, alone ? 0 : 100);

        for (i = 0; i < n; i++) {

            if (events[i].data.ptr == NULL) {
                (void) !read(tfd, &ticks, sizeof(ticks));
                continue;
            }

            readable(events[i].data.ptr, &address, ep);
        }
    }

    watching = 0;

    if (alone) {
        pthread_join(watcher, NULL);
    }

    report(k);

    return answered ? 0 : 1;
}
