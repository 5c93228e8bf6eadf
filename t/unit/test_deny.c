/*
 * The deny set: what is in it, what it never forgets, and a reader while others write and die.
 */

#include "unit.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ngx_commerce_deny.h"


#define NOW   1000000
#define LIFE  960


static const uint8_t  seed[16] = "a seed of 16 by";


static ngx_commerce_deny_t *
make(size_t size)
{
    void                 *memory;
    ngx_commerce_deny_t  *deny;

    memory = mmap(NULL, size, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS,
                  -1, 0);
    assert_ptr_not_equal(memory, MAP_FAILED);

    deny = ngx_commerce_deny_create(memory, size, seed);
    assert_non_null(deny);
    assert_ptr_equal(ngx_commerce_deny_attach(memory), deny);

    return deny;
}


static void
name(uint8_t id[16], uint64_t n)
{
    memset(id, 0, 16);
    memcpy(id + 8, &n, sizeof(n));
}


static ngx_commerce_deny_item_t
item(ngx_commerce_deny_kind_t kind, uint64_t tenant, uint64_t id, uint64_t keep)
{
    ngx_commerce_deny_item_t  item;

    memset(&item, 0, sizeof(item));
    item.kind = kind;
    item.tenant = tenant;
    item.at = NOW;
    name(item.id, id);
    name(item.keep, keep);

    return item;
}


static bool
has(ngx_commerce_deny_t *deny, uint64_t tenant, uint64_t user,
    uint64_t session, int64_t issued, int64_t now)
{
    ngx_commerce_deny_token_t  token;

    memset(&token, 0, sizeof(token));
    token.tenant = tenant;
    token.issued = issued;
    token.has_session = (session != 0);
    name(token.user, user);
    name(token.session, session);

    return ngx_commerce_deny_has(deny, &token, now);
}


static void
sessions(void **state)
{
    uint64_t                   version;
    ngx_commerce_deny_t       *deny = make(65536);
    ngx_commerce_deny_item_t   i = item(NGX_COMMERCE_DENY_SESSION, 1, 7, 0);

    version = ngx_commerce_deny_version(deny);
    assert_false(has(deny, 1, 5, 7, NOW - 10, NOW));

    ngx_commerce_deny_add(deny, &i, NOW + LIFE, NOW);
    assert_true(ngx_commerce_deny_version(deny) != version);

    /* whenever it was issued: a session does not come back */
    assert_true(has(deny, 1, 5, 7, NOW - 10, NOW));
    assert_true(has(deny, 1, 5, 7, NOW + 10, NOW));
    assert_true(has(deny, 1, 6, 7, NOW - 10, NOW + LIFE - 1));
    assert_false(has(deny, 1, 5, 7, NOW - 10, NOW + LIFE));

    /* another session, another tenant, a user of the same number */
    assert_false(has(deny, 1, 5, 8, NOW - 10, NOW));
    assert_false(has(deny, 2, 5, 7, NOW - 10, NOW));
    assert_false(has(deny, 1, 7, 0, NOW - 10, NOW));
    assert_false(has(deny, 1, 7, 8, NOW - 10, NOW));
}


static void
users(void **state)
{
    ngx_commerce_deny_t       *deny = make(65536);
    ngx_commerce_deny_item_t   i = item(NGX_COMMERCE_DENY_USER, 1, 5, 9);

    ngx_commerce_deny_add(deny, &i, NOW + LIFE, NOW);

    assert_true(has(deny, 1, 5, 7, NOW - 10, NOW));
    assert_true(has(deny, 1, 5, 7, NOW, NOW));
    assert_true(has(deny, 1, 5, 0, NOW, NOW));
    assert_false(has(deny, 1, 5, 7, NOW + 1, NOW));
    assert_false(has(deny, 1, 5, 9, NOW - 10, NOW));
    assert_false(has(deny, 1, 9, 5, NOW - 10, NOW));
    assert_false(has(deny, 2, 5, 7, NOW - 10, NOW));

    /* again, later, without the session that stayed */
    i = item(NGX_COMMERCE_DENY_USER, 1, 5, 0);
    i.at = NOW + 20;
    ngx_commerce_deny_add(deny, &i, NOW + LIFE, NOW);
    assert_true(has(deny, 1, 5, 9, NOW + 20, NOW));

    /* an old notice that comes late changes nothing */
    i = item(NGX_COMMERCE_DENY_USER, 1, 5, 9);
    ngx_commerce_deny_add(deny, &i, NOW + 5, NOW);
    assert_true(has(deny, 1, 5, 9, NOW + 20, NOW + LIFE - 1));
}


