/* etcdload: closed-loop load on etcd by its own protocol, version 3 over gRPC.
 *
 *   cc -O2 -o etcdload etcdload.c
 *   etcdload -s 127.0.0.1:2379 -c 32 -w 16 -t 4 -o range
 *
 * -s host:port   the server                   -o OP  put, range (linearizable), serializable
 * -c N   connections (default 8)              -w N   requests in flight on each, at most 128 (default 1)
 * -t S   seconds measured (default 3)         -u S   warm-up seconds before (default 1)
 * -b N   bytes of a value (default 128)       -k N   keys /etcdload/k0 ... (default 1000), put before it begins
 * The keys are put one at a time, so that no burst of writes which etcd still buffers weighs on the reads.
 *
 * Prints what zkload prints: one JSON object. One thread, epoll, no library: the part of HTTP/2 that unary calls need.
 * A request is a HEADERS frame and a DATA frame; the header fields enter etcd's table with the first request of a
 * connection, so that later ones take six bytes, as those of etcd's own clients. Of an answer's header fields nothing
 * is decoded: a call that succeeded has a DATA frame, one that failed has none.
 */
#define _GNU_SOURCE
#define PROGRAM "etcdload"
#include "measure.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8 };
enum { ACK = 1, END_STREAM = 1, END_HEADERS = 4, FRAME_HEADER = 9 };
/* Calls may end in any order. The place of a stream among the calls is its number modulo this. */
enum { PLACES = 4096 };
/* What may come on a connection until it is granted more, as HTTP/2 counts it. */
#define LARGEST_WINDOW 0x7fffffffu
#define GRANT_AFTER (1u << 30)

enum { PUT, RANGE, SERIALIZABLE };

typedef struct {
    uint64_t sent;                            /* 0: it is over, or there was none */
    uint32_t stream, received;                /* bytes of DATA of this call, in however many frames */
} Call;

typedef struct {
    int fd, operation, live;
    uint32_t stream, random;
    uint64_t received;                        /* bytes of DATA since the last grant */
    int64_t may_send;                         /* bytes of DATA the server still takes */
    Call calls[PLACES];
    uint8_t out[1 << 17], in[1 << 17];
    size_t out_have, in_have;
} Connection;

static Histogram latencies;
static int connections = 8, window = 1, bytes = 128, keys = 1000, recording;
static uint64_t errors;

/* ---- what is sent */

