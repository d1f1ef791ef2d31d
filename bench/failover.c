/* failover: for how long do the servers of an ensemble acknowledge no write while one of them fails?
 *
 *   cc -O2 -o failover failover.c
 *   failover -s 127.0.0.1:2181,127.0.0.1:2182,127.0.0.1:2183 -c 30 -t 10
 *
 * -s host:port[,...]  sessions begin on these in turn, and move on to the next one when a connection breaks
 * -c N  sessions, each with one setData in flight to a znode of its own (default 30)
 * -t S  seconds (default 10)          -b N  bytes of data (default 128)
 * -p P  prefix of the znodes, which are created and left behind (default /failover)
 *
 * Prints "ready" when all sessions write, so that whoever started it knows when to kill a server; at the end one JSON
 * object. A session is attached again (same id and password, last zxid seen) 2 ms after it lost its connection, and
 * every 2 ms from then on: what is measured are the servers. A server that accepts and then says nothing is left after
 * 100 ms. One thread, epoll, sockets that never block.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MS 1000000ull
#define RETRY_NS (2 * MS)
#define SILENCE_NS (100 * MS)

enum { CREATE = 1, SET = 5, PING = 11, XID_PING = -2, NODE_EXISTS = -110, EXPIRED = -112 };
/* AWAY: waits for retry_at. DIALLING, GREETING: the connection, the handshake is under way. WORKING: a session. */
enum { AWAY, DIALLING, GREETING, WORKING };

typedef struct {
    int fd, state, server, created, waiting;   /* created: its znode exists; waiting: a request is unanswered */
    uint64_t retry_at, since;                   /* since: in this state, or sent the request */
    int64_t id, zxid;
    uint8_t password[16];
    int32_t xid;
    uint8_t in[65536];
    size_t length;
} Session;

static struct sockaddr_in servers[16];
static int nservers, nsessions = 30, bytes = 128, ep;
static const char *prefix = "/failover";
static char *payload;
static uint64_t last_ack, gap, gap_at, acks, attached, expired, lost;
static int measuring;

static uint64_t now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000ull + t.tv_nsec; }
static void die(const char *what) { fprintf(stderr, "failover: %s: %s\n", what, strerror(errno)); exit(1); }

/* ---- frames */

typedef struct { uint8_t data[16384]; size_t length; } Frame;

static void put32(Frame *f, int32_t v) { uint32_t b = htonl((uint32_t)v); memcpy(f->data + f->length, &b, 4); f->length += 4; }
static void put64(Frame *f, int64_t v) { put32(f, (int32_t)(v >> 32)); put32(f, (int32_t)v); }
static void put_buffer(Frame *f, const void *data, int n) { put32(f, n); memcpy(f->data + f->length, data, n); f->length += n; }
static int32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return (int32_t)ntohl(v); }
static int64_t get64(const uint8_t *p) { return ((int64_t)get32(p) << 32) | (uint32_t)get32(p + 4); }

static void leave(Session *s, uint64_t t) {
    if (s->fd >= 0) close(s->fd);
    if (s->state == WORKING) lost++;
    s->fd = -1; s->state = AWAY; s->waiting = 0; s->length = 0;
    s->server = (s->server + 1) % nservers;
    s->retry_at = t + RETRY_NS;
}
/* Small frames on an idle connection: the kernel takes them whole, or the connection is no good. */
static int push(Session *s, Frame *f) {
    uint32_t n = htonl((uint32_t)(f->length - 4)); memcpy(f->data, &n, 4);
    if (send(s->fd, f->data, f->length, MSG_NOSIGNAL) == (ssize_t)f->length) return 1;
    leave(s, now());
    return 0;
}
static void dial(Session *s, uint64_t t) {
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (s->fd < 0) die("socket");
    int one = 1; setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    s->state = DIALLING; s->since = t; s->length = 0;
    if (connect(s->fd, (struct sockaddr *)&servers[s->server], sizeof servers[0]) < 0 && errno != EINPROGRESS) { leave(s, t); return; }
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT, .data.ptr = s };
    if (epoll_ctl(ep, EPOLL_CTL_ADD, s->fd, &event) < 0) die("epoll_ctl");
}
static void greet(Session *s, uint64_t t) {
    int error = 0; socklen_t size = sizeof error;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error) { leave(s, t); return; }
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = s };
    epoll_ctl(ep, EPOLL_CTL_MOD, s->fd, &event);
    Frame f = { .length = 4 };
    put32(&f, 0); put64(&f, s->zxid); put32(&f, 30000); put64(&f, s->id); put_buffer(&f, s->password, 16); f.data[f.length++] = 0;
    s->state = GREETING; s->since = t;
    push(s, &f);
}
static void request(Session *s, uint64_t t, int number) {
    char path[256]; int n = snprintf(path, sizeof path, "%s-%d", prefix, number);
    Frame f = { .length = 4 };
    put32(&f, ++s->xid); put32(&f, s->created ? SET : CREATE); put_buffer(&f, path, n); put_buffer(&f, payload, bytes);
    if (s->created) put32(&f, -1);
    else { put32(&f, 1); put32(&f, 31); put_buffer(&f, "world", 5); put_buffer(&f, "anyone", 6); put32(&f, 0); }
    s->waiting = 1; s->since = t;
    push(s, &f);
}

