/* Sentiment of reviews, see ngx_commerce_sentiment.h. */

#include "ngx_commerce_sentiment.h"

#include <math.h>
#include <string.h>


#define NGX_COMMERCE_SENTIMENT_SET    4096      /* slots of the set of features */
#define NGX_COMMERCE_SENTIMENT_WORD   32        /* bytes of a word that count */
#define NGX_COMMERCE_SENTIMENT_SCOPE  8         /* words that a negation reaches */
#define NGX_COMMERCE_SENTIMENT_LEAST  4         /* words that tell a language */
#define NGX_COMMERCE_SENTIMENT_SEED   0x811c9dc5U
#define NGX_COMMERCE_SENTIMENT_NOT    0x5bd1e995U

#define NGX_COMMERCE_SENTIMENT_ENGLISH  1
#define NGX_COMMERCE_SENTIMENT_FOREIGN  2
#define NGX_COMMERCE_SENTIMENT_NEGATES  4


typedef struct {
    ngx_commerce_sentiment_text_t  *out;
    uint32_t                        previous;   /* 0: a sentence begins */
    uint32_t                        negated;    /* words that it still reaches */
    uint32_t                        set[NGX_COMMERCE_SENTIMENT_SET];
} ngx_commerce_sentiment_reader_t;


static bool ngx_commerce_sentiment_sane(float x);
static void ngx_commerce_sentiment_word(ngx_commerce_sentiment_reader_t *reader,
    const uint8_t *word, size_t len);
static void ngx_commerce_sentiment_mark(ngx_commerce_sentiment_reader_t *reader,
    uint8_t c);
static void ngx_commerce_sentiment_add(ngx_commerce_sentiment_reader_t *reader,
    uint32_t feature);
static unsigned ngx_commerce_sentiment_class(const uint8_t *word, size_t len);
static bool ngx_commerce_sentiment_is_english(
    const ngx_commerce_sentiment_text_t *text, uint32_t known);
static uint32_t ngx_commerce_sentiment_mix(uint32_t x);


/*
 * Words that only hold sentences together, in order: English ones, those of
 * French, German, Spanish, Italian, Dutch and Portuguese that are not English
 * too, and those that turn round what follows.
 */

#define E  NGX_COMMERCE_SENTIMENT_ENGLISH
#define F  NGX_COMMERCE_SENTIMENT_FOREIGN
#define N  NGX_COMMERCE_SENTIMENT_NEGATES

static const struct {
    char      word[10];
    uint8_t   class;
} ngx_commerce_sentiment_classes[] = {
    { "a", E }, { "aber", F }, { "about", E }, { "after", E }, { "all", E },
    { "an", E }, { "and", E }, { "are", E }, { "as", E }, { "at", E },
    { "auch", F }, { "auf", F }, { "avec", F }, { "barely", N }, { "be", E },
    { "been", E }, { "bien", F }, { "but", E }, { "can", E }, { "cannot", N },
    { "ce", F }, { "cette", F }, { "che", F }, { "com", F }, { "como", F },
    { "dans", F }, { "das", F }, { "dat", F }, { "de", F }, { "della", F },
    { "den", F }, { "der", F }, { "des", F }, { "di", F }, { "did", E },
    { "do", E }, { "does", E }, { "du", F }, { "een", F }, { "ein", F },
    { "eine", F }, { "el", F }, { "em", F }, { "en", F }, { "es", F },
    { "est", F }, { "esta", F }, { "este", F }, { "et", F }, { "foi", F },
    { "for", E }, { "from", E }, { "had", E }, { "hardly", N }, { "has", E },
    { "have", E }, { "he", E }, { "het", F }, { "i", E }, { "ich", F },
    { "if", E }, { "ik", F }, { "il", F }, { "in", E }, { "is", E },
    { "ist", F }, { "it", E }, { "je", F }, { "just", E }, { "la", F },
    { "las", F }, { "le", F }, { "les", F }, { "lo", F }, { "los", F },
    { "ma", F }, { "maar", F }, { "mais", F }, { "mas", F }, { "mit", F },
    { "molto", F }, { "mon", F }, { "more", E }, { "muito", F }, { "muy", F },
    { "my", E }, { "n't", N|E }, { "nao", F }, { "neither", N },
    { "never", N }, { "nicht", F }, { "niet", F }, { "no", N },
    { "nobody", N }, { "non", F }, { "none", N }, { "nor", N },
    { "not", N|E }, { "nothing", N }, { "nous", F }, { "nt", N },
    { "nur", F }, { "of", E }, { "on", E }, { "one", E }, { "only", E },
    { "op", F }, { "or", E }, { "os", F }, { "out", E }, { "para", F },
    { "pas", F }, { "per", F }, { "pero", F }, { "por", F }, { "pour", F },
    { "que", F }, { "questo", F }, { "qui", F }, { "scarcely", N },
    { "se", F }, { "sehr", F }, { "she", E }, { "so", E }, { "sono", F },
    { "su", F }, { "sur", F }, { "te", F }, { "than", E }, { "that", E },
    { "the", E }, { "their", E }, { "them", E }, { "then", E },
    { "there", E }, { "they", E }, { "this", E }, { "to", E }, { "tres", F },
    { "um", F }, { "uma", F }, { "un", F }, { "una", F }, { "und", F },
    { "une", F }, { "up", E }, { "very", E }, { "von", F }, { "voor", F },
    { "vous", F }, { "was", E }, { "we", E }, { "were", E }, { "what", E },
    { "when", E }, { "which", E }, { "wie", F }, { "will", E }, { "with", E },
    { "without", N }, { "would", E }, { "you", E }, { "your", E },
    { "zu", F }
};

