/* zkprobe: every single latency of getData under a closed loop, with the time at which it was seen.
 *
 *   cc -O2 -o zkprobe zkprobe.c
 *   zkprobe PORT CONNECTIONS KEYS PREFIX SECONDS > samples
 *
 * zkload tells percentiles of a whole run. To say what happened during an event that lasts a fraction of a second,
 * the samples of just that time are needed: pairs of 64-bit numbers in the machine's byte order, the time of the
 * reply (CLOCK_MONOTONIC, as Python's time.monotonic_ns) and the latency, both in nanoseconds. They are kept in
 * memory and written at the end, after SECONDS or at SIGTERM. One request is in flight on each connection, for one of
 * PREFIX/k0 ... PREFIX/k<KEYS-1>. A reply that is an error ends the program.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { GET_DATA = 4, MAX_CONNECTIONS = 1024, CONNECT_BYTES = 49, REPLY_HEADER = 16 };

typedef struct {
    int fd;
    uint64_t sent;
    size_t have;
    uint8_t in[8192];
} Connection;

typedef struct {
    uint64_t at, latency;
} Sample;

static Connection connections[MAX_CONNECTIONS];
static volatile sig_atomic_t stop;

static void on_signal(int number) {
    (void)number;
    stop = 1;
}

static void fail(const char *what) {
    fprintf(stderr, "zkprobe: %s: %s\n", what, errno ? strerror(errno) : "unexpected answer");
    exit(1);
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void put32(uint8_t *to, uint32_t value) {
    value = htonl(value);
    memcpy(to, &value, 4);
}

static uint32_t get32(const uint8_t *from) {
    uint32_t value;
    memcpy(&value, from, 4);
    return ntohl(value);
}

static void ask(Connection *c, const char *prefix, unsigned keys) {
    uint8_t frame[512];
    static uint32_t random = 2463534242u;
    random ^= random << 13, random ^= random >> 17, random ^= random << 5;
    int path = snprintf((char *)frame + 16, sizeof frame - 20, "%s/k%u", prefix, random % keys);
    put32(frame, 13 + path);
    put32(frame + 4, 1);
    put32(frame + 8, GET_DATA);
    put32(frame + 12, path);
    frame[16 + path] = 0;
    c->sent = now();
    /* 70 bytes into an empty socket buffer: a short write does not happen */
    if (send(c->fd, frame, 17 + path, MSG_NOSIGNAL) != 17 + path) fail("send");
}

static void open_session(Connection *c, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    uint8_t request[CONNECT_BYTES] = {0}, reply[64];
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    put32(request, CONNECT_BYTES - 4);
    put32(request + 16, 30000);
    put32(request + 28, 16); /* the password's length */
    if (send(c->fd, request, sizeof request, 0) != sizeof request) fail("send");
    if (recv(c->fd, reply, 4, MSG_WAITALL) != 4 || get32(reply) > sizeof reply) fail("handshake");
    if (recv(c->fd, reply + 4, get32(reply), MSG_WAITALL) != get32(reply)) fail("handshake");
}

/* 1 when the reply is complete */
static int receive(Connection *c) {
    ssize_t n = recv(c->fd, c->in + c->have, sizeof c->in - c->have, 0);
    if (n <= 0) fail("the server closed the connection");
    c->have += n;
    if (c->have < 4 + REPLY_HEADER || c->have < 4 + get32(c->in)) return 0;
    errno = 0;
    if (get32(c->in + 16)) fail("getData");
    c->have = 0;
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fputs("usage: zkprobe PORT CONNECTIONS KEYS PREFIX SECONDS\n", stderr);
        return 2;
    }
    int port = atoi(argv[1]), count = atoi(argv[2]), keys = atoi(argv[3]), poll = epoll_create1(0);
    const char *prefix = argv[4];
    size_t used = 0, room = 1 << 20;
    Sample *samples = malloc(room * sizeof *samples);
    if (count < 1 || count > MAX_CONNECTIONS || keys < 1 || strlen(prefix) > 256) {
        errno = EINVAL;
        fail("arguments");
    }
    signal(SIGTERM, on_signal);
    for (int i = 0; i < count; i++) {
        open_session(&connections[i], port);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &connections[i]};
        epoll_ctl(poll, EPOLL_CTL_ADD, connections[i].fd, &event);
    }
    uint64_t end = now() + (uint64_t)(atof(argv[5]) * 1e9);
    for (int i = 0; i < count; i++) ask(&connections[i], prefix, keys);
    while (!stop && now() < end) {
        struct epoll_event events[64];
        int n = epoll_wait(poll, events, 64, 50);
        for (int i = 0; i < n; i++) {
            Connection *c = events[i].data.ptr;
            if (!receive(c)) continue;
            uint64_t at = now();
            if (used == room) {
                samples = realloc(samples, (room *= 2) * sizeof *samples);
                if (!samples) fail("memory");
            }
            samples[used++] = (Sample){at, at - c->sent};
            ask(c, prefix, keys);
        }
    }
    /* The sockets close with the process; the sessions expire. */
    return fwrite(samples, sizeof *samples, used, stdout) != used;
}