/* ---- what comes back */

static void acknowledged(uint64_t t) {
    if (measuring && t - last_ack > gap) { gap = t - last_ack; gap_at = last_ack; }
    last_ack = t;
    if (measuring) acks++;
}
/* One frame of n bytes. 0: the connection was left. */
static int take(Session *s, const uint8_t *p, size_t n, uint64_t t) {
    if (s->state == GREETING) {
        if (n < 36 || get32(p + 4) <= 0) {   /* the session has expired: a new one */
            expired += s->id != 0; s->id = 0; memset(s->password, 0, 16);
            leave(s, t);
            return 0;
        }
        attached += s->id != 0;
        s->id = get64(p + 8); memcpy(s->password, p + 20, 16);
        s->state = WORKING; s->waiting = 0;
        return 1;
    }
    if (n < 16) { leave(s, t); return 0; }
    int32_t xid = get32(p), error = get32(p + 12); int64_t zxid = get64(p + 4);
    if (zxid > s->zxid && xid > 0) s->zxid = zxid;
    if (xid < 0) return 1;
    if (error && !(error == NODE_EXISTS && !s->created)) { leave(s, t); return 0; }
    s->created = 1; s->waiting = 0;
    acknowledged(t);
    return 1;
}
static void readable(Session *s, uint64_t t) {
    ssize_t n = recv(s->fd, s->in + s->length, sizeof s->in - s->length, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { leave(s, t); return; }
    s->length += n;
    size_t at = 0;
    while (s->length - at >= 4) {
        size_t size = (size_t)get32(s->in + at);
        if (size > sizeof s->in - 4) { leave(s, t); return; }
        if (s->length - at - 4 < size) break;
        if (!take(s, s->in + at + 4, size, t)) return;
        at += 4 + size;
    }
    memmove(s->in, s->in + at, s->length - at); s->length -= at;
}

int main(int argc, char **argv) {
    const char *list = "127.0.0.1:2181"; double seconds = 10; int option;
    while ((option = getopt(argc, argv, "s:c:t:b:p:")) != -1) switch (option) {
        case 's': list = optarg; break; case 'c': nsessions = atoi(optarg); break; case 't': seconds = atof(optarg); break;
        case 'b': bytes = atoi(optarg); break; case 'p': prefix = optarg; break; default: return 2; }
    if (nsessions < 1 || bytes < 0 || bytes > 8192 || strlen(prefix) > 200) { fprintf(stderr, "failover: out of range\n"); return 2; }
    for (char *each = strtok(strdup(list), ","); each && nservers < 16; each = strtok(NULL, ",")) {
        char *colon = strrchr(each, ':'); if (!colon) { fprintf(stderr, "failover: -s host:port\n"); return 2; }
        *colon = 0;
        servers[nservers] = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(atoi(colon + 1)) };
        if (inet_pton(AF_INET, each, &servers[nservers++].sin_addr) != 1) { fprintf(stderr, "failover: %s is no IPv4 address\n", each); return 2; }
    }
    payload = malloc(bytes + 1); memset(payload, 'x', bytes + 1);
    ep = epoll_create1(0);
    Session *all = calloc(nsessions, sizeof *all);
    for (int i = 0; i < nsessions; i++) { all[i].fd = -1; all[i].server = i % nservers; }
    uint64_t began = now(), end = 0; struct epoll_event events[256];
    for (;;) {
        uint64_t t = now(); int working = 0;
        for (int i = 0; i < nsessions; i++) {
            Session *s = &all[i];
            if (s->state == AWAY && t >= s->retry_at) dial(s, t);
            else if ((s->state == DIALLING || s->state == GREETING) && t - s->since > SILENCE_NS) leave(s, t);
            if (s->state == WORKING && !s->waiting) request(s, t, i);
            working += s->state == WORKING && s->created;
        }
        if (!measuring && working == nsessions) {
            measuring = 1; last_ack = t; end = t + (uint64_t)(seconds * 1e9);
            puts("ready"); fflush(stdout);
        }
        if (!measuring && t - began > 30000 * MS) { errno = ETIMEDOUT; die("no sessions"); }
        if (measuring && t >= end) break;
        int n = epoll_wait(ep, events, 256, 1);
        t = now();
        for (int i = 0; i < n; i++) {
            Session *s = events[i].data.ptr;
            if (s->state == DIALLING) greet(s, t);
            else if (s->state != AWAY) readable(s, t);
        }
    }
    acknowledged(now()); acks--;   /* a gap that had not ended */
    printf("{\"acknowledged\":%llu,\"seconds\":%.3f,\"longest_gap_ms\":%.1f,\"gap_began_ns\":%llu,\"lost\":%llu,\"attached\":%llu,\"expired\":%llu}\n",
        (unsigned long long)acks, seconds, gap / 1e6, (unsigned long long)gap_at, (unsigned long long)lost, (unsigned long long)attached, (unsigned long long)expired);
    return 0;
}