#undef E
#undef F
#undef N


ngx_commerce_rc_t
ngx_commerce_sentiment_open(ngx_commerce_sentiment_t *model, const void *data,
    size_t size, const char **why)
{
    uint64_t                               n;
    ngx_commerce_pack_t                    pack;
    const ngx_commerce_sentiment_about_t  *about;

    memset(model, 0, sizeof(ngx_commerce_sentiment_t));

    if (ngx_commerce_pack_open(&pack, data, size, NGX_COMMERCE_SENTIMENT_KIND,
                               NGX_COMMERCE_SENTIMENT_VERSION, true, why)
        != NGX_COMMERCE_OK)
    {
        return NGX_COMMERCE_INVALID;
    }

    *why = "the model's description is missing or impossible";

    about = ngx_commerce_pack_array(&pack, NGX_COMMERCE_SENTIMENT_ABOUT,
                                    sizeof(*about), &n);

    if (about == NULL || n != 1 || about->bits < 8 || about->bits > 26
        || !ngx_commerce_sentiment_sane(about->scale)
        || !ngx_commerce_sentiment_sane(about->bias)
        || !ngx_commerce_sentiment_sane(about->slope)
        || !ngx_commerce_sentiment_sane(about->offset)
        || !(about->neutral >= 0 && about->neutral <= 1))
    {
        return NGX_COMMERCE_INVALID;
    }

    model->about = about;
    model->buckets = ngx_commerce_pack_array(&pack,
                                             NGX_COMMERCE_SENTIMENT_BUCKETS,
                                             sizeof(*model->buckets), &n);

    if (model->buckets == NULL || n != 1ULL << about->bits) {
        *why = "the model's buckets are missing or of the wrong number";
        return NGX_COMMERCE_INVALID;
    }

    *why = NULL;

    return NGX_COMMERCE_OK;
}


/* small enough that nothing computed of it overflows; false for what is not a number */

static bool
ngx_commerce_sentiment_sane(float x)
{
    return fabsf(x) <= 1e6f;
}


