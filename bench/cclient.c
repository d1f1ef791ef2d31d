/* ZooKeeper's C client: latency of zoo_get and zoo_set, and gets with 1000 in flight; one JSON object.
 *
 *     cc -O2 -DTHREADED -o cclient cclient.c -lzookeeper_mt
 *     ./cclient 127.0.0.1:2181 /bench 3000 500 20000
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zookeeper/zookeeper.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int in_flight;
static volatile int connected;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *times, int n) {
    qsort(times, n, sizeof *times, by_size);
    return times[n / 2] * 1e6;
}

static void watcher(zhandle_t *zh, int type, int state, const char *path, void *context) {
    (void)zh, (void)path, (void)context;
    if (type == ZOO_SESSION_EVENT && state == ZOO_CONNECTED_STATE) connected = 1;
}

static void fail(const char *what, int code) {
    fprintf(stderr, "%s: %s\n", what, zerror(code));
    exit(1);
}

static void answered(int rc, const char *value, int length, const struct Stat *stat, const void *data) {
    (void)value, (void)length, (void)stat, (void)data;
    if (rc != ZOK) fail("zoo_aget", rc);
    pthread_mutex_lock(&mutex);
    in_flight--;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
}

int main(int argc, char **argv) {
    if (argc != 6) return fprintf(stderr, "usage: cclient HOSTS PATH GETS SETS PIPELINED\n"), 2;
    const char *path = argv[2];
    int gets = atoi(argv[3]), sets = atoi(argv[4]), many = atoi(argv[5]), rc;
    double *times = malloc(sizeof(double) * (gets > sets ? gets : sets)), began;
    char data[128], buffer[1024];
    memset(data, 'x', sizeof data);
    zoo_set_debug_level(ZOO_LOG_LEVEL_ERROR);
    zhandle_t *zh = zookeeper_init(argv[1], watcher, 30000, NULL, NULL, 0);
    if (!zh) return 1;
    for (int i = 0; i < 1000 && !connected; i++) usleep(10000);
    if (!connected) fail("connect", ZCONNECTIONLOSS);

    for (int i = 0; i < gets; i++) {
        struct Stat stat;
        int length = sizeof buffer;
        began = now();
        if ((rc = zoo_get(zh, path, 0, buffer, &length, &stat)) != ZOK) fail("zoo_get", rc);
        times[i] = now() - began;
    }
    double get = median(times, gets);
    for (int i = 0; i < sets; i++) {
        began = now();
        if ((rc = zoo_set(zh, path, data, sizeof data, -1)) != ZOK) fail("zoo_set", rc);
        times[i] = now() - began;
    }
    double set = median(times, sets);
    began = now();
    for (int i = 0; i < many; i++) {
        pthread_mutex_lock(&mutex);
        while (in_flight >= 1000) pthread_cond_wait(&changed, &mutex);
        in_flight++;
        pthread_mutex_unlock(&mutex);
        if ((rc = zoo_aget(zh, path, 0, answered, NULL)) != ZOK) fail("zoo_aget", rc);
    }
    pthread_mutex_lock(&mutex);
    while (in_flight) pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
    printf("{\"get\": %.1f, \"set\": %.1f, \"pipelined\": %.0f}\n", get, set, many / (now() - began));
    zookeeper_close(zh);
    return 0;
}
