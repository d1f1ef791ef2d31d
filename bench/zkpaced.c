/* zkpaced: durable writes at a fixed pace, whatever the server does (open loop).
 *
 *   cc -O2 -o zkpaced zkpaced.c
 *   zkpaced -s 127.0.0.1:2181 -r 20000 -c 8 -t 10
 *
 * -s host:port   the server             -r N   setData a second in all (default 20000)
 * -c N           sessions (default 8)   -t S   seconds; SIGTERM ends it earlier (default 10)
 * -b N           bytes (default 128)    -k N   znodes (default 1000)      -p P   prefix (default /paced)
 *
 * Every write has its time in a schedule, and its latency counts from there: a server that falls behind cannot slow the
 * schedule down. A session whose 1024 requests are all unanswered, or whose socket is full, skips the writes that are
 * due; they are counted. Prints "ready" when the znodes exist and the schedule begins, and at the end a JSON object:
 * wanted and done writes a second, how many were skipped, latency percentiles. One thread that wakes once a millisecond.
 */
#define _GNU_SOURCE
#define PROGRAM "zkpaced"
#include "zkframe.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>

enum { WINDOW = 1024, MAX_SESSIONS = 64 };

typedef struct {
    int fd;
    unsigned head, in_flight;        /* a ring of the times due: answers come in the order of requests */
    uint64_t due[WINDOW];
    uint8_t out[1 << 16], in[1 << 16];
    size_t out_have, in_have;
} Session;

static Session sessions[MAX_SESSIONS];
static Histogram latencies;
static volatile sig_atomic_t stop;
static const char *prefix = "/paced";
static int count = 8, bytes = 128, keys = 1000;
static double rate = 20000, seconds = 10;
static uint64_t done, skipped, errors;

static void on_signal(int number) {
    (void)number;
    stop = 1;
}

static void flush(Session *s) {
    if (!s->out_have) return;
    ssize_t n = send(s->fd, s->out, s->out_have, MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) fail("send");
    memmove(s->out, s->out + n, s->out_have - (size_t)n);
    s->out_have -= (size_t)n;
}

static void readable(Session *s) {
    ssize_t n = recv(s->fd, s->in + s->in_have, sizeof s->in - s->in_have, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { if (n == 0) errno = 0; fail("the server closed a connection"); }
    s->in_have += (size_t)n;
    uint64_t t = now();
    size_t at = 0;
    while (s->in_have - at >= LENGTH_BYTES) {
        size_t size = (size_t)get32(s->in + at);
        errno = 0;
        if (size < REPLY_HEADER || size > sizeof s->in - LENGTH_BYTES) fail("an answer of a wrong size");
        if (s->in_have - at - LENGTH_BYTES < size) break;
        if (get32(s->in + at + 4) >= 0) {
            if (!s->in_flight) fail("an answer to no request");
            errors += get32(s->in + at + 16) != 0;
            record(&latencies, t - s->due[s->head]);
            s->head = (s->head + 1) % WINDOW;
            s->in_flight--;
            done++;
        }
        at += LENGTH_BYTES + size;
    }
    memmove(s->in, s->in + at, s->in_have - at);
    s->in_have -= at;
}

static uint32_t next_random(void) {
    static uint32_t state = 2463534242u;
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return state;
}

int main(int argc, char **argv) {
    const char *address = "127.0.0.1:2181";
    int option, poller = epoll_create1(0);
    while ((option = getopt(argc, argv, "s:r:c:t:b:k:p:")) != -1) switch (option) {
        case 's': address = optarg; break;
        case 'r': rate = atof(optarg); break;
        case 'c': count = atoi(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'b': bytes = atoi(optarg); break;
        case 'k': keys = atoi(optarg); break;
        case 'p': prefix = optarg; break;
        default: return 2;
    }
    errno = EINVAL;
    if (rate <= 0 || count < 1 || count > MAX_SESSIONS || bytes < 0 || bytes > 8192 || keys < 1 || strlen(prefix) > 100)
        fail("arguments");
    struct sockaddr_in server = parse_address(address);
    char path[160], *payload = malloc((size_t)bytes + 1);
    memset(payload, 'x', (size_t)bytes + 1);
    static Frame frame;
    for (int i = 0; i < count; i++) sessions[i].fd = open_session(&server, 30000);
    for (int i = -1; i < keys; i++) {
        snprintf(path, sizeof path, i < 0 ? "%s" : "%s/k%d", prefix, i);
        make_create(&frame, 1, path, payload, i < 0 ? 0 : (size_t)bytes);
        send_frame(sessions[0].fd, &frame);
        if (i < 0 && answer(sessions[0].fd)) fail("create");
    }
    for (int i = 0; i < keys; i++) if (answer(sessions[0].fd)) fail("create");
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &sessions[i]};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, sessions[i].fd, &event)) fail("epoll_ctl");
        fcntl(sessions[i].fd, F_SETFL, O_NONBLOCK);
    }
    signal(SIGTERM, on_signal);
    puts("ready");
    fflush(stdout);

    uint64_t began = now(), end = began + (uint64_t)(seconds * SECOND), scheduled = 0, t;
    int turn = 0;
    while ((t = now()) < end && !stop) {
        for (uint64_t target = (uint64_t)((double)(t - began) * rate / SECOND); scheduled < target; scheduled++) {
            Session *s = &sessions[turn = (turn + 1) % count];
            snprintf(path, sizeof path, "%s/k%u", prefix, next_random() % (unsigned)keys);
            make_set(&frame, (int32_t)(scheduled % 0x7fffffff), path, payload, (size_t)bytes);
            if (s->in_flight == WINDOW || s->out_have + frame.length > sizeof s->out) { skipped++; continue; }
            memcpy(s->out + s->out_have, frame.data, frame.length);
            s->out_have += frame.length;
            s->due[(s->head + s->in_flight++) % WINDOW] = began + (uint64_t)((double)scheduled / rate * SECOND);
        }
        for (int i = 0; i < count; i++) flush(&sessions[i]);
        struct epoll_event found[MAX_SESSIONS];
        int n = epoll_wait(poller, found, MAX_SESSIONS, 0);
        for (int i = 0; i < n; i++) readable(found[i].data.ptr);
        /* Asleep between two ticks: the background must not take the processor from what is measured. */
        struct timespec tick = {.tv_nsec = MS};
        nanosleep(&tick, NULL);
    }
    double took = (double)(now() - began) / SECOND;
    printf("{\"wanted_per_s\":%.0f,\"seconds\":%.3f,\"done\":%llu,\"done_per_s\":%.0f,\"skipped\":%llu,\"errors\":%llu,", rate, took,
        (unsigned long long)done, (double)done / took, (unsigned long long)skipped, (unsigned long long)errors);
    print_latencies(&latencies);
    puts("}");
    return errors != 0;
}
