/* What sells without regard to whom: popularity and trends.  See model.h. */

#include "model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>


#define TRAIN_DAY       86400
#define TRAIN_PRIOR     5.0             /* events that a product has before it has any */
#define TRAIN_SUPPORT   10.0            /* in this week and the last */


void
train_popularity(const train_data_t *data, const train_event_t *events,
    uint64_t n, double days, const float *weights, double *score)
{
    double    weight;
    int64_t   last;
    uint64_t  i;

    memset(score, 0, data->items * sizeof(double));
    last = 0;

    for (i = 0; i < n; i++) {
        last = (events[i].time > last) ? events[i].time : last;
    }

    for (i = 0; i < n; i++) {
        weight = weights[events[i].event];

        if (weight <= 0) {
            continue;
        }

        if (data->timed && days > 0) {
            weight *= exp(-(last - events[i].time) / (days * TRAIN_DAY));
        }

        score[events[i].item] += weight;
    }
}


void
train_freshness(const train_data_t *data, const train_event_t *events,
    uint64_t n, double days, double *ratio)
{
    double    *all, total, recent, weight;
    int64_t    last;
    uint32_t   j;
    uint64_t   i;

    for (j = 0; j < data->items; j++) {
        ratio[j] = data->timed ? 0 : 1;
    }

    if (!data->timed) {
        return;
    }

    all = train_zalloc(data->items * sizeof(double));
    last = 0;
    total = 0;
    recent = 0;

    for (i = 0; i < n; i++) {
        last = (events[i].time > last) ? events[i].time : last;
    }

    for (i = 0; i < n; i++) {

        if (events[i].event != NGX_COMMERCE_EVENT_DISMISS) {
            weight = exp(-(last - events[i].time) / (days * TRAIN_DAY));
            ratio[events[i].item] += weight;
            all[events[i].item]++;
            recent += weight;
            total++;
        }
    }

    for (j = 0; j < data->items; j++) {
        ratio[j] = (ratio[j] * total / recent + TRAIN_PRIOR)
                   / (all[j] + TRAIN_PRIOR);
    }

    free(all);
}


void
train_trending(const train_data_t *data, const train_event_t *events,
    uint64_t n, double *score)
{
    double    *now, *before;
    int64_t    last, age;
    uint32_t   j;
    uint64_t   i;

    memset(score, 0, data->items * sizeof(double));

    if (!data->timed) {
        return;
    }

    now = train_zalloc(data->items * sizeof(double));
    before = train_zalloc(data->items * sizeof(double));
    last = 0;

    for (i = 0; i < n; i++) {
        last = (events[i].time > last) ? events[i].time : last;
    }

    for (i = 0; i < n; i++) {
        age = last - events[i].time;

        if (events[i].event == NGX_COMMERCE_EVENT_DISMISS) {
            continue;
        }

        if (age < 7 * TRAIN_DAY) {
            now[events[i].item]++;

        } else if (age < 14 * TRAIN_DAY) {
            before[events[i].item]++;
        }
    }

    for (j = 0; j < data->items; j++) {
        if (now[j] + before[j] >= TRAIN_SUPPORT) {
            score[j] = (now[j] + TRAIN_PRIOR) / (before[j] + TRAIN_PRIOR);
        }
    }

    free(now);
    free(before);
}