static void
issuing(void **state)
{
    ngx_commerce_deny_t        *deny = make(65536);
    ngx_commerce_deny_item_t    i = item(NGX_COMMERCE_DENY_USER, 1, 5, 0);
    ngx_commerce_deny_token_t   token;

    memset(&token, 0, sizeof(token));
    token.tenant = 1;
    token.has_session = true;
    name(token.user, 5);
    name(token.session, 11);

    assert_int_equal(ngx_commerce_deny_after(deny, &token, NOW), NOW);

    ngx_commerce_deny_add(deny, &i, NOW + LIFE, NOW);

    token.issued = ngx_commerce_deny_after(deny, &token, NOW);
    assert_int_equal(token.issued, NOW + 1);
    assert_false(ngx_commerce_deny_has(deny, &token, NOW));
    assert_int_equal(ngx_commerce_deny_after(deny, &token, NOW + 30),
                     NOW + 30);

    ngx_commerce_deny_issued(deny, NOW + 900);
    ngx_commerce_deny_issued(deny, NOW + 100);
    assert_int_equal(ngx_commerce_deny_latest(deny), NOW + 900);
}


/* Many more than fit: no revoked one is forgotten, new tokens are good. */

static void
overflow(void **state)
{
    uint64_t                    n;
    ngx_commerce_deny_t        *deny = make(8192);
    ngx_commerce_deny_item_t    i;
    ngx_commerce_deny_token_t   token;

    for (n = 1; n <= 5000; n++) {
        i = item(NGX_COMMERCE_DENY_SESSION, 1, n, 0);
        ngx_commerce_deny_add(deny, &i, NOW + LIFE, NOW);
    }

    for (n = 1; n <= 5000; n++) {
        assert_true(has(deny, 1, 5, n, NOW - 10, NOW));
        assert_true(has(deny, 1, 5, n, NOW, NOW));
    }

    memset(&token, 0, sizeof(token));
    token.tenant = 1;
    token.has_session = true;

    for (n = 5001; n <= 6000; n++) {
        name(token.user, n);
        name(token.session, n);
        token.issued = ngx_commerce_deny_after(deny, &token, NOW);
        assert_in_range(token.issued, NOW, NOW + 1);
        assert_false(ngx_commerce_deny_has(deny, &token, NOW));
    }

    /* and when all would have expired, the floor is gone */
    assert_false(has(deny, 1, 5, 6001, NOW - 10, NOW + LIFE));

    /* what is over makes room: nothing rises any more */
    i = item(NGX_COMMERCE_DENY_SESSION, 1, 7001, 0);
    i.at = NOW + LIFE;
    ngx_commerce_deny_add(deny, &i, NOW + 2 * LIFE, NOW + LIFE);
    assert_false(has(deny, 1, 5, 7002, NOW, NOW + LIFE));
    assert_true(has(deny, 1, 5, 7001, NOW, NOW + LIFE));
}


/* Writers are killed at any instruction; who comes after them goes on, and what was taken in stays. */

