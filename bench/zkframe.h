/* Requests of ZooKeeper's protocol, written into a small buffer, and the dialling of a session's connection. */
#ifndef ZKFRAME_H
#define ZKFRAME_H
#include "measure.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CREATE = 1, GET_DATA = 4, SET_DATA = 5, PING = 11, XID_EVENT = -1, XID_PING = -2, NODE_EXISTS = -110 };
/* A reply's header, and a frame's length before it. */
enum { REPLY_HEADER = 16, LENGTH_BYTES = 4 };

typedef struct {
    uint8_t data[16384];
    size_t length;
} Frame;

static inline void put32(Frame *f, int32_t v) {
    uint32_t bytes = htonl((uint32_t)v);
    memcpy(f->data + f->length, &bytes, 4);
    f->length += 4;
}
static inline void put_buffer(Frame *f, const void *data, size_t n) {
    put32(f, (int32_t)n);
    memcpy(f->data + f->length, data, n);
    f->length += n;
}
static inline int32_t get32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return (int32_t)ntohl(v);
}
static inline void begin(Frame *f, int32_t xid, int32_t type) {
    f->length = LENGTH_BYTES;
    put32(f, xid);
    put32(f, type);
}
/* Write the length; the frame can be sent. */
static inline void finish(Frame *f) {
    uint32_t n = htonl((uint32_t)(f->length - LENGTH_BYTES));
    memcpy(f->data, &n, LENGTH_BYTES);
}
static inline void make_connect(Frame *f, int timeout_ms) {
    static const uint8_t zeros[16];
    f->length = LENGTH_BYTES;
    put32(f, 0), put32(f, 0), put32(f, 0), put32(f, timeout_ms), put32(f, 0), put32(f, 0);
    put_buffer(f, zeros, 16);
    f->data[f->length++] = 0;
    finish(f);
}
static inline void make_ping(Frame *f) { begin(f, XID_PING, PING), finish(f); }
static inline void make_create(Frame *f, int32_t xid, const char *path, const void *data, size_t n) {
    begin(f, xid, CREATE);
    put_buffer(f, path, strlen(path)), put_buffer(f, data, n);
    put32(f, 1), put32(f, 31), put_buffer(f, "world", 5), put_buffer(f, "anyone", 6), put32(f, 0);
    finish(f);
}
static inline void make_get(Frame *f, int32_t xid, const char *path, int watch) {
    begin(f, xid, GET_DATA);
    put_buffer(f, path, strlen(path));
    f->data[f->length++] = (uint8_t)watch;
    finish(f);
}
static inline void make_set(Frame *f, int32_t xid, const char *path, const void *data, size_t n) {
    begin(f, xid, SET_DATA);
    put_buffer(f, path, strlen(path)), put_buffer(f, data, n), put32(f, -1);
    finish(f);
}
static inline struct sockaddr_in parse_address(const char *text) {
    char host[64];
    int port;
    struct sockaddr_in address = {.sin_family = AF_INET};
    if (sscanf(text, "%63[^:]:%d", host, &port) != 2 || inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        errno = EINVAL;
        fail("the server is given as IPv4-address:port");
    }
    address.sin_port = htons((uint16_t)port);
    return address;
}
/* A connected socket that blocks. */
static inline int dial(const struct sockaddr_in *address) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof *address)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}
/* For a blocking socket. */
static inline void send_frame(int fd, const Frame *f) {
    for (size_t at = 0; at < f->length;) {
        ssize_t n = send(fd, f->data + at, f->length - at, MSG_NOSIGNAL);
        if (n <= 0) fail("send");
        at += (size_t)n;
    }
}
/* For a blocking socket: the next frame without its length, which is returned. */
static inline size_t receive_frame(int fd, uint8_t *into, size_t room) {
    uint8_t length[LENGTH_BYTES];
    errno = 0;
    if (recv(fd, length, sizeof length, MSG_WAITALL) != sizeof length) fail("the server closed the connection");
    size_t n = (size_t)get32(length);
    if (n > room) fail("the answer is too large");
    if (recv(fd, into, n, MSG_WAITALL) != (ssize_t)n) fail("the server closed the connection");
    return n;
}
/* A connection with a session of its own. */
static inline int open_session(const struct sockaddr_in *address, int timeout_ms) {
    Frame frame;
    uint8_t reply[256];
    int fd = dial(address);
    make_connect(&frame, timeout_ms);
    send_frame(fd, &frame);
    errno = 0;
    if (receive_frame(fd, reply, sizeof reply) < 36 || get32(reply + 4) <= 0) fail("no session was given");
    return fd;
}
/* Wait for the answer to one request on a blocking socket. The error code, except that a znode may exist already. */
static inline int32_t answer(int fd) {
    uint8_t reply[8192];
    do {
        if (receive_frame(fd, reply, sizeof reply) < REPLY_HEADER) fail("the answer is too short");
    } while (get32(reply) < 0);
    int32_t error = get32(reply + 12);
    return error == NODE_EXISTS ? 0 : error;
}
#endif
