/*
 * BERT's tokens: a text is cleaned, freed from accents, put into lower case
 * and cut at spaces, punctuation and ideographs; each word is then the
 * longest pieces that the vocabulary has.  See minilm.h.
 */

#include "minilm.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>


#define TRAIN_WORD_CHARS   100          /* a longer word is unknown */
#define TRAIN_WORD_BYTES   (4 * TRAIN_WORD_CHARS)
#define TRAIN_PARTS        16           /* code points that one is decomposed to */
#define TRAIN_REPLACEMENT  0xfffd


struct train_wordpiece_s {
    const train_minilm_config_t  *config;
    train_str_t                  *piece;        /* by number */
    uint32_t                     *slot;         /* open addressing: number + 1 */
    uint32_t                      mask;
    uint32_t                      longest;      /* bytes of a piece */
};

typedef struct {
    const train_wordpiece_t  *pieces;
    uint32_t                 *tokens;
    uint32_t                  n;
    uint32_t                  max;
    uint32_t                  chars;            /* of the word so far */
    uint32_t                  len;
    char                      word[TRAIN_WORD_BYTES + 8];
} train_tokens_t;


static uint32_t train_piece_slot(const train_wordpiece_t *pieces,
    const char *prefix, size_t prefix_len, const char *data, size_t len);
static size_t train_special(const train_wordpiece_t *pieces, const char *p,
    size_t len, uint32_t *token);
static void train_char(train_tokens_t *out, utf8proc_int32_t c);
static void train_word_char(train_tokens_t *out, utf8proc_int32_t c);
static void train_word_end(train_tokens_t *out);
static void train_token(train_tokens_t *out, uint32_t token);
static bool train_is_space(utf8proc_int32_t c);
static bool train_is_control(utf8proc_int32_t c);
static bool train_is_ideograph(utf8proc_int32_t c);
static bool train_is_punctuation(utf8proc_int32_t c);


train_wordpiece_t *
train_wordpiece(const train_minilm_config_t *config, const char *data,
    size_t len)
{
    uint32_t            n, slot;
    const char         *p, *end, *eol;
    train_wordpiece_t  *pieces;

    pieces = train_zalloc(sizeof(train_wordpiece_t));
    pieces->config = config;
    pieces->piece = train_zalloc(config->vocabulary * sizeof(train_str_t));

    for (pieces->mask = 255; pieces->mask < config->vocabulary * 2ULL; ) {
        pieces->mask = pieces->mask * 2 + 1;
    }

    pieces->slot = train_zalloc((pieces->mask + 1ULL) * sizeof(uint32_t));

    end = data + len;

    for (n = 0, p = data; p < end && n < config->vocabulary; p = eol + 1) {
        eol = memchr(p, '\n', end - p);

        if (eol == NULL) {
            break;
        }

        pieces->piece[n].data = p;
        pieces->piece[n].len = eol - p;

        if (pieces->piece[n].len > pieces->longest) {
            pieces->longest = pieces->piece[n].len;
        }

        slot = train_piece_slot(pieces, "", 0, p, eol - p);
        pieces->slot[slot] = ++n;
    }

    if (n != config->vocabulary || p != end) {
        train_fail(TRAIN_INPUT, "the model's vocabulary has not the %u pieces "
                   "that it tells: make it again with scripts/minilm",
                   config->vocabulary);
    }

    return pieces;
}


void
train_wordpiece_free(train_wordpiece_t *pieces)
{
    free(pieces->piece);
    free(pieces->slot);
    free(pieces);
}


/* Where "prefix" + "data" is, or would be. */

static uint32_t
train_piece_slot(const train_wordpiece_t *pieces, const char *prefix,
    size_t prefix_len, const char *data, size_t len)
{
    size_t              i;
    uint32_t            at;
    uint64_t            hash;
    const train_str_t  *piece;

    hash = 0xcbf29ce484222325ULL;

    for (i = 0; i < prefix_len; i++) {
        hash = (hash ^ (uint8_t) prefix[i]) * 0x100000001b3ULL;
    }

    for (i = 0; i < len; i++) {
        hash = (hash ^ (uint8_t) data[i]) * 0x100000001b3ULL;
    }

    for (at = train_mix(hash) & pieces->mask; pieces->slot[at] != 0;
         at = (at + 1) & pieces->mask)
    {
        piece = &pieces->piece[pieces->slot[at] - 1];

        if (piece->len == prefix_len + len
            && memcmp(piece->data, prefix, prefix_len) == 0
            && memcmp(piece->data + prefix_len, data, len) == 0)
        {
            break;
        }
    }

    return at;
}


/* At most config->tokens of them; a text that is longer loses its end. */

uint32_t
train_tokenize(const train_wordpiece_t *pieces, const char *text, size_t len,
    uint32_t *tokens)
{
    size_t             i, n;
    uint32_t           token;
    train_tokens_t     out;
    utf8proc_int32_t   c;
    utf8proc_ssize_t   used;

    out.pieces = pieces;
    out.tokens = tokens;
    out.max = pieces->config->tokens - 1;
    out.chars = 0;
    out.len = 0;
    out.n = 0;
    train_token(&out, pieces->config->begin);

    for (i = 0; i < len && out.n < out.max; i += used) {
        n = train_special(pieces, text + i, len - i, &token);

        if (n != 0) {
            train_word_end(&out);
            train_token(&out, token);
            used = n;
            continue;
        }

        used = utf8proc_iterate((const utf8proc_uint8_t *) text + i, len - i,
                                &c);

        if (used <= 0) {
            used = 1;
            continue;
        }

        train_char(&out, c);
    }

    train_word_end(&out);

    out.max++;
    train_token(&out, pieces->config->end);

    return out.n;
}


