/* See train.h. */

#include "train.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>


#define TRAIN_THREADS_MAX  64


typedef struct {
    const char        *what;
    uint64_t           n;
    uint64_t           chunk;
    train_work_pt      work;
    void              *ctx;
    double             began;
    double             shown;
    _Atomic uint64_t   next;
    _Atomic uint64_t   done;
} train_job_t;

typedef struct {
    train_job_t       *job;
    unsigned           worker;
} train_worker_t;


static void *train_thread(void *arg);
static void train_progress(train_job_t *job, bool end);


unsigned  train_threads = 2;
bool      train_quiet;


void
train_fail(train_code_t code, const char *fmt, ...)
{
    va_list  args;

    fputs("commerce-train: ", stderr);

    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);

    fputc('\n', stderr);
    exit(code);
}


void
train_say(const char *fmt, ...)
{
    va_list  args;

    if (train_quiet) {
        return;
    }

    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);

    fputc('\n', stderr);
}


void *
train_alloc(size_t size)
{
    return train_realloc(NULL, size);
}


void *
train_zalloc(size_t size)
{
    void  *p;

    p = calloc(1, size != 0 ? size : 1);

    if (p == NULL) {
        train_fail(TRAIN_FAILED, "no memory for %zu bytes: see --memory", size);
    }

    return p;
}


void *
train_realloc(void *p, size_t size)
{
    p = realloc(p, size != 0 ? size : 1);

    if (p == NULL) {
        train_fail(TRAIN_FAILED, "no memory for %zu bytes: see --memory", size);
    }

    return p;
}


double
train_seconds(void)
{
    struct timespec       now;
    static struct timespec  began;

    clock_gettime(CLOCK_MONOTONIC, &now);

    if (began.tv_sec == 0) {
        began = now;
    }

    return now.tv_sec - began.tv_sec + (now.tv_nsec - began.tv_nsec) / 1e9;
}


void
train_parallel(const char *what, uint64_t n, uint64_t chunk,
    train_work_pt work, void *ctx)
{
    unsigned        i, threads;
    pthread_t       thread[TRAIN_THREADS_MAX];
    train_job_t     job;
    train_worker_t  worker[TRAIN_THREADS_MAX];

    memset(&job, 0, sizeof(train_job_t));
    memset(worker, 0, sizeof(worker));
    job.what = what;
    job.n = n;
    job.chunk = chunk;
    job.work = work;
    job.ctx = ctx;
    job.began = train_seconds();
    job.shown = job.began;

    threads = (train_threads < TRAIN_THREADS_MAX) ? train_threads
                                                  : TRAIN_THREADS_MAX;

    for (i = 0; i < threads; i++) {
        worker[i].job = &job;
        worker[i].worker = i;

        if (i != 0
            && pthread_create(&thread[i], NULL, train_thread, &worker[i]) != 0)
        {
            train_fail(TRAIN_FAILED, "cannot start thread %u: use --threads 1",
                       i);
        }
    }

    train_thread(&worker[0]);

    for (i = 1; i < threads; i++) {
        pthread_join(thread[i], NULL);
    }

    train_progress(&job, true);
}


static void *
train_thread(void *arg)
{
    uint64_t         first, last;
    train_job_t     *job;
    train_worker_t  *worker = arg;

    job = worker->job;

    for ( ;; ) {
        first = atomic_fetch_add(&job->next, job->chunk);

        if (first >= job->n) {
            return NULL;
        }

        last = (job->n - first > job->chunk) ? first + job->chunk : job->n;
        job->work(job->ctx, worker->worker, first, last);
        atomic_fetch_add(&job->done, last - first);

        if (worker->worker == 0) {
            train_progress(job, false);
        }
    }
}


/* On a terminal only, five times a second. */

static void
train_progress(train_job_t *job, bool end)
{
    int         bar;
    double      now, rate, left;
    uint64_t    done;
    static int  terminal = -1;

    if (terminal == -1) {
        terminal = isatty(STDERR_FILENO);
    }

    if (job->what == NULL || train_quiet || !terminal) {
        return;
    }

    now = train_seconds();

    if (end) {
        if (job->shown != job->began) {
            fputs("\r\033[K", stderr);
        }

        return;
    }

    if (now - job->shown < 0.2) {
        return;
    }

    job->shown = now;
    done = atomic_load(&job->done);
    rate = done / (now - job->began);
    left = (rate > 0) ? (job->n - done) / rate : 0;
    bar = 24 * done / job->n;

    fprintf(stderr, "\r\033[K%-22s [%.*s%.*s] %3d %%  %.0f/s  %.0f s left",
            job->what, bar, "########################", 24 - bar,
            "                        ", (int) (100 * done / job->n), rate,
            left);
    fflush(stderr);
}


void
train_file_open(train_file_t *file, const char *name)
{
    int          fd;
    struct stat  st;

    fd = open(name, O_RDONLY|O_CLOEXEC);

    if (fd == -1 || fstat(fd, &st) == -1) {
        train_fail(TRAIN_FAILED, "cannot open %s: %s", name, strerror(errno));
    }

    if (!S_ISREG(st.st_mode)) {
        train_fail(TRAIN_FAILED, "%s is not a regular file: write the data to "
                   "one first", name);
    }

    file->name = name;
    file->size = st.st_size;
    file->data = "";

    if (file->size != 0) {
        file->data = mmap(NULL, file->size, PROT_READ, MAP_PRIVATE, fd, 0);

        if (file->data == MAP_FAILED) {
            train_fail(TRAIN_FAILED, "cannot map %s: %s", name,
                       strerror(errno));
        }
    }

    close(fd);
}


void
train_file_close(train_file_t *file)
{
    if (file->size != 0) {
        munmap((void *) file->data, file->size);
    }
}


void
train_file_replace(const char *name, const void *data, size_t size)
{
    int          fd;
    char        *temp, *folder;
    size_t       done;
    ssize_t      n;
    const char  *step;

    temp = train_alloc(strlen(name) + 32);
    sprintf(temp, "%s.%ld.new", name, (long) getpid());

    step = "create";
    fd = open(temp, O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0644);

    if (fd == -1) {
        goto failed;
    }

    step = "write";

    for (done = 0; done < size; done += n) {
        n = write(fd, (const char *) data + done, size - done);

        if (n == -1) {
            if (errno == EINTR) {
                n = 0;
                continue;
            }

            goto failed;
        }
    }

    if (fsync(fd) == -1 || close(fd) == -1) {
        goto failed;
    }

    step = "rename";

    if (rename(temp, name) == -1) {
        goto failed;
    }

    /* the name itself survives a power cut only after its folder is written */

    strcpy(temp, name);
    folder = dirname(temp);
    fd = open(folder, O_RDONLY|O_DIRECTORY|O_CLOEXEC);

    if (fd != -1) {
        (void) fsync(fd);
        close(fd);
    }

    free(temp);

    return;

failed:

    n = errno;
    unlink(temp);
    train_fail(TRAIN_FAILED, "cannot %s %s: %s", step, name, strerror(n));
}