static void
killed_writers(void **state)
{
    int                        round, n, status;
    pid_t                      pid;
    uint64_t                  *done;
    ngx_commerce_deny_t       *deny = make(1 << 20);
    ngx_commerce_deny_item_t   i;

    done = mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS,
                -1, 0);
    assert_ptr_not_equal(done, MAP_FAILED);

    for (round = 0; round < 20; round++) {

        pid = fork();
        assert_true(pid >= 0);

        if (pid == 0) {
            for (n = 0; n < 1000; n++) {
                i = item(NGX_COMMERCE_DENY_SESSION, 1, *done + 1, 0);
                ngx_commerce_deny_add(deny, &i, NOW + LIFE, NOW);
                __atomic_add_fetch(done, 1, __ATOMIC_RELEASE);
            }
            _exit(0);
        }

        /* readers at the same time: what is done is seen */

        while (__atomic_load_n(done, __ATOMIC_ACQUIRE) < 200u * round + 100) {
            uint64_t  last = __atomic_load_n(done, __ATOMIC_ACQUIRE);

            assert_true(last == 0 || has(deny, 1, 5, last, NOW, NOW));
            assert_false(has(deny, 1, 5, 1000000, NOW + 1, NOW));
        }

        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
    }

    for (n = 1; n <= (int) *done; n++) {
        assert_true(has(deny, 1, 5, n, NOW, NOW));
    }
}


static bool
parse(const char *text, ngx_commerce_deny_item_t *item)
{
    return ngx_commerce_deny_parse((ngx_commerce_str_t)
                                   { strlen(text), (uint8_t *) text }, item);
}


#define A  "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4A5b"
#define B  "00000000-0000-7000-8000-000000000001"

static void
entries(void **state)
{
    unsigned                   n;
    ngx_commerce_deny_item_t   i;
    static const char         *bad[] = {
        "", ":", "1", "1:s", "1:s:" A, "1:s:" A ":", "1:s:" A ":x",
        "1:s:" A ":1:" B, "1:u:" A ":1:", "1:u:" A ":1:x", "1:u:" A ":1:" B ":",
        "1:u:" A ":1:" B ":2", "1:x:" A ":1", "1::" A ":1", ":s:" A ":1",
        "x:s:" A ":1", "-1:s:" A ":1", "1234567890123456789:s:" A ":1",
        "1:s:0190a1b2c3d47e5f8a9b0c1d2e3f4a5b:1", "1:s:" A ":-1",
        " 1:s:" A ":1", "1:s:" A ":1 ", "1:ss:" A ":1"
    };

    assert_true(parse("7:s:" A ":1763713564", &i));
    assert_int_equal(i.kind, NGX_COMMERCE_DENY_SESSION);
    assert_int_equal(i.tenant, 7);
    assert_int_equal(i.at, 1763713564);
    assert_memory_equal(i.id, "\x01\x90\xa1\xb2\xc3\xd4\x7e\x5f\x8a\x9b\x0c\x1d\x2e\x3f\x4a\x5b", 16);

    assert_true(parse("123456789012345678:u:" A ":5:" B, &i));
    assert_int_equal(i.kind, NGX_COMMERCE_DENY_USER);
    assert_int_equal(i.tenant, 123456789012345678);
    assert_int_equal(i.keep[15], 1);
    assert_true(parse("1:u:" A ":5", &i));
    assert_int_equal(i.keep[15], 0);

    for (n = 0; n < sizeof(bad) / sizeof(bad[0]); n++) {
        if (parse(bad[n], &i)) {
            fail_msg("taken: %s", bad[n]);
        }
    }
}


static void
memory(void **state)
{
    uint8_t  *p = aligned_alloc(64, 8192);

    assert_null(ngx_commerce_deny_create(p, NGX_COMMERCE_DENY_MIN - 1, seed));
    assert_null(ngx_commerce_deny_create(p + 8, 8000, seed));
    memset(p, 0xff, 8192);
    assert_null(ngx_commerce_deny_attach(p));
    assert_non_null(ngx_commerce_deny_create(p, 8192, seed));
    free(p);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(sessions),
        cmocka_unit_test(users),
        cmocka_unit_test(issuing),
        cmocka_unit_test(overflow),
        cmocka_unit_test(killed_writers),
        cmocka_unit_test(entries),
        cmocka_unit_test(memory)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
