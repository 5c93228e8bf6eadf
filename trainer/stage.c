/* See stage.h. */

#include "stage.h"
#include "embeddings.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>


#define TRAIN_STAGE_KIND     0x47545343 /* "CSTG" */
#define TRAIN_STAGE_VERSION  1
#define TRAIN_STAGE_SECTION  1


typedef struct {
    uint64_t            key;
    train_options_t     options;
    train_tuned_t       tuned;
    train_metrics_t     metrics[TRAIN_COMPARED];
    char                names[TRAIN_COMPARED][24];
    uint32_t            n;
} train_stage_t;


static uint64_t train_stage_sum(uint64_t key, const void *data, size_t len);


uint64_t
train_stage_key(const train_data_t *data, const train_options_t *options,
    bool tune, bool blind, bool again)
{
    uint32_t  i;
    uint64_t  k, key;

    key = tune + 2 * blind + 4 * again + 8 * data->ordered;
    key = train_stage_sum(key, options, sizeof(train_options_t));
    key = train_stage_sum(key, data->user_keys,
                          data->users * sizeof(uint64_t));
    key = train_stage_sum(key, data->item_keys,
                          data->items * sizeof(uint64_t));

    /* field by field: what is between them is nobody's */

    for (k = 0; k < data->nevents; k++) {
        key = train_mix(key ^ data->events[k].user);
        key = train_mix(key ^ data->events[k].item);
        key = train_mix(key ^ data->events[k].event);
        key = train_mix(key ^ (uint64_t) data->events[k].time);
    }

    for (i = 0; data->texts != NULL && i < data->items; i++) {
        key = train_stage_sum(key, data->texts[i].text,
                              data->texts[i].text_len);
        key = train_stage_sum(key, data->texts[i].brand,
                              data->texts[i].brand_len);
        key = train_mix(key ^ data->texts[i].category_id);
    }

    if (data->embeddings != NULL) {
        key = train_mix(key ^ data->embeddings->identity);
    }

    return key;
}


static uint64_t
train_stage_sum(uint64_t key, const void *data, size_t len)
{
    return train_mix(train_mix(key ^ len) ^ ngx_commerce_crc32c(0, data, len));
}


bool
train_stage_load(const char *name, uint64_t key, train_options_t *options,
    train_tuned_t *tuned, train_comparison_t *comparison)
{
    bool                  good;
    uint32_t              i;
    uint64_t              n;
    const char           *why;
    train_file_t          file;
    const train_stage_t  *stage;
    ngx_commerce_pack_t   pack;

    if (name == NULL || access(name, F_OK) != 0) {
        return false;
    }

    train_file_open(&file, name);
    good = ngx_commerce_pack_open(&pack, file.data, file.size,
                                  TRAIN_STAGE_KIND, TRAIN_STAGE_VERSION, true,
                                  &why)
           == NGX_COMMERCE_OK;
    stage = good ? ngx_commerce_pack_array(&pack, TRAIN_STAGE_SECTION,
                                           sizeof(train_stage_t), &n)
                 : NULL;
    good = stage != NULL && n == 1 && stage->key == key
           && stage->n <= TRAIN_COMPARED;

    if (good) {
        *options = stage->options;
        *tuned = stage->tuned;
        comparison->n = stage->n;

        for (i = 0; i < stage->n; i++) {
            comparison->one[i].name = strndup(stage->names[i], 23);
            comparison->one[i].metrics = stage->metrics[i];
        }

        train_say("%s: tuned and measured before", name);

    } else {
        train_say("%s is of another run: begun anew", name);
    }

    train_file_close(&file);

    return good;
}


void
train_stage_save(const char *name, uint64_t key, const train_options_t *options,
    const train_tuned_t *tuned, const train_comparison_t *comparison)
{
    void                         *out;
    uint32_t                      i;
    uint64_t                      size;
    train_stage_t                *stage;
    ngx_commerce_pack_section_t   section;

    if (name == NULL) {
        return;
    }

    stage = train_zalloc(sizeof(train_stage_t));
    stage->key = key;
    stage->options = *options;
    stage->tuned = *tuned;
    stage->n = comparison->n;

    for (i = 0; i < comparison->n; i++) {
        strncpy(stage->names[i], comparison->one[i].name, 23);
        stage->metrics[i] = comparison->one[i].metrics;
    }

    section.id = TRAIN_STAGE_SECTION;
    section.data = stage;
    section.len = sizeof(train_stage_t);

    size = ngx_commerce_pack_size(&section, 1);
    out = train_alloc(size);
    ngx_commerce_pack_write(out, TRAIN_STAGE_KIND, TRAIN_STAGE_VERSION,
                            &section, 1);
    train_file_replace(name, out, size);
    free(out);
    free(stage);
}