void
ngx_commerce_sentiment(const ngx_commerce_sentiment_t *model,
    const uint8_t *text, size_t len, ngx_commerce_sentiment_answer_t *answer)
{
    int                                     sum;
    float                                   margin, share;
    uint32_t                                i, bits, found, known;
    ngx_commerce_sentiment_text_t           read;
    const ngx_commerce_sentiment_bucket_t  *bucket;

    memset(answer, 0, sizeof(ngx_commerce_sentiment_answer_t));
    ngx_commerce_sentiment_read(text, len, &read);

    bits = model->about->bits;
    sum = 0;
    found = 0;
    known = 0;

    for (i = 0; i < read.n; i++) {
        bucket = &model->buckets[ngx_commerce_sentiment_bucket(read.feature[i],
                                                               bits)];

        if (bucket->tag == ngx_commerce_sentiment_tag(read.feature[i])) {
            sum += bucket->weight;
            found++;
        }
    }

    for (i = 0; i < read.words; i++) {
        bucket = &model->buckets[ngx_commerce_sentiment_bucket(read.word[i],
                                                               bits)];
        known += bucket->tag == ngx_commerce_sentiment_tag(read.word[i]);
    }

    if (!ngx_commerce_sentiment_is_english(&read, known)) {
        return;
    }

    answer->answered = true;
    answer->probability = 0.5;

    if (found == 0) {
        return;
    }

    margin = model->about->bias
             + model->about->scale * sum / sqrtf((float) read.n);
    answer->probability = 1 / (1 + expf(-(model->about->slope * margin
                                          + model->about->offset)));

    /* what is known of a text says less the less that is */

    share = (float) known / read.words;

    if (share < 0.5f) {
        answer->probability = 0.5f + (answer->probability - 0.5f) * 2 * share;
    }

    answer->score = 2 * answer->probability - 1;
    answer->confidence = fabsf(answer->score);

    if (answer->confidence >= model->about->neutral) {
        answer->label = (answer->score > 0) ? NGX_COMMERCE_SENTIMENT_POSITIVE
                                            : NGX_COMMERCE_SENTIMENT_NEGATIVE;
    }
}


/* Sentences are held together by English words, or there are too few words to tell and they are known. */

static bool
ngx_commerce_sentiment_is_english(const ngx_commerce_sentiment_text_t *text,
    uint32_t known)
{
    if (text->words == 0 || text->strange * 5 > text->letters) {
        return false;
    }

    if (text->foreign > text->english) {
        return false;
    }

    if (text->words < NGX_COMMERCE_SENTIMENT_LEAST) {
        return known != 0;
    }

    return known * 3 >= text->words;
}


void
ngx_commerce_sentiment_read(const uint8_t *text, size_t len,
    ngx_commerce_sentiment_text_t *out)
{
    size_t                           i, n;
    uint8_t                          c, word[NGX_COMMERCE_SENTIMENT_WORD];
    ngx_commerce_sentiment_reader_t  reader;

    out->n = 0;
    out->words = 0;
    out->english = 0;
    out->foreign = 0;
    out->letters = 0;
    out->strange = 0;

    reader.out = out;
    reader.previous = 0;
    reader.negated = 0;
    memset(reader.set, 0, sizeof(reader.set));

    n = 0;

    for (i = 0; i <= len; i++) {
        c = (i < len) ? text[i] : '.';

        /* the typographic apostrophe */

        if (c == 0xe2 && i + 2 < len && text[i + 1] == 0x80
            && text[i + 2] == 0x99)
        {
            c = '\'';
            i += 2;
        }

        if (c >= 'A' && c <= 'Z') {
            c |= 0x20;
        }

        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c >= 0x80
            || (c == '\'' && n != 0))
        {
            out->letters += (c < 0x80 || c >= 0xc0);
            out->strange += (c >= 0xc0);

            if (n < sizeof(word)) {
                word[n++] = c;
            }

            continue;
        }

        if (c == '\'') {
            continue;
        }

        if (n != 0) {
            ngx_commerce_sentiment_word(&reader, word, n);
            n = 0;
        }

        if (i < len) {
            ngx_commerce_sentiment_mark(&reader, c);
        }
    }
}


/* "don't" is "do" and "n't", as in texts that were taken apart before. */

