/* base64url, UUIDs, percent-decoding, UTF-8, cursors. */

#include "unit.h"


static void
test_base64url(void **state)
{
    size_t              i, n;
    uint8_t             src[64], text[100], back[100];
    static const char  *bad[] = { "A", "AAAAA", "AB", "AAB", "A+A=", "AA==",
                                  "A A", "AA\n", "A/AA" };

    (void) state;

    for (n = 0; n < sizeof(src); n++) {
        for (i = 0; i < n; i++) {
            src[i] = (uint8_t) (n * 37 + i * 101);
        }

        i = ngx_commerce_base64url_encode(text, src, n);
        assert_int_equal(i, ngx_commerce_base64url_encoded_len(n));
        assert_int_equal(ngx_commerce_base64url_decode(back, text, i), n);
        assert_memory_equal(back, src, n);
        assert_true(n <= ngx_commerce_base64url_decoded_max(i));
    }

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(ngx_commerce_base64url_decode(back,
                             (const uint8_t *) bad[i], strlen(bad[i])), -1);
    }
}


static void
test_hex(void **state)
{
    size_t              i;
    uint8_t             src[5], text[10], back[5];
    static const char  *bad[] = { "00g0", "0 00", "000/", ":000", "00@0", "+000" };

    (void) state;

    ngx_commerce_hex(text, (const uint8_t *) "\x00\xab\xff", 3);
    assert_memory_equal(text, "00abff", 6);

    for (i = 0; i < 256; i++) {
        char  expected[16];

        src[0] = src[2] = (uint8_t) i;
        src[1] = src[4] = (uint8_t) (i * 7 + 3);
        src[3] = (uint8_t) ~i;
        snprintf(expected, sizeof(expected), "%02x%02x%02x%02x%02x", src[0],
                 src[1], src[2], src[3], src[4]);

        ngx_commerce_hex(text, src, 5);
        assert_memory_equal(text, expected, 10);
        assert_int_equal(ngx_commerce_unhex(back, text, 5), 0);
        assert_memory_equal(back, src, 5);
    }

    assert_int_equal(ngx_commerce_unhex(back, (const uint8_t *) "00aBFf", 3),
                     0);
    assert_memory_equal(back, "\x00\xab\xff", 3);

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(ngx_commerce_unhex(back, (const uint8_t *) bad[i], 2),
                         -1);
    }
}


static void
test_uuid(void **state)
{
    unsigned  i;
    uint8_t   last[36], next[36], random[10];

    (void) state;
    memset(last, '0', sizeof(last));

    for (i = 0; i < 20000; i++) {
        memset(random, (int) (i * 7), sizeof(random));

        /* the clock stands still, goes on, and back a little */
        ngx_commerce_uuid7(next, 1700000000000ULL + i / 100 - (i % 500 == 0),
                           random);

        assert_true(ngx_commerce_uuid_valid(next, sizeof(next)));
        assert_int_equal(next[14], '7');
        assert_non_null(strchr("89ab", next[19]));
        assert_true(memcmp(last, next, sizeof(next)) < 0);
        memcpy(last, next, sizeof(next));
    }

    assert_false(ngx_commerce_uuid_valid(next, 35));
    next[8] = '0';
    assert_false(ngx_commerce_uuid_valid(next, sizeof(next)));
}


static void
percent(const char *text, bool query, const char *expected)
{
    ptrdiff_t     n;
    uint8_t       out[64];
    unit_arena_t  arena;

    unit_arena(&arena);
    n = ngx_commerce_percent_decode(out, unit_tight(&arena, text, strlen(text)),
                                    strlen(text), query);
    if (expected == NULL) {
        assert_int_equal(n, -1);

    } else {
        assert_int_equal(n, strlen(expected));
        assert_memory_equal(out, expected, strlen(expected));
    }

    unit_free(&arena);
}


static void
test_percent(void **state)
{
    (void) state;

    percent("a%20b+c", true, "a b c");
    percent("a%20b+c", false, "a b+c");
    percent("%C3%a9", false, "\xc3\xa9");
    percent("", true, "");
    percent("%", false, NULL);
    percent("%4", false, NULL);
    percent("a%zz", false, NULL);
    percent("%%41", false, NULL);
}


static void
test_utf8(void **state)
{
    (void) state;

    assert_true(ngx_commerce_utf8_valid((const uint8_t *) "plain ascii text", 16));
    assert_true(ngx_commerce_utf8_valid((const uint8_t *) "0123456\xc3\xa9", 9));
    assert_false(ngx_commerce_utf8_valid((const uint8_t *) "0123456\xc3", 8));
    assert_false(ngx_commerce_utf8_valid((const uint8_t *) "\xff", 1));
    assert_true(ngx_commerce_utf8_valid(NULL, 0));
}


/* A cursor is good for its key and binding only, and for no other byte. */

static void
test_cursor(void **state)
{
    size_t              i, len, n;
    uint8_t             key[32] = { 1, 2, 3 }, other[32] = { 1, 2, 4 };
    uint8_t             text[200], out[200];
    ngx_commerce_str_t  cursor, payload;
    ngx_commerce_str_t  binding = ngx_commerce_str("1|u:7|products|price");

    (void) state;

    for (n = 0; n < 40; n++) {
        payload.data = (uint8_t *) "[1999,\"abcdefghijklmnopqrstuvwxyz0123456\"]";
        payload.len = n;

        len = ngx_commerce_cursor_sign(text, key, binding, payload);
        assert_int_equal(len, ngx_commerce_cursor_len(n));

        cursor.data = text;
        cursor.len = len;

        assert_int_equal(ngx_commerce_cursor_verify(out, key, binding, cursor),
                         n);
        assert_memory_equal(out, payload.data, n);

        assert_int_equal(ngx_commerce_cursor_verify(out, other, binding,
                                                    cursor), -1);
        assert_int_equal(ngx_commerce_cursor_verify(out, key,
                             ngx_commerce_str("2|u:7|products|price"), cursor),
                         -1);

        for (i = 0; i < len; i++) {
            text[i] ^= 1;
            assert_int_equal(ngx_commerce_cursor_verify(out, key, binding,
                                                        cursor), -1);
            text[i] ^= 1;
        }

        for (cursor.len = 0; cursor.len < len; cursor.len++) {
            assert_int_equal(ngx_commerce_cursor_verify(out, key, binding,
                                                        cursor), -1);
        }
    }

    /* a byte that moves from the binding to the payload changes the tag */
    binding = ngx_commerce_str("a");
    payload = ngx_commerce_str("b");
    cursor.len = ngx_commerce_cursor_sign(text, key, binding, payload);
    assert_int_equal(ngx_commerce_cursor_verify(out, key, ngx_commerce_str("ab"),
                                                cursor), -1);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_base64url),
        cmocka_unit_test(test_hex),
        cmocka_unit_test(test_uuid),
        cmocka_unit_test(test_percent),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_cursor),
    };

    return cmocka_run_group_tests_name("codec", tests, NULL, NULL);
}
