/* What the load generators share: the clock, a histogram of latencies, and how they fail.
 *
 * The histogram is log-linear: 64 buckets for each power of two of nanoseconds, so a percentile is at most 1/64 too
 * low. PROGRAM is what error texts begin with; define it before including this.
 */
#ifndef MEASURE_H
#define MEASURE_H
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MS 1000000ull
#define SECOND 1000000000ull

typedef struct {
    uint64_t buckets[59 * 64], count, sum;
} Histogram;

/* CLOCK_MONOTONIC in nanoseconds, as Python's time.monotonic_ns. */
static inline uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static inline void fail(const char *what) {
    fprintf(stderr, PROGRAM ": %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

static inline void record(Histogram *h, uint64_t ns) {
    int shift = ns < 128 ? 0 : 57 - __builtin_clzll(ns);   /* ns >> shift is in 64..127 */
    h->buckets[shift * 64 + (ns >> shift)]++;              /* 0..127 for shift 0: rows overlap by one, none is shared */
    h->count++;
    h->sum += ns;
}

/* Microseconds below which that part (0..1) of all latencies lies; 0 if there are none. */
static inline double percentile_us(const Histogram *h, double part) {
    uint64_t run = 0, wanted = (uint64_t)(part * (double)h->count);
    if (wanted < 1) wanted = 1;
    for (int i = 0; i < 59 * 64; i++) {
        if ((run += h->buckets[i]) < wanted) continue;
        int shift = i < 128 ? 0 : i / 64 - 1;
        return (double)((uint64_t)(i - shift * 64) << shift) / 1000;
    }
    return 0;
}

/* The members p50_us ... max_us of a JSON object, without braces. */
static inline void print_latencies(const Histogram *h) {
    printf("\"mean_us\":%.1f,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p95_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f",
        h->count ? (double)h->sum / (double)h->count / 1000 : 0, percentile_us(h, .5), percentile_us(h, .9),
        percentile_us(h, .95), percentile_us(h, .99), percentile_us(h, .999), percentile_us(h, 1));
}
#endif