static void
ngx_commerce_sentiment_word(ngx_commerce_sentiment_reader_t *reader,
    const uint8_t *word, size_t len)
{
    size_t                          i;
    unsigned                        class;
    uint32_t                        hash, plain;
    ngx_commerce_sentiment_text_t  *out = reader->out;

    while (len != 0 && word[len - 1] == '\'') {
        len--;
    }

    if (len >= 3 && memcmp(word + len - 3, "n't", 3) == 0) {

        if (len > 3) {
            ngx_commerce_sentiment_word(reader, word, len - 3);
        }

        word += len - 3;
        len = 3;

    } else if (len > 2 && word[len - 2] == '\'') {
        ngx_commerce_sentiment_word(reader, word, len - 2);
        word += len - 1;
        len = 1;
    }

    if (len == 0) {
        return;
    }

    hash = NGX_COMMERCE_SENTIMENT_SEED;

    for (i = 0; i < len; i++) {
        hash = (hash ^ word[i]) * 0x01000193;
    }

    plain = ngx_commerce_sentiment_mix(hash);
    class = ngx_commerce_sentiment_class(word, len);

    if (out->words < NGX_COMMERCE_SENTIMENT_WORDS) {
        out->word[out->words++] = plain;
        out->english += (class & NGX_COMMERCE_SENTIMENT_ENGLISH) != 0;
        out->foreign += (class & NGX_COMMERCE_SENTIMENT_FOREIGN) != 0;
    }

    hash = plain;

    if (reader->negated != 0) {
        reader->negated--;
        hash = ngx_commerce_sentiment_mix(plain ^ NGX_COMMERCE_SENTIMENT_NOT);
    }

    ngx_commerce_sentiment_add(reader, hash);

    if (reader->previous != 0) {
        ngx_commerce_sentiment_add(reader,
            ngx_commerce_sentiment_mix(reader->previous * 31 + hash));
    }

    reader->previous = hash;

    if (class & NGX_COMMERCE_SENTIMENT_NEGATES) {
        reader->negated = NGX_COMMERCE_SENTIMENT_SCOPE;
    }
}


/* Between words: the end of a part of a sentence ends a negation; ! and ? say something themselves. */

static void
ngx_commerce_sentiment_mark(ngx_commerce_sentiment_reader_t *reader, uint8_t c)
{
    switch (c) {

    case '!':
    case '?':
        ngx_commerce_sentiment_add(reader, ngx_commerce_sentiment_mix(c));
        /* fall through */

    case '.':
    case ',':
    case ';':
    case ':':
    case '(':
    case ')':
        reader->negated = 0;
        reader->previous = 0;
    }
}


static void
ngx_commerce_sentiment_add(ngx_commerce_sentiment_reader_t *reader,
    uint32_t feature)
{
    uint32_t                        slot;
    ngx_commerce_sentiment_text_t  *out = reader->out;

    feature += (feature == 0);

    for (slot = feature % NGX_COMMERCE_SENTIMENT_SET; reader->set[slot] != 0;
         slot = (slot + 1) % NGX_COMMERCE_SENTIMENT_SET)
    {
        if (reader->set[slot] == feature) {
            return;
        }
    }

    if (out->n < NGX_COMMERCE_SENTIMENT_FEATURES) {
        reader->set[slot] = feature;
        out->feature[out->n++] = feature;
    }
}


static unsigned
ngx_commerce_sentiment_class(const uint8_t *word, size_t len)
{
    int       order;
    unsigned  low, high, middle;

    low = 0;
    high = sizeof(ngx_commerce_sentiment_classes)
           / sizeof(ngx_commerce_sentiment_classes[0]);

    if (len >= sizeof(ngx_commerce_sentiment_classes[0].word)) {
        return 0;
    }

    while (low < high) {
        middle = low + (high - low) / 2;
        order = strncmp(ngx_commerce_sentiment_classes[middle].word,
                        (const char *) word, len);

        if (order == 0) {
            order = ngx_commerce_sentiment_classes[middle].word[len] != '\0';
        }

        if (order == 0) {
            return ngx_commerce_sentiment_classes[middle].class;
        }

        if (order < 0) {
            low = middle + 1;

        } else {
            high = middle;
        }
    }

    return 0;
}


static uint32_t
ngx_commerce_sentiment_mix(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x85ebca6b;
    x ^= x >> 13;
    x *= 0xc2b2ae35;
    x ^= x >> 16;

    return x;
}
