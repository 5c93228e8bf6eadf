/*
 * Open-loop load: requests leave on a timetable, whether or not the earlier
 * ones have been answered, and a latency counts from the time when the request
 * was due.  So a server that stalls is charged for all that had to wait (no
 * coordinated omission), which a closed loop hides.
 *
 * usage: openloop ADDRESS PORT REQUESTS RATE SECONDS CONNECTIONS
 *
 * REQUESTS is a file of whole HTTP/1.1 requests, each preceded by its length
 * in decimal and a line feed; they are sent in turn.  Answers must have a
 * Content-Length (or be 204 or 304).  Prints one JSON object.
 */

#define _GNU_SOURCE

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
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
    uint64_t     due;               /* ns */
    size_t       have;
    char        *in;
} conn_t;


static uint64_t   histogram[BUCKETS];
static uint64_t   statuses[600];
static uint64_t   backlog[BACKLOG];
static size_t     backlog_head, backlog_tail, backlog_max;
static conn_t     conns[CONNECTIONS];
static int        idle[CONNECTIONS], idle_count;
static request_t *requests;
static size_t     requests_count, request_next;
static uint64_t   sent, unsent, answered, failed, late_ns_max;


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


static void
send_due(void)
{
    conn_t     *c;
    request_t  *r;

    while (idle_count && backlog_head != backlog_tail) {

        c = &conns[idle[--idle_count]];
        r = &requests[request_next];
        request_next = (request_next + 1) % requests_count;

        c->due = backlog[backlog_head++ % BACKLOG];
        c->busy = 1;

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

    late = now_ns() - c->due;

    if (late > late_ns_max) {
        late_ns_max = late;
    }

    histogram[bucket(late / 1000) < BUCKETS ? bucket(late / 1000)
                                            : BUCKETS - 1]++;
    statuses[status > 0 && status < 600 ? status : 0]++;
    answered++;

    c->have = 0;
    c->busy = 0;
    idle[idle_count++] = (int) (c - conns);
}


static double
percentile(double q)
{
    int       b;
    uint64_t  sum, want;

    want = (uint64_t) (q * (double) answered);

    for (b = 0, sum = 0; b < BUCKETS; b++) {
        sum += histogram[b];

        if (sum > want) {
            return bucket_us(b) / 1000;
        }
    }

    return (double) late_ns_max / 1e6;
}


int
main(int argc, char **argv)
{
    int                 ep, tfd, i, n, connections, first;
    double              rate;
    uint64_t            start, end, k, t, ticks;
    struct itimerspec   its;
    struct sockaddr_in  address;
    struct epoll_event  ev, events[256];

    if (argc != 7) {
        fprintf(stderr, "usage: openloop ADDRESS PORT REQUESTS RATE SECONDS "
                        "CONNECTIONS\n");
        return 2;
    }

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

    if (rate <= 0 || connections < 1 || connections > CONNECTIONS
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

    start = now_ns();
    end = start + (uint64_t) (atof(argv[5]) * 1e9);
    k = 0;

    for ( ;; ) {

        for (t = now_ns();
             start + (uint64_t) ((double) k * 1e9 / rate) <= t
             && start + (uint64_t) ((double) k * 1e9 / rate) < end
             && backlog_tail - backlog_head < BACKLOG;
             k++)
        {
            backlog[backlog_tail++ % BACKLOG] =
                                 start + (uint64_t) ((double) k * 1e9 / rate);
        }

        if (backlog_tail - backlog_head > backlog_max) {
            backlog_max = backlog_tail - backlog_head;
        }

        send_due();

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

        n = epoll_wait(ep, events, 256, 100);

        for (i = 0; i < n; i++) {

            if (events[i].data.ptr == NULL) {
                (void) !read(tfd, &ticks, sizeof(ticks));
                continue;
            }

            readable(events[i].data.ptr, &address, ep);
        }
    }

    printf("{\"due\": %llu, \"sent\": %llu, \"unsent\": %llu, \"answered\": %llu, "
           "\"failed\": %llu, "
           "\"p50_ms\": %.3f, \"p90_ms\": %.3f, \"p99_ms\": %.3f, "
           "\"p999_ms\": %.3f, \"max_ms\": %.3f, \"backlog_max\": %zu, "
           "\"statuses\": {",
           (unsigned long long) k, (unsigned long long) sent,
           (unsigned long long) unsent, (unsigned long long) answered,
           (unsigned long long) failed, percentile(0.50), percentile(0.90),
           percentile(0.99), percentile(0.999), (double) late_ns_max / 1e6,
           backlog_max);

    for (i = 0, first = 1; i < 600; i++) {
        if (statuses[i]) {
            printf("%s\"%d\": %llu", first ? "" : ", ", i,
                   (unsigned long long) statuses[i]);
            first = 0;
        }
    }

    printf("}}\n");

    return answered ? 0 : 1;
}