/* A name such as [SEP] stands for itself, as its letters are. */

static size_t
train_special(const train_wordpiece_t *pieces, const char *p, size_t len,
    uint32_t *token)
{
    size_t              n;
    unsigned            i;
    uint32_t            slot;
    static const char  *names[] = { "[PAD]", "[UNK]", "[CLS]", "[SEP]",
                                    "[MASK]" };

    if (*p != '[') {
        return 0;
    }

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        n = strlen(names[i]);

        if (len < n || memcmp(p, names[i], n) != 0) {
            continue;
        }

        slot = train_piece_slot(pieces, "", 0, p, n);

        if (pieces->slot[slot] != 0) {
            *token = pieces->slot[slot] - 1;
            return n;
        }
    }

    return 0;
}


/* Cleans, sets ideographs apart, decomposes, drops marks, lowers. */

static void
train_char(train_tokens_t *out, utf8proc_int32_t c)
{
    bool               apart;
    int                boundary;
    utf8proc_int32_t   part[TRAIN_PARTS];
    utf8proc_ssize_t   i, n;

    if (c < 0x80) {

        /* most texts are this: what follows would come to the same */

        if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
            train_word_end(out);

        } else if (c > 0x20 && c != 0x7f) {
            train_word_char(out, c >= 'A' && c <= 'Z' ? c + 32 : c);
        }

        return;
    }

    if (c == TRAIN_REPLACEMENT || train_is_control(c)) {
        return;
    }

    if (train_is_space(c)) {
        train_word_end(out);
        return;
    }

    apart = train_is_ideograph(c);

    if (apart) {
        train_word_end(out);
    }

    boundary = 0;
    n = utf8proc_decompose_char(c, part, TRAIN_PARTS,
                                UTF8PROC_STABLE|UTF8PROC_DECOMPOSE, &boundary);

    if (n <= 0 || n > TRAIN_PARTS) {
        part[0] = c;
        n = 1;
    }

    for (i = 0; i < n; i++) {
        if (utf8proc_category(part[i]) != UTF8PROC_CATEGORY_MN) {
            train_word_char(out, utf8proc_tolower(part[i]));
        }
    }

    if (apart) {
        train_word_end(out);
    }
}


static void
train_word_char(train_tokens_t *out, utf8proc_int32_t c)
{
    bool  punctuation;

    if (train_is_space(c)) {
        train_word_end(out);
        return;
    }

    punctuation = train_is_punctuation(c);

    if (punctuation) {
        train_word_end(out);
    }

    if (out->chars < TRAIN_WORD_CHARS) {
        out->len += utf8proc_encode_char(c, (utf8proc_uint8_t *) out->word
                                            + out->len);
    }

    out->chars++;

    if (punctuation) {
        train_word_end(out);
    }
}


static void
train_word_end(train_tokens_t *out)
{
    size_t                    n, limit;
    uint32_t                  at, slot, began;
    const char               *prefix;
    const train_wordpiece_t  *pieces = out->pieces;

    if (out->chars == 0) {
        return;
    }

    began = out->n;
    slot = 0;

    for (at = 0; at < out->len && out->chars <= TRAIN_WORD_CHARS; at += n) {
        prefix = (at != 0) ? "##" : "";
        limit = pieces->longest - strlen(prefix);
        n = (out->len - at < limit) ? out->len - at : limit;

        for ( /* void */ ; n != 0; n--) {

            /* never in the middle of a character */

            if (at + n < out->len && ((uint8_t) out->word[at + n] & 0xc0)
                                     == 0x80)
            {
                continue;
            }

            slot = train_piece_slot(pieces, prefix, strlen(prefix),
                                    out->word + at, n);

            if (pieces->slot[slot] != 0) {
                break;
            }
        }

        if (n == 0) {
            break;
        }

        train_token(out, pieces->slot[slot] - 1);
    }

    if (out->chars > TRAIN_WORD_CHARS || at < out->len) {
        out->n = began;
        train_token(out, pieces->config->unknown);
    }

    out->chars = 0;
    out->len = 0;
}


static void
train_token(train_tokens_t *out, uint32_t token)
{
    if (out->n < out->max) {
        out->tokens[out->n++] = token;
    }
}


/* White_Space of Unicode. */

static bool
train_is_space(utf8proc_int32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0
           || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028
           || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}


static bool
train_is_control(utf8proc_int32_t c)
{
    switch (utf8proc_category(c)) {

    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
        return true;

    default:
        return false;
    }
}


static bool
train_is_ideograph(utf8proc_int32_t c)
{
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf)
           || (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f)
           || (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf)
           || (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}


/* All of ASCII that is neither letter, digit nor space counts, "$" and "+" too. */

static bool
train_is_punctuation(utf8proc_int32_t c)
{
    if (c < 0x80) {
        return (c >= 33 && c <= 47) || (c >= 58 && c <= 64)
               || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
    }

    switch (utf8proc_category(c)) {

    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
        return true;

    default:
        return false;
    }
}