static void put(Connection *c, const void *data, size_t n) {
    errno = 0;
    if (c->out_have + n > sizeof c->out) fail("the server takes no requests");
    memcpy(c->out + c->out_have, data, n);
    c->out_have += n;
}
static void put_frame(Connection *c, int type, int flags, uint32_t stream, const void *payload, size_t n) {
    uint8_t head[FRAME_HEADER] = {(uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n, (uint8_t)type, (uint8_t)flags,
        (uint8_t)(stream >> 24), (uint8_t)(stream >> 16), (uint8_t)(stream >> 8), (uint8_t)stream};
    put(c, head, sizeof head);
    put(c, payload, n);
}
static void grant(Connection *c, uint32_t n) {
    uint32_t more = htonl(n);
    put_frame(c, WINDOW_UPDATE, 0, 0, &more, 4);
}
static uint8_t *text(uint8_t *to, const char *s) {
    size_t n = strlen(s);   /* below 127: one byte of length */
    *to = (uint8_t)n;
    memcpy(to + 1, s, n);
    return to + 1 + n;
}
static void put_headers(Connection *c) {
    uint8_t block[256], *p = block;
    *p++ = 0x83, *p++ = 0x86;                                  /* :method POST, :scheme http: in everybody's table */
    if (c->stream == 1) {                                      /* from here on these four are in the server's table */
        *p++ = 0x44, p = text(p, c->operation == PUT ? "/etcdserverpb.KV/Put" : "/etcdserverpb.KV/Range");
        *p++ = 0x41, p = text(p, "127.0.0.1");                 /* :authority */
        *p++ = 0x5f, p = text(p, "application/grpc");          /* content-type */
        *p++ = 0x40, p = text(p, "te"), p = text(p, "trailers");
    } else {
        *p++ = 0x80 | 65, *p++ = 0x80 | 64, *p++ = 0x80 | 63, *p++ = 0x80 | 62;
    }
    put_frame(c, HEADERS, END_HEADERS, c->stream, block, (size_t)(p - block));
}
static uint8_t *varint(uint8_t *p, uint32_t v) {
    for (; v > 127; v >>= 7) *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}
static void call(Connection *c, unsigned key) {
    static uint8_t message[16384 + 256];
    uint8_t *p = message + 5;                                  /* after gRPC's flag and length */
    int n = snprintf((char *)p + 2, 64, "/etcdload/k%u", key);
    p[0] = 0x0a, p[1] = (uint8_t)n, p += 2 + n;                /* field 1: the key */
    if (c->operation == PUT) {
        *p++ = 0x12, p = varint(p, (uint32_t)bytes);           /* field 2: the value */
        memset(p, 'x', (size_t)bytes), p += bytes;
    } else if (c->operation == SERIALIZABLE) {
        *p++ = 0x38, *p++ = 1;                                 /* field 7 */
    }
    uint32_t size = htonl((uint32_t)(p - message - 5));
    message[0] = 0;
    memcpy(message + 1, &size, 4);
    c->stream += 2;
    errno = 0;
    if (c->stream > LARGEST_WINDOW) fail("a connection has had all its streams");
    if ((c->may_send -= p - message) < 0) fail("the server grants no more data");
    Call *made = &c->calls[c->stream / 2 % PLACES];
    if (made->sent) fail("a call is far behind the others");
    put_headers(c);
    put_frame(c, DATA, END_STREAM, c->stream, message, (size_t)(p - message));
    *made = (Call){.sent = now(), .stream = c->stream};
    c->live++;
}
static void flush(Connection *c) {
    while (c->out_have) {
        ssize_t n = send(c->fd, c->out, c->out_have, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) fail("send");
        memmove(c->out, c->out + n, c->out_have - (size_t)n);
        c->out_have -= (size_t)n;
    }
}

/* ---- what comes back */

/* The call of a stream; NULL: it is over. A later call may have its place. */
static Call *call_of(Connection *c, uint32_t stream) {
    Call *found = &c->calls[stream / 2 % PLACES];
    errno = 0;
    if (!(stream & 1) || stream > c->stream) fail("an answer to no call");
    return found->sent && found->stream == stream ? found : NULL;
}
static int ended(Connection *c, Call *made, int good, uint64_t t) {
    if (recording) record(&latencies, t - made->sent);
    errors += !good;
    made->sent = 0;
    c->live--;
    return 1;
}
/* One frame; returns how many calls it ended. */
static int take(Connection *c, int type, int flags, uint32_t stream, const uint8_t *p, size_t n, uint64_t t) {
    uint32_t value;
    Call *made;
    switch (type) {
    case DATA:
    case HEADERS:
        if (!(made = call_of(c, stream))) fail("an answer to a call that is over");
        if (type == DATA) {
            made->received += (uint32_t)n;
            if ((c->received += n) > GRANT_AFTER) grant(c, (uint32_t)c->received), c->received = 0;
        }
        if (!(flags & END_STREAM)) return 0;
        /* a key that was not found is an answer without a value, which is an error here */
        return ended(c, made, made->received > (c->operation == PUT ? 5u : (unsigned)bytes), t);
    case RST_STREAM:
        /* After a whole answer it says nothing new: a server that answers before it has noticed the request's
         * END_STREAM, which comes behind the message, asks in this way for no more of the request. */
        return (made = call_of(c, stream)) ? ended(c, made, 0, t) : 0;
    case SETTINGS:
        if (!(flags & ACK)) put_frame(c, SETTINGS, ACK, 0, NULL, 0);
        return 0;
    case PING:
        if (!(flags & ACK)) put_frame(c, PING, ACK, 0, p, n);
        return 0;
    case WINDOW_UPDATE:
        memcpy(&value, p, 4);
        if (!stream) c->may_send += ntohl(value) & LARGEST_WINDOW;
        return 0;
    case GOAWAY:
        errno = 0;
        fail("the server said goodbye");
    }
    return 0;
}
static int receive(Connection *c) {
    ssize_t n = recv(c->fd, c->in + c->in_have, sizeof c->in - c->in_have, 0);
    if (n < 0 && errno == EAGAIN) return 0;
    if (n <= 0) { if (n == 0) errno = 0; fail("the server closed a connection"); }
    c->in_have += (size_t)n;
    uint64_t t = now();
    size_t at = 0;
    int over = 0;
    while (c->in_have - at >= FRAME_HEADER) {
        const uint8_t *p = c->in + at;
        size_t size = (size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2];
        uint32_t stream = ((uint32_t)p[5] << 24 | (uint32_t)p[6] << 16 | (uint32_t)p[7] << 8 | p[8]) & LARGEST_WINDOW;
        errno = 0;
        if (size > sizeof c->in - FRAME_HEADER) fail("a frame is too large");
        if (c->in_have - at - FRAME_HEADER < size) break;
        over += take(c, p[3], p[4], stream, p + FRAME_HEADER, size, t);
        at += FRAME_HEADER + size;
    }
    memmove(c->in, c->in + at, c->in_have - at);
    c->in_have -= at;
    return over;
}
static Connection *dial(const char *address, int operation, uint32_t seed) {
    char host[64];
    int port, on = 1;
    struct sockaddr_in to = {.sin_family = AF_INET};
    errno = EINVAL;
    if (sscanf(address, "%63[^:]:%d", host, &port) != 2 || inet_pton(AF_INET, host, &to.sin_addr) != 1) fail("-s");
    to.sin_port = htons((uint16_t)port);
    Connection *c = calloc(1, sizeof *c);
    if (!c) fail("memory");
    c->operation = operation, c->random = seed, c->stream = (uint32_t)-1, c->may_send = 65535;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    put(c, preface, sizeof preface - 1);
    put_frame(c, SETTINGS, 0, 0, NULL, 0);
    grant(c, LARGEST_WINDOW - 65535);
    return c;
}
static unsigned random_key(Connection *c) {
    c->random ^= c->random << 13, c->random ^= c->random >> 17, c->random ^= c->random << 5;
    return c->random % (unsigned)keys;
}

int main(int argc, char **argv) {
    const char *address = "127.0.0.1:2379", *name = "range";
    double seconds = 3, warm = 1;
    int option, operation;
    while ((option = getopt(argc, argv, "s:c:w:t:u:o:b:k:")) != -1) switch (option) {
        case 's': address = optarg; break;
        case 'c': connections = atoi(optarg); break;
        case 'w': window = atoi(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'u': warm = atof(optarg); break;
        case 'o': name = optarg; break;
        case 'b': bytes = atoi(optarg); break;
        case 'k': keys = atoi(optarg); break;
        default: return 2;
    }
    errno = EINVAL;
    operation = !strcmp(name, "put") ? PUT : !strcmp(name, "range") ? RANGE : SERIALIZABLE;
    if (operation == SERIALIZABLE && strcmp(name, "serializable")) fail("-o is put, range or serializable");
    if (connections < 1 || window < 1 || window > 128 || bytes < 1 || bytes > 256 || keys < 1) fail("arguments");

    Connection *filler = dial(address, PUT, 1);
    for (int key = 0; key < keys || filler->live;) {
        if (key < keys && !filler->live) call(filler, (unsigned)key++);
        flush(filler);
        receive(filler);
    }
    errno = 0;
    if (errors) fail("put was answered with an error");
    close(filler->fd);

    Connection **all = calloc((size_t)connections, sizeof *all);
    int poller = epoll_create1(0);
    for (int i = 0; i < connections; i++) {
        all[i] = dial(address, operation, 2463534242u + (uint32_t)i * 7919);
        fcntl(all[i]->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = all[i]};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, all[i]->fd, &event)) fail("epoll_ctl");
        for (int w = 0; w < window; w++) call(all[i], random_key(all[i]));
        flush(all[i]);
    }
    uint64_t start = now(), on = start + (uint64_t)(warm * SECOND), off = on + (uint64_t)(seconds * SECOND), from = 0, t;
    for (; (t = now()) < off;) {
        if (!recording && t >= on) recording = 1, from = t;
        struct epoll_event events[256];
        int n = epoll_wait(poller, events, 256, 100);
        for (int i = 0; i < n; i++) {
            Connection *c = events[i].data.ptr;
            for (int over = receive(c); over > 0; over--) call(c, random_key(c));
            flush(c);
        }
        for (int i = 0; i < connections; i++) if (all[i]->out_have) flush(all[i]);
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double took = (double)(t - from) / SECOND, all_of_it = (double)(t - start) / SECOND;
    double cpu = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    printf("{\"op\":\"%s\",\"conns\":%d,\"window\":%d,\"bytes\":%d,\"ops_per_s\":%.0f,\"errors\":%llu,", name, connections, window, bytes,
        (double)latencies.count / took, (unsigned long long)errors);
    print_latencies(&latencies);
    printf(",\"client_cpu\":%.2f}\n", cpu / all_of_it);
    return errors != 0;   /* the connections close with the process */
}
